"""The page that Prometheus scrapes: a custom collector of prometheus_client over the cells.

Exemplars appear in the OpenMetrics format only; the classic text format has no room for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.utils import floatToGoString

from otelbudget.telemetry.cell_types import Histogram
from otelbudget.telemetry.cells import Meters
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS, Family
from otelbudget.telemetry.page import ForkWatch


class PrometheusCollector(Collector):
    """Every metric of one manager; register it with the registry whose page should show them."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._forks = ForkWatch()

    def describe(self) -> Iterator[Metric]:
        """The families without samples: registering asks for these names and need not collect."""
        yield from map(_empty, (*FAMILIES, *HISTOGRAMS))

    def collect(self) -> Iterator[Metric]:
        """The families with their samples, all from the same moment."""
        self._forks.scraped()
        now = self._meters.snapshot()
        for family in (*FAMILIES, *HISTOGRAMS):
            shown = _empty(family)
            for labels, value in family.read(now):
                values = (_buckets(value), value.total) if isinstance(value, Histogram) else (value,)
                shown.add_metric(labels, *values)
            yield shown


def _empty(family: Family) -> Any:
    plain = CounterMetricFamily if family.counts else GaugeMetricFamily
    made: Any = HistogramMetricFamily if family in HISTOGRAMS else plain
    return made(family.name, family.help, labels=family.labels)


def _buckets(found: Histogram) -> list[Any]:
    shown: list[Any] = []
    for i, (bound, count) in enumerate(zip((*found.bounds, float("inf")), accumulate(found.counts), strict=True)):
        bucket: tuple[Any, ...] = (floatToGoString(bound), count)  # type: ignore[no-untyped-call]
        exemplar = found.exemplars.get(i)
        if exemplar is not None:
            trace = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
            bucket += (PrometheusExemplar(trace, exemplar.value, exemplar.time_s),)
        shown.append(bucket)
    return shown
