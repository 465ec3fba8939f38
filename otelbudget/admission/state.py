"""`RunState`: the inside of a run, which has a budget of its own and runs above it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final
from weakref import ref

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span

from otelbudget import semconv
from otelbudget.admission.payer import Around, Kind, Payer
from otelbudget.admission.request import NONE_YET
from otelbudget.engine.context import PERMIT
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Owner
from otelbudget.engine.recent import Work
from otelbudget.errors import BudgetExceeded
from otelbudget.ledger.account import Account, QuotaAccount, SharedAccount
from otelbudget.ledger.rules import rule_of, rules_of_budget
from otelbudget.model.amounts import UNLIMITED
from otelbudget.model.budget import RunBudget
from otelbudget.model.levels import Where
from otelbudget.model.windows import Window
from otelbudget.telemetry import our_spans
from otelbudget.telemetry.events import NOWHERE, Site, site_of

_NOT_LOOKED: Final = Around()
_WHOLE_RUN: Final = Window("run", float("-inf"), float("inf"))


class RunState(Payer):
    """What `BudgetRun` is made of. Attributes change with the ledger's lock held.

    Attributes:
        handle: Makes what users hold of a run. It is `BudgetRun`, which is made of this, and so puts itself here.
        tenant_said: Whose it is is known, and not only assumed since nothing says whose an agent's or a request's is.
        per_run: The accounts of the quotas that each root run has on its own.
        inside: The runs inside it, which it does not keep alive; None before the first.
        estimated, estimates: Some of what it and those inside it have used is an estimate; of what it has used itself.
        frozen: Why it is frozen, or None.
        unpriced: A model that was charged without a price (empty if unknown), or None.
        here: The last context looked at, and the site found for it.
        sharing: What keeps it in step with the other processes that work on it, see `runs.sharing`; None if it is not
            shared.
    """

    # fmt: off
    __slots__ = (
        "above", "account", "budget", "closed", "ended_ns", "estimated", "estimates", "exported", "frozen",
        "here", "inside", "keys", "kind", "max_ns", "number", "outcome", "per_run", "refused", "reraise", "sharing",
        "site", "span", "started_ns", "tenant_said", "unpriced", "until_ns", "wrapped_up",
    )
    # fmt: on
    handle: ClassVar[Callable[[RunState], Any]]

    def __init__(
        self,
        engine: Engine,
        budget: RunBudget,
        owner: Owner,
        *,
        parent: RunState | None = None,
        kind: Kind = "explicit",
        reraise: bool = True,
        shared: bool = False,
    ) -> None:
        super().__init__(engine, owner, budget.name, budget.limits)
        self.budget = budget
        self.tenant_said = kind == "explicit"
        self.kind: Kind = kind
        self.reraise = reraise
        self.number = secrets.randbits(128)
        warn = budget.on_exhausted == "warn"
        self.account = (SharedAccount if shared else Account)(
            rules_of_budget(budget.ordinary_limits, budget.limits, budget.name, budget.thresholds, warn, budget.origin)
        )
        self.above = () if parent is None else parent.lineage
        self.per_run: tuple[QuotaAccount, ...] = self._per_run() if parent is None else parent.per_run
        self.max_ns = budget.max_ns
        self.started_ns: int = engine.clock_ns()
        self.ended_ns: int = UNLIMITED
        self.closed = self.wrapped_up = self.exported = self.estimated = self.estimates = False
        self.sharing: Any = None
        self.frozen: str | None = None
        self.unpriced: str | None = None
        self.refused = NONE_YET
        self.outcome = "completed"
        self.inside: set[ref[RunState]] | None = None
        self.keys: Any = None
        self.span: Span | None = None
        self.site: Site = NOWHERE
        self.here = _NOT_LOOKED
        if parent is None:
            self.refresh()
        else:
            engine.ledger.locked(partial(self._join, parent))

    def _join(self, parent: RunState) -> None:
        inside = parent.inside = parent.inside or set()
        inside.add(ref(self, inside.discard))
        self.refresh()

    def enlist(self) -> None:
        """Be counted as a run in progress."""
        self.engine.ledger.locked(self._enlist)

    def _enlist(self) -> None:
        self.engine.explicit_runs += self.kind == "explicit"
        self.tenant_cell.active += 1
        self.engine.meters.live[self] = None

    def _per_run(self) -> tuple[QuotaAccount, ...]:
        """The accounts of a root run's own quotas."""
        found: dict[Where, QuotaAccount] = {}
        for where, quota in self.owner.payers().per_run:
            account = found.setdefault(where, QuotaAccount(where, quota.window, _WHOLE_RUN))
            self.engine.ledger.limit(account, (*account.rules, rule_of(quota)))
        return tuple(found.values())

    def runs_inside(self) -> list[RunState]:
        """Those directly inside it that are alive."""
        return [run for one in list(self.inside or ()) if (run := one()) is not None]  # a tuple is not made in one step

    def refresh(self) -> None:
        """Work out what the ordinary case relies on, here and in the runs inside, after any change of state."""
        self.engine.ledger.locked(self._refresh)

    def _refresh(self) -> None:
        ends = [one.started_ns + one.max_ns for one in self.lineage if one.max_ns is not None]
        self.until_ns = min(ends, default=UNLIMITED)
        self.unusual = any(
            one.closed or one.over or one.frozen is not None or one.unpriced is not None or not one.owner.known
            for one in self.lineage
        ) or (self.kind == "implicit" and bool(self.above))
        for one in self.runs_inside():
            one._refresh()

    def forget(self, resource: str | None = None, *, reasons: Sequence[str] = ()) -> object:
        """Take pending denials as dealt with: of one resource, for some reasons, or all. Called with the lock held.

        Gives what was dropped, to be let go of once the lock is released: an exception keeps frames alive, and what
        those hold (streams, generators) may settle when it goes.
        """
        refused = self.refused
        dropped, refused.pending = refused.pending, None
        if dropped and (resource is not None or reasons):
            kept = {k: v for k, v in dropped.items() if (resource is None or k[0] != resource) and k[1] not in reasons}
            refused.pending = kept or None
        gone: list[object] = [dropped]
        self._lift(self, dropped or {}, gone)
        return gone

    def _lift(self, blocker: RunState, dealt: Mapping[Any, object], gone: list[object]) -> None:
        """Runs inside don't raise what *blocker* has dealt with either; what they let go of goes to *gone*."""
        for one in self.runs_inside():
            pending = one.refused.pending or {}
            gone.append(pending)
            one.refused.pending = {k: v for k, v in pending.items() if k not in dealt or k[2] is not blocker} or None
            one._lift(blocker, dealt, gone)

    def first_pending(self) -> BudgetExceeded | None:
        """The oldest denial that nobody has dealt with, here or, if a run above refused, there."""
        for key, error in (self.refused.pending or {}).items():
            if key[2] is self or key in (key[2].refused.pending or {}):
                return error
        return None

    @property
    def finished(self) -> bool:
        """Whether all that there is to tell of it is told, or nothing was yet."""
        return self not in self.engine.meters.live

    @property
    def run(self) -> RunState:  # type: ignore[override]  # nobody sets these
        """Itself."""
        return self

    @property
    def lineage(self) -> tuple[RunState, ...]:  # type: ignore[override]
        """The root run first, itself last."""
        return (*self.above, self)

    @property
    def accounts(self) -> tuple[Account, ...]:  # type: ignore[override]
        """Those of its own, of the runs above it and of the root run's own quotas, these first."""
        return (*self.per_run, *self.run_accounts())

    @property
    def over(self) -> bool:
        """Whether it has ended where it was opened, in another process."""
        return self.sharing is not None and bool(self.sharing.over)

    @property
    def work(self) -> Work:
        """What tells its calls from those of others."""
        return Work(self.run_accounts() if self.above else (self.account,), self.kind != "explicit", self.owner)

    @property
    def on_unpriced(self) -> str | None:  # type: ignore[override]
        """What its budget says of a model without a price, or else that of a run above; None if none does."""
        said: str | None = self.budget.on_unpriced
        return self.above[-1].on_unpriced if said is None and self.above else said

    def elapsed_ns(self, now_ns: int) -> int:
        """Nanoseconds since it began."""
        return now_ns - self.started_ns

    def run_accounts(self) -> tuple[Account, ...]:
        """The accounts of its lineage, without quotas of the root run."""
        return tuple(one.account for one in self.lineage)

    def forked(self) -> None:
        """In a forked process it is the parent's: to end, to report, and to write on its span."""
        if self.sharing is not None:
            self.sharing.opener = False
        self.span, self.site, self.here = None, NOWHERE, _NOT_LOOKED

    # --- where events go

    def around(self) -> Around:
        """What the context of here says."""
        context = get_current()
        here = self.here
        known = here.context is context and not self.engine.directory.by_span
        return here if known else self._look(context)

    def _look(self, context: Context) -> Around:
        span = trace.get_current_span(context)
        spans, by_span = self.engine.spans, self.engine.directory.by_span
        if self.span is not None and (span is self.span or spans is None or not spans.is_call(span)):
            site = self.site
        else:
            site = site_of(span)
        owner = self.owner.inside(*spans.agent_here(context)) if by_span and spans is not None else None
        found = Around(context, site, owner, PERMIT.of(context))
        # An implicit run must not keep the context's spans alive; and spans may say more later.
        if self.kind != "implicit" and not by_span:
            self.here = found
        return found

    def say_late(self, event: Callable[..., bool], details: Sequence[Any]) -> None:
        """Write an event on the run's span, or on one of its own if that has ended too."""
        if self.span is not None and self.span.is_recording():
            self.say(self.site, event, *details)
            return
        parent = Context() if self.span is None else trace.set_span_in_context(self.span, Context())
        span = our_spans.start(self.engine.tracer, semconv.RECORD_SPAN, parent)
        site = site_of(span)
        if site.span is not None:
            span.set_attributes({semconv.RUN_ID: self.run_id, semconv.TENANT: self.tenant})
            event(site, *details)
        our_spans.end(span)
