"""Attempts at one logical call: every one holds for itself, and together they pay its steps once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otelbudget.model.amounts import Amounts

if TYPE_CHECKING:
    from otelbudget.ledger.account import Hold
    from otelbudget.ledger.changes import Change
    from otelbudget.runs.idempotency import Keys

__all__ = ["Attempt", "LogicalCall"]


class LogicalCall:
    """One logical call, however often it is tried: its attempts together are charged the most steps that one of them
    used.

    What is not charged yet is held by one of the open attempts; when that one ends, the next takes it over.

    Attributes:
        charged: Steps charged so far.
        attempts: Those whose hold is open, oldest first; replaced and never changed in place.
    """

    __slots__ = ("attempts", "charged")

    def __init__(self, charged: int = 0) -> None:
        self.charged = charged
        self.attempts: list[Attempt] = []

    def missing(self, steps: int) -> int:
        """How many of the *steps* that a further attempt needs are neither charged nor held."""
        return max(0, steps - self.charged - sum(one.hold.amounts.steps for one in self.attempts))

    def cover(self, change: Change, attempts: list[Attempt], charged: int) -> None:
        """With *change*, let *attempts* be those that are open, and hold exactly what they may still be charged."""
        needed = max((one.steps for one in attempts), default=0) - charged
        missing = max(0, needed) - sum(one.hold.amounts.steps for one in attempts)
        change.set(self, "attempts", attempts)
        change.set(self, "charged", charged)
        for one in attempts:
            held = one.hold.amounts
            more = max(-held.steps, missing)
            if more:
                change.resize(one.hold, held._replace(steps=held.steps + more))
                missing -= more


class Attempt:
    """One attempt at a logical call.

    Attributes:
        keys: The run's.
        call: The call.
        hold: What it holds.
        steps: How many steps it needs, whoever holds them.
    """

    __slots__ = ("call", "hold", "keys", "steps")

    def __init__(self, keys: Keys, call: LogicalCall, hold: Hold, steps: int) -> None:
        self.keys = keys
        self.call = call
        self.hold = hold
        self.steps = steps

    def charges(self, change: Change, amounts: Amounts, *, whole: bool) -> Amounts:
        """What committing *amounts* charges beside what the call was charged before; *whole*: all that it needs.

        Called with the lock held, for the *change* that ends the hold.
        """
        steps = max(amounts.steps, self.steps) if whole else amounts.steps
        more = max(0, steps - self.call.charged)
        self.end(change, more)
        return amounts._replace(steps=more)

    def end(self, change: Change, charged: int = 0) -> None:
        """With *change*, hand on what it holds of the call's steps, of which *charged* more are charged then."""
        rest = [one for one in self.call.attempts if one is not self]
        self.call.cover(change, rest, self.call.charged + charged)
