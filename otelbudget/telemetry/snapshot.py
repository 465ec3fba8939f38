"""What a scrape sees: a copy of the cells, and the runs in progress that are closest to their limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from otelbudget.model.amounts import COST, NANOS, UNLIMITED
from otelbudget.model.vector import unpack
from otelbudget.telemetry.labels import UNNAMED

if TYPE_CHECKING:
    from otelbudget.stores.health import Health
    from otelbudget.telemetry.cell_types import BudgetCell, DetailCell, Histogram, SpendCell, TenantCell
    from otelbudget.telemetry.quota_gauges import QuotaReadings


#: Cells copied in one go: a check that comes meanwhile waits for no more.
_AT_A_TIME: Final = 250

Cell = TypeVar("Cell")


class ActiveRun(NamedTuple):
    """One of the runs that are closest to a limit right now; the ratio is None where nothing is limited."""

    tenant: str
    budget: str
    run_id: str
    cost_usd: float
    used_ratio: float | None


class Snapshot(NamedTuple):
    """A copy of all cells; nothing in it changes any more."""

    budgets: list[BudgetCell]
    spends: list[SpendCell]
    details: list[DetailCell]
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


def copies(cells: dict[Any, Cell], locked: Callable[[Callable[[], list[Cell]]], list[Cell]]) -> list[Cell]:
    """A copy of each of *cells*, some at a time under the lock that *locked* takes; checks come in between."""
    found: list[Cell] = []
    left = tuple(cells.copy().values())  # others add to it
    for at in range(0, len(left), _AT_A_TIME):
        found += locked(partial(_copies, left[at : at + _AT_A_TIME]))
        time.sleep(0)  # else this thread, which is running, has the lock again before those that wait have woken
    return found


def _copies(cells: tuple[Cell, ...]) -> list[Cell]:
    return [copy(cell) for cell in cells]


class ActiveRuns:
    """Which runs in progress are shown one by one: the *count* closest to a limit, then those that cost most.

    One that is shown gives way only to one that is clearly fuller, or two that change places would be two series with
    gaps.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._shown: set[str] = set()

    def of(
        self, runs: Iterable[Any], tenant_label: Callable[[str], str], budget_label: Callable[[str], str]
    ) -> list[ActiveRun]:
        """Those of *runs* to show now.

        Read without a lock: the amounts of one run may be a call apart, which a gauge can bear.
        """
        found: dict[tuple[str, str, str], ActiveRun] = {}
        for run in runs:
            active = _active(run, tenant_label, budget_label)
            # Callers may choose run ids, and two samples with the same labels spoil a whole scrape.
            found[active[:3]] = max(active, found.get(active[:3], active), key=_rank)
        before = self._shown
        shown = nlargest(self._count, found.values(), key=lambda run: _rank(run, run.run_id in before))
        self._shown = {run.run_id for run in shown}
        return shown


def _active(run: Any, tenant_label: Callable[[str], str], budget_label: Callable[[str], str]) -> ActiveRun:
    account = run.account
    amounts, full = unpack(account.used), account.rule.full
    ratios = [used / limit for used, limit in zip(amounts, full, strict=True) if 0 < limit < UNLIMITED]
    budget, cost_usd = budget_label(account.name or UNNAMED), amounts[COST] / NANOS
    return ActiveRun(tenant_label(run.tenant), budget, run.run_id, cost_usd, max(ratios, default=None))


def _rank(run: ActiveRun, shown: bool = False) -> tuple[float, float]:
    head_start = 1.25 if shown else 1.0
    return (run.used_ratio or 0.0) * head_start, run.cost_usd * head_start
