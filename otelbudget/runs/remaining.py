"""What `BudgetRun` shows of itself: its state, what was used, what is left."""

from __future__ import annotations

from typing import Any, Literal

from otelbudget.admission import closing, trips
from otelbudget.admission.state import RunState
from otelbudget.ledger.judging import left
from otelbudget.model.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, shown
from otelbudget.model.budget import Usage, sum_of
from otelbudget.model.vector import lane, unpack
from otelbudget.runs.receipt import Receipt, receipt_of

__all__ = ["Looking"]

State = Literal["active", "exhausted", "frozen", "closed"]


class Looking(RunState):
    """A part of `BudgetRun`."""

    __slots__ = ()

    @property
    def state(self) -> State:
        """``closed``, ``frozen``, ``exhausted`` (its own budget has no model call left) or ``active``."""
        if self.closed:
            return "closed"
        if self.frozen is not None:
            return "frozen"
        return "exhausted" if self._out_of_budget() else "active"

    def _out_of_budget(self) -> bool:
        """Whether one more model call would be refused by its own limits or deadline."""
        account = self.account
        if account.rule.warn:
            return False
        if self.max_ns is not None and self.elapsed_ns(self.engine.clock_ns()) >= self.max_ns:
            return True
        limits = account.rule.limits[self.owner.level]
        return any(limits[i] < UNLIMITED and lane(account.used, i) >= limits[i] for i in range(STEPS, COST + 1))

    @property
    def usage(self) -> Usage:
        """What was used so far, by this run and its shared and carved children."""
        closing.settle_overdue(self.engine)
        return sum_of(unpack(self.account.used))

    @property
    def direct_usage(self) -> Usage:
        """What this run used itself, without its children."""
        closing.settle_overdue(self.engine)
        return sum_of(self.account.own())

    def remaining(self, *, fresh: bool = False) -> dict[str, Any]:
        """What is left of each resource, over this run, all above it and its quotas: ``{resource: amount}``.

        Money is a Decimal in USD, ``seconds`` a float, all else an int; None means unlimited.
        *fresh* asks a shared store, instead of telling what was last known of it.

        Raises:
            StoreError: With *fresh*, it can't be reached.
        """
        closing.settle_overdue(self.engine)
        if fresh:
            trips.refresh(self)
        accounts = self.binding_here().accounts
        found: dict[str, Any] = {}
        for i, resource in enumerate(RESOURCES):
            room = left(accounts, i, self.owner.level)
            found[resource] = None if room is None else shown(i, room)
        now_ns = self.engine.clock_ns()
        found["seconds"] = None if self.until_ns == UNLIMITED else max(0, self.until_ns - now_ns) / NANOS
        return found

    def receipt(self) -> Receipt:
        """What the run was allowed, used and was refused, as a value."""
        closing.settle_overdue(self.engine)
        return receipt_of(self)
