"""`Timeout`: a block whose work is cancelled when its run's time, or that of a run above it, is over."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING

from otelbudget.admission import denying, refusals
from otelbudget.admission.admission import Ask, Verdict
from otelbudget.model.amounts import NANOS, NOTHING
from otelbudget.model.decision import ALLOWED, Decision
from otelbudget.runs import on_exhausted as asking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from otelbudget.admission.state import RunState
    from otelbudget.runs.run import BudgetRun

__all__ = ["Timeout", "moved"]


def moved(run: RunState) -> None:
    """Let the blocks that the deadline of *run* ends know that it is another one. Called with the lock held."""
    for alarm in tuple(run.alarms or ()):
        alarm.moved()


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

    The time is looked at again when its timer fires, so a deadline that was moved meanwhile counts as it is then; and
    if `on_exhausted` may lift it, that is asked while the work goes on.
    """

    def __init__(self, run: BudgetRun) -> None:
        self._run = run
        self._inner: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._question: asyncio.Task[None] | None = None
        self._verdict: Verdict | None = None  # the denial that ends the work, once that is decided
        self._ended = False
        self._broken: Exception | None = None  # what `on_exhausted` raised

    async def __aenter__(self) -> None:
        if self._inner is not None:
            raise RuntimeError("this timeout was entered before: make a new one with run.timeout()")
        run = self._run
        self._ask = Ask(NOTHING, "check", site=run.site_here())
        verdict = judge(run, self._ask)
        if not verdict.decision.allowed:
            verdict = await asking.aasked(run, self._ask, verdict, denying.refuse, [], judge)
            if not verdict.decision.allowed:
                raise denying.refuse(run, self._ask, verdict)
        inner = asyncio.timeout(None)
        await inner.__aenter__()
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        # Timers run in the context of the block and not in that of whoever moves the deadline.
        self._context = contextvars.copy_context()
        with run.engine.lock:
            for one in run.lineage():
                one.alarms = one.alarms or set()
                one.alarms.add(self)
        self._arm()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        run, inner = self._run, self._inner
        assert inner is not None
        self._disarm()
        stopped = False
        try:
            await inner.__aexit__(kind, error, tb)
        except TimeoutError:  # that the work was cancelled by us and by nobody else
            stopped = True
        if not inner.expired():
            return
        assert self._verdict is not None
        if not stopped:
            denying.refuse(run, self._ask, self._verdict)
        elif self._broken is not None:
            denying.refuse(run, self._ask, self._verdict)
            raise self._broken
        else:
            raise denying.refuse(run, self._ask, self._verdict) from error

    def moved(self) -> None:
        """Look at the time again, called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed around a task that never ended
            self._loop.call_soon_threadsafe(self._arm, context=self._context)

    # --- in the thread of the loop

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._over():
            return
        left = [left_ns for _, left_ns in _left(self._run, self._run.engine.clock_ns())]
        if left:
            self._timer = self._loop.call_later(max(0, min(left)) / NANOS, self._ring)

    def _disarm(self) -> None:
        self._ended = True
        run = self._run
        with run.engine.lock:
            for one in run.lineage():
                if one.alarms is not None:
                    one.alarms.discard(self)
        for handle in (self._timer, self._question):
            if handle is not None:
                handle.cancel()
        self._timer = None

    def _over(self) -> bool:
        """Whether the work has ended, or its end is decided."""
        return self._ended or self._verdict is not None

    def _ring(self) -> None:
        self._timer = None
        if self._over() or self._question is not None:
            return
        verdict = judge(self._run, self._ask)
        if verdict.decision.allowed:
            self._arm()
        elif asking.asks(self._run, verdict):
            self._question = self._loop.create_task(self._put(verdict), context=self._context)
        else:
            self._stop(verdict)

    async def _put(self, verdict: Verdict) -> None:
        """Ask `on_exhausted`; the work goes on until the answer."""
        try:
            # Nothing is refused before the work is stopped, so nothing is booked either.
            verdict = await asking.aasked(self._run, self._ask, verdict, lambda *_: None, [], judge)
        except Exception as error:  # noqa: BLE001 - raised where the block ends
            self._broken = error
        self._question = None
        if self._over():
            return
        if verdict.decision.allowed:
            self._arm()
        else:
            self._stop(verdict)

    def _stop(self, verdict: Verdict) -> None:
        self._verdict = verdict
        assert self._inner is not None
        self._inner.reschedule(self._loop.time())
