"""Accounts in this process's memory: one lock, the quotas' books, and the holds that are open.

Exact for every thread and task of the process; gone with it. A hold whose reservation object is alive is never
reclaimed: the object is the heartbeat. One that was lost (a crashed worker, a dropped object) comes back after
`ttl_ns` plus a grace, the next time anybody reserves.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from weakref import ref

from otelbudget import forking
from otelbudget.ledger.account import Account, Hold, HoldState
from otelbudget.ledger.changes import Change, at_once
from otelbudget.ledger.thresholds import Crossing
from otelbudget.model.amounts import NANOS, NOTHING
from otelbudget.stores.books import Books

__all__ = ["MemoryStore", "drop", "held"]

TTL_S: Final = 60
GRACE_S: Final = 5


class MemoryStore:
    """The lock that every account of a manager is changed under, the books of its quotas, and the open holds.

    Args:
        ttl_s: How long an abandoned hold lives, seconds; a grace of 5 s is added.
        clock_s: Wall clock in Unix seconds, which windows follow.

    Attributes:
        books: What every quota has been used for.
        wakers: Called, with the lock held, after every change that may let a refused request pass.
    """

    name = "memory"

    def __init__(self, *, ttl_s: float = TTL_S, clock_s: Callable[[], float] = time.time) -> None:
        # Re-entrant, since the garbage collector and signal handlers run at any moment, also while it is held, and may
        # end a generator that holds a run, or look at one.
        self.lock = forking.hold(threading.RLock())
        self.clock_s = clock_s
        self.ttl_ns = int((ttl_s + GRACE_S) * NANOS)
        self.books = Books(self._join)
        self.wakers: set[Callable[[], None]] = set()
        self._open: OrderedDict[Hold, None] = OrderedDict()  # in the order of expiry: every hold lives equally long

    # Every method below is called with the lock held.

    def register(self, new: Hold, owner: object, now_ns: int) -> None:
        """Put an admitted hold on its accounts; it lives as long as *owner*, or `ttl_ns`."""
        at_once(lambda change: self.registers(change, new, owner, now_ns))

    def charge(self, accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
        """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
        return at_once(lambda change: self.charges(change, accounts, actual))

    def settle(self, held: Hold, actual: Sequence[int], state: HoldState) -> list[Crossing]:
        """End an open hold in *state*: give back what it held, charge *actual*."""
        crossed = at_once(lambda change: self.settles(change, held, actual, state))
        self.ended(held)
        return crossed

    # The same as parts of a change.

    def registers(self, change: Change, new: Hold, owner: object, now_ns: int) -> None:
        """Put an admitted hold on its accounts; it lives as long as *owner*, or `ttl_ns`."""
        change.hold(new.accounts, new.amounts)
        new.opened_ns = now_ns
        new.expires_ns = now_ns + self.ttl_ns
        new.owner = ref(owner)
        change.put(self._open, new, None)

    def charges(self, change: Change, accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
        """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
        crossed = change.charge(accounts, actual)
        self._note(change, accounts, actual)
        return crossed

    def charges_late(self, change: Change, held: Hold, actual: Sequence[int]) -> list[Crossing]:
        """Charge what comes in for a hold that has ended, also to quotas that took over from its own since."""
        return self.charges(change, self.books.counting_on(held.accounts, self.clock_s()), actual)

    def settles(self, change: Change, held: Hold, actual: Sequence[int], state: HoldState) -> list[Crossing]:
        """End an open hold in *state*: give back what it held, charge *actual*. `ended` is called afterwards."""
        crossed = change.settle(held, actual, state)
        self._note(change, held.accounts, actual)
        return crossed

    def ended(self, held: Hold) -> None:
        """Forget a hold that has been settled, and tell those who wait for what it held."""
        self._open.pop(held, None)  # if that is interrupted, `sweep` does it
        self.changed()

    def _join(self, counted: Account, more: Account) -> None:
        """Let the open holds on *counted* settle on *more*, which has taken over what is held there, as well."""
        if any(counted.reserved):
            for held in self._open:
                if held.state == "open" and counted in held.accounts:
                    at = held.accounts.index(counted) + 1
                    held.accounts = (*held.accounts[:at], more, *held.accounts[at:])

    def _note(self, change: Change, accounts: Sequence[Account], actual: Sequence[int]) -> None:
        """Remember when a rolling window was charged: it counts from then, also for a hold that was made before."""
        for account in accounts:
            book = account.book
            if book is None:
                continue
            if book.forgotten:
                self.books.remember(book)
            if account.buckets is not None:
                change.note(account, actual, self.clock_s())

    def sweep(
        self, now_ns: int, ends: Callable[[Change, Hold], object] = lambda *_: None
    ) -> list[tuple[Hold, list[Crossing]]]:
        """Reclaim the holds that nobody holds on to any more, renew the others; gives those reclaimed.

        *ends* is called with the change that reclaims a hold, and that hold, to add what else it changes.
        """
        expired = []
        while self._open:
            oldest = next(iter(self._open))
            if oldest.expires_ns > now_ns and oldest.state == "open":
                break
            if oldest.state != "open":
                self._open.pop(oldest, None)
                continue
            owner = oldest.owner()  # alive until it is renewed
            if owner is None:
                crossed = at_once(partial(self._reclaims, held=oldest, ends=ends))
                self.ended(oldest)
                if crossed is not None:
                    expired.append((oldest, crossed))
            elif oldest in self._open:  # what the garbage collector ends in between may have settled it
                # In this order: what is interrupted in between is only looked at once more.
                self._open.move_to_end(oldest)
                oldest.expires_ns = now_ns + self.ttl_ns
        return expired

    def _reclaims(self, change: Change, held: Hold, ends: Callable[[Change, Hold], object]) -> list[Crossing] | None:
        if held.state != "open":
            return None
        crossed = self.settles(change, held, held.on_expiry, "expired")
        ends(change, held)
        return crossed

    def abandon(self) -> list[Hold]:
        """Release all open holds: in a forked process they are the parent's. Whoever waited is there, too."""
        self.wakers.clear()
        abandoned = [one for one in self._open if one.state == "open"]
        for one in abandoned:
            self.settle(one, NOTHING, "released")
        self._open.clear()
        return abandoned

    def changed(self) -> None:
        """Tell those who wait that more may fit now."""
        for wake in tuple(self.wakers) if self.wakers else ():
            wake()

    def open_holds(self, now_ns: int) -> tuple[int, float]:
        """How many holds are open, and the age of the oldest in seconds."""
        opened_ns = [held.opened_ns for held in self._open if held.state == "open"]
        return (len(opened_ns), (now_ns - min(opened_ns)) / NANOS) if opened_ns else (0, 0.0)


def held(lock: Any) -> bool:
    """Whether this thread holds a store's lock."""
    return bool(lock._is_owned())  # what threading.Condition asks of a lock


def drop(lock: Any) -> None:
    """Release a store's lock if this thread holds it, after an exception that came at any moment."""
    if held(lock):
        lock.release()
