"""``wait_s``: a refused request waits until it fits, or until its time is up.

Whoever waits registers with the store first and looks once more afterwards, so no change falls between the two. The
store wakes all of them after every change that may help; what only time changes (a window, an abandoned hold, a
deadline) is found by looking every `POLL_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from otelbudget.model.amounts import NANOS, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from otelbudget.admission.admission import Verdict
    from otelbudget.runs.run import BudgetRun
    from otelbudget.stores.memory import MemoryStore

__all__ = ["POLL_S", "awaited", "patience", "waited"]

#: How long nobody looks, at most.
POLL_S: Final = 0.2
#: Reasons that pass by themselves or by somebody's doing; an `extend` or a reset also ends a latch.
_PASSING: Final = ("busy", "frozen", "limit", "latched")


def patience(given: dict[str, Any]) -> int:
    """Take ``wait_s`` out of the keywords of a reserve; gives nanoseconds.

    Raises:
        ValueError: It is not a finite number of at least 0.
    """
    return nanoseconds("wait_s", given.pop("wait_s", 0))


def waited(run: BudgetRun, verdict: Verdict, wait_ns: int, again: Callable[[], Verdict]) -> Verdict:
    """What *again* gives once it admits, or when *wait_ns* are over; blocks the thread until then."""
    if not _passing(verdict):
        return verdict
    _warn_on_a_loop(run)
    until_ns = time.monotonic_ns() + wait_ns
    bell = _ThreadBell()
    with _registered(run.engine.store, bell):
        while True:
            bell.clear()
            verdict = again()
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0 or not _passing(verdict):
                return verdict
            bell.wait(min(left_ns / NANOS, POLL_S))


async def awaited(run: BudgetRun, verdict: Verdict, wait_ns: int, again: Callable[[], Awaitable[Verdict]]) -> Verdict:
    """`waited` for coroutines: only the task waits, and it may be cancelled at any time."""
    if not _passing(verdict):
        return verdict
    until_ns = time.monotonic_ns() + wait_ns
    bell = _TaskBell(run.engine.store)
    with _registered(run.engine.store, bell):
        while True:
            bell.clear()
            verdict = await again()
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0 or not _passing(verdict):
                return verdict
            await bell.wait(min(left_ns / NANOS, POLL_S))


def _passing(verdict: Verdict) -> bool:
    denial = verdict.decision.denial
    if verdict.decision.allowed or denial is None:
        return False
    if denial.reason == "latched" and denial.detail is not None:  # what `wrap_up()` refuses, nobody can lift
        return False
    return denial.reason in _PASSING


def _warn_on_a_loop(run: BudgetRun) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    run.engine.warn_once(
        "wait_s",
        "reserve(wait_s=...) blocks the event loop that runs in this thread, and so perhaps those it waits for;"
        " use `await run.areserve(wait_s=...)`",
    )


class _Bell(Protocol):
    def ring(self) -> None:
        """Wake the one who waits, now or at its next wait; called by anybody, with the store's lock held."""


@contextlib.contextmanager
def _registered(store: MemoryStore, bell: _Bell) -> Iterator[None]:
    with store.lock:
        store.wakers.add(bell.ring)
    try:
        yield
    finally:
        with store.lock:
            store.wakers.discard(bell.ring)


class _ThreadBell:
    """Wakes a thread. Made of a queue, since an Event's lock would be taken twice by one thread when the garbage
    collector, inside of a wait, settles a call that was dropped.
    """

    def __init__(self) -> None:
        self._rung: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        if self._rung.empty():
            self._rung.put(None)

    def clear(self) -> None:
        while not self._rung.empty():
            self._rung.get()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._rung.get(timeout=seconds)


class _TaskBell:
    """Wakes a task, from whatever thread."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed around a task that never ended
            self._store.wakers.discard(self.ring)

    def clear(self) -> None:
        self._rung = False
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()
