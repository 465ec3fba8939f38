"""The cells themselves: what is counted for one budget, one tenant's model, one tenant. `cells` says which exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from otelbudget.model.amounts import COST, NANOS, TOKENS

if TYPE_CHECKING:
    from otelbudget.telemetry.cells import Meters
    from otelbudget.telemetry.histogram import Histogram, Trace

__all__ = ["ALLOW_SLOTS", "BudgetCell", "Observation", "RunHistograms", "SpendCell", "TenantCell"]

#: The allow counters that have a slot of their own in `BudgetCell`, by operation.
ALLOW_SLOTS: Final = ("call", "check", "reserve", "tool", "probe")


class Observation(NamedTuple):
    """One value of a histogram, for readers that have to record it themselves."""

    metric: str
    labels: tuple[str, ...]
    value: float
    trace: Trace


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

    def reset(self) -> None:
        """Count from 0."""
        self.call = self.check = self.reserve = self.tool = self.probe = self.records = 0
        self.rare.clear()

    def copy(self) -> BudgetCell:
        """A copy that later checks don't change."""
        twin = BudgetCell(self.tenant, self.budget)
        twin.call, twin.check, twin.reserve, twin.tool, twin.probe = (getattr(self, slot) for slot in ALLOW_SLOTS)
        twin.records = self.records
        twin.rare = dict(self.rare)
        return twin


class SpendCell:
    """Tokens and money of one (tenant, model)."""

    __slots__ = ("cache_read", "cache_write", "cost_nanousd", "input", "model", "output", "reasoning", "tenant")

    def __init__(self, tenant: str, model: str) -> None:
        self.tenant = tenant
        self.model = model
        self.input = self.output = self.cache_read = self.cache_write = self.reasoning = self.cost_nanousd = 0

    def reset(self) -> None:
        """Count from 0."""
        self.input = self.output = self.cache_read = self.cache_write = self.reasoning = self.cost_nanousd = 0

    def copy(self) -> SpendCell:
        """A copy that later spending doesn't change."""
        twin = SpendCell(self.tenant, self.model)
        for slot in self.__slots__:
            setattr(twin, slot, getattr(self, slot))
        return twin


class RunHistograms(NamedTuple):
    """What the runs of one (tenant, outcome) came to."""

    cost: Histogram
    tokens: Histogram
    seconds: Histogram


class TenantCell:
    """Tool calls and runs of one tenant."""

    __slots__ = ("_meters", "active", "runs", "tenant", "tool_calls")

    def __init__(self, tenant: str, meters: Meters) -> None:
        self.tenant = tenant
        self.tool_calls = 0
        self.active = 0
        #: By the runs' outcome.
        self.runs: dict[str, RunHistograms] = {}
        self._meters = meters

    def ended(self, outcome: str, used: list[int], seconds: float, trace: Trace) -> None:
        """Observe a finished run; *used* is in `RESOURCES` order."""
        self._meters.observe_run(self, outcome, (used[COST] / NANOS, float(used[TOKENS]), seconds), trace)

    def reset(self) -> None:
        """Count from 0."""
        self.tool_calls = self.active = 0
        self.runs.clear()

    def copy(self) -> TenantCell:
        """A copy that later runs don't change."""
        twin = TenantCell(self.tenant, self._meters)
        twin.tool_calls = self.tool_calls
        twin.active = self.active
        twin.runs = {
            outcome: RunHistograms(*(histogram.copy() for histogram in found)) for outcome, found in self.runs.items()
        }
        return twin
