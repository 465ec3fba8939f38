"""An exception at any moment of a settlement: what the run was charged reaches the store, once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_kit import Place, state

import otelbudget
from otelbudget import BudgetManager, Quota, Quotas, QuotaService, RunBudget, Usage
from otelbudget.stores import owed

pytestmark = pytest.mark.slow

_PACKAGE = Path(otelbudget.__file__).parent
#: All that stands between an operation and the store.
CRITICAL = frozenset(
    str(path)
    for path in (
        *(_PACKAGE / "ledger").glob("*.py"),
        *(_PACKAGE / "admission" / f"{name}.py" for name in ("admission", "settlement", "shared", "trips")),
        *(_PACKAGE / "stores" / f"{name}.py" for name in ("shared", "owed", "errands")),
    )
)
USAGE = Usage(input_tokens=20, output_tokens=10)


class Interrupted(Exception):
    """What a signal handler raises, such as that of a soft time limit."""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuotaService]:
    """A quota in a store, to which anybody sends at once what somebody was interrupted in sending."""
    monkeypatch.setattr(owed, "SENDING_S", 0.0)
    quotas = Quotas(default=[Quota(tokens=10**6, tool_calls=10**6, per="lifetime", name="q")])
    yield QuotaService(store=Place("memory", tmp_path).setup(quotas))
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Where trips of coroutines suspend."""
    yield Place("sqlite", tmp_path)
    otelbudget.shutdown()


def interrupted_at(manager: BudgetManager, line: int, operation: Callable[[], object]) -> bool:
    """Call *operation* and raise at its *line*-th critical line; False if it has fewer."""
    left = line

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in CRITICAL:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        operation()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
        store: Any = manager.engine.store.store
        for lock in (manager.engine.ledger.lock, store._ledger.lock, store._lock):
            while lock._is_owned():  # a tracer can raise where `with` is about to let go of it; a signal handler can't
                lock.release()
    return False


def commit(run: Any) -> tuple[Callable[[], object], bool]:
    held = run.reserve(tokens=100)
    return lambda: held.commit(USAGE), True


def late(run: Any) -> tuple[Callable[[], object], bool]:
    held = run.reserve(tokens=100)
    held.release()
    return lambda: held.commit(USAGE), True


def release(run: Any) -> tuple[Callable[[], object], bool]:
    return run.reserve(tokens=100).release, True


def record(run: Any) -> tuple[Callable[[], object], bool]:
    return lambda: run.record(USAGE), False


def keyed(run: Any) -> tuple[Callable[[], object], bool]:
    return lambda: run.record(USAGE, idempotency_key="k"), True


def tool(run: Any) -> tuple[Callable[[], object], bool]:
    return run.tool_call("search").__enter__, False


@pytest.mark.parametrize("prepare", [commit, late, release, record, keyed, tool])
def test_what_was_charged_here_is_charged_in_the_store(prepare: Callable[..., Any], service: QuotaService) -> None:
    manager = otelbudget.setup()
    line, more, outcomes = 0, True, set()
    while more:
        line += 1
        tenant = f"{prepare.__name__}-{line}"
        with otelbudget.run(RunBudget(max_tokens=1000), tenant=tenant, reraise=False) as run:
            operation, repeatable = prepare(run)
            more = interrupted_at(manager, line, operation)
            if repeatable:
                operation()
            used = (run.usage.tokens, run.usage.tool_calls)
            assert used == (state(service, "tokens", tenant)[0], state(service, "tool_calls", tenant)[0]), line
            assert not repeatable or state(service, "tokens", tenant)[1] == 0
            outcomes.add(used)
    assert line > 30
    assert outcomes == {
        "tool": {(0, 0), (0, 1)},
        "record": {(0, 0), (30, 0)},
        "release": {(0, 0)},
    }.get(prepare.__name__, {(30, 0)})


def test_an_interrupted_tool_call_holds_nothing_once_its_time_is_up(service: QuotaService) -> None:
    manager = otelbudget.setup()
    ledger, line, more = manager.engine.ledger, 0, True
    while more:
        line += 1
        with otelbudget.run(RunBudget(max_tool_calls=5), tenant=f"tool-{line}", reraise=False) as run:
            more = interrupted_at(manager, line, tool(run)[0])
            gc.collect(1)  # what this line made is young
            ledger.sweep(manager.engine.clock_ns() + 2 * ledger.open.ttl_ns)
            assert not list(ledger.open), line
    assert line > 30


def test_what_was_interrupted_is_sent_by_itself(service: QuotaService, monkeypatch: pytest.MonkeyPatch) -> None:
    store = otelbudget.setup().engine.store
    settle, sent = store.store.settle, []

    def interrupt(ended: Any) -> Any:
        sent.append(ended.id)
        if len(sent) == 1:
            raise Interrupted
        return settle(ended)

    monkeypatch.setattr(store.store, "settle", interrupt)
    with otelbudget.run() as run:
        held = run.reserve(tokens=100)
        with pytest.raises(Interrupted):
            held.commit(USAGE)
        assert held.commit(USAGE).replayed
    otelbudget.shutdown()
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert store.health.lost == 0


@pytest.mark.parametrize("grows", [False, True])
async def test_a_coroutine_that_is_dropped_in_the_middle_of_another_request_holds_nothing(
    grows: bool, place: Place
) -> None:
    manager = place.setup(Quotas(default=[Quota(tokens=10**6, per="lifetime")]))
    line, left = 0, 0
    while left == 0:
        left = line = line + 1
        with otelbudget.run(RunBudget(max_tokens=1000), reraise=False) as run:
            held = run.reserve(tokens=1) if grows else None
            dropped = run.areserve(tokens=7) if held is None else held.aextend(tokens=7)
            dropped.send(None)

            def trace(frame: Any, event: str, _: object, dropped: Any = dropped) -> Any:
                nonlocal left
                left -= event == "line" and frame.f_code.co_filename in CRITICAL
                if left == 0:
                    sys.settrace(None)
                    dropped.close()
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                run.reserve(tokens=1).release()
            finally:
                sys.settrace(before)
            dropped.close()
            assert run.remaining()["tokens"] == 1000 - grows, line
            if held is not None:
                held.release()
            assert not list(manager.engine.ledger.open), line
    assert line > 30
