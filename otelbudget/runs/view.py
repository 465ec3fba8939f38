"""`RunView`: what a run shows of itself: whose it is, how it stands, what is left of each resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from otelbudget.admission import closing, trips
from otelbudget.ledger.judging import left
from otelbudget.model.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, shown
from otelbudget.model.budget import RunBudget
from otelbudget.model.usage import Usage, sum_of
from otelbudget.model.vector import lane, unpack
from otelbudget.runs.receipt import Receipt, receipt_of

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState

State = Literal["active", "exhausted", "frozen", "closed"]


class RunView:
    """The reading part of `BudgetRun`. It is a handle: two of the same run are equal."""

    __slots__ = ("_state",)

    def __init__(self, state: RunState) -> None:
        self._state = state

    def remaining(self, *, fresh: bool = False) -> dict[str, Any]:
        """What is left of each resource, over this run, all above it and its quotas: ``{resource: amount}``.

        Money is a Decimal in USD, ``seconds`` a float, all else an int; None means unlimited.
        *fresh* asks a shared store, instead of telling what was last known of it.

        Raises:
            StoreError: With *fresh*, it can't be reached.
        """
        closing.settle_overdue(self._state.engine)
        if fresh:
            trips.refresh(self._state)
        return _remaining(self._state)

    def receipt(self) -> Receipt:
        """What the run was allowed, used and was refused, as a value."""
        closing.settle_overdue(self._state.engine)
        return receipt_of(self._state)

    @property
    def usage(self) -> Usage:
        """What was used so far, by this run and its shared and carved children; ``estimated`` if some of it is."""
        closing.settle_overdue(self._state.engine)
        return sum_of(unpack(self._state.account.used), estimated=self._state.estimated)

    @property
    def direct_usage(self) -> Usage:
        """What this run used itself, without its children; of a shared one, without those in this process."""
        closing.settle_overdue(self._state.engine)
        return sum_of(self._state.account.own(), estimated=self._state.estimates)

    @property
    def state(self) -> State:
        """``closed``, ``frozen``, ``exhausted`` (its own budget has no model call left) or ``active``."""
        return _state_of(self._state)

    @property
    def wrapped_up(self) -> bool:
        """Whether `wrap_up` has been used."""
        return self._state.wrapped_up

    @property
    def deadline(self) -> float | None:
        """When its time, or that of a run above it, is over, in seconds of `time.monotonic()`; None without a limit."""
        until_ns = self._state.until_ns
        return None if until_ns == UNLIMITED else until_ns / NANOS

    @property
    def run_id(self) -> str:
        """Its id, 32 hex digits."""
        return self._state.run_id

    @property
    def budget(self) -> RunBudget:
        """The budget that it was opened with."""
        return self._state.budget

    @property
    def parent(self) -> Self | None:
        """The run that it is a shared or carved child of, or None."""
        parent = self._state.parent
        return None if parent is None else type(self)(parent)

    @property
    def depth(self) -> int:
        """How many runs it is inside of; 0 for a root run."""
        return self._state.depth

    @property
    def org(self) -> str:
        """The organisation whose quotas bind it."""
        return self._state.owner.org

    @property
    def tenant(self) -> str:
        """The tenant that pays."""
        return self._state.owner.tenant

    @property
    def user(self) -> str | None:
        """The tenant's user, or None."""
        return self._state.owner.user

    @property
    def priority(self) -> str:
        """``low``, ``normal`` or ``high``: how much of a quota with kept shares it may use."""
        return self._state.owner.priority

    def __eq__(self, other: object) -> bool:
        return self._state is other._state if isinstance(other, RunView) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._state)

    def __repr__(self) -> str:
        name = f" {self.budget.name!r}" if self.budget.name else ""
        used = "".join(f", {resource} {said}" for resource, said in receipt_of(self._state).rows())
        return f"<BudgetRun{name} {self.run_id[:8]} of {self.tenant!r}: {self.state}{used}>"


def _state_of(run: RunState) -> State:
    """``closed``, ``frozen``, ``exhausted`` (its own budget has no model call left) or ``active``."""
    if run.closed or run.over:
        return "closed"
    if run.frozen is not None:
        return "frozen"
    return "exhausted" if _out_of_budget(run) else "active"


def _out_of_budget(run: RunState) -> bool:
    """Whether one more model call would be refused by its own limits or deadline."""
    account = run.account
    if account.rule.warn:
        return False
    if run.max_ns is not None and run.elapsed_ns(run.engine.clock_ns()) >= run.max_ns:
        return True
    limits = account.rule.limits[run.owner.level]
    return any(limits[i] < UNLIMITED and lane(account.used, i) >= limits[i] for i in range(STEPS, COST + 1))


def _remaining(run: RunState) -> dict[str, Any]:
    """What is left of each resource, over *run*, all above it and its quotas: ``{resource: amount}``."""
    accounts = run.binding_here().accounts
    found: dict[str, Any] = {}
    for i, resource in enumerate(RESOURCES):
        room = left(accounts, i, run.owner.level)
        found[resource] = None if room is None else shown(i, room)
    now_ns = run.engine.clock_ns()
    found["seconds"] = None if run.until_ns == UNLIMITED else max(0, run.until_ns - now_ns) / NANOS
    return found
