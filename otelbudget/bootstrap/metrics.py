"""The one way that metrics leave the process: a page to scrape, or OTLP where that is asked for; never both unasked.

Two routes to one Prometheus would double every sum.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as metrics_api

from otelbudget.bootstrap.exporters import variable
from otelbudget.errors import ConfigError
from otelbudget.telemetry.server import DEFAULT_HOST, DEFAULT_PORT, MetricsServer

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry

    from otelbudget.bootstrap.delivery import Closing
    from otelbudget.telemetry.cells import Meters

__all__ = ["MetricsRoute", "Page", "Push", "open_route", "page_wanted", "push_wanted", "unserved"]


@dataclass(frozen=True)
class Page:
    """Where the page is to be: *explicit* means that somebody named the port."""

    host: str
    port: int
    explicit: bool


class MetricsRoute:
    """What carries the metrics of one manager, until `close`.

    Attributes:
        server: The page's server, or None.
        push: What pushes, or None.
    """

    def __init__(self) -> None:
        self.server: MetricsServer | None = None
        self.push: Push | None = None
        self._registered: tuple[CollectorRegistry, Any] | None = None

    @property
    def where(self) -> str:
        """Where metrics go, in words."""
        places = [] if self.server is None else [self.server.url]
        if self._registered is not None and self.server is None:
            places.append("the registry given")
        if self.push is not None:
            places.append(self.push.where)
        return " and ".join(places) or "nowhere"

    def register(self, registry: CollectorRegistry, meters: Meters) -> None:
        """Show *meters* in *registry*.

        Raises:
            ConfigError: Something of the same name is there already.
        """
        from otelbudget.telemetry.prometheus import PrometheusCollector

        collector = PrometheusCollector(meters)
        try:
            registry.register(collector)
        except ValueError as error:
            raise ConfigError(f"registry: these metrics are in it already, from another set-up: {error}") from error
        self._registered = registry, collector

    def begin_closing(self) -> list[Closing]:
        """Stop serving and begin the last push; what has to be waited for."""
        if self.server is not None:
            with suppress(RuntimeError):  # no thread can be started at interpreter exit; the page ends with it
                self.server.close()
        if self._registered is not None:
            registry, collector = self._registered
            registry.unregister(collector)
            self._registered = None
        return [] if self.push is None else [self.push.begin_closing()]

    def close(self) -> None:
        """Let go of what the last push still needed."""
        if self.push is not None:
            self.push.close()


class Push:
    """Reports meters through a meter provider: the application's, or one of our own that sends them over OTLP."""

    def __init__(self, meters: Meters, given: MeterProvider | None, resource: Resource | None) -> None:
        from otelbudget.bootstrap.metric_delivery import JoinedMetrics, OtlpMetrics
        from otelbudget.telemetry.otel_metrics import OtelInstruments

        self._through = OtlpMetrics(resource) if given is None else JoinedMetrics(given)
        self.where = self._through.where
        self._instruments = OtelInstruments(meters, self._through.provider)

    def begin_closing(self) -> Closing:
        """Begin the last push."""
        return self._through.close()

    def close(self) -> None:
        """Stop reporting."""
        self._instruments.close()


def unserved(given: MeterProvider | None) -> list[str]:
    """What ``OTEL_METRICS_EXPORTER`` names that nobody does: not `setup()`, nor a provider of the application's."""
    if given is not None or _application_meter_provider() is not None:
        return []
    return [name for name in _named() if name not in ("otlp", "prometheus", "none", "")]


def _named() -> list[str]:
    return [name.strip().lower() for name in variable("OTEL_METRICS_EXPORTER").split(",")]


def push_wanted(given: MeterProvider | None) -> bool:
    """Whether metrics are to be pushed."""
    named = _named()
    endpoint = variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return given is not None or "otlp" in named or (bool(endpoint) and "none" not in named)


def page_wanted(
    port: int | str | None, host: str | None, configured: int | None, *, pushed: bool, own_registry: bool
) -> Page | None:
    """Where a page is to be served; None for nowhere.

    Args:
        port, host: `setup()`'s arguments.
        configured: The port that the configuration names.
        pushed: Whether metrics are pushed already.
        own_registry: False where the application serves the registry itself.

    Raises:
        ConfigError: ``OTEL_EXPORTER_PROMETHEUS_PORT`` is not a port.
    """
    if port is None:
        return None
    named = variable("OTEL_EXPORTER_PROMETHEUS_PORT")
    chosen = configured if port == "auto" else int(port)
    if chosen is None:
        off = variable("OTEL_METRICS_EXPORTER").lower() == "none"
        if pushed or off or not own_registry:
            return None
        chosen = _port(named) if named else None
    host = host or variable("OTEL_EXPORTER_PROMETHEUS_HOST") or DEFAULT_HOST
    return Page(host, DEFAULT_PORT if chosen is None else chosen, chosen is not None)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"OTEL_EXPORTER_PROMETHEUS_PORT is {text!r}; it must be a port from 0 to 65535")
    return int(text)


def open_route(
    meters: Meters,
    *,
    page: Page | None,
    pushed: bool,
    registry: CollectorRegistry | None,
    meter_provider: MeterProvider | None,
    resource: Resource | None,
) -> MetricsRoute:
    """Open what carries *meters* out.

    Raises:
        ConfigError: The port is in use, the registry has these metrics already, or the exporter can't be made.
    """
    route = MetricsRoute()
    try:
        if registry is not None or page is not None:
            shown = registry if registry is not None else _private_registry()
            route.register(shown, meters)
            if page is not None:
                route.server = MetricsServer.start(shown, page.host, page.port, explicit=page.explicit)
        if pushed:
            given = meter_provider if meter_provider is not None else _application_meter_provider()
            route.push = Push(meters, given, resource)
    except BaseException:
        route.begin_closing()
        raise
    return route


def _private_registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry(auto_describe=False)


def _application_meter_provider() -> MeterProvider | None:
    """The global meter provider if it is an SDK's: it pushes what the same variables asked it to push."""
    provider = metrics_api.get_meter_provider()
    return provider if type(provider).__module__.startswith("opentelemetry.sdk.") else None
