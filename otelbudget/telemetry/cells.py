"""Integer cells behind every metric: raised with the ledger's changes, copied by a scrape, formatted outside.

The hot path only bumps a slot of a cell it already has in hand. Label sets are bounded here: beyond the bounds new
names become ``other`` and are counted, so sums stay right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from otelbudget import semconv
from otelbudget.model.amounts import COST, NANOS, RESOURCES, TOKENS, UNLIMITED
from otelbudget.model.names import undated
from otelbudget.telemetry.cell_types import BudgetCell, DetailCell, Histogram, SpendCell, Tally, TenantCell, Trace
from otelbudget.telemetry.labels import OTHER, UNNAMED, Names, Room
from otelbudget.telemetry.quota_gauges import QuotaGauges
from otelbudget.telemetry.snapshot import ActiveRuns, Snapshot, copies

if TYPE_CHECKING:
    from otelbudget.ledger.account import QuotaAccount
    from otelbudget.ledger.ledger import Ledger
    from otelbudget.stores.shared import Shared

MAX_TENANTS: Final = 500
MAX_MODELS: Final = 50
MAX_BUDGETS: Final = 200
TOP_RUNS: Final = 20
#: Runs younger than this are not shown one by one: each would be a series with a sample or two.
MIN_RUN_AGE_S: Final = 15
#: Tenants whose finished runs have histograms of their own, 36 series for each outcome.
MAX_RUN_TENANTS: Final = 100
#: Series of a page. When no room is left for a new one, a tenant's further budgets and models count as its ``other``.
MAX_SERIES: Final = 40_000
#: Kept free for each tenant: its own two, and those of its ``other`` budget and ``other`` model.
_PER_TENANT: Final = 16
#: Kept free for what is not of a tenant, model or budget, and for the tenant ``other``.
_FIXED: Final = 2_000
_RUN_SERIES: Final = 36
#: A tenant's spend on every priced model is born at zero while the tenant and the models are few.
_BORN_SPENDS: Final = 1_000
#: Observations kept for a reader that collects; the oldest go first if none does.
_OBSERVATIONS: Final = 50_000

Cell = TypeVar("Cell")


class Observation(NamedTuple):
    """One value of a histogram, for readers that have to record it themselves."""

    metric: str
    labels: tuple[str, ...]
    value: float
    trace: Trace


class Meters:
    """All cells of one manager.

    Args:
        ledger: Its lock guards the cells, and its changes raise them; it also says how many holds are open.
        quotas: Gives the accounts of quotas that are worth showing.
        models, tenants, orgs: Those with a price or in the configuration have the first claim on a label of their own.
        max_tenants, max_models: How many have a label of their own, the others are counted as ``other``.
        top_runs: How many runs in progress are shown one by one.
        shared: The store where quotas are counted that others share; None is the memory of this process.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        quotas: Callable[[], Iterable[QuotaAccount]],
        *,
        models: Iterable[str] = (),
        tenants: Iterable[str] = (),
        orgs: Iterable[str] = (),
        max_tenants: int = MAX_TENANTS,
        max_models: int = MAX_MODELS,
        top_runs: int = TOP_RUNS,
        shared: Shared | None = None,
        clock_ns: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._lock = ledger.lock
        self._clock_ns = clock_ns
        self._active = ActiveRuns(top_runs)
        self._priced = tuple(models)
        self.overflow = Tally()
        self._model_names = Names(max_models, self.overflow, self._priced)
        self._tenant_names = Names(max_tenants, self.overflow, tenants)
        self._budget_names = Names(MAX_BUDGETS, self.overflow)
        self._room = Room(MAX_SERIES - _FIXED - _PER_TENANT * max_tenants)
        self._quotas = QuotaGauges(quotas, self.overflow, self._room, self._tenant_names, orgs)
        self._budgets: dict[tuple[str, str], BudgetCell] = {}
        self._spends: dict[tuple[str, str], SpendCell] = {}
        self._details: dict[tuple[str, str], DetailCell] = {}
        self._tenants: dict[str, TenantCell] = {}
        self._run_tenants = Names(MAX_RUN_TENANTS, self.overflow)
        #: The runs in progress (`RunState`, which is above this row); a dict, which takes half the bytes of a set.
        self.live: dict[Any, None] = {}
        self.store = "memory" if shared is None else shared.name
        self._shared = shared
        #: Whether the last reload of the configuration was applied; None before the first.
        self.reload_ok: bool | None = None
        self.check_seconds: dict[str, Histogram] = {}
        self.estimate_ratio: dict[str, Histogram] = {}
        self.unpriced: dict[str, Tally] = {}
        self.events_suppressed = 0
        #: Values of histograms since OpenTelemetry, which has to be told each, took them; None if nobody wants them.
        self._observed: deque[Observation] | None = None

    def tenant(self, tenant: str) -> TenantCell:
        """The cell of *tenant*, or of ``other`` when there are too many tenants."""
        found = self._tenants.get(tenant)
        return self._ledger.locked(partial(self._tenant, tenant)) if found is None else found

    def _tenant(self, tenant: str) -> TenantCell:
        label = self._tenant_names.label(tenant)
        if label not in self._tenants:
            self._tenants.setdefault(label, TenantCell(label))  # a signal handler may just have done so
            for model in self._priced if len(self._priced) * len(self._tenants) <= _BORN_SPENDS else ():
                self.spend(label, model)
        return self._tenants[label]

    def budget(self, tenant: str, budget: str | None, limits: Sequence[int] = ()) -> BudgetCell:
        """The cell of a tenant's budget, which allows these *limits*; it is born at zero."""
        found = self._budgets.get((tenant, budget or UNNAMED))
        return self._ledger.locked(partial(self._budget, tenant, budget, limits)) if found is None else found

    def _budget(self, tenant: str, budget: str | None, limits: Sequence[int]) -> BudgetCell:
        key = self.tenant(tenant).tenant, self._budget_names.label(budget or UNNAMED)
        limited = [RESOURCES[i] for i, most in enumerate(limits) if most < UNLIMITED]
        cell = self._cell(self._budgets, key, BudgetCell, 7 + len(limited))
        for resource in limited:
            cell.rare.setdefault(("call", "deny", "limit", resource), Tally())
        return cell

    def spend(self, tenant: str, model: str | None) -> SpendCell:
        """The cell of what a tenant spends on a model, born at zero; the label of an unknown model is empty."""
        found = self._spends.get((tenant, model or ""))
        return self._ledger.locked(partial(self._spend, tenant, model)) if found is None else found

    def _spend(self, tenant: str, model: str | None) -> SpendCell:
        key = self.tenant(tenant).tenant, self._model(model)
        return self._cell(self._spends, key, SpendCell, 3)

    def details(self, tenant: str, model: str | None) -> DetailCell:
        """The cell of the parts of these tokens."""
        found = self._details.get((tenant, model or ""))
        return self._ledger.locked(partial(self._detail, tenant, model)) if found is None else found

    def _detail(self, tenant: str, model: str | None) -> DetailCell:
        key = self.tenant(tenant).tenant, self._model(model)
        return self._cell(self._details, key, DetailCell, 3)

    def _cell(
        self, cells: dict[tuple[str, str], Cell], key: tuple[str, str], make: Callable[[str, str], Cell], series: int
    ) -> Cell:
        """The cell of *key*, or, where there is no room for its *series*, the tenant's ``other`` one."""
        if key not in cells and not self._room.take(series):
            self.overflow.n += 1
            key = key[0], OTHER
        return cells.get(key) or cells.setdefault(key, make(*key))  # a signal handler may just have done so

    def rare(self, cell: BudgetCell, operation: str, decision: str, reason: str, resource: str = "") -> Tally:
        """The counter of a decision other than a plain allow; its ``n`` is to be raised."""
        key = (operation, decision, reason, resource)
        if key not in cell.rare and not self._room.take(1):
            self.overflow.n += 1
            cell = self.budget(OTHER, OTHER)
        return cell.rare.setdefault(key, Tally())

    def count(
        self,
        tenant: str,
        budget: str | None,
        operation: str,
        decision: str,
        reason: str,
        resource: str | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Count such a decision, on deny with the *resource* that ran out; *again* if its run has met it before."""
        cell = self.budget(tenant, budget)
        tally = self.rare(cell, operation, decision, reason, (resource or "") if decision == "deny" else "")
        self._ledger.add([(tally, "n", 1), (cell, "repeated", int(again))])

    def count_suppressed(self) -> None:
        """Count an event that was not written."""
        self._ledger.add([(self, "events_suppressed", 1)])

    def _model(self, model: str | None) -> str:
        if not model:
            return ""
        return self._model_names.label(model if model in self._model_names.reserved else undated(model))

    def unpriced_calls(self, model: str | None) -> Tally:
        """The counter of the calls of *model* that no price was known for; its ``n`` is to be raised."""
        label = self._model(model) if model else ""
        return self.unpriced.get(label) or self.unpriced.setdefault(label, Tally())

    def observe_check(self, operation: str, seconds: float, trace: Trace) -> None:
        """Observe how long a sampled check took."""
        with self._lock:
            labels = (operation, self.store)
            self._observe(self.check_seconds, operation, semconv.M_CHECK_DURATION, labels, seconds, trace)

    def observe_estimate(self, model: str | None, ratio: float) -> None:
        """Observe actual / estimated tokens of a call."""
        with self._lock:
            label = model if model in self.estimate_ratio else self._model(model)
            if label not in self.estimate_ratio:
                self.estimate_ratio[label] = Histogram(semconv.M_ESTIMATE_RATIO)
            self.estimate_ratio[label].observe(ratio)
            if self._observed is not None:
                self._observed.append(Observation(semconv.M_ESTIMATE_RATIO, (label,), ratio, None))

    def observe_run(self, tenant: str, outcome: str, used: Sequence[int], seconds: float, trace: Trace) -> None:
        """Observe a finished run; *used* is in `RESOURCES` order. Called with the lock held."""
        cell = self.tenant(self._run_tenants.label(self.tenant(tenant).tenant))
        if (semconv.M_RUN_COST, outcome) not in cell.runs and not self._room.take(_RUN_SERIES):
            cell = self.tenant(OTHER)
        for metric, value in (
            (semconv.M_RUN_COST, used[COST] / NANOS),
            (semconv.M_RUN_TOKENS, float(used[TOKENS])),
            (semconv.M_RUN_DURATION, seconds),
        ):
            self._observe(cell.runs, (metric, outcome), metric, (cell.tenant, outcome), value, trace)

    def _observe(
        self, found: dict[Any, Histogram], key: object, metric: str, labels: tuple[str, ...], value: float, trace: Trace
    ) -> None:
        if key not in found:
            found[key] = Histogram(metric)
        found[key].observe(value, trace)
        if self._observed is not None:
            self._observed.append(Observation(metric, labels, value, trace))

    def tell_observations(self, wanted: bool) -> None:
        """Start or stop keeping the values of histograms for `take_observations`."""
        with self._lock:
            self._observed = deque(maxlen=_OBSERVATIONS) if wanted else None

    def take_observations(self) -> list[Observation]:
        """The values of histograms since the last call, each given once."""
        with self._lock:
            taken = list(self._observed or ())
            if self._observed:
                self._observed.clear()
        return taken

    def forked(self) -> None:
        """Count from 0 in a forked process: what was counted before is reported by the parent."""
        cells: Any
        for cells in (self._budgets, self._spends, self._details, self._tenants):
            for cell in cells.values():
                cell.reset()
        counted: Any
        for counted in (self.live, self.check_seconds, self.estimate_ratio, self.unpriced, self._observed or {}):
            counted.clear()
        self.overflow.n = self.events_suppressed = 0

    def snapshot(self) -> Snapshot:
        """A copy of everything, each cell as of one moment; quotas first."""
        locked = self._ledger.locked
        read: dict[str, Any] = {"quotas": self._quotas.read(), "budgets": copies(self._budgets, locked)}
        read |= {"spends": copies(self._spends, locked), "details": copies(self._details, locked)}
        copied = locked(partial(self._copied, tenants=copies(self._tenants, locked), **read))
        old_ns = self._clock_ns() - MIN_RUN_AGE_S * NANOS
        runs = [run for run in list(self.live) if run.started_ns <= old_ns]
        shown = self._active.of(runs, self._tenant_names.shown, self._budget_names.shown)
        return copied._replace(active_runs=shown)

    def _copied(self, **read: Any) -> Snapshot:
        opened, oldest_s = self._ledger.open.age(self._clock_ns())
        return Snapshot(
            **read,
            check_seconds={operation: copy(found) for operation, found in self.check_seconds.items()},
            estimate_ratio={model: copy(found) for model, found in self.estimate_ratio.items()},
            unpriced={model: tally.n for model, tally in self.unpriced.copy().items()},
            label_overflow=self.overflow.n,
            events_suppressed=self.events_suppressed,
            reservations_open=opened,
            reservation_oldest_s=oldest_s,
            active_runs=[],
            store=self.store,
            policy="" if self._shared is None else self._shared.failure.name,
            health=None if self._shared is None else copy(self._shared.health),
            reload_ok=self.reload_ok,
        )
