"""A file that is locked or broken: requests are refused in time, and nothing that was spent is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from shared_kit import PRICES, Place, await_until, state, wait_until

import otelbudget
from otelbudget import BudgetExceeded, BudgetManager, Config, Quota, Quotas, QuotaService, RunBudget, StoreError, Usage
from otelbudget.config import StoreConfig
from otelbudget.stores import shared
from otelbudget.stores.base import Settle, Settled, WrongWindow
from otelbudget.stores.sqlite import SqliteStore

TIMEOUT_S = 0.2


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("sqlite", tmp_path)


def opened(place: Place, *, timeout_s: float = TIMEOUT_S, **options: Any) -> QuotaService:
    """The manager of this process with a quota of 1,000 tokens in the file, which is there by now."""
    store = StoreConfig(f"sqlite:///{place.path}", timeout_s=timeout_s)
    quotas = Quotas(default=[Quota(tokens=1000, tool_calls=9, per="lifetime", name="q")])
    service = QuotaService(store=place.setup(quotas, store=store, **options))
    service.consume_quota("default", 0)
    return service


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Another connection has the write lock."""
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def unavailable(ask: Callable[[], Any], within_s: float = 5) -> None:
    began_s = time.monotonic()
    with pytest.raises(BudgetExceeded) as stopped:
        ask()
    assert stopped.value.reason == "store_unavailable"
    assert time.monotonic() - began_s < within_s


def test_a_request_is_refused_within_the_timeout_and_leaves_nothing_held(place: Place) -> None:
    service = opened(place)
    with otelbudget.run(RunBudget(max_tokens=50, max_tool_calls=1), reraise=False) as run:
        with locked(place):
            unavailable(lambda: run.reserve(tokens=10))
            unavailable(lambda: run.reserve(tokens=50))
            unavailable(run.tool_call("search").__enter__)
            unavailable(lambda: run.reserve(tokens=10, idempotency_key="k"))
        assert not run.reserve(tokens=50, idempotency_key="k").replayed
        with run.tool_call("search"):
            pass
    wait_until(lambda: state(service) == (0, 50, 950))
    assert service.usage("default").tokens == 0


def test_a_growth_that_is_not_answered_leaves_the_hold_as_it_was(place: Place) -> None:
    service = opened(place)
    with otelbudget.run(RunBudget(max_tokens=50), reraise=False) as run:
        held = run.reserve(tokens=10)
        with locked(place):
            unavailable(lambda: held.extend(tokens=5))
        held.extend(tokens=40)
        held.commit()
    assert state(service) == (50, 0, 950)


def test_what_is_spent_meanwhile_is_sent_when_the_store_is_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    service = opened(place, timeout_s=0.05)
    with otelbudget.run() as run:
        held = [run.reserve(tokens=10) for _ in range(3)]
        with locked(place):
            held[0].commit(Usage(tokens=7))
            held[1].release()
            run.record(Usage(tokens=100))
            assert run.usage.tokens == 107
            with pytest.raises(StoreError):
                run.remaining(fresh=True)
        assert state(service) == (107, 10, 883)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING and "can't be reached" in r.getMessage()]
    assert len(warnings) == 1


def test_what_waits_is_sent_without_anybody_asking(place: Place) -> None:
    opened(place, timeout_s=0.05)
    with otelbudget.run() as run, locked(place):
        run.record(Usage(tokens=100))

    def charged() -> bool:
        with closing(sqlite3.connect(place.path)) as reader:
            return bool(reader.execute("SELECT u1 FROM account").fetchone() == (100,))

    wait_until(charged)


def test_a_refusal_while_the_store_is_away_takes_no_place_of_what_was_spent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "KEPT", 3)
    service = opened(place, timeout_s=0.02)
    with otelbudget.run(reraise=False) as run:
        with locked(place):
            run.record(Usage(tokens=100))
            for _ in range(10):
                unavailable(lambda: run.reserve(tokens=10))
        assert state(service) == (100, 0, 900)


def test_observing_goes_on_without_the_store(place: Place) -> None:
    service = opened(place, enforce=False)
    with otelbudget.run() as run:
        with locked(place):
            held = run.reserve(tokens=10)
            held.commit(Usage(tokens=12))
        assert state(service) == (12, 0, 988)
    (checked,) = place.events("otelbudget.check")
    assert (checked["otelbudget.decision"], checked["otelbudget.reason"]) == ("warn", "store_unavailable")


def test_shutting_down_takes_two_seconds_at_most_and_says_what_is_lost(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    opened(place, timeout_s=30)
    with otelbudget.run() as run:
        held = run.reserve(tokens=10)
    with locked(place):
        settling = threading.Thread(target=held.commit)
        settling.start()
        time.sleep(0.1)
        began_s = time.monotonic()
        otelbudget.shutdown()
        assert time.monotonic() - began_s < 3
        settling.join(5)
    assert not settling.is_alive()


def test_what_waits_at_the_end_is_sent_or_counted_as_lost(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    opened(place, timeout_s=0.05)
    with otelbudget.run() as run:
        with locked(place):
            run.record(Usage(tokens=100))
        otelbudget.shutdown()
    assert state(opened(place)) == (100, 0, 900)
    with otelbudget.run() as run, locked(place):
        run.record(Usage(tokens=100))
        began_s = time.monotonic()
        otelbudget.shutdown()
        assert time.monotonic() - began_s < 3
    assert "1 settlements never reached the sqlite store" in caplog.text


def test_a_file_that_is_broken_or_something_elses_refuses(place: Place) -> None:
    place.path.write_bytes(b"no database at all" * 100)
    place.setup(Quotas(default=[Quota(tokens=1000, per="lifetime")]), store=f"sqlite:///{place.path}")
    with otelbudget.run(reraise=False) as run:
        unavailable(lambda: run.reserve(tokens=1))
        unavailable(lambda: run.check())
        assert not run.can_proceed()


def test_a_directory_that_is_missing_is_named(place: Place) -> None:
    place.setup(Quotas(default=[Quota(tokens=1, per="lifetime")]), store=f"sqlite:///{place.path.parent}/no/q.db")
    with (
        otelbudget.run(reraise=False) as run,
        pytest.raises(BudgetExceeded, match=r"can't be reached.*there is no directory .*/no, make it first"),
    ):
        run.reserve()


# --- coroutines


async def test_coroutines_never_block_their_loop(place: Place) -> None:
    opened(place, timeout_s=0.5)
    slowest_s = 0.0

    async def tick() -> None:
        nonlocal slowest_s
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.005)
            slowest_s = max(slowest_s, time.monotonic() - before_s)

    async def ask(run: Any) -> str:
        with pytest.raises(BudgetExceeded) as stopped:
            await run.areserve(tokens=10)
        return stopped.value.reason

    with otelbudget.run(reraise=False) as run:
        held = await run.areserve(tokens=10)
        ticking = asyncio.create_task(tick())
        with locked(place):
            began_s = time.monotonic()
            assert set(await asyncio.gather(*(ask(run) for _ in range(10)))) == {"store_unavailable"}
            assert time.monotonic() - began_s < 3  # all of them together
            await held.acommit(Usage(tokens=8))
            run.record(Usage(tokens=5))
            with pytest.raises(BudgetExceeded):
                await run.tool_call("search").__aenter__()
            assert not await run.acan_proceed()
            with pytest.raises(BudgetExceeded):
                await run.acheck()
            with pytest.raises(StoreError):
                await run.aremaining(fresh=True)
        assert (await run.aremaining(fresh=True))["tokens"] == 987
        ticking.cancel()
    assert slowest_s < 0.45


class _SlowRetry(SqliteStore):
    """Its settles that the thread of the manager sends again take long."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), timeout_s=TIMEOUT_S)
        self.retrying, self.goes_on = threading.Event(), threading.Event()

    def settle(self, settle: Settle) -> Settled:
        if threading.current_thread().name == "otelbudget-store":
            self.retrying.set()
            self.goes_on.wait(10)
        return super().settle(settle)


def test_a_request_sees_what_was_spent_before_also_while_that_is_sent_again(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path)
    store = _SlowRetry(place.path)
    place.setup(Quotas(default=[Quota(tokens=100, per="lifetime", name="q")]), store=store)
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=1))
        with locked(place):
            run.record(Usage(tokens=60))
            assert store.retrying.wait(10)
        assert run.remaining(fresh=True)["tokens"] == 39
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=40)
        store.goes_on.set()
    otelbudget.shutdown()
    assert state(opened(place))[0] == 61  # charged once


async def test_a_cancelled_reserve_leaves_nothing_held(place: Place) -> None:
    service = opened(place, timeout_s=2)
    with otelbudget.run(RunBudget(max_tokens=100), reraise=False) as run:
        for tokens in (10, 100):
            with locked(place):
                asking = asyncio.ensure_future(_reserve(run, tokens))
                await asyncio.sleep(0.1)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
        (await run.areserve(tokens=100)).release()
        await await_until(lambda: state(service) == (0, 0, 1000))


async def _reserve(run: Any, tokens: int) -> Any:
    return await run.areserve(tokens=tokens)


def test_a_loop_that_ends_right_after_a_commit_loses_nothing(place: Place) -> None:
    service = opened(place)

    async def main() -> None:
        with otelbudget.run() as run:
            (await run.areserve(tokens=10)).commit(Usage(tokens=7))

    asyncio.run(main())
    assert state(service) == (7, 0, 993)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    otelbudget.shutdown()
    assert state(opened(place)) == (14, 0, 986)


# --- windows, ends


def test_a_record_whose_window_has_just_ended_is_charged_where_it_was_spent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = opened(place)
    store = otelbudget.setup().engine.store.store
    settle = store.settle

    def ended_meanwhile(ended: Settle) -> Any:
        if not any(ended.held):
            raise WrongWindow(time.time())
        return settle(ended)

    monkeypatch.setattr(store, "settle", ended_meanwhile)
    with otelbudget.run() as run:
        run.record(Usage(tokens=5))
    assert state(service) == (5, 0, 995)


def test_a_reserve_at_the_end_of_a_window_is_asked_once_more_in_the_next_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = opened(place)
    store = otelbudget.setup().engine.store.store
    reserve, asked = store.reserve, []

    def ended_meanwhile(one: Any) -> Any:
        asked.append(one.id)
        if len(asked) == 1:
            raise WrongWindow(time.time())
        return reserve(one)

    monkeypatch.setattr(store, "reserve", ended_meanwhile)
    with otelbudget.run(RunBudget(max_tokens=10)) as run:
        run.reserve(tokens=10).commit()
    assert len(set(asked)) == 2
    assert state(service) == (10, 0, 990)


def test_a_manager_that_is_shut_down_lets_go_of_the_file(place: Place) -> None:
    before = set(threading.enumerate())
    quotas = Quotas(default=[Quota(tokens=1000, per="lifetime", name="q")])
    manager = BudgetManager(Config(quotas=quotas, prices=PRICES, store=f"sqlite:///{place.path}"))
    with manager.run() as run:
        run.reserve(tokens=10).commit()
    assert set(threading.enumerate()) - before
    assert place.path.with_name("quotas.db-wal").exists()
    manager.shutdown()
    manager.shutdown()
    assert not place.path.with_name("quotas.db-wal").exists()  # the last one to close takes the log with it
    assert not set(threading.enumerate()) - before
    with manager.run(reraise=False) as run:
        unavailable(lambda: run.reserve(tokens=1))


@pytest.mark.slow
def test_a_process_that_just_ends_has_sent_everything_and_warns_of_nothing(place: Place) -> None:
    program = f"""
        import asyncio, otelbudget
        from otelbudget import Quota, Quotas, Config, Usage
        otelbudget.setup(Config(quotas=Quotas(default=[Quota(tokens=1000, per="lifetime", name="q")])),
                         store="sqlite:///{place.path}", instrument=False, exporter="none", metrics_port=None)
        async def main():
            with otelbudget.run() as run:
                (await run.areserve(tokens=10)).commit(Usage(tokens=7))
                run.record(Usage(tokens=3))
        asyncio.run(main())
        with otelbudget.run() as run:
            run.record(Usage(tokens=5))
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert state(opened(place)) == (15, 0, 985)
