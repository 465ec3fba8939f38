"""A request and what may still be done for it when it is refused: ask `on_exhausted`, wait, and judge it once more.

For plain calls and for coroutines that is written once, see `stores.errands`.

Who waits is woken by a bell, from whatever thread a change is made in. It hangs first and looks once more afterwards,
so no change falls between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from opentelemetry.context import get_current

from otelbudget.admission import booking, closing
from otelbudget.admission.admission import judge_here
from otelbudget.admission.cost import wanted
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Judgement, Request
from otelbudget.admission.shared import ajudge_shared, judge_shared
from otelbudget.admission.state import RunState
from otelbudget.engine.context import ASKING, attached
from otelbudget.errors import BudgetExceeded
from otelbudget.ledger.lock import Bells
from otelbudget.model.amounts import NANOS, nanoseconds
from otelbudget.model.decision import Decision, Denial
from otelbudget.runs.view import receipt_of
from otelbudget.stores.errands import Steps, at_once, call, waited

Judge = Callable[[Payer, Request], Any]  # a Judgement, or one to be awaited
#: How long nobody looks, at most: a new window, an abandoned hold and a deadline ring no bell.
POLL_S: Final = 0.2
#: How long somebody who waits for a shared store pauses at first; then twice as long each time, up to the above.
FIRST_PAUSE_S: Final = 0.05
#: Reasons that pass by themselves or by somebody's doing.
_PASSING: Final = ("busy", "frozen", "limit")
#: Reasons that more budget can lift.
_LIFTABLE: Final = ("limit", "deadline")


def asked(payer: Payer, operation: str, given: Any) -> Request:
    """The request that the amount keywords of a check mean."""
    seconds_ns = nanoseconds("seconds", given.pop("seconds")) if "seconds" in given else None
    here = payer.around()
    amounts, model, unpriced = wanted(payer, given, here.owner, timed=seconds_ns is not None)
    return Request(operation, amounts, here.site, model, here.owner, here.permit, unpriced, seconds_ns or 0)


def decide(payer: Payer, request: Request, wait_ns: int = 0, judge: Judge | None = None) -> Decision:
    """Judge *request*, waiting up to *wait_ns* for what is in its way; raises BudgetExceeded if it stays refused."""
    judge = judge or (judge_here if payer.engine.store is None else judge_shared)  # not `judge_of`: each call counts
    began_ns = 0 if getattr(payer.cell, request.operation) & 63 else time.perf_counter_ns()  # one in 64 is timed
    judged = judge(payer, request)
    if began_ns:
        booking.observe(payer, request.operation, began_ns, request.site)
    if not judged.decision.allowed:
        judged = at_once(reconsidered(payer, request, judged, judge, wait_ns, plain=True))
        if not judged.decision.allowed:
            raise refuse(payer, request, judged)
    return booking.admitted(payer, request, judged)


async def adecide(payer: Payer, request: Request, wait_ns: int = 0) -> Decision:
    """`decide` for coroutines: awaits an async `on_exhausted`, and only the task waits."""
    began_ns = 0 if getattr(payer.cell, request.operation) & 63 else time.perf_counter_ns()
    judged = await ajudge(payer, request)
    if began_ns:
        booking.observe(payer, request.operation, began_ns, request.site)
    if not judged.decision.allowed:
        judged = await waited(reconsidered(payer, request, judged, ajudge, wait_ns))
        if not judged.decision.allowed:
            raise refuse(payer, request, judged)
    return booking.admitted(payer, request, judged)


def judge_of(payer: Payer) -> Judge:
    """What judges the requests of *payer*."""
    return judge_here if payer.engine.store is None else judge_shared


async def ajudge(payer: Payer, request: Request) -> Judgement:
    """Judge *request*, for coroutines."""
    return judge_here(payer, request) if payer.engine.store is None else await ajudge_shared(payer, request)


def refuse(payer: Payer, request: Request, judged: Judgement) -> BudgetExceeded:
    """Book a denial that stands, say it, and give the exception to raise."""
    error = booking.refuse(payer, request, judged)
    if payer.run is not None:
        error.receipt = receipt_of(payer.run)
    return error


def reconsidered(
    payer: Payer,
    request: Request,
    judged: Judgement,
    judge: Judge,
    wait_ns: int = 0,
    *,
    plain: bool = False,
) -> Steps[Judgement]:
    """What becomes of *judged*, which refuses: ask those whose budgets are in the way, then wait and judge anew.

    In a coroutine that no loop of asyncio runs nothing waits.
    """
    on_loop = not plain and asyncio._get_running_loop() is not None
    bell = TaskBell() if on_loop else ThreadBell()
    wait_ns = wait_ns if plain or on_loop else 0
    asked: list[RunState] = []
    until_ns = time.monotonic_ns() + wait_ns
    pause_s = POLL_S if payer.engine.store is None else FIRST_PAUSE_S
    # With a shared store only the clock wakes: each attempt there rings, a refused one too.
    local = wait_ns and payer.engine.store is None
    with _hanging(bell, payer.engine.ledger.bells) if local else contextlib.nullcontext():
        while True:
            bell.clear()
            if closing.settle_overdue(payer.engine) or wait_ns:
                judged = yield from call(judge, payer, request)
            judged = yield from _lifted(payer, request, judged, judge, asked, plain=plain)
            left_ns, denial = until_ns - time.monotonic_ns(), judged.decision.denial
            passing = denial is not None and denial.reason in _PASSING and denial.detail != "wrap_up"  # nobody lifts it
            if left_ns <= 0 or judged.decision.allowed or not passing:
                return judged
            if plain:
                _warn_of_blocking(payer)
            yield from call(bell.wait, min(left_ns / NANOS, pause_s))
            pause_s = min(2 * pause_s, POLL_S)


class ThreadBell:
    """Wakes a thread. Made of a queue, since an Event's lock would be taken twice by one thread when the garbage
    collector, inside of a wait, settles a call that was dropped.
    """

    def __init__(self) -> None:
        self._rung: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Wake the thread, now or at its next wait."""
        if self._rung.empty():
            self._rung.put(None)

    def clear(self) -> None:
        """Forget what has rung so far."""
        while not self._rung.empty():
            self._rung.get()

    def wait(self, seconds: float) -> None:
        """Block the thread until it rings, or so long."""
        with contextlib.suppress(queue.Empty):
            self._rung.get(timeout=seconds)


class TaskBell:
    """Wakes a task of asyncio, the one in which it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._rung = False  # so that many changes wake it once

    def ring(self) -> bool:
        """Wake the task, now or at its next wait; False if its loop was closed."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(RuntimeError):  # the loop was closed around a task that never ended
                self._loop.call_soon_threadsafe(self._event.set)
        return not self._loop.is_closed()

    def clear(self) -> None:
        """Forget what has rung so far."""
        self._rung = False
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        """Suspend the task until it rings, or so long."""
        timer = self._loop.call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()


@contextlib.contextmanager
def _hanging(bell: ThreadBell | TaskBell, bells: Bells) -> Iterator[None]:
    """Have *bell* rung by every change of a block that may help."""
    bells.add(bell.ring)
    try:
        yield
    finally:
        bells.discard(bell.ring)


def _lifted(
    payer: Payer, request: Request, judged: Judgement, judge: Judge, asked: list[RunState], *, plain: bool
) -> Steps[Judgement]:
    """Ask `on_exhausted` of the run that is in the way, outside every lock, then of the next; each caller each once."""
    while (run := _in_the_way(payer, judged)) is not None and run not in asked:
        asked.append(run)
        try:
            lifted = yield from _ask(run, judged.decision.denial, plain=plain)
        except Exception:  # one that steers the program, a cancellation above all, refuses nothing
            refuse(payer, request, judged)
            raise
        if not lifted:
            break
        judged = yield from call(judge, payer, request)
    return judged


def _in_the_way(payer: Payer, judged: Judgement) -> RunState | None:
    """The run whose `on_exhausted` may lift what refuses; None if there is none, or it is being asked around here."""
    denial = judged.decision.denial
    if judged.decision.allowed or denial is None or denial.reason not in _LIFTABLE:
        return None
    run = judged.blocker or payer.run
    asking = ASKING.of(get_current()) or ()
    return run if run is not None and callable(run.budget.on_exhausted) and run not in asking else None


def _ask(run: RunState, denial: Denial | None, *, plain: bool) -> Steps[bool]:
    """Whether the callback of *run* lifts *denial*; in a *plain* call, an answer that has to be awaited is a no."""
    callback, here = run.budget.on_exhausted, get_current()
    assert callable(callback)
    with attached(ASKING.put(here, (*(ASKING.of(here) or ()), run))):  # what it calls is part of the answer
        answer: Any = callback(denial, RunState.handle(run))
        if not inspect.isawaitable(answer):
            return bool(answer)
        if not plain:
            return bool((yield from answer.__await__()))
    if inspect.iscoroutine(answer):
        answer.close()
    run.engine.warn_once(
        "async on_exhausted",
        "on_exhausted of %r is async, but a call that is not async was refused: the refusal stands;"
        " use async clients, areserve or acheck, or a plain function",
        RunState.handle(run),
    )
    return False


def _warn_of_blocking(payer: Payer) -> None:
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        payer.engine.warn_once(
            "wait_s",
            "reserve(wait_s=...) blocks the event loop that runs in this thread, and so perhaps those it waits for;"
            " use `await run.areserve(wait_s=...)`",
        )
