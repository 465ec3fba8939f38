"""Histograms as plain lists of counts, with the bucket bounds that every route of export shares."""

from __future__ import annotations

from bisect import bisect_left
from time import time
from typing import Final, NamedTuple

COST_BUCKETS: Final = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0)
TOKEN_BUCKETS: Final = (100.0, 1e3, 5e3, 1e4, 5e4, 1e5, 5e5, 1e6)
SECONDS_BUCKETS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
RATIO_BUCKETS: Final = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
CHECK_BUCKETS: Final = (*(float(f"{m}e{e}") for e in range(-6, 0) for m in (1, 2, 5)), 1.0)

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

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
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
        twin = Histogram(self.bounds)
        twin.counts, twin.exemplars, twin.total = list(self.counts), dict(self.exemplars), self.total
        return twin
