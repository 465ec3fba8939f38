"""Where events go as log records, if the configuration asks for that (``telemetry.events: log`` or ``both``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otelbudget.bootstrap.exporters import named_exporters
from otelbudget.errors import ConfigError
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.sdk.resources import Resource

    from otelbudget.bootstrap.delivery import Closing
    from otelbudget.bootstrap.log_delivery import JoinedLogs, OwnLogs

__all__ = ["LogRoute", "open_log_route"]


class LogRoute:
    """Carries events out as log records until `begin_closing`.

    Attributes:
        where: Where they go, in words.
    """

    def __init__(self, through: OwnLogs | JoinedLogs, *, on_span: bool) -> None:
        from otelbudget.telemetry.event_log import EventLog

        self._through = through
        self.where = through.where
        events.write_to(EventLog(through.provider, on_span=on_span))

    def begin_closing(self) -> list[Closing]:
        """Write no more records and begin to deliver the last ones; what has to be waited for."""
        events.write_to(None)
        return self._through.close()


def open_log_route(wanted: str, given: LoggerProvider | None, resource: Resource | None) -> LogRoute | None:
    """What carries events out as log records; None if they are on spans only.

    Args:
        wanted: ``span``, ``log`` or ``both``.
        given: `setup()`'s ``logger_provider``; if None, the application's global one, else one of our own with the
            exporters that ``OTEL_LOGS_EXPORTER`` or an OTLP endpoint names.
        resource: For one of our own.

    Raises:
        ConfigError: Records are wanted and nothing would carry them out, or a provider is given and none are wanted.
    """
    if wanted == "span":
        if given is not None:
            raise ConfigError(
                "logger_provider is for events as log records, and the configuration wants them on spans only: set"
                " telemetry.events to log or both, or leave logger_provider out"
            )
        return None
    return LogRoute(_through(wanted, given, resource), on_span=wanted == "both")


def _through(wanted: str, given: LoggerProvider | None, resource: Resource | None) -> OwnLogs | JoinedLogs:
    provider: Any = _application_logger_provider() if given is None else given
    exporters = [] if provider is not None else named_exporters("LOGS")
    if provider is None and not exporters:
        raise ConfigError(
            f"telemetry.events is {wanted}, and nothing would carry log records out: pass setup(logger_provider=...),"
            " or set OTEL_LOGS_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    from otelbudget.bootstrap.log_delivery import JoinedLogs, OwnLogs

    return OwnLogs(resource, exporters) if provider is None else JoinedLogs(provider)


def _application_logger_provider() -> LoggerProvider | None:
    """The global logger provider if it is an SDK's: it exports what the same variables asked it to export."""
    from opentelemetry import _logs

    provider = _logs.get_logger_provider()
    return provider if type(provider).__module__.startswith("opentelemetry.sdk.") else None
