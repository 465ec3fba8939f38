"""`on_exhausted`: asks a run's callback about a denial, one caller at a time, outside every lock that others need."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from opentelemetry.context import get_current

from otelbudget import forking
from otelbudget.admission.admission import Ask, Verdict, attempt
from otelbudget.engine import scope
from otelbudget.model.amounts import NANOS

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
#: How often a coroutine, and a thread, looks whether another caller's `on_exhausted` has answered.
_POLL_S: Final = 0.005
_THREAD_POLL_S: Final = 0.05
#: How long a caller without a `wait_s` waits for that at most: the answer may need the thread that waits for it.
PATIENCE_S: Final = 30.0


class _Gate:
    """Lets one caller at a time ask a run's callback.

    Attributes:
        session: What is being asked now. It travels in the OpenTelemetry context, so whatever the callback itself
            calls, in whichever task or thread, is known not to wait for its own answer.
        thread: Where the one who asks runs; a caller of another task on that thread must not block it.
        awaited: The callback is async and its answer awaited. A plain call does not wait for that, as it could not ask
            itself: the thread that it blocks may be the one that the answer needs.
    """

    __slots__ = ("__weakref__", "_run", "awaited", "lock", "session", "thread")

    def __init__(self, run: BudgetRun) -> None:
        self._run = ref(run)
        self.lock = threading.Lock()
        self.session: object = None
        self.thread: int | None = None
        self.awaited = False
        forking.tell(self)

    def forked(self) -> None:
        """In a forked process others ask through another gate, unless the one who asks is the thread that forked."""
        here = self.thread == threading.get_ident() and (not self.awaited or self.session in _sessions())
        run = self._run()
        if run is not None and not here:
            run.gate = None

    def open(self) -> Any:
        """Begin to ask, with the lock held."""
        self.session = object()
        return scope.attach_asking((*_sessions(), self.session))

    def enter(self, patience: _Patience) -> bool:
        """Wait for one's turn; False if that could never come, or not in time."""
        wait_s = 0.0
        while not self.lock.acquire(timeout=wait_s):
            if _sessions() or self.thread == threading.get_ident() or self.awaited or patience.over():
                return False
            wait_s = _THREAD_POLL_S
        self.thread = threading.get_ident()
        return True

    async def aenter(self, patience: _Patience) -> bool:
        """`enter` for coroutines."""
        while not self.lock.acquire(blocking=False):
            if _sessions() or patience.over():
                return False
            await asyncio.sleep(_POLL_S)
        self.thread = threading.get_ident()
        return True

    def leave(self) -> None:
        """Let the next caller in."""
        self.thread = None
        self.lock.release()


class _Patience:
    """How long one caller waits for its turn to ask."""

    def __init__(self, run: BudgetRun, until_ns: int) -> None:
        self._run = run
        self._until_ns = until_ns or time.monotonic_ns() + round(PATIENCE_S * NANOS)
        # One that is over already, and perhaps what is asked about, ends nothing.
        self._timed = run.clock_ns() < run.until_ns

    def over(self) -> bool:
        """Whether it has waited long enough; says so once."""
        run = self._run
        if time.monotonic_ns() < self._until_ns and not (self._timed and run.clock_ns() >= run.until_ns):
            return False
        run.engine.warn_once(
            "on_exhausted turn",
            "a denied call of %r did not wait any longer for the on_exhausted that another caller is asking, so it is"
            " refused; a callback must not wait for calls of its own run, nor take long where others can't wait",
            run,
        )
        return True


def asked(
    run: BudgetRun, ask: Ask, verdict: Verdict, refuse: Refuse, done: list[BudgetRun], until_ns: int = 0
) -> Verdict:
    """What comes of *verdict*, a denial, once those whose budgets are in the way have been asked.

    *done* are the runs that were asked for this request before, and grows: each is asked once. While another caller
    asks, this one waits until *until_ns* of `time.monotonic_ns`, or `PATIENCE_S`.
    """
    patience = _Patience(run, until_ns)
    while (payer := _to_ask(run, verdict, done)) is not None:
        done.append(payer)
        gate = _gate(payer)
        if not gate.enter(patience):
            if gate.awaited:
                _warn_async(payer)
            break
        try:
            verdict = attempt(run, ask)  # while we waited, another caller's answer may have made room
            if _to_ask(run, verdict, done[:-1]) is payer and _answer(run, ask, verdict, payer, gate, refuse):
                verdict = attempt(run, ask)
        finally:
            gate.leave()
    return verdict


async def aasked(
    run: BudgetRun,
    ask: Ask,
    verdict: Verdict,
    refuse: Refuse,
    done: list[BudgetRun],
    judge: Judge = attempt,
    until_ns: int = 0,
) -> Verdict:
    """`asked` for coroutines: awaits an async callback. *judge* evaluates once more."""
    patience = _Patience(run, until_ns)
    while (payer := _to_ask(run, verdict, done)) is not None:
        done.append(payer)
        gate = _gate(payer)
        if not await gate.aenter(patience):
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
    except Exception:
        refuse(run, ask, verdict)
        raise
    finally:
        gate.session = None
        scope.detach(token)
    if not inspect.isawaitable(answer):
        return bool(answer)
    if inspect.iscoroutine(answer):
        answer.close()
    _warn_async(payer)
    return False


def _warn_async(payer: BudgetRun) -> None:
    payer.engine.warn_once(
        "async on_exhausted",
        "on_exhausted of %r is async, but a call that is not async was refused: the refusal stands;"
        " use async clients, areserve or acheck, or a plain function",
        payer,
    )


async def _aanswer(run: BudgetRun, ask: Ask, verdict: Verdict, payer: BudgetRun, gate: _Gate, refuse: Refuse) -> bool:
    token = gate.open()
    try:
        answer = _callback(payer)(verdict.decision.denial, payer)
        if inspect.isawaitable(answer):
            gate.awaited = True
            answer = await answer
        return bool(answer)
    except Exception:  # one that steers the program, a cancellation above all, is this caller's and refuses nothing
        refuse(run, ask, verdict)
        raise
    finally:
        gate.awaited = False
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
                run.gate = _Gate(run)
    gate: _Gate = run.gate
    return gate


def _sessions() -> tuple[object, ...]:
    """The questions that the code here is part of answering."""
    return scope.asking_in(get_current())
