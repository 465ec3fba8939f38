"""Bells: they wake who waits for a change, a thread or a task, from whatever thread the change is made in.

Whoever waits registers its bell first and looks once more afterwards, so no change falls between the two.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any, Self

__all__ = ["Bell", "Bells", "TaskBell", "ThreadBell"]

#: What to call; changed under a lock.
Bells = set[Callable[[], None]]


class Bell:
    """Rung by every change that may help, as long as it is entered.

    Args:
        lock: Held by whoever makes such a change.
        bells: What is called then, in which it registers itself.
    """

    def __init__(self, lock: Any, *bells: Bells) -> None:
        self._lock = lock
        self._bells = bells

    def __enter__(self) -> Self:
        with self._lock:
            for one in self._bells:
                one.add(self.ring)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for one in self._bells:
            one.discard(self.ring)

    def ring(self) -> None:
        """Wake the one who waits, now or at its next wait; called by anybody, with the lock held."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what has rung so far."""
        raise NotImplementedError


class ThreadBell(Bell):
    """Wakes a thread. Made of a queue, since an Event's lock would be taken twice by one thread when the garbage
    collector, inside of a wait, settles a call that was dropped.
    """

    def __init__(self, lock: Any, *bells: Bells) -> None:
        super().__init__(lock, *bells)
        self._rung: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Wake the thread."""
        if self._rung.empty():
            self._rung.put(None)

    def clear(self) -> None:
        """Forget what has rung so far."""
        while not self._rung.empty():
            self._rung.get()

    def wait(self, seconds: float) -> bool:
        """Block the thread until it rings, or so long; gives whether it rang."""
        try:
            self._rung.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


class TaskBell(Bell):
    """Wakes a task of asyncio, the one in which it is entered."""

    _loop: asyncio.AbstractEventLoop
    _event: asyncio.Event
    _rung = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        return super().__enter__()

    def ring(self) -> None:
        """Wake the task."""
        if self._rung:
            return
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed around a task that never ended
            self._forget()

    def clear(self) -> None:
        """Forget what has rung so far."""
        self._rung = False
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Suspend the task until it rings, or so long; gives whether it rang."""
        timer = self._loop.call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()
        return self._rung
