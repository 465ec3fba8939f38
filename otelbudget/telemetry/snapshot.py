"""What a scrape sees: a consistent copy of the cells, and the runs in progress that are closest to their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest
from typing import TYPE_CHECKING, Any, NamedTuple

from otelbudget.model.amounts import COST, NANOS, UNLIMITED
from otelbudget.model.vector import unpack
from otelbudget.telemetry.labels import UNNAMED

if TYPE_CHECKING:
    from otelbudget.stores.health import Health
    from otelbudget.telemetry.cell_types import BudgetCell, SpendCell, TenantCell
    from otelbudget.telemetry.histogram import Histogram
    from otelbudget.telemetry.quota_gauges import QuotaReadings


class ActiveRun(NamedTuple):
    """One of the runs that are closest to a limit right now; the ratio is None where nothing is limited."""

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
    policy: str
    health: Health | None
    quotas: QuotaReadings
    reload_ok: bool | None


def top_runs(
    runs: Iterable[Any], count: int, tenant_label: Callable[[str], str], budget_label: Callable[[str], str]
) -> list[ActiveRun]:
    """The *count* runs of which the greatest share of a limit is used, then those that cost most.

    Read without a lock: the amounts of one run may be a call apart, which a gauge can bear.
    """
    found: dict[tuple[str, str, str], ActiveRun] = {}
    for run in runs:
        account = run.account
        amounts, full = unpack(account.used), account.rule.full
        ratios = [used / limit for used, limit in zip(amounts, full, strict=True) if 0 < limit < UNLIMITED]
        active = ActiveRun(
            tenant_label(run.tenant),
            budget_label(account.name or UNNAMED),
            run.run_id,
            amounts[COST] / NANOS,
            max(ratios, default=None),
        )
        # Callers may choose run ids, and two samples with the same labels spoil a whole scrape.
        found[active[:3]] = max(active, found.get(active[:3], active), key=_rank)
    return nlargest(count, found.values(), key=_rank)


def _rank(run: ActiveRun) -> tuple[float, float]:
    return run.used_ratio or 0.0, run.cost_usd
