"""Bells: they wake who waits for a change, a thread or a task, from whatever thread the change is made in.

Whoever waits registers its bell first and looks once more afterwards, so no change falls between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

#: What to call.
Bells = set[Callable[[], None]]


class _Bell(ABC):
    """Rung, while it is entered, by every change that may help: `ring` is in sets of what is to be called."""

    def __init__(self, *bells: Bells) -> None:
        self._bells = bells

    @abstractmethod
    def ring(self) -> None:
        """Wake the one who waits, now or at its next wait; called by anybody."""

    def __enter__(self) -> Self:
        for one in self._bells:
            one.add(self.ring)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._bells:
            one.discard(self.ring)


class ThreadBell(_Bell):
    """Wakes a thread. Made of a queue, since an Event's lock would be taken twice by one thread when the garbage
    collector, inside of a wait, settles a call that was dropped.
    """

    def __init__(self, *bells: Bells) -> None:
        super().__init__(*bells)
        self._rung: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Wake the thread."""
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


class TaskBell(_Bell):
    """Wakes a task of asyncio, the one in which it is made."""

    def __init__(self, *bells: Bells) -> None:
        super().__init__(*bells)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        """Wake the task."""
        if self._rung:
            return
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed around a task that never ended
            self.__exit__()

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
