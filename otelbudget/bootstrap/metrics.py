"""The one way that metrics leave the process: a page to scrape, or OTLP where that is asked for; never both unasked.

Two routes to one Prometheus would double every sum.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics as metrics_api

from otelbudget import forking
from otelbudget.bootstrap.delivery import Carrier, Delivery, joined, of_application
from otelbudget.bootstrap.exporters import named_exporters, variable
from otelbudget.errors import ConfigError
from otelbudget.guards.boundary import contained
from otelbudget.telemetry.server import DEFAULT_HOST, DEFAULT_PORT, MetricsServer

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry

    from otelbudget.bootstrap.arguments import Arguments
    from otelbudget.telemetry.cells import Meters

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")
_INSTANCE: Final = "service.instance.id"
_NOT_MULTIPROCESS: Final = (
    "PROMETHEUS_MULTIPROC_DIR is set: a page made of that folder shows none of these metrics, since they are no files;"
    " leave registry= out, and each process serves its own, or set OTEL_METRICS_EXPORTER=otlp to push them"
)


class MetricsRoute:
    """Carries *meters* out, until `begin_closing` and `close`; a page may be on the *configured* port."""

    def __init__(self, meters: Meters, asked: Arguments, configured: int | None, resource: Resource | None) -> None:
        self._server: MetricsServer | None = None
        self._carrier: Carrier | None = None
        self._given, pushed = asked.registry, push_wanted(asked.meter_provider)
        self._page = page_wanted(
            asked.metrics_port, asked.metrics_host, configured, pushed=pushed, own_registry=self._given is None
        )
        with ExitStack() as undo:
            if self._given is not None:
                _show(meters, self._given, undo)
                if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                    _log.warning(_NOT_MULTIPROCESS)
            if self._page is not None:
                from otelbudget.telemetry.page import Page

                self._shown = self._given or Page(meters)
                undo.callback(self._end_page)
                self._serve(strict=asked.strict)
            if pushed:
                from otelbudget.telemetry.cells import MAX_SERIES
                from otelbudget.telemetry.otel_metrics import JOINED_SETS, report

                given = asked.meter_provider or of_application(metrics_api.get_meter_provider())
                carrier = joined(given, "the application's meter provider") if given else _own(resource)
                sets = JOINED_SETS if given else MAX_SERIES
                self._carrier, self._end_report = carrier, report(meters, carrier.provider, sets)
            self._undo = undo.pop_all()
        forking.tell(self)

    @property
    def url(self) -> str | None:
        """Where the page is, if there is one."""
        return None if self._server is None else self._server.url

    @property
    def where(self) -> str:
        """Where metrics go, in words."""
        page = self.url or ("the registry given" if self._given is not None else None)
        places = [place for place in (page, self._carrier and self._carrier.where) if place]
        return " and ".join(places) or "nowhere"

    def _serve(self, *, strict: bool = False) -> None:
        if self._page is not None:
            self._server = MetricsServer.start(self._shown, *self._page, strict=strict)

    def _end_page(self) -> None:
        self._page = None
        if self._server is not None:
            self._server.close()

    def forked(self) -> None:
        """In a child: the page is the parent's; it has one of its own as soon as it has something to tell."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._page is not None:
            forking.later(self._serve_own)

    def _serve_own(self) -> None:
        with contained("opening the page of a forked process"):
            self._serve()
            _log.info("metrics of process %d, which was forked, go to %s", os.getpid(), self.where)

    def begin_closing(self) -> list[Delivery]:
        """Stop serving and begin the last push; what has to be waited for."""
        self._undo.close()
        return [] if self._carrier is None else self._carrier.close()

    def close(self) -> None:
        """Let go of what the last push still needed."""
        if self._carrier is not None:
            self._end_report()


def _show(meters: Meters, registry: CollectorRegistry, undo: ExitStack) -> None:
    """Show *meters* in the registry given."""
    from otelbudget.telemetry.prometheus import PrometheusCollector

    collector = PrometheusCollector(meters)
    try:
        registry.register(collector)
    except ValueError as error:
        raise ConfigError(f"registry: these metrics are in it already, from another set-up: {error}") from error
    undo.callback(registry.unregister, collector)


class ProcessDelivery(Delivery):
    """Delivers metrics as those of this process, which the resource of an older SDK does not say.

    Of two workers that look the same a collector keeps what the last one told.
    """

    def export(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Export metrics with what tells their process from others."""
        told = [_of_process(one) for one in data.resource_metrics]
        return super().export(dataclasses.replace(data, resource_metrics=told), *args, **kwargs)


def _of_process(metrics: Any) -> Any:
    if _INSTANCE in metrics.resource.attributes:
        return metrics
    return dataclasses.replace(metrics, resource=metrics.resource.merge(_instance(os.getpid())))


@functools.cache
def _instance(pid: int) -> Resource:  # noqa: ARG001 - a forked process is another one
    from opentelemetry.sdk.resources import Resource

    return Resource({_INSTANCE: str(uuid.uuid4())})


def _own(resource: Resource | None) -> Carrier:
    """A meter provider of our own that pushes; the metrics SDK is imported only here."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    from otelbudget.telemetry.otel_metrics import cardinality_views

    readers, deliveries, places = [], [], []
    for exporter, where in named_exporters("METRICS"):
        delivery: Any = ProcessDelivery(exporter, where)
        reader = PeriodicExportingMetricReader(delivery)
        readers.append(reader)
        deliveries.append((delivery, reader.shutdown))
        places.append(where)
    provider = MeterProvider(readers, resource=resource, views=cardinality_views(), shutdown_on_exit=False)
    return Carrier(provider, " and ".join(places), deliveries)


def push_wanted(given: MeterProvider | None) -> bool:
    """Whether metrics are to be pushed."""
    named = [name.strip().lower() for name in variable("OTEL_METRICS_EXPORTER").split(",")]
    endpoint = variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return given is not None or "otlp" in named or (bool(endpoint) and "none" not in named)


def page_wanted(
    port: int | str | None, host: str | None, configured: int | None, *, pushed: bool, own_registry: bool
) -> tuple[str, int] | None:
    """Host and port of the page; unasked none where metrics are *pushed* or the application has a registry."""
    if port is None:
        return None
    chosen = configured if port == "auto" else int(port)
    if chosen is None:
        off = variable("OTEL_METRICS_EXPORTER").lower() == "none"
        if pushed or off or not own_registry:
            return None
        chosen = _named_port()
    host = host or variable("OTEL_EXPORTER_PROMETHEUS_HOST") or DEFAULT_HOST
    return host, chosen


def _named_port() -> int:
    text = variable("OTEL_EXPORTER_PROMETHEUS_PORT")
    if text and (not text.isdecimal() or int(text) > 65535):
        raise ConfigError(f"OTEL_EXPORTER_PROMETHEUS_PORT is {text!r}; it must be a port from 0 to 65535")
    return int(text) if text else DEFAULT_PORT
