"""What a metric family is, for both routes: `families` has the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from otelbudget.telemetry.histogram import Histogram
from otelbudget.telemetry.snapshot import Snapshot

__all__ = ["Family", "HistogramFamily", "Sample"]

#: Label values in the order of the family's labels, and the value.
Sample = tuple[tuple[str, ...], float]


class Family(NamedTuple):
    """A counter or a gauge.

    Attributes:
        name: As Prometheus shows it.
        unit: For OpenTelemetry, in the notation of UCUM; Prometheus has it in the name.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]
    unit: str
    read: Callable[[Snapshot], Iterable[Sample]]


class HistogramFamily(NamedTuple):
    """A histogram; `read` gives label values with what was observed under them."""

    name: str
    help: str
    labels: tuple[str, ...]
    unit: str
    bounds: tuple[float, ...]
    read: Callable[[Snapshot], Iterable[tuple[tuple[str, ...], Histogram]]]
