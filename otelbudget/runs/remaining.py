"""What `BudgetRun` shows of itself: its state, what was used, what is left."""

from __future__ import annotations

from typing import Any, Literal

from otelbudget.admission import admission, closing
from otelbudget.admission.state import RunState
from otelbudget.ledger import ledger
from otelbudget.model.amounts import NANOS, RESOURCES, shown
from otelbudget.model.budget import Usage, sum_of
from otelbudget.runs.receipt import Receipt, receipt_of

__all__ = ["Looking"]

State = Literal["active", "exhausted", "frozen", "closed"]


class Looking(RunState):
    """A part of `BudgetRun`."""

    __slots__ = ()

    @property
    def state(self) -> State:
        """``closed``, ``frozen``, ``exhausted`` (a limit or the deadline has refused something) or ``active``."""
        if self.closed:
            return "closed"
        if self.frozen is not None:
            return "frozen"
        return "exhausted" if self.latched or self.out_of_time() else "active"

    @property
    def usage(self) -> Usage:
        """What was used so far, by this run and its shared and carved children."""
        closing.settle_overdue(self.engine)
        with self.engine.lock:
            used = list(self.account.used)
        return sum_of(used)

    @property
    def direct_usage(self) -> Usage:
        """What this run used itself, without its children."""
        closing.settle_overdue(self.engine)
        with self.engine.lock:
            return sum_of(self.account.own())

    def remaining(self, *, fresh: bool = False) -> dict[str, Any]:  # noqa: ARG002 - accounts in memory always are
        """What is left of each resource, over this run, all above it and its quotas: ``{resource: amount}``.

        Money is a Decimal in USD, ``seconds`` a float, all else an int; None means unlimited.
        *fresh* asks a store that is elsewhere, instead of telling what was last known of it.
        """
        left: dict[str, Any] = {}
        closing.settle_overdue(self.engine)
        with self.engine.lock:
            accounts = admission.payers(self)
            for i, resource in enumerate(RESOURCES):
                room = ledger.left(accounts, i, self.priority)
                left[resource] = None if room is None else shown(i, room)
        now_ns = self.engine.clock_ns()
        times = [one.max_ns - one.elapsed_ns(now_ns) for one in self.lineage() if one.max_ns is not None]
        left["seconds"] = max(0, min(times)) / NANOS if times else None
        return left

    def receipt(self) -> Receipt:
        """What the run was allowed, used and was refused, as a value."""
        closing.settle_overdue(self.engine)
        return receipt_of(self)
