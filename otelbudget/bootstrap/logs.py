"""Where events go as log records, if the configuration asks for that (``telemetry.events: log`` or ``both``).

The logs SDK is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otelbudget.bootstrap.delivery import Carrier, Delivery, joined, of_application
from otelbudget.bootstrap.exporters import named_exporters
from otelbudget.errors import ConfigError
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.sdk.resources import Resource


def open_logs(wanted: str, given: LoggerProvider | None, resource: Resource | None) -> Carrier | None:
    """What carries events out as log records from now on, *given* or ours; None if *wanted* is ``span``."""
    if wanted == "span":
        if given is not None:
            raise ConfigError(
                "logger_provider is for events as log records, and the configuration wants them on spans only: set"
                " telemetry.events to log or both, or leave logger_provider out"
            )
        return None
    from opentelemetry import _logs

    from otelbudget.telemetry.event_log import EventLog

    provider = of_application(_logs.get_logger_provider()) if given is None else given
    carrier = _own(wanted, resource) if provider is None else joined(provider, "the application's logger provider")
    events.write_to(EventLog(carrier.provider, on_span=wanted == "both"))
    return carrier


def _own(wanted: str, resource: Resource | None) -> Carrier:
    exporters = named_exporters("LOGS")
    if not exporters:
        raise ConfigError(
            f"telemetry.events is {wanted}, and nothing would carry log records out: pass setup(logger_provider=...),"
            " or set OTEL_LOGS_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor

    provider = LoggerProvider(resource, shutdown_on_exit=False)
    deliveries: list[tuple[Delivery, Callable[[], object]]] = []
    for exporter, where in exporters:
        if where == "console":  # it holds nothing
            provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        else:
            delivery: Any = Delivery(exporter, where)
            processor = BatchLogRecordProcessor(delivery)
            provider.add_log_record_processor(processor)
            deliveries.append((delivery, processor.shutdown))
    return Carrier(provider, " and ".join(where for _, where in exporters), deliveries)
