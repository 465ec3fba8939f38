"""Events as OpenTelemetry log records, for those who want them beside their spans or instead of span events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import Span, set_span_in_context

from otelbudget._version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider


_log = logging.getLogger(__name__)


class EventLog:
    """Writes events as log records whose event name and attributes are those of the span event; *on_span* as well."""

    def __init__(self, provider: LoggerProvider, *, on_span: bool) -> None:
        self._logger = provider.get_logger("otelbudget", __version__)
        self._record = _record_of(provider)
        self.on_span = on_span

    def write(self, span: Span, name: str, attributes: Mapping[str, Any], *, loud: bool = False) -> None:
        """Write an event in the trace context of *span*, at WARN if it is *loud*, else at INFO."""
        severity = SeverityNumber.WARN if loud else SeverityNumber.INFO
        try:
            self._logger.emit(
                self._record(
                    timestamp=time_ns(),
                    context=set_span_in_context(span),
                    severity_number=severity,
                    severity_text=severity.name,
                    attributes=attributes,
                    event_name=name,
                )
            )
        except Exception:  # noqa: BLE001 - telemetry failing never changes a decision
            _log.exception("a log record processor failed on the event %r", name)


def _record_of(provider: LoggerProvider) -> Any:
    """What makes a record that *provider* takes: older SDKs take none but their own kind, which has a resource."""
    resource = getattr(provider, "resource", None)
    if resource is None:
        return LogRecord
    import opentelemetry.sdk._logs as sdk  # late: only applications with this SDK have loaded it

    own = getattr(sdk, "LogRecord", None)
    return LogRecord if own is None else partial(own, resource=resource)
