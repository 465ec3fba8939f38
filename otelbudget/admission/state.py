"""The inside of a run: its state, and what the other modules of this folder ask of it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from otelbudget import semconv
from otelbudget.ledger import ledger
from otelbudget.ledger.account import Account, CarvedAccount
from otelbudget.model.amounts import COST, NANOS, UNLIMITED
from otelbudget.telemetry import our_spans
from otelbudget.telemetry.events import NOWHERE, Site, site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span

    from otelbudget.engine.engine import Engine
    from otelbudget.engine.owner import Owner
    from otelbudget.errors import BudgetExceeded
    from otelbudget.model.budget import RunBudget
    from otelbudget.model.decision import Denial
    from otelbudget.runs.run import BudgetRun

__all__ = ["Kind", "RunState"]

#: How it came to be: opened by hand, by a span, by a call outside every run; ``quota`` is one that nobody opened or
#: ends, through which `QuotaService` asks about quotas only.
Kind = Literal["explicit", "implicit", "ambient", "quota"]


Pending = dict["tuple[str | None, str]", "tuple[BudgetExceeded | None, RunState]"]

_NOWHERE_SEEN: tuple[object, Site] = (None, NOWHERE)
_NOTHING_SEEN: frozenset[tuple[str | None, str]] = frozenset()


class RunState:
    """What `BudgetRun` is made of. Attributes change under the engine's lock.

    Attributes:
        owner: Whose it is, and the quotas that bind it.
        tenant_said: That is known, and not only assumed since nothing says whose an agent's or a request's run is.
        account, accounts: Its own ledger account; those of the runs above it and its own, root first. Quotas that each
            root run has on its own stand before them.
        plain: Nothing but its account and the clock can refuse: a root run without quotas, not closed, frozen, latched
            or warning.
        until_ns: The earliest deadline of the lineage, as far as it is known; UNLIMITED without one.
        latched: A bit per resource that has refused.
        frozen: Why it is frozen, or None.
        alarms: Rings the `timeout` blocks, of this run and of those inside it, that its deadline ends; None before the
            first.
        unpriced: A model that was charged without a price (empty if unknown), or None.
        ran_out: The resource of the first `limit` or `deadline` denial that this run's budget or request met, or None.
        pending: Raised denials that nobody has dealt with, by (resource, reason), oldest first: the exception (None if
            it is not to be raised again), and the run whose budget refused.
        open_holds: Calls in flight, of this run and of those inside it.
        here: The last context looked at, and the site found for it.
        seen: The (resource, reason) pairs that have been an event.
        events_left: How many ``latched`` and ``closed`` denials still become events.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "account", "accounts", "alarms", "budget", "cell", "clock_ns", "closed", "denials", "depth",
        "ended_ns", "engine", "events_left", "finished", "first_denial", "frozen", "here", "keys", "kind",
        "latched", "lock", "max_ns", "money_limited", "number", "open_holds", "outcome", "owner", "parent", "pending",
        "plain", "ran_out", "reraise", "seen", "site", "span", "spend_cell", "started_ns", "tenant_cell", "tenant_said",
        "unannounced", "unpriced", "until_ns", "wrapped_up",
    )
    # fmt: on

    def __init__(
        self,
        engine: Engine,
        budget: RunBudget,
        owner: Owner,
        *,
        parent: BudgetRun | None = None,
        kind: Kind = "explicit",
        reraise: bool = True,
        carved: bool = False,
    ) -> None:
        self.engine = engine
        self.lock = engine.lock
        self.clock_ns = engine.clock_ns
        self.budget = budget
        self.owner = owner
        self.tenant_said = kind == "explicit"
        self.parent = parent
        self.kind: Kind = kind
        self.reraise = reraise
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.number = secrets.randbits(128)
        self.account: Account = _account(budget, carved=carved)
        if parent is not None:
            self.accounts: tuple[Account, ...] = (*parent.accounts, self.account)
        elif owner.per_run and kind != "quota":
            self.accounts = (*owner.run_accounts(engine.store.clock_s()), self.account)
        else:
            self.accounts = (self.account,)
        self.max_ns = budget.max_ns
        self.started_ns: int = engine.clock_ns()
        self.ended_ns: int = UNLIMITED
        self.closed = self.finished = False
        self.frozen: str | None = None
        self.latched: int = 0
        self.unpriced: str | None = None
        self.wrapped_up = False
        self.ran_out: str | None = None
        self.pending: Pending | None = None
        self.first_denial: Denial | None = None
        self.denials: int = 0
        self.events_left: int = 8
        self.seen: frozenset[tuple[str | None, str]] = _NOTHING_SEEN
        self.outcome = "completed"
        self.open_holds: int = 0
        self.unannounced: Sequence[ledger.Crossing] = ()
        self.alarms: set[Any] | None = None
        self.keys: Any = None
        self.span: Span | None = None
        self.site: Site = NOWHERE
        self.here: tuple[object, Site] = _NOWHERE_SEEN
        self._enlist()
        self.refresh()

    def _enlist(self) -> None:
        """Find the cells that count it, and be counted as active."""
        engine, tenant = self.engine, self.owner.tenant
        meters = engine.meters
        with engine.lock:
            self.cell = meters.budget(tenant, self.budget.name)
            self.tenant_cell = meters.tenant(tenant)
            self.spend_cell = meters.spend(tenant, None)
            engine.explicit_runs += self.kind == "explicit"
            if self.kind == "quota":
                engine.standing.add(self)  # type: ignore[arg-type]  # every state is a BudgetRun's
            else:
                self.tenant_cell.active += 1
                meters.live.add(self)

    def refresh(self) -> None:
        """Recompute what the fast path relies on, after any change of state."""
        engine = self.engine
        owner = self.owner
        self.money_limited = owner.money_limited or any(
            account.full[COST] < UNLIMITED and not account.warn for account in self.accounts
        )
        ends = [one.started_ns + one.max_ns for one in self.lineage() if one.max_ns is not None]
        self.until_ns = min(ends, default=UNLIMITED)
        self.plain = (
            len(self.accounts) == 1
            and not owner.books
            and owner.known
            and engine.enforce
            and not self.account.warn
            and not self.closed
            and not self.latched
            and not self.wrapped_up
            and self.frozen is None
            and self.unpriced is None
            and not self.pending
            and not self.unannounced
        )

    def forget(self, resource: str | None = None, *, reasons: Sequence[str] = ()) -> object:
        """Take pending denials as dealt with: of one resource, for some reasons, or all. Called with the lock held.

        Returns:
            What was dropped, for the caller to let go of once the lock is released: an exception keeps frames alive,
            and what those hold (streams, generators) may settle when it goes, which needs the lock.
        """
        dropped, self.pending = self.pending, None
        if dropped and (resource is not None or reasons):
            kept = {k: v for k, v in dropped.items() if (resource is None or k[0] != resource) and k[1] not in reasons}
            self.pending = kept or None
        self.refresh()
        return dropped

    def first_pending(self) -> BudgetExceeded | None:
        """The oldest denial that nobody has dealt with, here or, if a run above refused, there."""
        for key, (error, blocker) in (self.pending or {}).items():
            if blocker is self or key in (blocker.pending or {}):
                return error
        return None

    @property
    def org(self) -> str:
        """The organisation whose quotas bind it."""
        return self.owner.org

    @property
    def tenant(self) -> str:
        """The tenant that pays."""
        return self.owner.tenant

    @property
    def user(self) -> str | None:
        """The tenant's user, or None."""
        return self.owner.user

    @property
    def priority(self) -> str:
        """``low``, ``normal`` or ``high``: how much of a quota with kept shares it may use."""
        return self.owner.priority

    @property
    def run_id(self) -> str:
        """Its id, 32 hex digits."""
        return f"{self.number:032x}"

    def lineage(self) -> list[BudgetRun]:
        """The root run first, this one last."""
        found: list[Any] = [self]
        while found[-1].parent is not None:
            found.append(found[-1].parent)
        found.reverse()
        return found

    def ancestor_of(self, account: Account) -> BudgetRun | None:
        """The run of the lineage that *account* belongs to, or None."""
        return next((one for one in self.lineage() if one.account is account), None)

    def elapsed_ns(self, now_ns: int) -> int:
        """Nanoseconds since it began."""
        return now_ns - self.started_ns

    @property
    def deadline(self) -> float | None:
        """When its time, or that of a run above it, is over, in seconds of `time.monotonic()`; None without a limit."""
        ends = [one.started_ns + one.max_ns for one in self.lineage() if one.max_ns is not None]
        return min(ends) / NANOS if ends else None

    def out_of_time(self) -> bool:
        """Whether its own deadline has passed, unless it only warns."""
        return (
            self.max_ns is not None and not self.account.warn and self.elapsed_ns(self.engine.clock_ns()) >= self.max_ns
        )

    def unpriced_policy(self, model: str | None = None) -> str:
        """What happens to a model without a price: by the budget, the configuration, else `deny` under a cost limit.

        An estimate takes the dearest given price; where none is given there is none, and that is `deny`.
        """
        budgets = (one.budget.on_unpriced for one in reversed(self.lineage()))
        said = next((policy for policy in budgets if policy is not None), self.engine.config.on_unpriced)
        if said == "estimate" and not self.engine.prices.given:
            return "deny"
        money_limited = self.money_limited or self.engine.owners.limits_money_of(model)
        return said or ("deny" if money_limited else "allow")

    # --- where events go

    def site_here(self) -> Site:
        """Where an explicit check or record is said: the live model or tool call around it, else the run's span."""
        context = get_current()
        here = self.here
        return here[1] if here[0] is context else self._look(context)

    def forget_here(self) -> None:
        """Let go of the last context looked at, which holds on to the run."""
        self.here = _NOWHERE_SEEN

    def _look(self, context: Context) -> Site:
        span = trace.get_current_span(context)
        if self.span is not None and (span is self.span or not self.engine.is_call(span)):
            site = self.site
        else:
            site = site_of(span)
        if self.kind not in ("implicit", "quota"):  # those must not keep the context's spans alive
            self.here = (context, site)
        return site

    def say(self, site: Site, event: Callable[..., bool], *details: Any, **more: Any) -> None:
        """Write an event, on the run's span or one of its own if the call's has ended; count it if that is full."""
        span = site.span
        if span is None:
            return
        if not span.is_recording():
            self._say_late(event, details, more)
        elif not event(site, *details, **more):
            self.suppress(site)

    def mark(self, span: Span) -> None:
        """Say on the span of a call whose it is."""
        span.set_attribute(semconv.RUN_ID, self.run_id)
        span.set_attribute(semconv.TENANT, self.tenant)

    def suppress(self, site: Site) -> None:
        """Count an event that is not written, on the span and in the metrics."""
        span = site.span
        if span is not None and span.is_recording():
            # The span itself remembers, since a call's site is made anew whenever its context comes back.
            before = (getattr(span, "attributes", None) or {}).get(semconv.EVENTS_SUPPRESSED, 0)
            span.set_attribute(semconv.EVENTS_SUPPRESSED, before + 1)
        with self.engine.lock:
            self.engine.meters.events_suppressed += 1

    def _say_late(self, event: Callable[..., bool], details: Sequence[Any], more: dict[str, Any]) -> None:
        if self.span is not None and self.span.is_recording():
            self.say(self.site, event, *details, **more)
            return
        parent = Context() if self.span is None else trace.set_span_in_context(self.span, Context())
        span = our_spans.start(self.engine.tracer, semconv.RECORD_SPAN, parent)
        site = site_of(span)
        if site.span is not None:
            self.mark(span)
            event(site, *details, **more)
        our_spans.end(span)


def _account(budget: RunBudget, *, carved: bool) -> Account:
    return (CarvedAccount if carved else Account)(
        budget.ordinary_limits,
        full=budget.limits,
        name=budget.name,
        thresholds=budget.thresholds,
        warn=budget.on_exhausted == "warn",
    )
