"""An exception that a signal handler raises at any moment changes nothing, or everything.

Every test runs one operation again and again and raises at its first line, its second, and so on, in whatever of the
library's functions that line is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from world import World

from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget, Usage
from otelbudget.admission import closing
from otelbudget.ledger.account import Account
from otelbudget.runs.run import BudgetRun
from otelbudget.stores.memory import drop

pytestmark = pytest.mark.slow

#: Files whose lines are interrupted: all that changes accounts.
CRITICAL = (
    "ledger.py",
    "changes.py",
    "carves.py",
    "thresholds.py",
    "stores/memory.py",
    "stores/books.py",
    "windows.py",
    "admission/admission.py",
    "admission/settlement.py",
    "runs/idempotency.py",
    "engine.py",
)
QUOTAS = Quotas(default=(Quota(tokens=10_000, per="day"), Quota(tokens=10_000, tool_calls=100, per="rolling 1h")))
USAGE = Usage(input_tokens=20, output_tokens=10)


class Interrupted(BaseException):
    """What a signal handler raises."""


def interrupted_at(made: Scene, line: int, operation: Callable[[], object]) -> bool:
    """Call *operation* and raise at its *line*-th line with the lock held; False if it has fewer."""
    lock: Any = made.world.engine.lock
    left = line

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(CRITICAL) or "otelbudget" not in frame.f_code.co_filename:
            return None
        if event == "line" and lock._is_owned():
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
        drop(lock)  # a tracer can raise where `with` is about to let go of it; a signal handler can't
    return False


class Scene:
    """A fresh world with a run, below another one, of a tenant with quotas."""

    def __init__(self, **limits: Any) -> None:
        self.world = World(config=Config(quotas=QUOTAS))
        budget = RunBudget(max_tokens=1000, max_steps=100, latch=False, **limits)
        self.parent = self.world.run(budget, tenant="acme", reraise=False).open()[0]
        self.run: BudgetRun = self.parent

    def child(self, **options: Any) -> BudgetRun:
        self.run = self.world.run(RunBudget(max_steps=50), parent=self.parent, reraise=False, **options).open()[0]
        return self.run

    def accounts(self) -> list[Account]:
        quotas: list[Account] = [book.current(self.world.wall_s) for book in self.parent.owner.books]
        return [*quotas, *self.run.accounts]

    def state(self) -> tuple[object, ...]:
        """All that has to change together."""
        return (
            [(list(a.used), list(a.reserved), list(a.room), a.below) for a in self.accounts()],
            [a.buckets is None or list(a.buckets._kept) for a in self.accounts()],
            self.run.open_holds,
            self.parent.open_holds,
        )

    def clear(self) -> None:
        """Let all that was abandoned expire, and check that nothing is held or in flight any more."""
        self.world.advance(70)
        self.run.can_proceed()
        self.world.advance(70)
        self.run.can_proceed()
        for account in self.accounts():
            assert not any(account.reserved), account.scope
            assert list(account.room) == list(account.limits)
        assert self.run.open_holds == self.parent.open_holds == 0
        assert not self.world.engine.store._open


def every_line(scene: Callable[[], tuple[Scene, Callable[[], object]]]) -> int:
    """Interrupt an operation at each of its lines: nothing or everything of what it does may have happened.

    Returns:
        At how many lines it was interrupted.
    """
    whole, operation = scene()
    nothing = whole.state()
    operation()
    everything = whole.state()
    assert nothing != everything
    line = 0
    while True:
        line += 1
        here, operation = scene()
        if not interrupted_at(here, line, operation):
            return line - 1
        assert here.state() in (nothing, everything), f"line {line}"
        del operation
        here.clear()


def test_a_reservation_is_made_or_not() -> None:
    def scene() -> tuple[Scene, Callable[[], object]]:
        made = Scene()
        kept: list[object] = []
        return made, lambda: kept.append(made.run.reserve(tokens=100))

    assert every_line(scene) > 30


@pytest.mark.parametrize("mode", ["plain", "shared", "carve"])
@pytest.mark.parametrize("end", ["commit", "release"])
def test_a_settlement_happens_or_not_and_can_be_repeated(mode: str, end: str) -> None:
    line = 0
    while True:
        line += 1
        made = Scene()
        if mode != "plain":
            with made.parent.child(RunBudget(max_tokens=500), mode=mode, **_carve(mode)) as run:
                made.run = run
                more = _settles(made, end, line)
        else:
            more = _settles(made, end, line)
        made.run = made.parent
        made.clear()
        if not more:
            assert line > 30
            return


def _carve(mode: str) -> dict[str, Any]:
    return {"carve": {"tokens": 300}} if mode == "carve" else {}


def _settles(made: Scene, end: str, line: int) -> bool:
    held = made.run.reserve(tokens=100)
    before = made.state()
    operation = (lambda: held.commit(USAGE)) if end == "commit" else held.release
    more = interrupted_at(made, line, operation)
    if made.state() == before:
        assert not held.settled
    else:
        assert held.settled
    between = made.state()
    operation()  # once more: it is the same request
    assert between in (before, made.state())
    spent = 30 if end == "commit" else 0
    assert [account.used[1] for account in made.accounts()] == [spent] * len(made.accounts())
    return more


def test_a_record_with_a_key_is_charged_once_however_often_it_is_interrupted() -> None:
    line, more = 0, True
    while more:
        line += 1
        made = Scene()
        more = interrupted_at(made, line, lambda made=made: made.run.record(USAGE, idempotency_key="a"))  # type: ignore[misc]
        made.run.record(USAGE, idempotency_key="a")
        assert [account.used[1] for account in made.accounts()] == [30] * 3
    assert line > 30


def test_a_charge_happens_or_not() -> None:
    def scene() -> tuple[Scene, Callable[[], object]]:
        made = Scene()
        return made, lambda: made.run.record(USAGE)

    assert every_line(scene) > 20


def test_an_abandoned_hold_expires_however_its_reclaim_is_interrupted() -> None:
    line, more = 0, True
    while more:
        line += 1
        made = Scene()
        made.run.reserve(tokens=100)
        kept = made.run.reserve(tokens=10)
        made.world.advance(70)
        more = interrupted_at(made, line, lambda made=made: made.run.can_proceed())  # type: ignore[misc]
        made.run.can_proceed()
        assert [account.reserved[1] for account in made.accounts()] == [10] * 3
        assert made.run.open_holds == 1
        assert not kept.settled
        del kept  # it was renewed, and so it is reclaimed when it is lost later
        made.clear()
    assert line > 30


def test_what_leaves_a_rolling_window_leaves_what_is_used_with_it() -> None:
    line, more = 0, True
    while more:
        line += 1
        made = Scene()
        made.run.record(USAGE)
        made.world.advance(3600 + 120)
        more = interrupted_at(made, line, lambda made=made: made.run.can_proceed())  # type: ignore[misc]
        made.run.can_proceed()
        rolling = made.accounts()[1]
        assert rolling.used[1] == 0
        assert rolling.buckets is not None
        assert rolling.buckets.next_s() is None
    assert line > 30


def test_a_carve_comes_back_however_the_end_of_its_run_is_interrupted() -> None:
    line, more = 0, True
    while more:
        line += 1
        made = Scene()
        scope = made.parent.child(RunBudget(max_tokens=500), mode="carve", carve={"tokens": 300})
        with scope as run:
            more = interrupted_at(made, line, lambda run=run: closing.close(run, "completed"))  # type: ignore[misc]
        assert made.parent.account.reserved[1] == 0
        made.clear()
    assert line > 10


def test_a_request_that_comes_while_another_is_judged_counts_for_it() -> None:
    at, more = 0, True
    while more:
        at += 1
        made = Scene(max_tool_calls=4)
        ok: list[object] = []
        more = nested_at(at, lambda made=made, ok=ok: _one(made, ok))  # type: ignore[misc]
        assert len(ok) <= 1, f"line {at}"
        assert made.parent.account.used[1] + made.parent.account.reserved[1] <= 1000
    assert at > 30


def _one(made: Scene, ok: list[object]) -> None:
    try:
        ok.append(made.run.reserve(tokens=600))
    except BudgetExceeded:
        return


def nested_at(line: int, operation: Callable[[], None]) -> bool:
    """Call *operation* again at its own *line*-th critical line, as a signal handler would."""
    left = line

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(CRITICAL) or "otelbudget" not in frame.f_code.co_filename:
            return None
        # Not between the comparison and the call that follows it: there is no place for a signal handler there.
        if event == "line" and frame.f_code.co_name != "apply":
            left -= 1
            if left == 0:
                sys.settrace(None)
                operation()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(before)
    return left <= 0
