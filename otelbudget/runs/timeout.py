"""`Timeout`: a block whose work is cancelled when its run's time, or that of a run above it, is over."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import NoReturn

from otelbudget.admission import denial as denials
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Judgement, Request, refused
from otelbudget.admission.state import RunState
from otelbudget.model.amounts import NANOS, UNLIMITED
from otelbudget.runs import asking
from otelbudget.runs.blocks import Block


def judge(payer: Payer, request: Request) -> Judgement:
    """Whether there is more time left than it asks for, whatever else may refuse."""
    now_ns = payer.engine.clock_ns()
    for one, left_ns in _left(payer, now_ns).items():
        if left_ns <= request.seconds_ns:
            denial = denials.deadline(one, payer, request, one.elapsed_ns(now_ns))
            return refused(denial, one)
    return Judgement()


def left_s(payer: Payer) -> float | None:
    """Seconds until the time of *payer*, or of a run above it, is over; None where that ends nothing."""
    if payer.until_ns == UNLIMITED:
        return None
    left_ns = min(_left(payer, payer.engine.clock_ns()).values(), default=None)
    return None if left_ns is None else max(0, left_ns) / NANOS


def _left(payer: Payer, now_ns: int) -> dict[RunState, int]:
    """Those whose deadline ends the work of *payer*, and the nanoseconds until it does.

    A run that wraps up has what was set aside for that on top, as its last call has.
    """
    left = {}
    for one in payer.lineage if payer.engine.enforce else ():
        if one.max_ns is not None and one.budget.on_exhausted != "warn":
            grace_ns = one.budget.wrap_up_ns if one is payer and one.wrapped_up else 0
            left[one] = one.started_ns + one.max_ns + grace_ns - now_ns
    return left


class Timeout(Block):
    """What `BudgetRun.timeout` gives: an ``async with`` block, used once.

    A task beside the work looks at the deadline, which may move, and asks `on_exhausted` while the work goes on.
    """

    advice = "write `async with run.timeout():`"

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._inner: asyncio.Timeout | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ends: Judgement | Exception | None = None  # the denial that ends the work, or what `on_exhausted` raised
        super().__init__()

    def __enter__(self) -> NoReturn:
        self.used = True
        raise TypeError(f"a timeout cancels tasks: {self.advice}")

    def __exit__(self, *_: object) -> None:
        """Never reached."""

    async def __aenter__(self) -> None:
        self.used = True
        if self._inner is not None:
            raise RuntimeError("this timeout was entered before: make a new one with run.timeout()")
        run = self._run
        self._request = Request("check", site=run.around().site)
        judged = await self._judged()
        if not judged.decision.allowed:
            raise asking.refuse(run, self._request, judged)
        inner = asyncio.timeout(None)
        await inner.__aenter__()
        self._inner = inner
        if _left(run, 0):
            self._watch = asyncio.create_task(self._follow(inner))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        inner = self._inner
        assert inner is not None
        if self._watch is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed around the work
                self._watch.cancel()
        stopped = False
        try:
            await inner.__aexit__(kind, error, tb)
        except TimeoutError:  # that the work was cancelled by us and by nobody else
            stopped = True
        if not inner.expired():
            return
        ends = self._ends
        if isinstance(ends, Judgement):
            ends = asking.refuse(self._run, self._request, ends)
        if stopped and ends is not None:
            raise ends from error

    async def _judged(self) -> Judgement:
        judged = judge(self._run, self._request)
        if judged.decision.allowed:
            return judged
        return await asking.areconsidered(self._run, self._request, judged, judge)

    async def _follow(self, inner: asyncio.Timeout) -> None:
        """Wait until the time is over, as it is by then, and cancel the work."""
        while self._ends is None:
            try:
                judged = await self._judged()
                self._ends = None if judged.decision.allowed else judged
            except Exception as error:  # noqa: BLE001 - raised where the block ends
                self._ends = error
            if self._ends is None:
                left_ns = min(_left(self._run, self._run.engine.clock_ns()).values())
                await asyncio.sleep(min(max(0, left_ns) / NANOS, asking.POLL_S))
        with contextlib.suppress(RuntimeError):  # the work was done before `on_exhausted`, cancelled, had answered
            inner.reschedule(asyncio.get_running_loop().time())
