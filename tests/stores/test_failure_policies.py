"""What becomes of requests while the store is away, by `store.on_error`; whatever it is, what is spent gets there."""

from __future__ import annotations

import gc
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from shared_kit import Place, state

import otelbudget
from otelbudget import BudgetExceeded, Quota, Quotas, QuotaService, Usage
from otelbudget.config import StoreConfig

QUOTAS = Quotas(
    org=[Quota(steps=10_000, per="month", name="o")],
    default=[Quota(tokens=1000, tool_calls=30, per="lifetime", name="q")],
)


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("sqlite", tmp_path)


def opened(place: Place, on_error: str, **options: Any) -> QuotaService:
    """The manager of this process with a quota of 1,000 tokens and 30 tool calls in a file, which is there by now."""
    store = StoreConfig(place.url, timeout_s=0.02, on_error=on_error, **options)
    service = QuotaService(store=place.setup(QUOTAS, store=store))
    service.consume_quota("default", 0)
    return service


@contextmanager
def away(place: Place) -> Iterator[None]:
    """Another connection has the write lock."""
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def metrics(place: Place, label: str) -> dict[str, float]:
    """The metrics of the store."""
    page = text_string_to_metric_families(generate_latest(place.registry).decode())
    rows = [sample for family in page for sample in family.samples if "_store_" in sample.name]
    assert {row.labels.get("policy", label) for row in rows} == {label}
    return {row.name.removeprefix("otelbudget_store_"): row.value for row in rows}


def refused(ask: Any, reason: str = "store_unavailable") -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as stopped:
        ask()
    assert stopped.value.reason == reason
    return stopped.value


def test_fail_closed_refuses_and_counts(place: Place) -> None:
    opened(place, "fail_closed")
    with otelbudget.run(reraise=False) as run:
        run.reserve(tokens=10).release()
        counters = ("errors_total", "unguarded_checks_total", "wiped_total", "saturated_total")
        assert metrics(place, "fail_closed") == {"up": 1, **dict.fromkeys(counters, 0)}
        with away(place):
            refused(lambda: run.reserve(tokens=10))
            refused(lambda: run.check(tokens=10))
            seen = metrics(place, "fail_closed")
            assert (seen["up"], seen["unguarded_checks_total"]) == (0, 0)
            assert seen["errors_total"] >= 2
        run.reserve(tokens=10).release()
        assert metrics(place, "fail_closed")["up"] == 1


def test_fail_open_admits_and_says_so_on_the_span(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    service = opened(place, "fail_open")
    with otelbudget.run() as run:
        with away(place):
            held = run.reserve(tokens=5000)
            run.record(Usage(tokens=100))  # waits, so reads fail from here on
            assert run.can_proceed(tokens=5000)
            decision = run.check(tokens=5000)
            assert (decision.allowed, decision.warned) == (True, True)
            held.extend(tokens=100)
            held.commit(Usage(tokens=700))
            with run.tool_call("search"):
                pass
        run.reserve(tokens=200).release()
        refused(lambda: run.reserve(tokens=201), "limit")
        run.acknowledge()
    assert state(service) == (800, 0, 200)
    assert state(service, "tool_calls") == (1, 0, 29)
    unguarded = [one for one in place.events("otelbudget.check") if "otelbudget.store.mode" in one]
    assert {
        (one["otelbudget.decision"], one["otelbudget.reason"], one["otelbudget.store.mode"]) for one in unguarded
    } == {("warn", "store_unavailable", "fail_open")}
    assert metrics(place, "fail_open")["unguarded_checks_total"] == 5  # a growth is asked for, too
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("requests are admitted without it" in message for message in warnings) >= 1


async def test_fail_open_admits_coroutines(place: Place) -> None:
    service = opened(place, "fail_open")
    async with otelbudget.run() as run:
        with away(place):
            held = await run.areserve(tokens=10)
            await held.acommit(Usage(tokens=7))
            assert await run.acan_proceed(tokens=10)
    assert state(service) == (7, 0, 993)


def test_a_runs_own_limits_hold_under_fail_open(place: Place) -> None:
    opened(place, "fail_open")
    with otelbudget.run(otelbudget.RunBudget(max_tokens=50), reraise=False) as run, away(place):
        run.reserve(tokens=50)
        refused(lambda: run.reserve(tokens=1), "busy")


def test_local_fallback_admits_a_share_of_each_limit_and_settles_it_on_return(place: Place) -> None:
    service = opened(place, "local_fallback", fallback_share=0.1)
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=500))
        with away(place):
            first = run.reserve(tokens=60)
            refused(lambda: run.reserve(tokens=41))
            assert run.can_proceed(tokens=40)
            assert not run.can_proceed(tokens=41)
            first.commit(Usage(tokens=30))
            second = run.reserve(tokens=70)
            refused(lambda: run.reserve(tokens=1))
            second.release()
            for _ in range(3):
                with run.tool_call("search"):
                    pass
            refused(run.tool_call("search").__enter__)
            run.check(tokens=70)
            run.record(Usage(tokens=70))
            refused(lambda: run.check(tokens=1))
        assert run.reserve(tokens=400).release()
        assert metrics(place, "local_fallback")["unguarded_checks_total"] == 7
    assert state(service) == (600, 0, 400)
    assert state(service, "tool_calls") == (3, 0, 27)


def test_a_window_has_one_share_for_all_its_failures(place: Place) -> None:
    service = opened(place, "local_fallback", fallback_share=0.1)
    with otelbudget.run(reraise=False) as run:
        for amount in (60, 40):
            with away(place):
                run.reserve(tokens=amount).commit()
            run.reserve(tokens=100).release()
        with away(place):
            refused(lambda: run.reserve(tokens=1))
    assert state(service) == (100, 0, 900)


def test_what_the_store_holds_is_settled_in_both_places(place: Place) -> None:
    service = opened(place, "local_fallback", fallback_share=0.1)
    with otelbudget.run(reraise=False) as run:
        before = run.reserve(tokens=80)
        with away(place):
            meanwhile = run.reserve(tokens=90)
            before.commit(Usage(tokens=5))  # spent here, so it counts here
            refused(lambda: run.reserve(tokens=6))
        meanwhile.commit(Usage(tokens=10))
        with away(place):
            run.reserve(tokens=85).release()
    assert state(service) == (15, 0, 985)


def test_a_store_of_ones_own_has_the_policy_of_the_configuration(place: Place) -> None:
    path = place.path.with_name("budgets.yaml")
    path.write_text("quotas: {default: [{tokens: 1000, per: lifetime}]}\nstore: {on_error: fail_open}\n")
    store = place.store()
    store._file.timeout_s = 0.02
    place.setup(str(path), store=store)
    with otelbudget.run() as run:
        run.record(Usage(tokens=1))
        with away(place):
            run.reserve(tokens=5000).commit(Usage(tokens=1))
