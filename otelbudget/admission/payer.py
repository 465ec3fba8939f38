"""`Payer`: who asks and is charged: an owner whose quotas bind, or, as `RunState`, a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry import trace

from otelbudget import semconv
from otelbudget.admission import notices
from otelbudget.admission.request import NONE_YET
from otelbudget.engine.engine import UNLIMITED_BUDGET, Engine
from otelbudget.engine.owner import Owner, Payers
from otelbudget.ledger.account import Account, QuotaAccount, SharedAccount
from otelbudget.model.amounts import COST, NOTHING, STEPS, UNLIMITED, Amounts
from otelbudget.model.levels import LEVELS
from otelbudget.telemetry import events
from otelbudget.telemetry.events import NOWHERE, Site, site_of

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState

#: How it came to be: opened by hand, by a span, by a call outside every run; ``quota`` is no run.
Kind = Literal["explicit", "implicit", "ambient", "quota"]

_ORDER: Final = {scope: n for n, scope in enumerate(LEVELS)}


@dataclass(slots=True, eq=False)
class Binding:
    """What binds a request of now.

    Attributes:
        accounts: Widest scope first: quotas in their present windows, then the runs.
        here: Those that this process keeps itself: all, or only the runs', of shared ones a tally.
        shared: Those that a shared store keeps.
        money: One of them refuses for want of money.
        one_call: What a request without amounts asks for: one call, under all limits in scope.
        payers: Those of its owner that this follows from.
    """

    accounts: tuple[Account, ...] = ()
    here: tuple[Account, ...] = ()
    shared: tuple[QuotaAccount | SharedAccount, ...] = ()
    money: bool = False
    one_call: Amounts = NOTHING
    payers: Payers | None = None


_NOT_BOUND: Final = Binding()


@dataclass(slots=True, eq=False)
class Around:
    """What an OpenTelemetry context says of the requests that are made in it.

    Attributes:
        site: Where a check or record is said: the live model or tool call of here, else the run's span.
        owner: Whose quotas bind, if a span says more than is known of the owner; else None.
        permit: The permit to wrap up, if there is one.
    """

    context: object = None
    site: Site = NOWHERE
    owner: Owner | None = None
    permit: Any = None


def _breadth(account: Account) -> int:
    return _ORDER.get(account.scope, len(_ORDER))


@lru_cache
def _one_call(limited: frozenset[int]) -> Amounts:
    return Amounts(*(int(i == STEPS or (i in limited and i <= COST)) for i in range(len(Amounts._fields))))


class Payer:
    """Who asks and is charged. This one is no run: only the quotas of its owner bind it.

    Attributes:
        until_ns: The earliest deadline of the lineage; UNLIMITED without one.
        unusual: Something about the state of the lineage may refuse.
        cell, tenant_cell, spend_cell: What counts its requests, its tool calls and its spend without a model.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "_bound", "cell", "engine", "owner", "spend_cell", "tenant_cell", "unusual",
    )
    # fmt: on
    kind: Kind = "quota"
    number = 0
    reraise = closed = False
    above: tuple[RunState, ...] = ()
    #: The root run first, itself last; empty for who is no run.
    lineage: tuple[RunState, ...] = ()
    #: Itself, if it is a run.
    run: RunState | None = None
    #: Accounts of its own, those of the runs above it first; quotas of each root run stand before them.
    accounts: tuple[Account, ...] = ()
    #: What its budgets say of a model without a price, or None.
    on_unpriced: str | None = None
    refused = NONE_YET
    until_ns = UNLIMITED
    site: Site = NOWHERE

    def __init__(self, engine: Engine, owner: Owner, budget: str | None, limits: tuple[int, ...] = ()) -> None:
        self.engine = engine
        self.owner = owner
        self.unusual = not owner.known  # nobody knows whose it is
        self._bound = _NOT_BOUND
        meters = engine.meters
        self.cell = meters.budget(owner.tenant, budget, limits)
        self.tenant_cell = meters.tenant(owner.tenant)
        self.spend_cell = meters.spend(owner.tenant, None)

    @property
    def kept(self) -> tuple[tuple[Account, ...], tuple[QuotaAccount | SharedAccount, ...]]:
        """Those of them that this process keeps, and those that the store of a shared run does."""
        root = self.lineage[0] if self.lineage else None
        if root is None or not isinstance(root.account, SharedAccount):
            return self.accounts, ()
        inside = (one.account for one in self.lineage[1:])
        return (root.account.tally, *inside), (*root.per_run, root.account)

    def note_estimate(self) -> None:
        """That some of what was charged is an estimate."""
        for one in self.lineage:
            one.estimated = True
            if one is self:
                one.estimates = True

    @property
    def tenant(self) -> str:
        """The tenant that pays."""
        return self.owner.tenant

    @property
    def run_id(self) -> str:
        """The run's id, 32 hex digits."""
        return f"{self.number:032x}"

    def binding(self, model: str | None = None, owner: Owner | None = None) -> Binding:
        """What binds a request of now, for *model*, in the span of an agent perhaps as another *owner*."""
        payers = (owner or self.owner).payers(model)
        found = self._bound
        if found.payers is not payers:
            found = self._bound = self._binding(payers)
        return found

    def _binding(self, payers: Payers) -> Binding:
        own_here, own_there = self.kept
        accounts, there = payers.accounts + self.accounts, payers.accounts + own_there
        if payers.per_run:  # those of each root run stand among the others
            accounts, there = tuple(sorted(accounts, key=_breadth)), tuple(sorted(there, key=_breadth))
        limited = frozenset(i for account in accounts for i in account.limits.limited)
        money = any(COST in account.limits.refusing for account in accounts)
        elsewhere = self.engine.store is not None
        here, shared = (own_here, there) if elsewhere else (accounts, ())
        own = [one.budget is UNLIMITED_BUDGET for one in self.lineage]  # and not RunBudget(), which says so
        if not limited and self.engine.enforce and own and all(own):
            notices.unlimited_run(self)
        return Binding(accounts, here, shared, money, _one_call(limited), payers)

    def binding_here(self) -> Binding:
        """What binds a request made in this context."""
        return self.binding(None, self.around().owner)

    def ancestor_of(self, account: Account) -> RunState | None:
        """The run of the lineage that *account* belongs to, or None."""
        return next((one for one in self.lineage if one.account is account), None)

    # --- where events go

    def around(self) -> Around:
        """What the context of here says."""
        return Around(site=site_of(trace.get_current_span()))

    def say(self, site: Site, event: Callable[..., bool], *details: Any) -> None:
        """Write an event, where `say_late` puts it if the call's span has ended; count it if the span is full."""
        span = site.span
        if span is None:
            return
        if events.writing.now:
            self.engine.meters.count_suppressed()
        elif not span.is_recording():
            self.say_late(event, details)
        else:
            events.writing.now = True
            try:
                if not event(site, *details):
                    self.suppress(site)
            finally:
                events.writing.now = False

    def say_late(self, event: Callable[..., bool], details: Sequence[Any]) -> None:
        """Nothing: who is no run has no other span."""

    def log(self, site: Site, name: str, attributes: dict[str, Any]) -> None:
        """Write a refusal or a threshold as a log record, with whose it is, whatever the sampler decided."""
        if not events.logs():
            return
        if events.writing.now:
            if site.span is None:  # else `say` counts it
                self.engine.meters.count_suppressed()
            return
        run_id = None if self.run is None else self.run_id
        who = {semconv.TENANT: self.tenant, semconv.USER: self.owner.user, semconv.RUN_ID: run_id}
        events.writing.now = True
        try:
            events.log(site, name, attributes | {key: value for key, value in who.items() if value is not None})
        finally:
            events.writing.now = False

    def suppress(self, site: Site) -> None:
        """Count an event that is not written, on the span and in the metrics."""
        span = site.span
        if span is not None and span.is_recording():
            # The span itself remembers, since a call's site is made anew whenever its context comes back.
            before = (getattr(span, "attributes", None) or {}).get(semconv.EVENTS_SUPPRESSED, 0)
            span.set_attribute(semconv.EVENTS_SUPPRESSED, before + 1)
        self.engine.meters.count_suppressed()
