"""Integer cells behind every metric: bumped under the store's lock, copied under it by a scrape, formatted outside.

``Counter.add`` and a Prometheus child cost many times an integer addition, so the hot path only bumps a slot of a cell
it already has in hand; what reads them (`prometheus`, `otel_metrics`) is off the hot path. Label sets are bounded here:
beyond the bounds new names become ``other`` and are counted, so sums stay right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, Final

from otelbudget import semconv
from otelbudget.model.names import undated
from otelbudget.telemetry.cell_types import (
    ALLOW_SLOTS,
    BudgetCell,
    Observation,
    RunHistograms,
    SpendCell,
    TenantCell,
)
from otelbudget.telemetry.histogram import (
    CHECK_BUCKETS,
    COST_BUCKETS,
    RATIO_BUCKETS,
    SECONDS_BUCKETS,
    TOKEN_BUCKETS,
    Histogram,
    Trace,
)
from otelbudget.telemetry.labels import OTHER, UNNAMED, Names
from otelbudget.telemetry.quota_gauges import QuotaGauges
from otelbudget.telemetry.snapshot import LiveRun, Snapshot, top_runs

__all__ = [
    "ALLOW_SLOTS",
    "BudgetCell",
    "Meters",
    "Observation",
    "RunHistograms",
    "Snapshot",
    "SpendCell",
    "TenantCell",
]

MAX_TENANTS: Final = 500
MAX_MODELS: Final = 50
MAX_BUDGETS: Final = 200
TOP_RUNS: Final = 20
#: Series that cells and run histograms may have before new label sets are counted under the tenant ``other``. A page
#: has 20,000 in all: these, 6,500 of quotas (`quota_gauges`), and 1,000 for everything else: checks timed by operation
#: (110), estimates by model (700), runs one by one (40), models without a price (50).
MAX_CELL_SERIES: Final = 8_300
MAX_HISTOGRAM_SERIES: Final = 4_200
_BUDGET_SERIES: Final = 8
_SPEND_SERIES: Final = 6
_TENANT_SERIES: Final = 2
_OUTCOME_SERIES: Final = len(COST_BUCKETS) + len(TOKEN_BUCKETS) + len(SECONDS_BUCKETS) + 9
#: A tenant's spend on every priced model is born at zero while the tenant and the models are few.
_BORN_SPENDS: Final = 1_000
#: Observations kept for a reader that collects; the oldest go first if none does.
_OBSERVATIONS: Final = 50_000


class Meters:
    """All cells of one manager. Every method is called with the store's lock held, except `snapshot`.

    Args:
        store: The store whose lock guards the cells; it also says how many holds are open.
        models: Models with a price; they have the first claim on a label of their own.
        tenants, orgs: Tenants and organisations of the configuration; likewise.
        max_tenants: Tenants with a label of their own, the others are counted as ``other``.
        max_models: The same for models.
        top_runs: How many runs in progress are shown one by one.
        clock_ns: Monotonic nanoseconds.

    Attributes:
        live: The runs in progress.
        reload_ok: Whether the last reload of the configuration was applied; None before the first.
        observed: Values of histograms since a reader last took them; None while nobody wants them. The page of
            Prometheus reads the histograms themselves, only OpenTelemetry has to be told every value.
    """

    def __init__(
        self,
        store: Any,
        *,
        models: Iterable[str] = (),
        tenants: Iterable[str] = (),
        orgs: Iterable[str] = (),
        max_tenants: int = MAX_TENANTS,
        max_models: int = MAX_MODELS,
        top_runs: int = TOP_RUNS,
        clock_ns: Callable[[], int],
    ) -> None:
        self._store = store
        self._lock: Lock = store.lock
        self._clock_ns = clock_ns
        self._top_runs = top_runs
        self._priced = tuple(models)
        self._model_names = Names(max_models, self._priced)
        self._tenant_names = Names(max_tenants, tenants)
        self._budget_names = Names(MAX_BUDGETS)
        self._quotas = QuotaGauges(store, self._tenant_names, orgs)
        self._budgets: dict[tuple[str, str], BudgetCell] = {}
        self._spends: dict[tuple[str, str], SpendCell] = {}
        self._tenants: dict[str, TenantCell] = {}
        self._cell_series = self._histogram_series = 0
        self._crowded_out = 0
        self.live: set[LiveRun] = set()
        self.reload_ok: bool | None = None
        self.check_seconds: dict[str, Histogram] = {}
        self.estimate_ratio: dict[str, Histogram] = {}
        self.unpriced: dict[str, int] = {}
        self.events_suppressed = 0
        self.observed: deque[Observation] | None = None

    def tenant(self, tenant: str) -> TenantCell:
        """The cell of *tenant*, or of ``other`` when there are too many tenants."""
        cell = self._tenants.get(tenant)
        if cell is None:
            label = self._tenant_names.label(tenant)
            cell = self._tenants.get(label)
            if cell is None:
                cell = self._tenants[label] = TenantCell(label, self)
                self._cell_series += _TENANT_SERIES
                self._bear_spends(label)
        return cell

    def budget(self, tenant: str, budget: str | None) -> BudgetCell:
        """The cell of a tenant's budget; it is born at zero."""
        cell = self._budgets.get((tenant, budget or UNNAMED))
        if cell is None:
            key = (self.tenant(tenant).tenant, self._budget_names.label(budget or UNNAMED))
            cell = self._budgets.get(key)
            if cell is None:
                key = self._room(key, self._budgets, _BUDGET_SERIES)
                cell = self._budgets.setdefault(key, BudgetCell(*key))
        return cell

    def spend(self, tenant: str, model: str | None) -> SpendCell:
        """The cell of what a tenant spends on a model, born at zero; the label of an unknown model is empty."""
        cell = self._spends.get((tenant, model or ""))
        if cell is None:
            key = (self.tenant(tenant).tenant, self._model(model))
            cell = self._spends.get(key)
            if cell is None:
                key = self._room(key, self._spends, _SPEND_SERIES)
                cell = self._spends.setdefault(key, SpendCell(*key))
        return cell

    def _bear_spends(self, tenant: str) -> None:
        if len(self._priced) * len(self._tenants) <= _BORN_SPENDS:
            for model in self._priced:
                self.spend(tenant, model)

    def _room(self, key: tuple[str, str], cells: dict[tuple[str, str], Any], series: int) -> tuple[str, str]:
        """*key* if another cell may be made for it, else the one that stands for all of them."""
        if self._cell_series + series > MAX_CELL_SERIES and key[0] != OTHER:
            self._crowded_out += 1
            self.tenant(OTHER)
            key = (OTHER, key[1])
        if key not in cells:
            self._cell_series += series
        return key

    def _model(self, model: str | None) -> str:
        if not model:
            return ""
        return self._model_names.label(model if self._model_names.is_reserved(model) else undated(model))

    def count_unpriced(self, model: str | None) -> None:
        """Count a call that no price was known for."""
        label = self._model(model)
        self.unpriced[label] = self.unpriced.get(label, 0) + 1

    def observe_check(self, operation: str, seconds: float, trace: Trace) -> None:
        """Observe how long a sampled check took."""
        self.check_seconds.setdefault(operation, Histogram(CHECK_BUCKETS)).observe(seconds, trace)
        self._tell(semconv.M_CHECK_DURATION, (operation, self._store.name), seconds, trace)

    def observe_estimate(self, model: str | None, ratio: float) -> None:
        """Observe actual / estimated tokens of a call."""
        label = self._model(model)
        self.estimate_ratio.setdefault(label, Histogram(RATIO_BUCKETS)).observe(ratio)
        self._tell(semconv.M_ESTIMATE_RATIO, (label,), ratio, None)

    def observe_run(self, cell: TenantCell, outcome: str, came_to: tuple[float, float, float], trace: Trace) -> None:
        """Observe what a finished run came to: (USD, tokens, seconds)."""
        if outcome not in cell.runs and self._histogram_series + _OUTCOME_SERIES > MAX_HISTOGRAM_SERIES:
            self._crowded_out += 1
            cell = self.tenant(OTHER)
        if outcome not in cell.runs:
            self._histogram_series += _OUTCOME_SERIES
            cell.runs[outcome] = RunHistograms(*map(Histogram, (COST_BUCKETS, TOKEN_BUCKETS, SECONDS_BUCKETS)))
        names = (semconv.M_RUN_COST, semconv.M_RUN_TOKENS, semconv.M_RUN_DURATION)
        for name, histogram, value in zip(names, cell.runs[outcome], came_to, strict=True):
            histogram.observe(value, trace)
            self._tell(name, (cell.tenant, outcome), value, trace)

    def _tell(self, metric: str, labels: tuple[str, ...], value: float, trace: Trace) -> None:
        if self.observed is not None:
            self.observed.append(Observation(metric, labels, value, trace))

    def tell_observations(self, wanted: bool) -> None:
        """Start or stop keeping the values of histograms for `take_observations`."""
        with self._lock:
            self.observed = deque(maxlen=_OBSERVATIONS) if wanted else None

    def take_observations(self) -> list[Observation]:
        """The values of histograms since the last call, each given once."""
        with self._lock:
            taken = list(self.observed or ())
            if self.observed:
                self.observed.clear()
        return taken

    def forked(self) -> None:
        """Count from 0 in a forked process: what was counted before is reported by the parent."""
        cells: Any = (*self._budgets.values(), *self._spends.values(), *self._tenants.values())
        for cell in cells:
            cell.reset()
        counts: Any = (self.live, self.check_seconds, self.estimate_ratio, self.unpriced, self.observed)
        for counted in counts:
            if counted is not None:
                counted.clear()
        for names in (self._tenant_names, self._model_names, self._budget_names):
            names.overflow = 0
        self._quotas.forked()
        self._histogram_series = self._crowded_out = self.events_suppressed = 0

    def snapshot(self) -> Snapshot:
        """A copy of everything, taken under the lock; quotas a moment before the rest."""
        quotas = self._quotas.read()
        with self._lock:
            runs = list(self.live)
            opened, oldest_s = self._store.open_holds(self._clock_ns())
            copied = Snapshot(
                [cell.copy() for cell in self._budgets.values()],
                [cell.copy() for cell in self._spends.values()],
                [cell.copy() for cell in self._tenants.values()],
                {k: h.copy() for k, h in self.check_seconds.items()},
                {k: h.copy() for k, h in self.estimate_ratio.items()},
                dict(self.unpriced),
                self._overflows(),
                self.events_suppressed,
                opened,
                oldest_s,
                [],
                self._store.name,
                quotas,
                self.reload_ok,
            )
        known = (self._tenant_names, self._budget_names)
        labels = [lambda name, names=names: name if name in names else OTHER for names in known]
        return copied._replace(active_runs=top_runs(runs, self._top_runs, *labels))

    def _overflows(self) -> int:
        names = (self._tenant_names, self._model_names, self._budget_names)
        return sum(found.overflow for found in names) + self._quotas.overflow + self._crowded_out
