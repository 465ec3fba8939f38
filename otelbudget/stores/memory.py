"""Accounts in this process's memory: one lock, and the holds that are open.

Exact for every thread and task of the process; gone with it. A hold whose reservation object is alive is never
reclaimed: the object is the heartbeat. One that was lost (a crashed worker, a dropped object) comes back after
`ttl_ns` plus a grace, the next time anybody reserves.
"""

from __future__ import annotations

import threading
from typing import Any, Final
from weakref import ref

from otelbudget import ledger
from otelbudget.amounts import NANOS
from otelbudget.ledger import Crossing, Hold

__all__ = ["MemoryStore", "drop"]

TTL_S: Final = 60
GRACE_S: Final = 5


class MemoryStore:
    """The lock that every account of a manager is changed under, and the open holds on them.

    Args:
        ttl_s: How long an abandoned hold lives, seconds; a grace of 5 s is added.
    """

    name = "memory"

    def __init__(self, *, ttl_s: float = TTL_S) -> None:
        # Re-entrant, since the garbage collector and signal handlers run at any moment, also while it is held, and may
        # end a generator that holds a run, or look at one.
        self.lock = threading.RLock()
        self.ttl_ns = int((ttl_s + GRACE_S) * NANOS)
        self._open: dict[Hold, None] = {}  # in the order of expiry: every hold lives equally long

    # Every method below is called with the lock held.

    def register(self, new: Hold, owner: object, now_ns: int) -> None:
        """Put an admitted hold on its accounts; it lives as long as *owner*, or `ttl_ns`."""
        ledger.hold(new)
        new.opened_ns = now_ns
        new.expires_ns = now_ns + self.ttl_ns
        new.owner = ref(owner)
        self._open[new] = None

    def settle(self, held: Hold, actual: tuple[int, ...], state: ledger.HoldState) -> list[Crossing]:
        """End an open hold, charging *actual*."""
        self._open.pop(held, None)
        return ledger.settle(held, actual, state)

    def sweep(self, now_ns: int) -> list[tuple[Hold, list[Crossing]]]:
        """Reclaim the holds that nobody holds on to any more, renew the others; gives those reclaimed."""
        expired = []
        while self._open:
            oldest = next(iter(self._open))
            if oldest.expires_ns > now_ns:
                break
            self._open.pop(oldest, None)
            if oldest.owner() is None:
                expired.append((oldest, ledger.expire(oldest)))
            else:
                oldest.expires_ns = now_ns + self.ttl_ns
                self._open[oldest] = None
        return expired

    def open_holds(self, now_ns: int) -> tuple[int, float]:
        """How many holds are open, and the age of the oldest in seconds."""
        if not self._open:
            return 0, 0.0
        return len(self._open), (now_ns - min(h.opened_ns for h in self._open)) / NANOS


def drop(lock: Any) -> None:
    """Release a store's lock if this thread holds it, after an exception that came at any moment."""
    if lock._is_owned():  # what threading.Condition asks of a lock
        lock.release()
