"""Integer cells behind every metric: bumped under the store's lock, copied under it by a scrape, formatted outside.

``Counter.add`` and a Prometheus child cost many times an integer addition, so the hot path only bumps a slot of a cell
it already has in hand; what reads them (`metrics`, `otel_metrics`) is off the hot path. Label sets are bounded here:
beyond `MAX_TENANTS` and `MAX_MODELS` new names become ``other`` and are counted, so sums stay right.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol

from otelbudget.amounts import COST, NANOS, TOKENS, UNLIMITED

__all__ = [
    "ALLOW_SLOTS",
    "ActiveRun",
    "BudgetCell",
    "Exemplar",
    "Histogram",
    "Meters",
    "Snapshot",
    "SpendCell",
    "TenantCell",
]

MAX_TENANTS: Final = 500
MAX_MODELS: Final = 50
TOP_RUNS: Final = 20
OTHER: Final = "other"
#: Label of a budget that has no name.
UNNAMED: Final = "custom"

COST_BUCKETS: Final = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0)
TOKEN_BUCKETS: Final = (100.0, 1e3, 5e3, 1e4, 5e4, 1e5, 5e5, 1e6)
SECONDS_BUCKETS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
RATIO_BUCKETS: Final = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
CHECK_BUCKETS: Final = (*(float(f"{m}e{e}") for e in range(-6, 0) for m in (1, 2, 5)), 1.0)

_DATE_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")


class Exemplar(NamedTuple):
    """The trace behind one observation, hex ids."""

    trace_id: str
    span_id: str
    value: float


class Histogram:
    """Counts per bucket (the last one is +Inf), their sum, and the latest exemplar of each bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0.0

    def observe(self, value: float, trace: tuple[str, str] | None = None) -> None:
        """Count *value*; *trace* is (trace id, span id) of a sampled span, or None."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if trace is not None:
            self.exemplars[bucket] = Exemplar(*trace, value)

    def copy(self) -> Histogram:
        """A copy that later observations don't change."""
        twin = Histogram(self.bounds)
        twin.counts = list(self.counts)
        twin.exemplars = dict(self.exemplars)
        twin.total = self.total
        return twin


#: The allow counters that have a slot of their own in `BudgetCell`, by operation.
ALLOW_SLOTS: Final = ("call", "check", "reserve", "tool", "probe")


class BudgetCell:
    """Checks and records of one (tenant, budget)."""

    __slots__ = ("budget", "call", "check", "probe", "rare", "records", "reserve", "tenant", "tool")

    def __init__(self, tenant: str, budget: str) -> None:
        self.tenant = tenant
        self.budget = budget
        self.call = self.check = self.reserve = self.tool = self.probe = 0
        self.records = 0
        #: (operation, decision, reason) -> checks, for everything that is not a plain allow.
        self.rare: dict[tuple[str, str, str], int] = {}

    def count(self, operation: str, decision: str, reason: str) -> None:
        """Count one decision other than a plain allow."""
        key = (operation, decision, reason)
        self.rare[key] = self.rare.get(key, 0) + 1


class SpendCell:
    """Tokens and money of one (tenant, model)."""

    __slots__ = ("cache_read", "cache_write", "cost_nanousd", "input", "model", "output", "reasoning", "tenant")

    def __init__(self, tenant: str, model: str) -> None:
        self.tenant = tenant
        self.model = model
        self.input = self.output = self.cache_read = self.cache_write = self.reasoning = self.cost_nanousd = 0


class TenantCell:
    """Tool calls and runs of one tenant; histograms by the runs' outcome."""

    __slots__ = ("active", "cost", "seconds", "tenant", "tokens", "tool_calls")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.tool_calls = 0
        self.active = 0
        self.cost: dict[str, Histogram] = {}
        self.tokens: dict[str, Histogram] = {}
        self.seconds: dict[str, Histogram] = {}

    def ended(self, outcome: str, used: list[int], seconds: float, trace: tuple[str, str] | None) -> None:
        """Observe a finished run."""
        for cells, bounds, value in (
            (self.cost, COST_BUCKETS, used[COST] / NANOS),
            (self.tokens, TOKEN_BUCKETS, float(used[TOKENS])),
            (self.seconds, SECONDS_BUCKETS, seconds),
        ):
            cells.setdefault(outcome, Histogram(bounds)).observe(value, trace)


class LiveRun(Protocol):
    """What a scrape reads of a run in progress."""

    run_id: str
    tenant: str

    @property
    def account(self) -> Any:
        """Its ledger account."""


class ActiveRun(NamedTuple):
    """One of the runs with the greatest spend right now."""

    tenant: str
    budget: str
    run_id: str
    cost_usd: float
    used_ratio: float | None


class Snapshot(NamedTuple):
    """A consistent copy of all cells; nothing in it changes any more."""

    budgets: list[BudgetCell]
    spends: list[SpendCell]
    tenants: list[TenantCell]
    check_seconds: dict[str, Histogram]
    estimate_ratio: dict[str, Histogram]
    unpriced: dict[str, int]
    label_overflow: int
    events_suppressed: int
    reservations_open: int
    reservation_oldest_s: float
    active_runs: list[ActiveRun]
    store: str


class Meters:
    """All cells of one manager. Every method is called with *lock* held, except `snapshot`.

    Args:
        store: The store whose lock guards the cells; it also says how many holds are open.
        models: Models with a price, which always keep their own label.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(self, store: Any, *, models: Iterable[str] = (), clock_ns: Any) -> None:
        self._store = store
        self._lock: Lock = store.lock
        self._clock_ns = clock_ns
        self._priced = frozenset(models)
        self._budgets: dict[tuple[str, str], BudgetCell] = {}
        self._spends: dict[tuple[str, str], SpendCell] = {}
        self._tenants: dict[str, TenantCell] = {}
        self._models: set[str] = set()
        self.live: set[Hashable] = set()
        self.check_seconds: dict[str, Histogram] = {}
        self.estimate_ratio: dict[str, Histogram] = {}
        self.unpriced: dict[str, int] = {}
        self.label_overflow = 0
        self.events_suppressed = 0

    def tenant(self, tenant: str) -> TenantCell:
        """The cell of *tenant*, or of ``other`` when there are too many tenants."""
        cell = self._tenants.get(tenant)
        if cell is None:
            if len(self._tenants) >= MAX_TENANTS and tenant != OTHER:
                self.label_overflow += 1
                return self.tenant(OTHER)
            cell = self._tenants[tenant] = TenantCell(tenant)
        return cell

    def budget(self, tenant: str, budget: str | None) -> BudgetCell:
        """The cell of a tenant's budget; it is born at zero."""
        key = (self.tenant(tenant).tenant, budget or UNNAMED)
        cell = self._budgets.get(key)
        if cell is None:
            cell = self._budgets[key] = BudgetCell(*key)
        return cell

    def spend(self, tenant: str, model: str | None) -> SpendCell:
        """The cell of what a tenant spent on a model; empty label for an unknown model."""
        label = self._model(model) if model else ""
        key = (self.tenant(tenant).tenant, label)
        cell = self._spends.get(key)
        if cell is None:
            cell = self._spends[key] = SpendCell(*key)
        return cell

    def _model(self, model: str) -> str:
        if model in self._priced:
            return model
        label = _DATE_SUFFIX.sub("", model)
        if label in self._priced or label in self._models:
            return label
        if len(self._models) >= MAX_MODELS:
            self.label_overflow += 1
            return OTHER
        self._models.add(label)
        return label

    def count_unpriced(self, model: str | None) -> None:
        """Count a call that no price was known for."""
        label = self._model(model) if model else ""
        self.unpriced[label] = self.unpriced.get(label, 0) + 1

    def observe_check(self, operation: str, seconds: float, trace: tuple[str, str] | None) -> None:
        """Observe how long a sampled check took."""
        self.check_seconds.setdefault(operation, Histogram(CHECK_BUCKETS)).observe(seconds, trace)

    def observe_estimate(self, model: str | None, ratio: float) -> None:
        """Observe actual / estimated tokens of a call."""
        label = self._model(model) if model else ""
        self.estimate_ratio.setdefault(label, Histogram(RATIO_BUCKETS)).observe(ratio)

    def snapshot(self) -> Snapshot:
        """A copy of everything, taken under the lock."""
        with self._lock:
            runs = list(self.live)
            opened, oldest_s = self._store.open_holds(self._clock_ns())
            copied = Snapshot(
                [_twin(BudgetCell(c.tenant, c.budget), c) for c in self._budgets.values()],
                [_twin(SpendCell(c.tenant, c.model), c) for c in self._spends.values()],
                [_twin(TenantCell(c.tenant), c) for c in self._tenants.values()],
                {k: h.copy() for k, h in self.check_seconds.items()},
                {k: h.copy() for k, h in self.estimate_ratio.items()},
                dict(self.unpriced),
                self.label_overflow,
                self.events_suppressed,
                opened,
                oldest_s,
                [],
                self._store.name,
            )
        return copied._replace(active_runs=_top(runs))


def _twin(twin: Any, cell: Any) -> Any:
    for name in cell.__slots__:
        value = getattr(cell, name)
        if isinstance(value, dict):
            value = {k: v.copy() if isinstance(v, Histogram) else v for k, v in value.items()}
        setattr(twin, name, value)
    return twin


def _top(runs: list[Any]) -> list[ActiveRun]:
    active = []
    for run in runs:
        account = run.account
        ratios = [u / limit for u, limit in zip(account.used, account.full, strict=True) if 0 < limit < UNLIMITED]
        active.append(
            ActiveRun(
                run.tenant,
                account.name or UNNAMED,
                run.run_id,
                account.used[COST] / NANOS,
                max(ratios) if ratios else None,
            )
        )
    active.sort(key=lambda r: (r.used_ratio or 0.0, r.cost_usd), reverse=True)
    return active[:TOP_RUNS]
