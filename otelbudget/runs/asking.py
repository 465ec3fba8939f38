"""`on_exhausted`: asks a run's callback about a denial, one caller at a time, outside every lock that others need."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import get_current

from otelbudget import scope
from otelbudget.runs.admission import Ask, Verdict, attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from otelbudget.runs.run import BudgetRun

__all__ = ["Judge", "Refuse", "aasked", "asked", "asks"]

#: Books a denial that stands; gives the exception.
Refuse = Any
#: Evaluates a request.
Judge = Any
#: Reasons that more budget can lift, so `on_exhausted` is asked.
_LIFTABLE: Final = ("limit", "deadline")
#: How often a coroutine looks whether another caller's `on_exhausted` has answered.
_POLL_S: Final = 0.005


class _Gate:
    """Lets one caller at a time ask a run's callback.

    Attributes:
        session: What is being asked now. It travels in the OpenTelemetry context, so whatever the callback itself
            calls, in whichever task or thread, is known not to wait for its own answer.
        thread: Where the one who asks runs; a caller of another task on that thread must not block it.
    """

    __slots__ = ("lock", "session", "thread")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session: object = None
        self.thread: int | None = None

    def open(self) -> Any:
        """Begin to ask, with the lock held."""
        self.session = object()
        return scope.attach_asking((*_sessions(), self.session))

    def enter(self) -> bool:
        """Wait for one's turn; False if waiting could never end."""
        if not self.lock.acquire(blocking=False):
            if _sessions() or self.thread == threading.get_ident():
                return False
            self.lock.acquire()
        self.thread = threading.get_ident()
        return True

    async def aenter(self) -> bool:
        """`enter` for coroutines."""
        while not self.lock.acquire(blocking=False):
            if _sessions():
                return False
            await asyncio.sleep(_POLL_S)
        self.thread = threading.get_ident()
        return True

    def leave(self) -> None:
        """Let the next caller in."""
        self.thread = None
        self.lock.release()


def asked(run: BudgetRun, ask: Ask, verdict: Verdict, refuse: Refuse, done: list[BudgetRun]) -> Verdict:
    """What comes of *verdict*, a denial, once those whose budgets are in the way have been asked.

    *done* are the runs that were asked for this request before, and grows: each is asked once.
    """
    while (payer := _to_ask(run, verdict, done)) is not None:
        done.append(payer)
        gate = _gate(payer)
        if not gate.enter():
            break
        try:
            verdict = attempt(run, ask)  # while we waited, another caller's answer may have made room
            if _to_ask(run, verdict, done[:-1]) is payer and _answer(run, ask, verdict, payer, gate, refuse):
                verdict = attempt(run, ask)
        finally:
            gate.leave()
    return verdict


async def aasked(
    run: BudgetRun, ask: Ask, verdict: Verdict, refuse: Refuse, done: list[BudgetRun], judge: Judge = attempt
) -> Verdict:
    """`asked` for coroutines: awaits an async callback. *judge* evaluates once more."""
    while (payer := _to_ask(run, verdict, done)) is not None:
        done.append(payer)
        gate = _gate(payer)
        if not await gate.aenter():
            break
        try:
            verdict = judge(run, ask)
            if _to_ask(run, verdict, done[:-1]) is payer and await _aanswer(run, ask, verdict, payer, gate, refuse):
                verdict = judge(run, ask)
        finally:
            gate.leave()
    return verdict


def asks(run: BudgetRun, verdict: Verdict) -> bool:
    """Whether there is a callback that can lift *verdict*."""
    return _to_ask(run, verdict, []) is not None


def _to_ask(run: BudgetRun, verdict: Verdict, done: list[BudgetRun]) -> BudgetRun | None:
    """The run whose callback can lift *verdict* and has not been asked for this request."""
    denial = verdict.decision.denial
    if verdict.decision.allowed or denial is None or denial.reason not in _LIFTABLE:
        return None
    payer = verdict.blocker or run
    if not callable(payer.budget.on_exhausted) or payer in done or _gate(payer).session in _sessions():
        return None
    return payer


def _answer(run: BudgetRun, ask: Ask, verdict: Verdict, payer: BudgetRun, gate: _Gate, refuse: Refuse) -> bool:
    token = gate.open()
    try:
        answer = _callback(payer)(verdict.decision.denial, payer)
    except BaseException:
        refuse(run, ask, verdict)
        raise
    finally:
        gate.session = None
        scope.detach(token)
    if not inspect.isawaitable(answer):
        return bool(answer)
    if inspect.iscoroutine(answer):
        answer.close()
    run.engine.warn_once(
        "async on_exhausted",
        "on_exhausted of %r is async, but a call that is not async was refused: the refusal stands;"
        " use async clients, areserve or acheck, or a plain function",
        payer,
    )
    return False


async def _aanswer(run: BudgetRun, ask: Ask, verdict: Verdict, payer: BudgetRun, gate: _Gate, refuse: Refuse) -> bool:
    token = gate.open()
    try:
        answer = _callback(payer)(verdict.decision.denial, payer)
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except BaseException:
        refuse(run, ask, verdict)
        raise
    finally:
        gate.session = None
        scope.detach(token)


def _callback(payer: BudgetRun) -> Callable[..., Any]:
    callback = payer.budget.on_exhausted
    assert callable(callback)
    return callback


def _gate(run: BudgetRun) -> _Gate:
    if run.gate is None:
        with run.engine.lock:
            if run.gate is None:
                run.gate = _Gate()
    gate: _Gate = run.gate
    return gate


def _sessions() -> tuple[object, ...]:
    """The questions that the code here is part of answering."""
    return scope.asking_in(get_current())
