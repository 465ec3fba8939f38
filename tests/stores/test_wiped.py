"""A store that has lost what it counted: it is said, and windows begin anew once, for all together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from redis_server import empty_server
from shared_kit import Place, state
from store_kit import NOTHING, Caller, lifetime, limit, tokens

import otelbudget
from otelbudget import BudgetExceeded, BudgetManager, Config, Quota, Quotas, QuotaService, StoreError, Usage
from otelbudget.config import StoreConfig
from otelbudget.stores.base import Settle
from otelbudget.stores.redis import RedisStore

LINE = lifetime(limits=limit(100))


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield Place(request.param, tmp_path)
    otelbudget.shutdown()


def wipe(place: Place) -> None:
    if place.kind == "redis":
        empty_server()
    else:
        for file in place.path.parent.iterdir():
            file.unlink()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def counted(place: Place, what: str) -> float | None:
    generate_latest(place.registry)
    return place.registry.get_sample_value(f"otelbudget_store_{what}_total", {"store": place.kind})


def test_it_is_an_error_in_the_log_an_event_and_a_counter_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    manager = place.setup(Quotas(default=[Quota(tokens=100, per="lifetime", name="q")]))
    service = QuotaService(store=manager)
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=60))
        held = run.reserve(tokens=30)
        assert counted(place, "wiped") == 0
        wipe(place)
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=101)
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=101)
        held.commit(Usage(tokens=20))
    assert state(service) == (20, 0, 80)
    assert len(errors(caplog)) == 1
    assert "begin anew, for all who share it" in errors(caplog)[0]
    assert counted(place, "wiped") == 1
    assert {"otelbudget.store": place.kind, "otelbudget.reason": "wiped"} in place.events("otelbudget.store_error")


def test_all_who_share_a_server_begin_anew_together_and_seed_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = empty_server()
    stores = [RedisStore(server.url, timeout_s=5) for _ in range(3)]
    callers = [Caller(store) for store in stores]
    for n, caller in enumerate(callers):
        caller.record(f"{n}", 30, LINE)
    assert callers[0].reserve("x", 20, LINE).refused == 0
    server.ask("FLUSHALL")
    assert [caller.reserve(f"a {n}", 40, LINE).refused for n, caller in enumerate(callers)] == [None, None, 0]
    assert [caller.state(LINE) for caller in callers] == [(0, 80)] * 3
    assert [store.health.wiped for store in stores] == [1, 1, 1]
    assert len(errors(caplog)) == 3
    for store in stores:
        store.close()


def test_whoever_comes_after_it_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    server = empty_server()
    store = RedisStore(server.url, timeout_s=5)
    Caller(store).record("a", 30, LINE)
    Caller(store).record("a", 30, LINE, shard="other")
    server.ask("SCRIPT", "FLUSH")
    Caller(store).state(LINE)
    assert store.health.wiped == 0
    assert not errors(caplog)
    store.close()


def test_a_sum_that_stops_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    place: Any = Place("redis", Path())
    manager = place.setup(Quotas(default=[Quota(tokens=100, per="lifetime", name="q")]))
    most = 2**53 - 1
    with otelbudget.run(reraise=False) as run:
        run.reserve(tokens=1).release()
        (account,) = manager.engine.store.store.accounts("default")
        line = LINE._replace(key=account.key)
        for i in range(2):
            manager.engine.store.store.settle(Settle(f"{i}", "default", (line,), NOTHING, tokens(most), NOTHING))
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=1)
    assert counted(place, "saturated") == 1
    assert {"otelbudget.store": "redis", "otelbudget.reason": "saturated"} in place.events("otelbudget.store_error")
    assert "2^53 - 1" in caplog.text
    otelbudget.shutdown()


def test_a_request_that_the_store_does_not_answer_says_so_on_its_span(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path / "missing")
    place.setup(Quotas(default=[Quota(tokens=100, per="lifetime", name="q")]))
    with otelbudget.run(reraise=False) as run, pytest.raises(BudgetExceeded):
        run.reserve(tokens=1)
    unreachable = {"otelbudget.store": "sqlite", "otelbudget.reason": "unreachable"}
    assert place.events("otelbudget.store_error") == [unreachable]
    otelbudget.shutdown()


def test_what_is_set_anew_after_it_is_obeyed_by_all(place: Place) -> None:
    """Also where nobody has asked in between, and as often was set as before."""
    wanted = Quotas(default=[Quota(tokens=1000, per="lifetime", name="q")])
    managers = [BudgetManager(Config(quotas=wanted, store=StoreConfig(place.url, timeout_s=5))) for _ in range(2)]
    here, there = (QuotaService(store=manager) for manager in managers)

    def limit_there() -> Any:
        with suppress(StoreError):
            there.remaining("acme")  # whose answer tells of it
        there.remaining("acme")
        managers[1].engine.caught_up()
        return there.usage("acme").lines[0].limit

    here.set_quota("acme", Quota(tokens=500, per="lifetime"))
    assert limit_there() == 500
    wipe(place)
    with suppress(StoreError):
        here.remaining("acme")
    here.set_quota("acme", Quota(tokens=50, per="lifetime"))
    assert limit_there() == 50
    for manager in managers:
        manager.shutdown()
