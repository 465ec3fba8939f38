"""The one lock, and what waits until it is free.

Nothing inside it does I/O, logs, writes a span or calls back; and no loop stands directly inside of ``with self.lock``,
since CPython 3.13 does not release a lock if a signal handler raises where such a loop goes back.

An operation that comes inside another one of its own thread (out of a finalizer or a signal handler) would see what is
about to change. So who charges or settles comes `later`, once the lock is free; who asks is refused as busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from otelbudget import forking

T = TypeVar("T")
#: What is called at every change that may help somebody; it gives False once nobody can hear it.
Bells = set[Callable[[], object]]


def ring(bells: Bells) -> None:
    """Ring all *bells*, and take down those that nobody can hear."""
    for one in list(bells):
        if one() is False:
            bells.discard(one)


class Locked:
    """What has the lock.

    Attributes:
        bells: Rung after every change that may let a refused request pass.
    """

    def __init__(self) -> None:
        self.lock = forking.held_lock()  # re-entrant only because it knows its owner
        self.bells: Bells = set()
        self._later: deque[Callable[[], object]] = deque()

    @property
    def inside(self) -> bool:
        """Whether this thread is in the middle of an operation."""
        return self.lock._is_owned()

    def later(self, operation: Callable[[], object]) -> bool:
        """Put off *operation* until the one that this thread is in the middle of is done; False if there is none."""
        if not self.inside:
            return False
        self._later.append(operation)
        return True

    def locked(self, operation: Callable[[], T]) -> T:
        """What *operation*, which reads or changes state that is no amount, gives with the lock held."""
        with self.lock:
            found = operation()
        if self._later:
            self.after()
        return found

    def after(self, *, room: bool = False) -> None:
        """What follows an operation, once the lock is free: ring if there is *room*, do what was put off."""
        if room:
            self._ring()
        while self._later and not self.inside:
            for operation in list(self._later)[:1]:  # another thread may have been faster
                operation()  # twice if that is interrupted in between, but what it does is done once
                with suppress(ValueError):
                    self._later.remove(operation)

    def _ring(self) -> None:
        if self.bells and not self.later(self._ring):
            ring(self.bells)
