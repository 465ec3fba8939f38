"""Changes: what is to become of accounts, holds and counters, worked out first and then written in one step.

The one step is a call into C, in which no signal handler and no finalizer runs, so nothing is ever half done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from typing import Any

from otelbudget.ledger.account import Account, Crossing, crossings
from otelbudget.ledger.judging import rises
from otelbudget.ledger.rolling import charged
from otelbudget.ledger.rules import marked
from otelbudget.model.vector import GUARDS

#: (object, attribute, value).
Changes = list[tuple[Any, str, Any]]
#: Counters: (object, attribute, by how much).
Counts = Iterable[tuple[Any, str, int]]


def write(changes: Changes) -> None:
    """Make all changes, in one call into C."""
    any(starmap(setattr, changes))


def plan(
    changes: Changes,
    accounts: Sequence[Account],
    taken: int,
    used: int,
    holds: int,
    counts: Counts,
    clock_s: Callable[[], float],
) -> list[Crossing]:
    """Put into *changes* that all accounts have *taken* and *used* more, which may be less, and *counts* are raised.

    Returns:
        The thresholds that are crossed by it.
    """
    crossed: list[Crossing] = []
    each: Sequence[int] | None = None
    for account in accounts:
        if account.floor:
            each = rises(accounts, taken)
    last = len(accounts) - 1
    for n, account in enumerate(accounts):
        whole = account.taken + (taken if each is None else each[n])
        if holds:
            changes.append((account, "holds", account.holds + holds))
        if used:
            before = account.used
            after = before + used
            if whole == after:  # nothing is held: one integer for both, since there are many runs
                whole = after
            changes.append((account, "used", after))
            if (after + account.mark) & GUARDS:
                crossed += crossings(account, before, after)
                changes.append((account, "mark", marked(account.rules, after)))
            if account.where is None:
                if n != last:
                    changes.append((account, "below", account.below + used))
            else:
                if account.buckets is not None:
                    changes.append((account, "buckets", charged(account, used, clock_s())))
                if account.dropped:
                    account.keep()
        changes.append((account, "taken", whole))
    for cell, slot, count in counts:
        changes.append((cell, slot, getattr(cell, slot) + count))
    return crossed
