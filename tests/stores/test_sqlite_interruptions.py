"""An exception at any moment of a trip: nothing or everything has happened, and the next trip is as good as ever."""

from __future__ import annotations

import gc
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from store_kit import Caller, Clock, day, dump, lifetime, limit, rolling, tokens

from otelbudget.stores.base import Override, Reset
from otelbudget.stores.sqlite import SqliteStore

pytestmark = pytest.mark.slow


class Interrupted(BaseException):
    """What a signal handler raises."""


def interrupted_at(store: SqliteStore, line: int, operation: Callable[[], object]) -> bool:
    """Call *operation* and raise at its *line*-th line in the store's code; False if it has fewer."""
    left = line

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if "otelbudget/stores/" not in frame.f_code.co_filename:
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
        lock: Any = store._file._lock
        if lock._is_owned():  # a tracer can raise where `with` is about to let go of it; a signal handler can't
            lock.release()
    return False


LINES = (lifetime(limits=limit(100)), rolling(60), day())
OPERATIONS: dict[str, Callable[[Caller], object]] = {
    "reserve": lambda store: store.reserve("new", 10, *LINES),
    "grow": lambda store: store.reserve("held", 40, *LINES, held=30),
    "commit": lambda store: store.settle("held", 20, *LINES),
    "release": lambda store: store.settle("held", 0, *LINES),
    "record": lambda store: store.record("new", 10, *LINES),
    "renew": lambda store: store.store.renew("acme", ["held"], 300),
    "set_quota": lambda store: store.store.configure("acme", "k", Override("{}")),
    "reset": lambda store: store.store.configure("acme", "rolling", Reset()),
    "reclaim": lambda store: store.state(*LINES),
}


@pytest.mark.parametrize(("name", "opened"), [*((name, True) for name in OPERATIONS), ("reserve", False)])
def test_an_interrupted_trip_has_happened_or_not(
    name: str, opened: bool, make: Callable[..., Caller], path: Path, clock: Clock
) -> None:
    template = make()
    template.record("before", 7, *LINES)
    template.reserve("held", 30, *LINES, on_expiry=tokens(3))
    template.store.close()
    if name == "reclaim":
        clock.advance(65)

    def prepared(line: int) -> Caller:
        store = make(shutil.copy(path, path.with_name(f"{line}.db")))
        if opened:
            store.store.accounts("nobody")
        return store

    whole = prepared(0)
    nothing = dump(path)
    OPERATIONS[name](whole)
    everything = dump(path.with_name("0.db"))
    assert nothing != everything
    lines, more, outcomes = 0, True, set()
    while more:
        lines += 1
        store = prepared(lines)
        more = interrupted_at(store.store, lines, lambda store=store: OPERATIONS[name](store))  # type: ignore[arg-type, misc]
        after = dump(path.with_name(f"{lines}.db"))
        assert after in (nothing, everything), f"line {lines}"
        outcomes.add(after == everything)
        with closing(sqlite3.connect(path.with_name(f"{lines}.db"), timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody is kept waiting
        OPERATIONS[name](store)
        store.store.close()
    gc.collect()
    assert lines > 15
    assert outcomes == {True, False}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_signals_at_any_moment_lose_and_double_nothing(make: Callable[..., Caller]) -> None:
    store, line, done = make(timeout_s=20), lifetime(limits=limit(10**9)), 0

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(1_500):
            for trip in (lambda i=i: store.reserve(f"{i}", 5, line), lambda i=i: store.settle(f"{i}", 3, line)):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.000_02 + (i % 97) / 1_000_000)
                    trip()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    done += 1
                    trip()  # the same id
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert store.state(line) == (4_500, 4_500)
    assert done > 100
