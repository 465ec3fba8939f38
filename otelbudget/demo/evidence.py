"""What proves that budgets held: the span of a refused call, and what changed on ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry, generate_latest

from otelbudget import semconv
from otelbudget.telemetry.prometheus import PrometheusCollector

if TYPE_CHECKING:
    from otelbudget.telemetry.cells import Meters

#: Series as the text format writes them (``name{label="value"}``) and their values.
Samples = Mapping[str, float]


class DeniedSpans(SpanProcessor):
    """Keeps each tenant's first span of a refused call, as an exporter would get it, if tracing is on."""

    def __init__(self) -> None:
        self._first: dict[str, ReadableSpan] = {}
        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.add_span_processor(self)

    def on_end(self, span: ReadableSpan) -> None:
        """Keep *span* if it is the first of its tenant that was refused for want of budget."""
        attributes = span.attributes or {}
        if attributes.get(semconv.DECISION) == "deny" and attributes.get(semconv.REASON) == "limit":
            self._first.setdefault(str(attributes.get(semconv.TENANT)), span)

    def of(self, tenant: str) -> ReadableSpan | None:
        """The span of *tenant*, or of another one; None if there is none."""
        return self._first.get(tenant) or next(iter(self._first.values()), None)


def scrape(meters: Meters) -> Samples:
    """What ``/metrics`` says of *meters* now, whether or not there is such a page."""
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(meters))
    page = generate_latest(registry).decode()
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def counted(samples: Samples) -> list[tuple[str, float]]:
    """The counters of budgets that are not 0: (series, value), in the page's order."""
    return [
        (series, value)
        for series, value in samples.items()
        if series.startswith("otelbudget_") and "_total{" in series and value
    ]


def admitted(samples: Samples) -> int:
    """Model calls that were let through."""
    return _calls(samples, "allow") + _calls(samples, "warn")


def refused(samples: Samples) -> int:
    """Model calls that were refused before they were sent."""
    return _calls(samples, "deny")


def _calls(samples: Samples, decision: str) -> int:
    parts = (f"{semconv.M_CHECKS}{{", 'operation="call"', f'decision="{decision}"')
    return int(sum(value for series, value in samples.items() if all(part in series for part in parts)))
