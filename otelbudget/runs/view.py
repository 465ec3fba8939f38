"""What a run shows of itself: whose it is, how it stands, what is left; and its `Receipt`, as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from otelbudget.admission import closing, trips
from otelbudget.admission.payer import Payer
from otelbudget.admission.state import RunState
from otelbudget.ledger.judging import left
from otelbudget.model.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, shown
from otelbudget.model.budget import RunBudget
from otelbudget.model.usage import Usage, sum_of
from otelbudget.model.vector import lane, unpack

State = Literal["active", "exhausted", "frozen", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Receipt:
    """A run's summary at one moment.

    Args:
        run_id, budget, tenant, user: Whose run it is.
        outcome: ``active``, ``completed``, ``exhausted``, ``error``, or ``paused`` for one that goes on elsewhere.
        reason, resource, message: Of the first denial; ``overage`` if the run ended over a limit of its own without
            one; else None.
        used: ``{resource: amount}``, money as Decimal USD, ``seconds`` as float.
        limits, remaining: The same keys; None means unlimited.
        overage: By how much a limit was exceeded, ``{resource: amount}``, only those that were.
        denials: How many requests were refused.
    """

    run_id: str
    budget: str | None
    tenant: str
    user: str | None
    outcome: str
    reason: str | None
    resource: str | None
    used: Mapping[str, Any]
    limits: Mapping[str, Any]
    remaining: Mapping[str, Any]
    overage: Mapping[str, Any]
    denials: int
    message: str | None

    def rows(self) -> Iterator[tuple[str, str]]:
        """(resource, ``used of limit`` as text) of all that was used or is limited."""
        for resource, used in self.used.items():
            limit, over = self.limits.get(resource), self.overage.get(resource)
            if used or limit is not None:
                said = text(resource, used) if limit is None else f"{text(resource, used)} of {text(resource, limit)}"
                yield resource, said if over is None else f"{said} ({text(resource, over)} over)"

    def __str__(self) -> str:
        why = f" ({self.reason}: {self.resource})" if self.resource else f" ({self.reason})" if self.reason else ""
        head = f"{self.budget or 'run'} [{self.tenant}] {self.outcome}{why}"
        return "\n".join([head, *(f"  {resource}: {said}" for resource, said in self.rows())])

    def __repr__(self) -> str:
        said = ", ".join(f"{resource} {amounts}" for resource, amounts in self.rows())
        return f"<Receipt of {self.budget or 'run'!r} {self.run_id[:8]} of {self.tenant!r}: {self.outcome}, {said}>"


def text(resource: str, value: Any) -> str:
    """An amount as people write it, ``1,200`` or ``$0.05``."""
    if resource == "cost_usd":
        return f"${value:f}"
    if resource == "seconds":
        return f"{value:.2f}"
    return f"{value:,}"


def receipt_of(run: RunState) -> Receipt:
    """The receipt of *run* as it stands."""
    account, first, max_ns = run.account, closing.why(run, run.outcome), run.max_ns
    rule, ordinary = account.rule, account.rule.limits[run.owner.level]
    elapsed = run.elapsed_ns(min(run.ended_ns, run.engine.clock_ns()))
    used: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    remaining: dict[str, Any] = {}
    over: dict[str, Any] = {}
    for i, (name, amount, taken) in enumerate(zip(RESOURCES, unpack(account.used), unpack(account.taken), strict=True)):
        full, limited = rule.full[i], rule.full[i] < UNLIMITED
        used[name] = shown(i, amount)
        limits[name] = shown(i, full) if limited else None
        remaining[name] = shown(i, max(0, ordinary[i] - taken)) if limited else None
        if limited and amount > full:
            over[name] = shown(i, amount - full)
    if max_ns is not None and elapsed > max_ns:
        over["seconds"] = (elapsed - max_ns) / NANOS
    return Receipt(
        run_id=run.run_id,
        budget=account.name,
        tenant=run.tenant,
        user=run.owner.user,
        outcome=run.outcome if run.closed or run.outcome == "exhausted" else "active",
        reason=first.reason if first else None,
        resource=first.resource if first else None,
        used=used | {"seconds": elapsed / NANOS},
        limits=limits | {"seconds": None if max_ns is None else max_ns / NANOS},
        remaining=remaining | {"seconds": None if max_ns is None else max(0, max_ns - elapsed) / NANOS},
        overage=over,
        denials=sum(run.refused.times.values()),
        message=first.message if first else None,
    )


def left_of(payer: Payer) -> dict[str, Any]:
    """What is left to *payer* here of each resource: ``{resource: amount}``; None is unlimited."""
    accounts = payer.binding_here().accounts
    room = ((i, left(accounts, i, payer.owner.level)) for i in range(len(RESOURCES)))
    return {RESOURCES[i]: None if amount is None else shown(i, amount) for i, amount in room}


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
        run = self._state
        left_ns = max(0, run.until_ns - run.engine.clock_ns())
        return left_of(run) | {"seconds": None if run.until_ns == UNLIMITED else left_ns / NANOS}

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
        run = self._state
        if run.closed or run.over:
            return "closed"
        if run.frozen is not None:
            return "frozen"
        account, limits = run.account, run.account.rule.limits[run.owner.level]
        late = run.max_ns is not None and run.elapsed_ns(run.engine.clock_ns()) >= run.max_ns
        out = late or any(lane(account.used, i) >= limits[i] < UNLIMITED for i in range(STEPS, COST + 1))
        return "exhausted" if out and not account.rule.warn else "active"

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
        above = self._state.above
        return type(self)(above[-1]) if above else None

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
