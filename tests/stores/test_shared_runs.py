"""One run in several processes: one budget, one clock, one end; each manager stands for a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis_server import empty_server
from shared_kit import PRICES

import otelbudget
from otelbudget import (
    BudgetError,
    BudgetExceeded,
    BudgetManager,
    BudgetRun,
    Config,
    ConfigError,
    Quota,
    Quotas,
    RunBudget,
    StoreError,
    Usage,
)
from otelbudget.config import Inbound, StoreConfig
from otelbudget.engine.context import attached
from otelbudget.engine.engine import Engine
from otelbudget.runs import sharing
from otelbudget.stores.memory import MemoryStore

FIVE = RunBudget(max_steps=5, max_tokens=1_000, name="five")
Make = Callable[..., BudgetManager]


@pytest.fixture(autouse=True)
def _context() -> Iterator[None]:
    """No run may be left in the context."""
    before = get_current()
    yield
    assert get_current() == before


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_server().url if request.param == "redis" else f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes managers that share a store and nothing else, as processes do."""
    made: list[BudgetManager] = []

    def one(url: str, **config: Any) -> BudgetManager:
        config = {"prices": PRICES, "inbound": Inbound(run=True), "store": StoreConfig(url, timeout_s=5), **config}
        made.append(BudgetManager(Config(**config)))
        return made[-1]

    yield one
    for manager in made:
        manager.shutdown()
    gc.collect()


@pytest.fixture
def here(make: Make, url: str) -> BudgetManager:
    return make(url)


@pytest.fixture
def there(make: Make, url: str) -> BudgetManager:
    return make(url)


def refused(ask: Callable[[], Any], reason: str = "limit") -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as stopped:
        ask()
    assert stopped.value.reason == reason
    return stopped.value


def look(manager: BudgetManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store's thread does every two seconds."""
    with monkeypatch.context() as now:
        now.setattr(sharing, "LOOK_S", -1e9)
        for one in tuple(manager.engine.store.watched._all):
            one._look_s = 0.0
        manager.engine.store.watched.catch_up()


# --- one budget


def test_what_all_processes_use_is_one_budget(here: BudgetManager, there: BudgetManager) -> None:
    with here.run(FIVE, shared=True, reraise=False) as run, there.continue_run(run.run_id, reraise=False) as same:
        run.record_call(100)
        same.record_call(200)
        with same.reserve(tokens=300) as held:
            assert run.remaining(fresh=True)["tokens"] == 400
            busy = refused(lambda: run.reserve(tokens=500), "busy")
            assert (busy.used, busy.reserved, busy.limit, busy.scope, busy.budget) == (300, 300, 1_000, "run", "five")
            held.commit(Usage(tokens=50))
        run.record_call(1)
        run.record_call(1)
        over = refused(lambda: same.check())
        assert (over.resource, over.used, over.limit) == ("steps", 5, 5)
        assert run.run_id == same.run_id
        assert run.usage.tokens == same.usage.tokens == 352
        run.acknowledge()
        same.acknowledge()


@pytest.mark.parametrize("resource", ["tokens", "cost_usd", "tool_calls"])
def test_each_resource_is_exact_over_threads_of_two_processes(
    here: BudgetManager, there: BudgetManager, resource: str
) -> None:
    budget = RunBudget(**{f"max_{resource}": 20 if resource != "cost_usd" else Decimal("0.20")})

    def spend(run: BudgetRun) -> int:
        done = 0
        while True:
            try:
                if resource == "tool_calls":
                    with run.tool_call("search"):
                        done += 1
                    continue
                amounts: Any = {resource: 1 if resource == "tokens" else Decimal("0.01")}
                run.reserve(**amounts, steps=0).commit(Usage(**amounts, steps=0))
                done += 1
            except BudgetExceeded as stopped:
                if stopped.reason == "limit":
                    return done
                time.sleep(0.001)

    with (
        here.run(budget, shared=True, reraise=False) as run,
        there.continue_run(run.run_id, reraise=False) as same,
        ThreadPoolExecutor(8) as pool,
    ):
        made = sum(pool.map(spend, [run, same] * 4))
    assert made == 20
    assert run.remaining()[resource] == 0


def test_runs_inside_count_for_it_in_every_process(here: BudgetManager, there: BudgetManager) -> None:
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        with same.child(RunBudget(max_tokens=100), reraise=False) as child:
            child.record_call(60)
            assert child.parent == same
            refused(lambda: child.reserve(tokens=60))
            child.acknowledge()
        with run.child() as other:
            refused(lambda: other.reserve(tokens=950))
            other.acknowledge()
            run.acknowledge()
            other.reserve(tokens=900).commit()
        same.remaining(fresh=True)
        assert (same.usage.tokens, same.direct_usage.tokens) == (960, 900)


def test_its_quotas_are_held_with_it_and_those_per_run_are_one_for_all(make: Make, url: str) -> None:
    quotas = Quotas(default=[Quota(tokens=500, per="run", name="each"), Quota(steps=3, per="day", name="daily")])
    here, there = make(url, quotas=quotas), make(url, quotas=quotas)
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        run.record_call(200)
        same.record_call(200)
        each = refused(lambda: run.reserve(tokens=200))
        assert (each.budget, each.used, each.limit, each.resets_at) == ("each", 400, 500, None)
        same.record_call(1)
        assert refused(lambda: same.check()).budget == "daily"
        run.acknowledge()
        same.acknowledge()
    with here.run(FIVE, shared=True) as another:
        assert another.remaining(fresh=True)["tokens"] == 500


def test_thresholds_are_told_once_by_whoever_crosses_them(make: Make, url: str) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    managers = [make(url), make(url)]
    for manager in managers:
        manager.engine.tracer = provider.get_tracer("test")
    with managers[0].run(RunBudget(max_steps=10), shared=True) as run, managers[1].continue_run(run.run_id) as same:
        for one in (run, same) * 5:
            one.record_call()
    crossed = [
        event.attributes["otelbudget.ratio"]
        for span in exporter.get_finished_spans()
        for event in span.events
        if event.name == "otelbudget.threshold" and event.attributes is not None
    ]
    assert sorted(crossed) == [0.8, 0.95, 1.0]
    first, last = exporter.get_finished_spans()
    assert first.links[0].context.span_id == last.context.span_id


def test_wrapping_up_uses_what_was_set_aside_for_the_run_as_a_whole(here: BudgetManager, there: BudgetManager) -> None:
    budget = RunBudget(max_steps=3, max_tokens=1_000, wrap_up={"tokens": 300})
    with here.run(budget, shared=True) as run, there.continue_run(run.run_id) as same:
        run.record_call(300)
        same.record_call(300)
        refused(lambda: same.reserve(tokens=200))
        with same.wrap_up(), same.reserve(tokens=300) as held:
            held.commit()
        refused(lambda: run.check())
        with run.wrap_up():
            refused(lambda: run.reserve(tokens=200))
            run.acknowledge()
        assert run.usage.tokens == 900


def test_a_hold_grows_under_the_limits_of_now(here: BudgetManager) -> None:
    with here.run(FIVE, shared=True) as run:
        held = run.reserve(tokens=900)
        refused(lambda: held.extend(tokens=200))
        run.extend(tokens=500)
        held.extend(tokens=200)
        held.commit(Usage(tokens=1_100))
        assert run.remaining()["tokens"] == 400


def test_warn_watches_all_processes_and_refuses_in_none(here: BudgetManager, there: BudgetManager) -> None:
    budget = RunBudget(max_steps=1, on_exhausted="warn")
    with here.run(budget, shared=True) as run, there.continue_run(run.run_id) as same:
        same.record_call()
        assert run.remaining(fresh=True)["steps"] is None
        assert run.check().warned


async def test_coroutines_share_a_run_too(here: BudgetManager, there: BudgetManager) -> None:
    async with here.run(FIVE, shared=True) as run:
        assert otelbudget.current_run() == run
        async with there.continue_run(run.run_id, reraise=False) as same:
            async with await same.areserve(tokens=400) as held:
                await held.acommit(Usage(tokens=300))
            assert same.usage.tokens == 300
            await run.arecord_call(500)
            assert run.usage.tokens >= 500
            await run.aremaining(fresh=True)  # the store has heard of it by now
            with pytest.raises(BudgetExceeded):
                await same.areserve(tokens=300)
            await run.aextend(tokens=1_000)
    assert run.usage.tokens == 800
    assert run.state == "closed"


async def test_entering_that_is_cancelled_leaves_nothing_open(
    make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make(file)
    store, asked, go = manager.engine.store.store, threading.Event(), threading.Event()
    write = store.run

    def slow(*given: Any) -> Any:
        asked.set()
        go.wait(10)
        return write(*given)

    monkeypatch.setattr(store, "run", slow)

    async def work() -> None:
        async with manager.run(FIVE, shared=True):
            pytest.fail("it was cancelled")

    task = asyncio.create_task(work())
    await asyncio.to_thread(asked.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    while not manager.engine.store.watched._all:
        await asyncio.sleep(0.01)
    while manager.engine.meters.live:
        await asyncio.sleep(0.01)
    assert otelbudget.current_run() is None


async def test_leaving_that_is_cancelled_ends_it_and_stays_a_cancellation(
    make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, leaving = make(file), asyncio.Event()

    async def slow(*_: Any) -> Any:
        leaving.set()
        await asyncio.sleep(60)

    async def work() -> None:
        async with manager.run(RunBudget(max_steps=0), shared=True) as run:
            refused(lambda: run.check())  # pending, and to be raised
            monkeypatch.setattr(manager.engine.store.store, "aread", slow)

    task = asyncio.create_task(work())
    await leaving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not manager.engine.meters.live


# --- one clock


def test_its_time_counts_from_its_opening_by_the_clock_of_the_store(file: str, tmp_path: Path) -> None:
    server, local = MemoryStore(clock_s=lambda: 1_000.0 + now[0]), [5 * 10**9, 7 * 10**12]
    now = [0.0]
    here, there = (
        BudgetManager(engine=Engine(Config(), store=server, clock_ns=lambda n=n: local[n] + int(now[0] * 1e9)))
        for n in (0, 1)
    )
    for manager in (here, there):
        manager.engine.ledger.clock_s = lambda: 1_000.0 + now[0]
    with here.run(RunBudget(max_seconds=60), shared=True) as run:
        now[0] = 45
        with there.continue_run(run.run_id) as same:
            assert same.remaining()["seconds"] == run.remaining()["seconds"] == 15
            now[0] = 60
            refused(lambda: same.check(), "deadline")
            refused(lambda: run.check(), "deadline")
            same.acknowledge()
            run.acknowledge()
    here.shutdown()
    there.shutdown()


# --- what is changed while it runs


def test_an_extension_holds_in_every_process(
    here: BudgetManager, there: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = RunBudget(max_steps=1, max_seconds=60)
    with here.run(budget, shared=True) as run, there.continue_run(run.run_id) as same:
        same.record_call()
        refused(lambda: same.check())
        run.extend(steps=2, seconds=60)
        look(there, monkeypatch)
        assert same.check()
        assert 110 < same.remaining()["seconds"] < 120
        same.extend(to={"steps": 4})  # by anybody who works on it
        look(here, monkeypatch)
        assert run.remaining(fresh=True)["steps"] == 3
        same.acknowledge()


def test_changes_of_two_processes_at_once_are_both_made(here: BudgetManager, there: BudgetManager) -> None:
    with here.run(RunBudget(max_steps=10), shared=True) as run, there.continue_run(run.run_id) as same:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: one.extend(steps=1), [run, same] * 10))
        run.extend(steps=1)
        assert run.remaining()["steps"] == 31


def test_a_freeze_and_its_end_are_obeyed_by_all(
    here: BudgetManager, there: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        held = same.reserve(tokens=10)
        run.freeze(reason="audit")
        look(there, monkeypatch)
        assert same.state == "frozen"
        assert "audit" in str(refused(lambda: same.check(), "frozen"))
        held.commit()
        same.unfreeze()
        look(here, monkeypatch)
        assert run.check()
        same.acknowledge()


def test_a_reset_begins_anew_for_all(
    here: BudgetManager, there: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        same.record_call(900)
        held = same.reserve(tokens=50)
        run.reset()
        assert run.usage.tokens == 0
        look(there, monkeypatch)
        assert same.usage.tokens == 0
        assert same.remaining(fresh=True)["tokens"] == 950
        held.commit()
        assert run.remaining(fresh=True)["tokens"] == 950


async def test_a_reset_forgets_also_what_was_spent_just_before(here: BudgetManager) -> None:
    with here.run(FIVE, shared=True) as run:
        run.record_call(900)  # which is sent as soon as the loop comes to it
        run.reset()
        await asyncio.sleep(0.1)
        assert (await run.aremaining(fresh=True))["tokens"] == 1000


def test_it_ends_for_all_when_it_is_left_where_it_was_opened(
    here: BudgetManager, there: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.run(FIVE, shared=True) as run:
        with there.continue_run(run.run_id) as first:
            first.record_call(1)
        assert run.state == "active"
        elsewhere, scope = copy_context(), there.continue_run(run.run_id)
        same = elsewhere.run(scope.__enter__)
        held = same.reserve(tokens=100)
    look(there, monkeypatch)
    assert same.state == "closed"
    refused(lambda: same.check(), "closed")
    held.commit()
    same.acknowledge()
    elsewhere.run(scope.__exit__, None, None, None)
    refused(lambda: there.continue_run(run.run_id).__enter__(), "closed")
    assert not there.engine.meters.live


def test_others_obey_by_themselves(make: Make, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LOOK_S", 0.0)
    monkeypatch.setattr("otelbudget.stores.shared.RETRY_S", 0.01)
    here, there = make(file), make(file)
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        run.freeze()
        until_s = time.monotonic() + 5
        while same.state != "frozen" and time.monotonic() < until_s:
            time.sleep(0.01)
        assert same.state == "frozen"


def test_a_deadline_that_is_extended_elsewhere_moves_for_work_under_a_timeout(
    make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(file), make(file)

    async def work(same: BudgetRun, run: BudgetRun) -> None:
        async with same.timeout():
            run.extend(seconds=60)
            look(there, monkeypatch)
            await asyncio.sleep(1.2)

    with here.run(RunBudget(max_seconds=1), shared=True) as run, there.continue_run(run.run_id) as same:
        asyncio.run(work(same, run))


def test_what_it_comes_to_is_told_once_where_it_was_opened(here: BudgetManager, there: BudgetManager) -> None:
    with here.run(FIVE, shared=True) as run:
        with there.continue_run(run.run_id) as same:
            same.record_call(300)
        assert same.receipt().outcome == "paused"
    assert (run.receipt().used["tokens"], run.receipt().outcome) == (300, "completed")


# --- how it travels


def test_what_was_spent_of_leases_is_told_as_soon_as_it_is_left(make: Make, url: str) -> None:
    leased = StoreConfig(url, timeout_s=5, lease=0.1)
    here, there = make(url, store=leased), make(url, store=leased)
    with here.run(RunBudget(max_tokens=1_000), shared=True) as run:
        with there.continue_run(run.run_id) as other, other.reserve(tokens=10) as held:
            held.commit(Usage(tokens=10))
        with run.reserve(tokens=20) as held:
            held.commit(Usage(tokens=20))
    assert run.usage.tokens == 30


async def test_the_same_for_coroutines(make: Make, url: str) -> None:
    leased = StoreConfig(url, timeout_s=5, lease=0.1)
    here, there = make(url, store=leased), make(url, store=leased)
    async with here.run(RunBudget(max_tokens=1_000), shared=True) as run:
        async with there.continue_run(run.run_id) as other, await other.areserve(tokens=10) as held:
            held.commit(Usage(tokens=10))
        await run.acheck()
    assert run.usage.tokens == 10


def test_requests_made_in_it_carry_who_it_is_and_no_limits(here: BudgetManager, there: BudgetManager) -> None:
    headers: dict[str, str] = {}
    with here.run(FIVE, tenant="ac me/ü", user="u=1", shared=True) as run:
        with run.child():
            propagate.inject(headers)
        with there.continue_run({b"Baggage": headers["baggage"].encode()}) as same:
            assert (same.run_id, same.tenant, same.user, same.budget) == (run.run_id, "ac me/ü", "u=1", FIVE)
            onwards: dict[str, str] = {}
            propagate.inject(onwards)
            assert onwards["baggage"] == headers["baggage"]
    assert "1000" not in headers["baggage"].replace(run.run_id, "")
    propagate.inject(left := {})
    assert "baggage" not in left


@pytest.mark.parametrize("name", ["\ud800", "two\nlines", "x" * 5_000])
def test_a_name_that_cannot_travel_stays_and_keeps_no_request_from_being_made(
    here: BudgetManager, there: BudgetManager, name: str
) -> None:
    headers: dict[str, str] = {}
    with here.run(FIVE, tenant=name, user=name, shared=True) as run:
        propagate.inject(headers)
        with there.continue_run(headers) as other:
            assert (other.run_id, other.tenant, other.user) == (run.run_id, name, name)


def test_a_run_of_its_own_inside_is_not_taken_for_it(here: BudgetManager) -> None:
    with here.run(FIVE, tenant="acme", user="u1", shared=True), here.run(mode="detached"):
        assert baggage.get_all() == {}
    with here.run(FIVE, tenant="acme", user="u1", shared=True), here.run(mode="detached", tenant="b", shared=True) as b:
        assert dict(baggage.get_all()) == {"otelbudget.run.id": b.run_id, "otelbudget.tenant": "b"}


def test_what_a_request_said_besides_does_not_travel_on(here: BudgetManager, there: BudgetManager) -> None:
    with here.run(FIVE, tenant="acme", shared=True) as run:
        said = {"otelbudget.run.id": run.run_id, "otelbudget.tenant": "beta", "otelbudget.user": "root"}
        context = get_current()
        for name, value in said.items():
            context = baggage.set_baggage(name, value, context)
        with attached(context), there.continue_run(run.run_id):
            assert dict(baggage.get_all()) == {"otelbudget.run.id": run.run_id, "otelbudget.tenant": "acme"}


def test_whose_it_is_comes_from_its_record(here: BudgetManager, there: BudgetManager) -> None:
    options: dict[str, Any] = {"user": "u1", "priority": "high", "conversation": "c1", "tags": {"team": "search"}}
    with here.run(FIVE, tenant="acme", shared=True, **options) as run, there.continue_run(run.run_id) as same:
        assert (same.tenant, same.user, same.priority) == ("acme", "u1", "high")
        assert same._state.owner.names == run._state.owner.names


def test_headers_are_believed_only_where_it_is_configured(make: Make, file: str) -> None:
    here, wary = make(file), make(file, inbound=None)
    headers: dict[str, str] = {}
    with here.run(FIVE, shared=True) as run:
        propagate.inject(headers)
        with pytest.raises(ConfigError, match=r"inbound: \{run: true\}"):
            wary.continue_run(headers)
        with wary.continue_run(run.run_id) as same:
            assert same.run_id == run.run_id


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "a run's id is 32 hexadecimal digits"),
        ("x" * 5_000, "a run's id is 32 hexadecimal digits"),
        ("A" * 32, "a run's id is 32 hexadecimal digits"),
        (None, "takes the id of a run or a request's headers, got NoneType"),
        (7, "got int"),
        ([("baggage", "otelbudget.run.id=1")], "got list"),
        ({}, "these headers name no shared run"),
        ({"baggage": "otelbudget.run.id=nonsense"}, "these headers name no shared run"),
        ({"baggage": "=;,,%%%\x00" * 50}, "these headers name no shared run"),
        ({"baggage": b"otelbudget.run.id"}, "these headers name no shared run"),
        ({"baggage": None, 7: 8, b"Baggage": b"\xff", None: None}, "these headers name no shared run"),
        ({"baggage": f"otelbudget.run.id={'0' * 33}"}, "these headers name no shared run"),
    ],
)
def test_what_names_no_run_says_so(make: Make, file: str, given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(file).continue_run(given)


def test_an_unknown_run_and_one_of_somebody_else_are_not_told_apart(make: Make, file: str) -> None:
    manager = make(file, tenants={"acme": "globex"})
    with (
        manager.run(FIVE, tenant="acme", shared=True) as run,
        manager.run(FIVE, mode="detached", tenant="default", shared=True) as other,
    ):
        for run_id, names in (
            ("0" * 32, {}),
            (run.run_id, {}),
            (run.run_id, {"tenant": "beta"}),
            (other.run_id, {"tenant": "beta"}),
            (other.run_id, {"org": "globex"}),
        ):
            with pytest.raises(BudgetError, match=f"no shared run {run_id}"):
                manager.continue_run(run_id, **names).__enter__()
        headers: dict[str, str] = {"baggage": f"otelbudget.run.id={run.run_id},otelbudget.tenant=beta"}
        with pytest.raises(BudgetError, match="no shared run"):
            manager.continue_run(headers).__enter__()
        with pytest.raises(ConfigError, match="of tenant 'beta', and not of 'acme'"):
            manager.continue_run(headers, tenant="acme")
        with manager.continue_run(run.run_id, tenant="acme") as same:
            assert same.org == "globex"


def test_a_callback_stays_with_the_opener_unless_another_is_given(here: BudgetManager, there: BudgetManager) -> None:
    budget = RunBudget(max_steps=1, on_exhausted=lambda denial, run: bool(run.extend(steps=1)) or True)
    with here.run(budget, shared=True) as run:
        run.record_call()
        with there.continue_run(run.run_id) as same:
            refused(lambda: same.check())
            same.acknowledge()
        with there.continue_run(run.run_id, on_exhausted=lambda denial, run: run.extend(steps=1) is None) as same:
            assert same.check()
        assert run.check()


# --- where it can't be


def test_in_the_memory_of_a_process_it_is_an_ordinary_run_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = BudgetManager(Config())
    for _ in range(2):
        with manager.run(FIVE, shared=True) as run:
            run.record_call(10)
            assert baggage.get_all() == {}
        with pytest.raises(BudgetError, match=r"here is none: set store\.url"):
            manager.continue_run(run.run_id).__enter__()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("run(shared=True): accounts are kept in the memory of this process")


def test_it_is_outermost_carves_nothing_and_needs_no_state(make: Make, file: str) -> None:
    manager = make(file)
    with manager.run(FIVE, shared=True) as run:
        with pytest.raises(ValueError, match="open the outermost with shared=True"):
            manager.run(shared=True).__enter__()
        with run.child() as child, pytest.raises(ValueError, match="nothing can be carved out of a shared run"):
            child.child(mode="carve", carve=0.5).__enter__()
        with pytest.raises(BudgetError, match=r"continue_run\(run\.run_id\)"):
            run.export_state()


def test_a_store_that_is_away_refuses_its_opening_its_changes_and_to_continue_it(
    make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make(file)

    def away(*_: Any) -> Any:
        raise StoreError("away")

    with manager.run(FIVE, shared=True) as run:
        with monkeypatch.context() as broken:
            broken.setattr(manager.engine.store.store, "run", away)
            for ask in (
                lambda: manager.run(FIVE, mode="detached", shared=True).__enter__(),
                lambda: manager.continue_run(run.run_id).__enter__(),
                lambda: run.extend(steps=5),
                run.freeze,
                run.reset,
            ):
                with pytest.raises(StoreError):
                    ask()
        assert run.remaining(fresh=True)["steps"] == 5
        assert (run.state, len(manager.engine.meters.live)) == ("active", 1)


def test_a_change_whose_answer_was_lost_is_said_to_be_in_doubt_and_obeyed_if_it_was_made(
    here: BudgetManager, there: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = here.engine.store.store
    write = store.run

    def lost(*asked: Any) -> Any:
        found = write(*asked)
        if len(asked) > 2:
            raise StoreError("no answer in time")
        return found

    def away(*_: Any) -> Any:
        raise StoreError("away")

    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        with monkeypatch.context() as broken:
            broken.setattr(store, "run", lost)
            with pytest.raises(StoreError, match=r"no answer in time; whether run .* extend\(to=") as said:
                run.extend(steps=5)
            assert isinstance(said.value.__cause__, StoreError)
            assert run.remaining()["steps"] == 5  # as long as nobody knows
            broken.setattr(store, "run", away)
            with pytest.raises(StoreError, match=r"^away$"):  # so nothing was changed
                run.extend(steps=5)
        for manager in (here, there):
            look(manager, monkeypatch)
        assert [one.remaining()["steps"] for one in (run, same)] == [10, 10]
        run.extend(to={"steps": 10})  # which may be done again
        assert run.remaining()["steps"] == 10


def test_its_end_is_told_when_the_store_is_back(make: Make, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = make(file), make(file)

    def away(*_: Any) -> Any:
        raise StoreError("away")

    with monkeypatch.context() as broken:
        with here.run(FIVE, shared=True) as run:
            broken.setattr(here.engine.store.store, "run", away)
        assert run.state == "closed"
        with there.continue_run(run.run_id) as same:
            assert same.check()
    here.engine.store.watched.catch_up()
    refused(lambda: there.continue_run(run.run_id).__enter__(), "closed")


def test_where_requests_are_admitted_without_the_store_a_run_opens_and_is_written_later(
    make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(file, store=StoreConfig(file, on_error="fail_open")), make(file)

    def away(*_: Any) -> Any:
        raise StoreError("away")

    with monkeypatch.context() as broken:
        for method in ("run", "reserve", "settle", "read"):
            broken.setattr(here.engine.store.store, method, away)
        scope = here.run(FIVE, shared=True)
        run = scope.__enter__()
        run.reserve(tokens=400).commit()
    look(here, monkeypatch)
    with there.continue_run(run.run_id) as same:
        here.engine.store._retry()
        assert same.remaining(fresh=True)["tokens"] == 600
    scope.__exit__(None, None, None)


def test_a_store_that_was_wiped_is_told_of_the_run_by_its_opener(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = empty_server()
    here, there = make(server.url), make(server.url)
    with here.run(FIVE, shared=True) as run, there.continue_run(run.run_id) as same:
        run.extend(steps=5)
        server.ask("FLUSHALL")
        look(there, monkeypatch)
        refused(lambda: same.check(), "closed")
        look(here, monkeypatch)
        look(there, monkeypatch)
        assert same.check()
        assert same.remaining()["steps"] == 10
        same.acknowledge()


# --- when processes end

OPENER = """
    import os, signal, sys
    import otelbudget
    from otelbudget import Config, RunBudget, Usage
    from otelbudget.config import StoreConfig

    config = Config(store=StoreConfig(sys.argv[1], timeout_s=5))
    otelbudget.setup(config, instrument=False, exporter="none", metrics_port=None)
    with otelbudget.run(RunBudget(max_steps=10, max_tokens=1_000, max_seconds=600), tenant="acme", shared=True) as run:
        run.record_call(300)
        with run.reserve(tokens=200) as held:
            print(run.run_id, flush=True)
            if sys.argv[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            pid = os.fork()
            if pid == 0:
                run.record_call(11)
                sys.exit()  # which leaves the run in the child
            os.waitpid(pid, 0)
            held.commit(Usage(tokens=100))
            print(run.remaining(fresh=True)["tokens"], flush=True)
            sys.stdin.readline()
    otelbudget.shutdown()
"""


def opener(url: str, way: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(OPENER), url, way]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_run_whose_process_was_killed_goes_on_by_its_id(url: str, make: Make) -> None:
    with opener(url, "killed") as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
    assert process.returncode == -9
    there = make(url)
    with there.continue_run(run_id, reraise=False) as run:
        assert (run.usage.tokens, run.usage.steps, run.tenant) == (300, 1, "acme")
        assert refused(lambda: run.reserve(tokens=600), "busy").reserved == 200
        run.reserve(tokens=500).commit()
    with make(url).continue_run(run_id) as later:
        assert later.usage.tokens == 800
        later.freeze(reason="its process died")
    with there.continue_run(run_id) as last:
        assert last.state == "frozen"


def test_a_fork_of_the_opener_works_on_it_and_does_not_end_it(url: str, make: Make) -> None:
    with opener(url, "forks") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        run_id, left = process.stdout.readline().strip(), int(process.stdout.readline())
        assert left == 1_000 - 300 - 11 - 100
        there = make(url)
        with there.continue_run(run_id) as run:
            assert run.usage.steps == 3
        process.stdin.write("\n")
    assert process.returncode == 0
    refused(lambda: there.continue_run(run_id).__enter__(), "closed")


SPENDER = """
    import sys, time
    import otelbudget
    from otelbudget import BudgetExceeded, Config, Usage
    from otelbudget.config import StoreConfig

    config = Config(store=StoreConfig(sys.argv[1], timeout_s=5, ttl_s=1))
    otelbudget.setup(config, instrument=False, exporter="none", metrics_port=None)
    made = 0
    with otelbudget.continue_run(sys.argv[2], reraise=False) as run:
        print("ready", flush=True)
        while True:
            try:
                run.reserve(cost_usd=0.01, steps=0).commit(Usage(cost_usd=0.01, steps=0))
                made += 1
            except BudgetExceeded as stopped:
                if stopped.reason == "limit":
                    break
                time.sleep(0.002)
    print(made)
    otelbudget.shutdown()
"""


@pytest.mark.slow
def test_four_processes_spend_a_runs_dollar_to_the_cent_and_one_that_is_killed_takes_nothing_along(
    url: str, make: Make
) -> None:
    manager = make(url, store=StoreConfig(url, timeout_s=5, ttl_s=1))
    with manager.run(RunBudget(max_cost_usd=1), shared=True, reraise=False) as run:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SPENDER), url, run.run_id]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "ready\n"
            workers[0].kill()
            made = [int(worker.communicate(timeout=60)[0] or 0) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        used = run.remaining(fresh=True) and run.usage.cost_usd
        assert sum(made) * Decimal("0.01") <= used == 1


def test_two_services_spend_one_budget_over_http_with_a_server_too() -> None:
    example = Path(__file__).parents[2] / "examples" / "two_services_example.py"
    command = [sys.executable, "-W", "error", str(example), empty_server().url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the searcher: found something, 2400 tokens left" in done.stdout
    assert "tokens: 3,100 of 3,300" in done.stdout


def test_a_reset_that_cannot_be_told_changes_nothing(make: Make, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make(file)
    store, trips = manager.engine.store.store, [0]
    asked = store.run

    def breaks(*given: Any) -> Any:
        trips[0] += 1
        if trips[0] == 2:
            raise StoreError("away")
        return asked(*given)

    with manager.run(RunBudget(max_seconds=60, max_steps=5), shared=True) as run:
        run.record_call()
        began_ns = run._state.started_ns
        with monkeypatch.context() as broken:
            broken.setattr(store, "run", breaks)
            with pytest.raises(StoreError):
                run.reset()
        assert (run._state.started_ns, run.usage.steps) == (began_ns, 1)
        run.reset()
        assert run._state.started_ns > began_ns
        assert run.remaining(fresh=True)["steps"] == 5


def test_names_that_are_none_are_refused_as_in_a_run(make: Make, file: str) -> None:
    with pytest.raises(TypeError, match="tenant must be text"):
        make(file).continue_run("0" * 32, tenant=5)  # type: ignore[arg-type]
