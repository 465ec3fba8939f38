"""`set_quota` on a store that others share: in force for all of them, or for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_server import empty_server

from otelbudget import Quota, QuotaService, StoreError
from otelbudget.stores.base import Override
from otelbudget.stores.shared import Shared


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_server().url if request.param == "redis" else f"sqlite:///{tmp_path / 'quotas.db'}"


@pytest.fixture
def make(url: str) -> Iterator[Callable[[], QuotaService]]:
    """Services that share one store and nothing else, as those of several processes do."""
    made: list[QuotaService] = []

    def service() -> QuotaService:
        made.append(QuotaService(100, store=url))
        return made[-1]

    yield service
    for one in made:
        one._engine.close()


def within_five_seconds(holds: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 5
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.05)
    return holds()


def test_a_quota_that_is_set_in_one_process_is_in_force_in_all_soon(make: Callable[[], QuotaService]) -> None:
    one, other = make(), make()
    assert (one.remaining("acme"), other.remaining("acme")) == (100, 100)
    one.set_quota("acme", 500, actor="ops")
    assert one.remaining("acme") == 500
    assert within_five_seconds(lambda: other.remaining("acme") == 500)
    assert other.remaining("beta") == 100
    other.reserve("acme", 400).commit()
    assert not one.check_quota("acme", 101)
    other.set_quota("acme", None)
    assert within_five_seconds(lambda: one.remaining("acme") == 0)


def test_who_comes_later_obeys_it_too_and_what_others_have_set_stays(make: Callable[[], QuotaService]) -> None:
    make().set_quota("acme", Quota(tokens="2k", cost_usd="$0.30", per="month", reserve_for={"high": 0.25}))
    later = make()
    later.check_quota("acme", 1)
    later.set_quota("acme", 70)
    assert {(line.per, line.resource, str(line.limit)) for line in later.usage("acme").lines} == {
        ("month", "tokens", "2000"),
        ("month", "cost_usd", "0.3"),
        ("day", "tokens", "70"),
    }
    third = make()
    assert within_five_seconds(lambda: len(third.usage("acme").lines) == 3)


def test_where_the_store_cannot_be_reached_nothing_is_set(
    make: Callable[[], QuotaService], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    store: Shared = service._engine.store

    def away(*_: object) -> None:
        raise StoreError("away")

    for step in ("overrides", "configure"):
        with monkeypatch.context() as patch:
            patch.setattr(store.store, step, away)
            with pytest.raises(StoreError, match="away"):
                service.set_quota("acme", 500)
        assert service.remaining("acme") == 100


def test_what_is_not_understood_is_told_and_not_in_force(
    make: Callable[[], QuotaService], caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    store = service._engine.store
    for rules in ("not json", '[{"tokens": "many"}]', '[{"colour": "blue"}]', "7"):
        store.store.configure("default", "acme", Override(rules))
        caplog.clear()
        assert service.remaining("acme") == 100
        assert within_five_seconds(lambda: "is not understood and not in force" in caplog.text)
        assert service.remaining("acme") == 100


def test_what_is_read_by_several_at_once_ends_as_the_store_has_it(make: Callable[[], QuotaService]) -> None:
    one, other = make(), make()
    for limit in range(200, 260, 10):
        one.set_quota("acme", limit)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: other.remaining("acme"), range(8))) == {limit}
