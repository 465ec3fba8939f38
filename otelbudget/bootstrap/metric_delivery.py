"""Metrics over OTLP, closed as carefully as span exporters; apart because the metrics SDK is imported only for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from opentelemetry import metrics as metrics_api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from otelbudget.bootstrap.delivery import Closing, Watch, Worker
from otelbudget.bootstrap.exporters import otlp_endpoint, otlp_protocol
from otelbudget.errors import ConfigError
from otelbudget.telemetry.otel_metrics import cardinality_views

__all__ = ["JoinedMetrics", "OtlpMetrics"]

_MODULES: Final = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
    "http": "opentelemetry.exporter.otlp.proto.http.metric_exporter",
}


class OtlpMetrics:
    """A meter provider of our own that pushes over OTLP, as the ``OTEL_EXPORTER_OTLP_*`` variables say.

    Args:
        resource: What its metrics are about; the environment's word if None.

    Raises:
        ConfigError: The variables say something that the exporter can't work with.
    """

    def __init__(self, resource: Resource | None) -> None:
        protocol = otlp_protocol("METRICS")
        exporter = _exporter(protocol)
        self.where = f"OTLP at {otlp_endpoint('METRICS', protocol)}"
        self._watch = Watch(exporter)
        self._delivery = _Delivery(exporter, self._watch)
        self._worker = Worker("otelbudget-metrics")
        self.provider = MeterProvider(
            [PeriodicExportingMetricReader(self._delivery)],
            resource=resource,
            views=cardinality_views(),
            shutdown_on_exit=False,
        )

    def close(self) -> Closing:
        """Begin to push the rest and to close; nothing is waited for."""
        self._watch.close()
        done = self._worker.do(self._finish, last=True)
        return Closing(self._watch, done, self._delivery.stop, self.where)

    def _finish(self) -> None:
        try:
            self.provider.shutdown()
        finally:
            self._watch.detach()


class JoinedMetrics:
    """A meter provider of the application: asked for a last push before we stop reporting, never shut down."""

    def __init__(self, provider: metrics_api.MeterProvider) -> None:
        self.provider = provider
        self.where = "the application's meter provider"
        self._worker = Worker("otelbudget-metrics")

    def close(self) -> Closing:
        """Begin a push of what is not pushed yet; nothing is waited for."""
        flush: Callable[[], object] = getattr(self.provider, "force_flush", lambda: None)
        done = self._worker.do(flush, last=True)
        return Closing(Watch(None), done, lambda: None, self.where)


def _exporter(protocol: str) -> MetricExporter:
    try:
        exporter: MetricExporter = import_module(_MODULES[protocol]).OTLPMetricExporter()
    except Exception as error:
        raise ConfigError(f"the OTLP metric exporter can't be made: {error}") from error
    return exporter


class _Delivery(MetricExporter):
    def __init__(self, exporter: MetricExporter, watch: Watch) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter = exporter
        self._watch = watch
        self._open = True

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        return self._watch.export(
            lambda: self._exporter.export(metrics_data, timeout_millis=timeout_millis, **kwargs),
            success=MetricExportResult.SUCCESS,
            failure=MetricExportResult.FAILURE,
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if self._open:
            self._open = False
            self._exporter.shutdown(timeout_millis, **kwargs)

    def stop(self) -> None:
        """Interrupt the export in progress."""
        self.shutdown(0)
