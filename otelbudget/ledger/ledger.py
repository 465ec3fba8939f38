"""The ledger: every account of a manager, the holds that are open on them, and the one lock that guards both.

A change is worked out and then written in one step, see `change`; `lock` says what may happen inside the lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import add
from typing import Any

from otelbudget.ledger.account import INSIDE, Account, Crossing, Hold, HoldState, Refusal
from otelbudget.ledger.change import Changes, Counts, plan, write
from otelbudget.ledger.control import Controlled
from otelbudget.ledger.holds import TTL_S, OpenHolds
from otelbudget.ledger.judging import refusal
from otelbudget.model.amounts import Amounts
from otelbudget.model.vector import pack


class Ledger(Controlled):
    """Accounts and open holds.

    Args:
        ttl_s: How long an abandoned hold lives, seconds; a grace of 5 s is added.
        clock_s: Wall clock in Unix seconds, which windows follow.

    Attributes:
        open: The holds that are open.
        expired: (hold, thresholds crossed) of what has been reclaimed, for whoever tells of it.
    """

    def __init__(self, *, ttl_s: float = TTL_S, clock_s: Callable[[], float] = time.time) -> None:
        super().__init__(clock_s)
        self.expired: deque[tuple[Hold, list[Crossing]]] = deque()
        self.open = OpenHolds(ttl_s)

    def add(self, counts: Counts) -> None:
        """Raise counters that go with no change of accounts."""
        if self.later(partial(self.add, counts)):
            return
        changes: Changes = []
        with self.lock:
            plan(changes, (), 0, 0, 0, counts, self.clock_s)
            write(changes)

    # --- asking

    def check(
        self,
        accounts: Sequence[Account],
        more: int,
        priority: int,
        counted: tuple[Any, str, int],
        now_ns: int,
        wrapping: Account | None = None,
    ) -> Refusal | None:
        """Whether *more* fits; *counted* is raised if it does and nothing else is going on in this thread."""
        if self.lock._is_owned():
            return refusal(accounts, more, priority, wrapping)
        with self.lock:
            if now_ns >= self.open.due_ns:
                self.open.sweep(now_ns, self._reclaim)
            refused = refusal(accounts, more, priority, wrapping)
            if refused is None:
                cell, slot, n = counted
                setattr(cell, slot, getattr(cell, slot) + n)
        if self._later:
            self.after()
        return refused

    def hold(
        self,
        held: Hold,
        owner: object,
        counts: Counts,
        now_ns: int,
        writes: Changes,
        *,
        force: bool = False,
        once: Any = None,
    ) -> Refusal | None:
        """Hold what a new hold says on its accounts, or, with *force*, in any case.

        Args:
            owner: As long as it lives the hold does; kept alive by whoever may still settle it.
            counts, writes: Raised, and made, if it is admitted.
            now_ns: Monotonic.
            once: What its key stands for: nothing is done if that has a ``hold``, else this becomes it.
        """
        if self.lock._is_owned():
            return INSIDE
        accounts, more = held.accounts, held.vector
        with self.lock:
            if once is not None:
                if once.hold is not None:
                    return None
                writes.append((once, "hold", held))
            if now_ns >= self.open.due_ns:
                self.open.sweep(now_ns, self._reclaim)
            if held.permit is not None and held.permit.used:  # another thread has made the last call
                held.permit = held.wrapping = None
            refused = None if force else refusal(accounts, more, held.priority, held.wrapping)
            if refused is None:
                self.open.add(held, owner, now_ns)
                plan(writes, accounts, more, 0, 1, counts, self.clock_s)
                writes.append((held, "state", "open"))
                write(writes)
        if self._later:
            self.after()
        return refused

    def resize(
        self,
        held: Hold,
        amounts: Amounts,
        *,
        joining: tuple[Account, ...] = (),
        grow: bool = False,
        force: bool = False,
    ) -> Refusal | None:
        """Make an open hold exactly *amounts*, or *grow* it by these, on the quotas *joining* too; *force* fits all.

        A refusal leaves it unchanged, and so does its having been settled, which its state says. What it holds already
        was admitted and is not asked for again.
        """
        if self.lock._is_owned():
            return INSIDE
        with self.lock:
            if held.state != "open":
                return None
            if grow:
                amounts = Amounts(*map(add, held.amounts, amounts))
            vector = pack(amounts)
            more = vector - held.vector
            refused = None if force else self._misfit(held, vector, joining)
            if refused is None:
                changes: Changes = [(held, "amounts", amounts), (held, "vector", vector)]
                plan(changes, held.accounts, more, 0, 0, (), self.clock_s)
                if joining:
                    plan(changes, joining, vector, 0, 1, (), self.clock_s)
                    quotas = tuple(one for one in held.accounts if one.where is not None)
                    changes.append((held, "accounts", (*quotas, *joining, *held.accounts[len(quotas) :])))
                write(changes)
        self.after(room=True)
        return refused

    def _misfit(self, held: Hold, vector: int, joining: tuple[Account, ...]) -> Refusal | None:
        found = [
            refusal(joining, vector, held.priority),
            refusal(held.accounts, vector - held.vector, held.priority, held.wrapping, held.vector),
        ]
        # Of equals the widest decides, and those that join come before the runs.
        refused = [one for one in found if one is not None]
        return min(refused, key=lambda one: (one.busy, one.account.where is None), default=None)

    def charge(
        self, accounts: Sequence[Account], actual: int, counts: Counts, writes: Changes, once: Any = None
    ) -> list[Crossing] | None:
        """Add *actual* to every account, limits or not; gives the thresholds that it has crossed.

        With *once*, what its key stands for, only if that is not ``done``; else None.
        """
        with self.lock:
            if once is not None:
                if once.done:
                    return None
                writes.append((once, "done", True))
            crossed = plan(writes, accounts, actual, actual, 0, counts, self.clock_s)
            write(writes)
        if self._later:
            self.after()
        return crossed

    def take(
        self, accounts: Sequence[Account], actual: int, counts: Counts, priority: int, now_ns: int, *, force: bool
    ) -> Refusal | list[Crossing]:
        """`charge`, if it fits or with *force*; else what refuses it."""
        if self.lock._is_owned():
            return INSIDE
        with self.lock:
            if now_ns >= self.open.due_ns:
                self.open.sweep(now_ns, self._reclaim)
            refused = None if force else refusal(accounts, actual, priority)
            taken = refused or self.charge(accounts, actual, counts, [])
        if self._later:
            self.after()
        return taken or []

    def settle(
        self,
        held: Hold,
        actual: int,
        state: HoldState,
        counts: Counts = (),
        writes: Changes | tuple[()] = (),
        *,
        was: HoldState = "open",
        joining: tuple[Account, ...] = (),
        whole: int = 0,
    ) -> list[Crossing] | None:
        """End a hold: give back what it holds, charge *actual*. One that expired or was released is charged late.

        Gives the thresholds crossed; None if it is not as it *was* thought to be, and nothing has changed then.

        Args:
            actual, whole: Vectors.
            state: What it ends as.
            counts, writes: Raised, and made, with it.
            was: The state that it is in; ``open`` but for what is charged late.
            joining: Quotas that it is not held on, and that are charged the *whole*.
        """
        held_yet, holds = (held.vector, -1) if was == "open" else (0, 0)
        with self.lock:
            if held.state != was:
                return None
            changes: Changes = [(held, "state", state), *writes]
            crossed = plan(changes, held.accounts, actual - held_yet, actual, holds, counts, self.clock_s)
            if joining:
                crossed += plan(changes, joining, whole, whole, 0, (), self.clock_s)
            if held.permit is not None and state != "committed":
                changes.append((held.permit, "used", False))  # nothing was sent: the last call has not been made
            write(changes)
            self.open.drop(held)
        if self.bells or self._later:
            self.after(room=True)
        return crossed

    # --- inside

    def _reclaim(self, held: Hold) -> None:
        crossed = self.settle(held, pack(held.on_expiry), "expired", held.counts if any(held.on_expiry) else ())
        self.expired.append((held, crossed or []))

    def sweep(self, now_ns: int) -> None:
        """Reclaim what is due."""
        if now_ns >= self.open.due_ns and not self.inside:
            with self.lock:
                self.open.sweep(now_ns, self._reclaim)
            self.after()

    def forked(self) -> list[Hold]:
        """Release all open holds: in a forked process they are the parent's. Whoever waited is there, too."""
        self.bells.clear()
        self._later.clear()
        abandoned = list(self.open)
        for one in abandoned:
            self.settle(one, 0, "released")
        return abandoned
