"""What is set on accounts from outside: rules, floors, resets, and what a shared store says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from otelbudget.ledger.account import INSIDE, Account, Refusal
from otelbudget.ledger.change import Changes, plan, write
from otelbudget.ledger.judging import refusal
from otelbudget.ledger.lock import Locked
from otelbudget.ledger.rules import Rule, limits_of, marked
from otelbudget.model.vector import greater


class Controlled(Locked):
    """A part of `Ledger`."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        super().__init__()
        self.clock_s = clock_s

    def limit(self, account: Account, rules: tuple[Rule, ...]) -> None:
        """Hold *account* to other *rules*; what is used stays used."""
        with self.lock:
            limits, mark = limits_of(rules), marked(rules, account.used)
            write([(account, "rules", rules), (account, "limits", limits), (account, "mark", mark)])
        self.after(room=True)

    def forget(self, account: Account) -> int:
        """Nothing used any more; what is held stays held, thresholds are armed anew. Gives what was used."""
        with self.lock:
            used = account.used
            changes: Changes = [
                (account, "used", 0),
                (account, "taken", account.taken - used),
                (account, "below", 0),
                # What a carved child has spent of its floor stays spent for the runs above.
                (account, "floor", greater(account.floor, used) - used),
                (account, "mark", account.limits.mark),
            ]
            if account.buckets is not None:
                changes.append((account, "buckets", {}))
            write(changes)
        self.after(room=True)
        return used

    def set_floor(
        self, accounts: Sequence[Account], wanted: Callable[[], int], priority: int | None = None
    ) -> Refusal | None:
        """Let the runs above the last account count it as what *wanted* then gives at least, or refuse that to a
        *priority*."""
        if self.inside and priority is not None:
            return INSIDE
        *above, child = accounts
        with self.lock:
            floor = wanted()
            more = greater(child.taken, floor) - greater(child.taken, child.floor)
            refused = None if priority is None else refusal(above, more, priority)
            if refused is None:
                changes: Changes = [(child, "floor", floor)]
                plan(changes, above, more, 0, 0, (), self.clock_s)
                write(changes)
        self.after(room=True)
        return refused

    def mirror(self, accounts: Sequence[Account], states: Sequence[tuple[int, int]]) -> None:
        """Note (used, taken) of accounts that are kept elsewhere; gauges go on showing what is used."""
        if self.later(partial(self.mirror, accounts, states)):
            return
        noted: Changes = []
        for one, (used, taken) in zip(accounts, states, strict=True):
            if taken and one.dropped:
                one.keep()
            name_of_used, name_of_taken = one.noted
            noted += ((one, name_of_used, used), (one, name_of_taken, taken))
        with self.lock:
            write(noted)
        self._ring()  # not what was put off as well: this may be part of that
