"""The blocks of a run: its last call, and the end of its time; and what is told to who forgot to enter a block."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Sequence
from contextvars import Token
from types import TracebackType
from typing import NoReturn

from opentelemetry.context import Context

from otelbudget.admission import denial as denials
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Judgement, Request, refused
from otelbudget.admission.state import RunState
from otelbudget.engine import context
from otelbudget.errors import BudgetError
from otelbudget.model.amounts import NANOS, NESTED, STEPS, TOOLS, UNLIMITED
from otelbudget.runs import asking
from otelbudget.stores.errands import waited


class Block:
    """Something that works only as a block, or awaited; dropped without that, it warns where it is dropped."""

    __slots__ = ("used",)
    #: How to write it.
    advice = ""

    def __init__(self) -> None:
        self.used = False

    def __del__(self) -> None:
        # Not there if its own constructor has refused.
        if not getattr(self, "used", True):
            warnings.warn(f"nothing was done: {self.advice}", RuntimeWarning, stacklevel=2)


# --- the last call


class Permit:
    """The right to one model call against the full limits of *run*, which was refused *resource* before."""

    def __init__(self, run: RunState, resource: str | None) -> None:
        self.run = run
        self.account = run.account
        self.grace_ns = run.budget.wrap_up_ns  # by so much it may pass the deadline
        self.resource = resource
        self.used = False

    def holds(self, payer: Payer) -> bool:
        """Whether a request of *payer* comes under it: of its own run, or of one inside."""
        return self.run in payer.lineage

    def refuses(self, amounts: Sequence[int]) -> str | None:
        """The resource for which it refuses a request of its run, or of one inside; None leaves that to the limits."""
        if amounts[TOOLS] or amounts[NESTED]:
            return "tool_calls"
        if amounts[STEPS] > 1 or (self.used and any(amounts)):
            return self.resource or "steps"
        return None


class WrapUp(Block):
    """What `BudgetRun.wrap_up` gives: a block (``with`` or ``async with``) in which one model call is admitted.

    It reaches into what ``wrap_up`` set aside, also for a run inside; all other limits and a freeze hold as ever; tool
    calls are refused. A call that was never sent was none. Entering it deals with the run's pending denials.
    """

    advice = "write `with run.wrap_up():`"

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._token: Token[Context] | None = None
        super().__init__()

    def __enter__(self) -> None:
        self.used = True
        run = self._run
        if run.wrapped_up or run.refused.ran_out is None:
            why = "it was used before" if run.wrapped_up else "no limit and no deadline has refused anything yet"
            raise BudgetError(f"wrap_up() works once per run and only after a denial: {why}")
        run.wrapped_up = True
        run.engine.ledger.locked(run.forget)
        given = Permit(run, run.refused.ran_out)
        self._token = context.PERMIT.attach(given)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            context.detach(self._token)
            self._token = None

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


# --- the end of its time


def judge_time(payer: Payer, request: Request) -> Judgement:
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
    """Those whose deadline ends the work of *payer*, and the nanoseconds until it does; with what is set aside for a
    run that wraps up."""
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
        judged = judge_time(self._run, self._request)
        if judged.decision.allowed:
            return judged
        return await waited(asking.reconsidered(self._run, self._request, judged, judge_time))

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
