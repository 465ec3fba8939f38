"""Attempts at one logical call: every one holds for itself, and together they pay its steps once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otelbudget import ledger
from otelbudget.amounts import Amounts

if TYPE_CHECKING:
    from otelbudget.accounts import Hold
    from otelbudget.runs.idempotency import Keys

__all__ = ["Attempt", "LogicalCall"]


class LogicalCall:
    """One logical call, however often it is tried: its attempts together are charged the most steps that one of them
    used.

    What is not charged yet is held by one of the open attempts; when that one ends, the next takes it over.

    Attributes:
        charged: Steps charged so far.
        attempts: Those whose hold is open, oldest first.
    """

    __slots__ = ("attempts", "charged")

    def __init__(self, charged: int = 0) -> None:
        self.charged = charged
        self.attempts: list[Attempt] = []

    def missing(self, steps: int) -> int:
        """How many of the *steps* that a further attempt needs are neither charged nor held."""
        return max(0, steps - self.charged - sum(one.hold.amounts.steps for one in self.attempts))

    def cover(self) -> None:
        """Let the open attempts hold exactly what they may still be charged. Called with the lock held."""
        needed = max((one.steps for one in self.attempts), default=0) - self.charged
        change = max(0, needed) - sum(one.hold.amounts.steps for one in self.attempts)
        for one in self.attempts:
            held = one.hold.amounts
            more = max(-held.steps, change)
            if more:
                ledger.resize(one.hold, held._replace(steps=held.steps + more), force=True)
                change -= more


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

    def charges(self, amounts: Amounts, *, whole: bool) -> Amounts:
        """What committing *amounts* charges beside what the call was charged before; *whole*: all that it needs.

        Called with the lock held, before the hold ends.
        """
        steps = max(amounts.steps, self.steps) if whole else amounts.steps
        more = max(0, steps - self.call.charged)
        self.call.charged += more
        self.end()
        return amounts._replace(steps=more)

    def end(self) -> None:
        """Hand on what it holds of the call's steps. Called with the lock held."""
        if self.keys.attempts.pop(self.hold, None) is not None:
            self.call.attempts.remove(self)
        self.call.cover()
