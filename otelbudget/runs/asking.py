"""A request and what may still be done for it when it is refused: ask `on_exhausted`, wait, and judge it once more.

That is written once, as a generator of what has to be asked or waited for; a plain call and a coroutine drive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from otelbudget.admission import denying
from otelbudget.model.amounts import NANOS, nanoseconds
from otelbudget.runs import on_exhausted
from otelbudget.runs.on_exhausted import Question
from otelbudget.runs.wait import Bell, TaskBell, ThreadBell

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from otelbudget.admission.admission import Ask, Verdict
    from otelbudget.model.decision import Decision
    from otelbudget.runs.run import BudgetRun

    Judge = Callable[[BudgetRun, Ask], Verdict]
    #: Yields a question, and is sent its answer, or for how many seconds to wait for the bell.
    Steps = Generator[Question | float, Any, Verdict]

__all__ = ["adecide", "areconsidered", "decide", "patience"]

#: How long nobody looks, at most: a new window, an abandoned hold and a deadline ring no bell.
POLL_S: Final = 0.2
#: Reasons that pass by themselves or by somebody's doing; an `extend` or a reset also ends a latch.
_PASSING: Final = ("busy", "frozen", "limit", "latched")


def patience(given: dict[str, Any]) -> int:
    """Take ``wait_s`` out of the keywords of a reserve; gives nanoseconds.

    Raises:
        ValueError: It is not a finite number of at least 0.
    """
    return nanoseconds("wait_s", given.pop("wait_s", 0))


def decide(run: BudgetRun, ask: Ask, wait_ns: int = 0) -> Decision:
    """Judge *ask*, waiting up to *wait_ns* for what is in its way; raises BudgetExceeded if it stays refused."""
    verdict = denying.judge(run, ask, denying.timed)
    if not verdict.decision.allowed:
        bell = ThreadBell(run.lock, run.engine.store.wakers)
        steps = _steps(run, ask, verdict, denying.judge, bell, wait_ns)
        try:
            step = next(steps)
            while True:
                try:
                    answer = step.ask() if isinstance(step, Question) else _block(run, bell, step)
                except BaseException as error:  # noqa: BLE001 - passes on through the steps
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            verdict = done.value
    return denying.concluded(run, ask, verdict)


async def adecide(run: BudgetRun, ask: Ask, wait_ns: int = 0) -> Decision:
    """`decide` for coroutines: awaits an async `on_exhausted`, and only the task waits."""
    verdict = denying.judge(run, ask, denying.timed)
    if not verdict.decision.allowed:
        verdict = await areconsidered(run, ask, verdict, denying.judge, wait_ns)
    return denying.concluded(run, ask, verdict)


async def areconsidered(run: BudgetRun, ask: Ask, verdict: Verdict, judge: Judge, wait_ns: int = 0) -> Verdict:
    """What becomes of *verdict*, which refuses; *judge* evaluates once more."""
    bell = TaskBell(run.lock, run.engine.store.wakers)
    steps = _steps(run, ask, verdict, judge, bell, wait_ns)
    try:
        step = next(steps)
        while True:
            try:
                answer = await (step.aask() if isinstance(step, Question) else bell.wait(step))
            except BaseException as error:  # noqa: BLE001 - passes on through the steps
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as done:
        verdict = done.value
    return verdict


def _steps(run: BudgetRun, ask: Ask, verdict: Verdict, judge: Judge, bell: Bell, wait_ns: int) -> Steps:
    """The loop: ask those whose budgets are in the way, each once, then wait and judge anew."""
    asked: list[BudgetRun] = []
    until_ns = time.monotonic_ns() + wait_ns
    verdict = yield from _questions(run, ask, verdict, judge, asked)
    if not wait_ns or not _passing(verdict):
        return verdict
    with bell:
        while True:
            bell.clear()
            verdict = yield from _questions(run, ask, judge(run, ask), judge, asked)
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0 or not _passing(verdict):
                return verdict
            yield min(left_ns / NANOS, POLL_S)


def _questions(run: BudgetRun, ask: Ask, verdict: Verdict, judge: Judge, asked: list[BudgetRun]) -> Steps:
    while (question := on_exhausted.question(run, verdict)) is not None and question.payer not in asked:
        asked.append(question.payer)
        try:
            lifted = yield question
        except Exception:  # one that steers the program, a cancellation above all, refuses nothing
            denying.refuse(run, ask, verdict)
            raise
        if not lifted:
            break
        verdict = judge(run, ask)
    return verdict


def _passing(verdict: Verdict) -> bool:
    denial = verdict.decision.denial
    if verdict.decision.allowed or denial is None:
        return False
    if denial.reason == "latched" and denial.detail is not None:  # what `wrap_up()` refuses, nobody can lift
        return False
    return denial.reason in _PASSING


def _block(run: BudgetRun, bell: ThreadBell, seconds: float) -> bool:
    """Wait in this thread, and say so where that stops an event loop."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        run.engine.warn_once(
            "wait_s",
            "reserve(wait_s=...) blocks the event loop that runs in this thread, and so perhaps those it waits for;"
            " use `await run.areserve(wait_s=...)`",
        )
    return bell.wait(seconds)
