"""The locks of this package, and `os.fork()` while threads work: which are held across it, who is told in the child.

The child goes on with a copy of everything but the threads, so a lock that one of them held would never be released.
Those that guard accounts are taken before the fork, so the child has them in order; all others are made anew in it.
Nothing here keeps anything alive.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

Refs = set[Callable[[], Any]]

#: How long a fork waits for one lock. A thread that holds it and waits for what the forking thread holds must not stop
#: it for ever; then the child makes that lock anew.
_PATIENCE_S: Final = 1.0

# Plain sets of references, since a list of one is made in one step, whatever threads and finalizers do meanwhile.
_held: Refs = set()
_fresh: Refs = set()
_told: Refs = set()
_asked: Refs = set()
_here = threading.local()
_due: list[Callable[[], object]] = []
#: When this process was forked, in Unix ns; 0: it was not. Spans that began before are its parent's.
forked_ns = 0


class SafeRLock(_thread.RLock):  # type: ignore[misc]  # it may be inherited from
    """A re-entrant lock that is free again if a signal handler raises just as a ``with`` has taken it.

    CPython 3.14 doesn't leave the block then, as others do (python/cpython#148874).
    """

    if TYPE_CHECKING:

        def _is_owned(self) -> bool:
            """Whether this thread has it, as `threading.Condition` asks."""

    def __enter__(self, blocking: bool = True, timeout: float = -1) -> bool:
        try:
            return self.acquire(blocking, timeout)
        except BaseException:
            try:  # noqa: SIM105 - calls nothing before, in which the next signal could come
                self.release()
            except RuntimeError:  # it was still waiting
                pass
            raise


_RLock: Final[Any] = SafeRLock if sys.version_info[:2] == (3, 14) else threading.RLock


def held_lock() -> SafeRLock:
    """A re-entrant lock that every fork takes, so that what it guards is whole in the child."""
    return _among(_held)


def fresh_lock() -> SafeRLock:
    """A re-entrant lock that is made anew in every child, where it is free unless the forking thread holds it."""
    return _among(_fresh)


def _among(locks: Refs) -> SafeRLock:
    lock: SafeRLock = _RLock()
    locks.add(ref(lock, locks.discard))
    return lock


def tell(owner: Any) -> None:
    """Call ``owner.forked()`` in every child, once the locks are in order."""
    _told.add(ref(owner, _told.discard))


def before(owner: Any) -> None:
    """Call ``owner.forking()`` before every fork, once the locks are held; what a child must not inherit ends there."""
    _asked.add(ref(owner, _asked.discard))


def later(job: Callable[[], object]) -> None:
    """In a child: have *job* done, once, when a budget is first used there.

    For what can't be done in the fork itself, such as logging: a handler may want what a thread of the parent held.
    """
    if job not in _due:
        _due.append(job)


def first_use() -> None:
    """Do what was put off until now in a forked process; costs nothing in others."""
    while _due:
        try:
            job = _due.pop()
        except IndexError:  # another thread has done it
            return
        job()


def _alive(refs: Refs) -> list[Any]:
    return [found for one in list(refs) if (found := one()) is not None]


def _before() -> None:
    _here.taken = [lock for lock in _alive(_held) if lock.acquire(timeout=_PATIENCE_S)]
    _call("forking", _asked)


def _after_in_parent() -> None:
    for lock in _here.__dict__.pop("taken", ()):
        lock.release()


def _after_in_child() -> None:
    global forked_ns
    forked_ns = time.time_ns()
    _due.clear()
    taken = _here.__dict__.pop("taken", [])
    for lock in taken:
        lock.release()
    for lock in (*_alive(_held), *_alive(_fresh)):
        # A re-entrant one that is this thread's will be released by it.
        if lock not in taken and not lock._is_owned():
            lock._at_fork_reinit()
    _call("forked", _told)


def _call(method: str, owners: Refs) -> None:
    failed: list[Exception] = []
    for owner in _alive(owners):
        try:
            getattr(owner, method)()
        except Exception as error:  # noqa: BLE001  the others have to be told, too
            failed.append(error)
    if failed:
        raise failed[0]  # Python shows it and goes on


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
