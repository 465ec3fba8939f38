"""An exception that a signal handler raises at any moment changes nothing, or everything; and what a handler does in
the middle of another operation is done right after it, or refused.

Every test runs one operation again and again and raises, or calls another one, at its first line, its second, and so
on, in whatever of the library's functions that line is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel_context
from world import PRICES, World, opened, reserved_of, used_of

import otelbudget
from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget, Usage
from otelbudget.admission import closing
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.engine import context
from otelbudget.ledger import rolling
from otelbudget.ledger.account import Account, QuotaAccount
from otelbudget.model.amounts import INPUT, STEPS, TOKENS, TOOLS
from otelbudget.runs.run import BudgetRun

pytestmark = pytest.mark.slow

_PACKAGE = Path(otelbudget.__file__).parent
#: Files whose lines are interrupted: all that changes accounts.
CRITICAL = frozenset(
    str(path)
    for path in (
        *(_PACKAGE / "ledger").glob("*.py"),
        _PACKAGE / "admission" / "admission.py",
        _PACKAGE / "admission" / "settlement.py",
    )
)
QUOTAS = Quotas(default=(Quota(tokens=10_000, per="day"), Quota(tokens=10_000, tool_calls=100, per="rolling 1h")))
USAGE = Usage(input_tokens=20, output_tokens=10)
CALL = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)


class Interrupted(BaseException):
    """What a signal handler raises."""


class Scene:
    """A fresh world with a run of a tenant with quotas, and one inside it if asked for."""

    def __init__(self, **limits: Any) -> None:
        self.world = World(config=Config(prices=PRICES, quotas=QUOTAS))
        self.ledger = self.world.engine.ledger
        budget = RunBudget(max_tokens=1000, max_steps=100, **limits)
        self.parent: BudgetRun = opened(self.world.run(budget, tenant="acme", reraise=False))
        self.run = self.parent
        self.kept: list[object] = []

    def child(self, mode: str) -> Scene:
        """Go on in a run inside the first one."""
        carve = {"carve": {"tokens": 300}} if mode == "carve" else {}
        scope = self.parent.child(RunBudget(max_steps=50), mode=mode, reraise=False, **carve)
        self.run = copy_context().run(scope.__enter__)
        return self

    def accounts(self) -> tuple[Account, ...]:
        """The tenant's two, and those of the runs."""
        return self.run._state.binding().accounts

    def rolling(self) -> QuotaAccount:
        [found] = [one for one in self.accounts() if isinstance(one, QuotaAccount) and one.buckets is not None]
        return found

    def state(self) -> tuple[object, ...]:
        """All that has to change together."""
        return (
            [(one.used, one.taken, one.below, one.floor, one.holds, one.rules[0].limits) for one in self.accounts()],
            dict(self.rolling().buckets or {}),
            (self.world.spent(), self.world.records(), self.world.counted()),
        )

    def used(self, resource: int) -> list[int]:
        return [used_of(account)[resource] for account in self.accounts()]

    def reserved(self, resource: int) -> list[int]:
        return [reserved_of(account)[resource] for account in self.accounts()]

    def clear(self) -> None:
        """Let all that was abandoned expire; nothing is held any more then, and the counters equal the ledger."""
        self.kept.clear()
        for _ in range(2):
            self.world.advance(70)
            self.run.can_proceed()
        for account in self.accounts():
            assert (reserved_of(account), account.holds) == ([0] * 7, 0), account.scope
        assert self.world.engine.meters.snapshot().reservations_open == 0
        used = used_of(self.parent._state.account)
        assert self.world.spent() == (*used[INPUT : INPUT + 3], used[TOOLS])


def lines(ledger: Any, act: Callable[[], None], at: int, operation: Callable[[], object], *, locked: bool) -> bool:
    """Call *operation*, and *act* at its *at*-th critical line, or the *at*-th with the lock held; False if it has
    fewer."""
    left = at

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in CRITICAL:
            return None
        if event == "line" and (ledger.inside or not locked):
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        copy_context().run(operation)
    finally:
        sys.settrace(before)
    return left <= 0


def interrupted_at(made: Scene, at: int, operation: Callable[[], object]) -> bool:
    """Call *operation* and raise at its *at*-th line with the lock held; False if it has fewer."""

    def interrupt() -> None:
        raise Interrupted

    try:
        return lines(made.ledger, interrupt, at, operation, locked=True)
    except Interrupted:
        return True
    finally:
        while made.ledger.inside:  # a tracer can raise where `with` is about to let go of it; a signal handler can't
            made.ledger.lock.release()


def each_line(least: int, run_at: Callable[[int], bool]) -> None:
    """Call *run_at* with 1, 2, ... until it says that there are no more lines; there have to be at least so many."""
    at = 1
    while run_at(at):
        at += 1
    assert at > least


# --- an exception


def reserve(made: Scene) -> None:
    made.kept.append(made.run.reserve(tokens=100))


def guarded_call(made: Scene) -> None:
    made.world.activate()
    otel_context.attach(context.RUN.put(otel_context.get_current(), made.run._state))
    made.kept.append(begin(CALL))


def tool_call(made: Scene) -> None:
    made.run.tool_call("search").__enter__()


def record(made: Scene) -> None:
    made.run.record(USAGE)


def extend(made: Scene) -> None:
    made.run.extend(steps=5)


ONE_STEP = {
    "reserve": (reserve, 10),
    "guarded call": (guarded_call, 10),
    "tool call": (tool_call, 10),
    "record": (record, 10),
    "extend": (extend, 3),
}


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """No engine is left active."""
    yield
    if (active := context.active_engine()) is not None:
        context.deactivate(active)


@pytest.mark.parametrize("mode", ["plain", "shared", "carve"])
@pytest.mark.parametrize("name", ONE_STEP)
def test_it_happens_or_not(name: str, mode: str) -> None:
    operation, least = ONE_STEP[name]

    def scene() -> Scene:
        return Scene() if mode == "plain" else Scene().child(mode)

    whole = scene()
    nothing = whole.state()
    copy_context().run(operation, whole)
    everything = whole.state()
    assert nothing != everything

    def run_at(at: int) -> bool:
        here = scene()
        more = interrupted_at(here, at, lambda: operation(here))
        assert here.state() in (nothing, everything), f"line {at}"
        if here.run is not here.parent:
            closing.close(here.run._state, "completed")
            here.run = here.parent
        here.clear()
        return more

    each_line(least, run_at)


@pytest.mark.parametrize("mode", ["plain", "shared", "carve"])
@pytest.mark.parametrize("end", ["commit", "release"])
def test_a_settlement_happens_or_not_and_can_be_repeated(mode: str, end: str) -> None:
    spent = 30 if end == "commit" else 0

    def run_at(at: int) -> bool:
        made = Scene() if mode == "plain" else Scene().child(mode)
        held = made.run.reserve(tokens=100)
        before = made.state()
        operation = (lambda: held.commit(USAGE)) if end == "commit" else held.release
        more = interrupted_at(made, at, operation)
        between = made.state()
        assert held.settled == (between != before)
        operation()  # once more: it is the same request
        assert between in (before, made.state())
        assert made.used(TOKENS) == [spent] * len(made.accounts())
        assert made.world.records() == (end == "commit")
        if made.run is not made.parent:
            closing.close(made.run._state, "completed")
            made.run = made.parent
        made.clear()
        return more

    each_line(10, run_at)


def test_a_reservation_is_extended_or_not() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        held = made.run.reserve(tokens=100)
        more = interrupted_at(made, at, lambda: held.extend(tokens=50))
        tokens = held.held["tokens"]
        assert tokens in (100, 150)
        assert made.reserved(TOKENS) == [tokens] * 3
        held.release()
        assert made.reserved(TOKENS) == [0] * 3
        return more

    each_line(10, run_at)


def test_a_record_with_a_key_is_charged_once_however_often_it_is_interrupted() -> None:
    def run_at(at: int) -> bool:
        made = Scene()

        def keyed() -> None:
            made.run.record(USAGE, idempotency_key="a")

        more = interrupted_at(made, at, keyed)
        keyed()
        assert made.used(TOKENS) == [30] * 3
        made.clear()
        return more

    each_line(10, run_at)


def test_an_abandoned_hold_expires_however_its_reclaim_is_interrupted() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        made.run.reserve(tokens=100)
        kept = made.run.reserve(tokens=10)
        made.world.advance(70)
        more = interrupted_at(made, at, made.run.can_proceed)
        made.run.can_proceed()
        assert made.reserved(TOKENS) == [10] * 3
        assert [account.holds for account in made.accounts()] == [1] * 3
        assert not kept.settled
        del kept  # it was renewed, and so it is reclaimed when it is lost later
        made.clear()
        return more

    each_line(20, run_at)


def test_what_an_abandoned_call_owes_is_charged_once_however_its_reclaim_is_interrupted() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        copy_context().run(guarded_call, made)
        made.kept.clear()
        made.world.advance(70)
        more = interrupted_at(made, at, made.run.can_proceed)
        made.clear()
        assert (made.used(STEPS), made.used(TOKENS)) == ([1] * 3, [40] * 3)
        return more

    each_line(20, run_at)


def test_what_leaves_a_rolling_window_leaves_what_is_used_with_it() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        made.run.record(USAGE)
        made.world.advance(3600 + 120)
        more = interrupted_at(made, at, made.run.can_proceed)
        made.run.can_proceed()
        account = made.rolling()
        assert (used_of(account)[TOKENS], rolling.next_s(account, made.world.wall_s)) == (0, None)
        return more

    each_line(5, run_at)


def test_a_carve_is_made_or_not_and_one_that_nobody_got_comes_back() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        more = interrupted_at(made, at, lambda: made.kept.append(made.child("carve")))
        made.parent.can_proceed()
        assert reserved_of(made.parent._state.account)[TOKENS] == (300 if made.kept else 0)
        return more

    each_line(10, run_at)


def test_a_carve_comes_back_however_the_end_of_its_run_is_interrupted() -> None:
    def run_at(at: int) -> bool:
        made = Scene().child("carve")
        more = interrupted_at(made, at, lambda: closing.close(made.run._state, "completed"))
        closing.close(made.run._state, "completed")
        assert reserved_of(made.parent._state.account)[TOKENS] == 0
        made.run = made.parent
        made.clear()
        return more

    each_line(5, run_at)


# --- another operation


def test_a_request_that_comes_while_another_is_judged_counts_for_it() -> None:
    def run_at(at: int) -> bool:
        made = Scene()

        def ask() -> None:
            try:
                made.kept.append(made.run.reserve(tokens=600))
            except BudgetExceeded:
                return

        more = lines(made.ledger, ask, at, ask, locked=False)
        assert len(made.kept) == 1, f"line {at}"
        assert made.reserved(TOKENS) == [600] * 3
        return more

    each_line(10, run_at)


def test_a_request_in_the_middle_of_another_one_is_refused_as_busy_and_worth_another_try() -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        denied: list[BudgetExceeded] = []

        def ask() -> None:
            try:
                made.run.reserve(tokens=10)
            except BudgetExceeded as error:
                denied.append(error)

        more = lines(made.ledger, ask, at, lambda: reserve(made), locked=True)
        assert [(error.reason, error.retry_after_s) for error in denied] == [("busy", 0.0)] * more
        assert made.reserved(TOKENS) == [100] * 3
        return more

    each_line(10, run_at)


SETTLING: dict[str, Callable[[Scene], object]] = {
    "record": record,
    "commit": lambda made: made.kept[0].commit(USAGE),  # type: ignore[attr-defined]
    "expire": lambda made: made.run.can_proceed(),
}


@pytest.mark.parametrize("inner", ["record", "commit"])
@pytest.mark.parametrize("outer", SETTLING)
def test_what_is_spent_in_the_middle_of_another_operation_is_charged_right_after_it(outer: str, inner: str) -> None:
    def run_at(at: int) -> bool:
        made = Scene()
        made.kept += [made.run.reserve(tokens=100)]
        if outer == "expire":
            made.run.reserve(tokens=100)
            made.world.advance(70)
        more = lines(made.ledger, lambda: SETTLING[inner](made), at, lambda: SETTLING[outer](made), locked=False)
        if not more:
            SETTLING[inner](made)
        settled = "commit" in (outer, inner)
        calls = (outer == "record") + (inner == "record") + settled
        assert made.used(TOKENS) == [30 * calls] * 3, f"line {at}"
        assert made.reserved(TOKENS) == [0 if settled else 100] * 3
        assert made.world.records() == calls
        made.clear()
        return more

    each_line(10, run_at)
