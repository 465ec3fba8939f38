"""`Timeout`: a block whose work is cancelled when its run's time, or that of a run above it, is over."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from otelbudget.admission import denying, refusals
from otelbudget.admission.admission import Ask, Verdict
from otelbudget.model.amounts import NANOS, NOTHING
from otelbudget.model.decision import ALLOWED, Decision
from otelbudget.runs import asking
from otelbudget.runs.wait import Bells, TaskBell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from otelbudget.admission.state import RunState
    from otelbudget.runs.run import BudgetRun

__all__ = ["Timeout", "moved"]


def moved(run: RunState) -> None:
    """Let the blocks that the deadline of *run* ends know that it is another one. Called with the lock held."""
    for ring in tuple(run.alarms or ()):
        ring()


def judge(run: BudgetRun, ask: Ask) -> Verdict:
    """Whether there is time left, whatever else may refuse."""
    engine = run.engine
    with engine.lock:
        now_ns = engine.clock_ns()
        for one, left_ns in _left(run, now_ns):
            if left_ns <= 0:
                denial = refusals.deadline(one, run, ask, one.elapsed_ns(now_ns))
                return Verdict(Decision(False, denial=denial), one)
    return Verdict(ALLOWED)


def _left(run: BudgetRun, now_ns: int) -> Iterator[tuple[BudgetRun, int]]:
    """Those whose deadline ends the work of *run*, and the nanoseconds until it does.

    A run that wraps up has what was set aside for that on top, as its last call has.
    """
    for one in run.lineage() if run.engine.enforce else ():
        if one.max_ns is not None and not one.account.warn:
            grace_ns = one.budget.wrap_up_ns if one is run and one.wrapped_up else 0
            yield one, one.max_ns + grace_ns - one.elapsed_ns(now_ns)


class Timeout:
    """What `BudgetRun.timeout` gives: an ``async with`` block, used once.

    A task beside the work follows the clock, and every change of a deadline rings its bell. If `on_exhausted` may lift
    the denial, it is asked while the work goes on.
    """

    def __init__(self, run: BudgetRun) -> None:
        self._run = run
        self._inner: asyncio.Timeout | None = None
        self._watch: asyncio.Task[None] | None = None
        self._verdict: Verdict | None = None  # the denial that ends the work, once that is decided
        self._broken: Exception | None = None  # what `on_exhausted` raised

    async def __aenter__(self) -> None:
        if self._inner is not None:
            raise RuntimeError("this timeout was entered before: make a new one with run.timeout()")
        run = self._run
        self._ask = Ask(NOTHING, "check", site=run.site_here())
        verdict = judge(run, self._ask)
        if not verdict.decision.allowed:
            verdict = await asking.areconsidered(run, self._ask, verdict, judge)
            if not verdict.decision.allowed:
                raise denying.refuse(run, self._ask, verdict)
        inner = asyncio.timeout(None)
        await inner.__aenter__()
        self._inner = inner
        if any(_left(run, 0)):
            self._watch = asyncio.create_task(self._follow(inner))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        inner = self._inner
        assert inner is not None
        if self._watch is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed around work that never ended
                self._watch.cancel()
        stopped = False
        try:
            await inner.__aexit__(kind, error, tb)
        except TimeoutError:  # that the work was cancelled by us and by nobody else
            stopped = True
        if not inner.expired():
            return
        assert self._verdict is not None
        if self._broken is None:
            denial = denying.refuse(self._run, self._ask, self._verdict)
            if stopped:
                raise denial from error
        elif stopped:
            raise self._broken

    async def _follow(self, inner: asyncio.Timeout) -> None:
        """Wait until the time is over, as it is by then, and cancel the work."""
        run = self._run
        with TaskBell(run.lock, *_alarms(run)) as bell:
            while True:
                bell.clear()
                verdict = judge(run, self._ask)
                if not verdict.decision.allowed:
                    try:
                        verdict = await asking.areconsidered(run, self._ask, verdict, judge)
                    except Exception as error:  # noqa: BLE001 - raised where the block ends
                        self._broken = error
                if not verdict.decision.allowed:
                    self._verdict = verdict
                    inner.reschedule(asyncio.get_running_loop().time())
                    return
                left_ns = min(left_ns for _, left_ns in _left(run, run.engine.clock_ns()))
                await bell.wait(max(0, left_ns) / NANOS)


def _alarms(run: BudgetRun) -> list[Bells]:
    """What is rung when a deadline that ends the work of *run* moves."""
    with run.lock:
        for one in run.lineage():
            one.alarms = one.alarms or set()
        return [one.alarms for one in run.lineage() if one.alarms is not None]
