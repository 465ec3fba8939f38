"""What a metric family is: its name, labels and unit, and how it is read from a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from otelbudget import semconv
from otelbudget.telemetry.histogram import Histogram
from otelbudget.telemetry.snapshot import Snapshot

#: Label values in the order of the family's labels, and the value.
Sample = tuple[tuple[str, ...], float]


class Family(NamedTuple):
    """A counter, if its name ends in ``_total``, or a gauge."""

    #: As Prometheus shows it.
    name: str
    help: str
    labels: tuple[str, ...]
    #: For OpenTelemetry, in the notation of UCUM; Prometheus has it in the name.
    unit: str
    read: Callable[[Snapshot], Iterable[Sample]]

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.name.endswith("_total")

    @property
    def merge(self) -> Callable[[Iterable[float]], float]:
        """What several samples under one label come to."""
        return max if self.name in (semconv.M_BUDGET_RESET, semconv.M_ACTIVE_RUN_RATIO) else sum


class HistogramFamily(NamedTuple):
    """A histogram; `read` gives label values with what was observed under them."""

    name: str
    help: str
    labels: tuple[str, ...]
    unit: str
    bounds: tuple[float, ...]
    read: Callable[[Snapshot], Iterable[tuple[tuple[str, ...], Histogram]]]
