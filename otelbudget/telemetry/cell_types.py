"""The cells themselves: what is counted for one budget, one tenant's model, one tenant. `cells` says which exist.

Histograms are plain lists of counts, with the bucket bounds that every route of export shares.
"""

from __future__ import annotations

from bisect import bisect_left
from copy import copy
from dataclasses import dataclass, field
from time import time
from typing import Final, NamedTuple, Self

from otelbudget import semconv

#: The allow counters that have a slot of their own in `BudgetCell`, by operation.
ALLOW_SLOTS: Final = ("call", "check", "reserve", "tool", "probe")
#: The bounds of buckets, by metric.
BUCKETS: Final = {
    semconv.M_RUN_COST: (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0),
    semconv.M_RUN_TOKENS: (100.0, 1e3, 5e3, 1e4, 5e4, 1e5, 5e5, 1e6),
    semconv.M_RUN_DURATION: (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
    semconv.M_ESTIMATE_RATIO: (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0),
    semconv.M_CHECK_DURATION: (*(float(f"{m}e{e}") for e in range(-6, 0) for m in (1, 2, 5)), 1.0),
}

#: (trace id, span id) of a sampled span, hex; None where there is none.
Trace = tuple[str, str] | None


class Exemplar(NamedTuple):
    """The trace behind one observation, hex ids, and when it was made (seconds since the epoch)."""

    trace_id: str
    span_id: str
    value: float
    time_s: float


class Histogram:
    """Counts per bucket (the last one is +Inf), their sum, and the latest exemplar of each bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "metric", "total")

    def __init__(self, metric: str) -> None:
        self.metric, self.bounds = metric, BUCKETS[metric]
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0.0

    def observe(self, value: float, trace: Trace = None) -> None:
        """Count *value*, with the trace behind it where there is a sampled one."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if trace is not None:
            self.exemplars[bucket] = Exemplar(*trace, value, time())

    def __copy__(self) -> Histogram:
        twin = Histogram(self.metric)
        twin.counts, twin.exemplars, twin.total = list(self.counts), dict(self.exemplars), self.total
        return twin


class _Cell:
    """What counts; a copy of it is not changed by what is counted later."""

    __slots__: tuple[str, ...] = ()

    def reset(self) -> None:
        """Count from 0."""
        for slot in self.__slots__:
            counted = getattr(self, slot)
            if isinstance(counted, int):
                setattr(self, slot, 0)
            elif isinstance(counted, dict):
                for key in list(counted):
                    found = counted[key]
                    if isinstance(found, _Cell):
                        found.reset()  # what was born at zero stays
                    else:
                        del counted[key]

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))  # a third of the time that copy() takes by itself, under the ledger's lock
        for slot in self.__slots__:
            counted = getattr(self, slot)
            if isinstance(counted, dict):
                counted = {key: copy(found) for key, found in counted.copy().items()}  # others add to it
            setattr(twin, slot, counted)
        return twin


@dataclass(slots=True, eq=False)
class Tally(_Cell):
    """One counter."""

    n: int = 0


@dataclass(slots=True, eq=False)
class BudgetCell(_Cell):
    """Checks and records of one (tenant, budget)."""

    tenant: str
    budget: str
    call: int = 0
    check: int = 0
    reserve: int = 0
    tool: int = 0
    probe: int = 0
    records: int = 0
    repeated: int = 0
    #: (operation, decision, reason, resource on deny) -> checks, for everything that is not a plain allow.
    rare: dict[tuple[str, str, str, str], Tally] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SpendCell(_Cell):
    """Tokens and money of one (tenant, model)."""

    tenant: str
    model: str
    input: int = 0
    output: int = 0
    cost_nanousd: int = 0


@dataclass(slots=True, eq=False)
class DetailCell(_Cell):
    """Parts of the tokens of one (tenant, model)."""

    tenant: str
    model: str
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(slots=True, eq=False)
class TenantCell(_Cell):
    """Tool calls and runs of one tenant."""

    tenant: str
    tool_calls: int = 0
    active: int = 0
    #: By metric and outcome: what finished runs came to.
    runs: dict[tuple[str, str], Histogram] = field(default_factory=dict)
