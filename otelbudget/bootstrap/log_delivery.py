"""Log records carried out, closed as carefully as spans; apart because the logs SDK is imported only for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import opentelemetry.sdk._logs.export as sdk
from opentelemetry.sdk._logs import LoggerProvider

from otelbudget.bootstrap.delivery import Closing, Interruptible, Watch, Worker

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider as AnyLoggerProvider
    from opentelemetry.sdk.resources import Resource

__all__ = ["ConsoleExporter", "JoinedLogs", "OwnLogs"]

#: Older SDKs have other names for these.
ConsoleExporter: Any = getattr(sdk, "ConsoleLogRecordExporter", None) or sdk.ConsoleLogExporter
_Exporter: Any = getattr(sdk, "LogRecordExporter", None) or sdk.LogExporter
_Result: Any = getattr(sdk, "LogRecordExportResult", None) or sdk.LogExportResult


class OwnLogs:
    """A logger provider of our own, with the exporters that the ``OTEL_*`` variables name.

    Args:
        resource: What its records are about; the environment's word if None.
        exporters: With where each delivers to.
    """

    def __init__(self, resource: Resource | None, exporters: Sequence[tuple[Any, str]]) -> None:
        self.where = " and ".join(where for _, where in exporters)
        self.provider = LoggerProvider(resource, shutdown_on_exit=False)
        self._outlets: list[_Outlet] = []
        for exporter, where in exporters:
            if isinstance(exporter, ConsoleExporter):  # it holds nothing
                self.provider.add_log_record_processor(sdk.SimpleLogRecordProcessor(exporter))
            else:
                self._outlets.append(_Outlet(exporter, where))
                self.provider.add_log_record_processor(self._outlets[-1].processor)

    def close(self) -> list[Closing]:
        """Begin to deliver the rest and to close; nothing is waited for."""
        return [outlet.close() for outlet in self._outlets]


class JoinedLogs:
    """A logger provider of the application: flushed when we end, never shut down."""

    def __init__(self, provider: AnyLoggerProvider) -> None:
        self.provider = provider
        self.where = "the application's logger provider"
        self._worker = Worker("otelbudget-logs")

    def close(self) -> list[Closing]:
        """Begin to deliver what is not delivered yet; nothing is waited for."""
        flush: Callable[[], object] = getattr(self.provider, "force_flush", lambda: None)
        return [Closing(Watch(None), self._worker.do(flush, last=True), lambda: None, self.where)]


class _Outlet:
    """Exports records in batches from a thread of its own."""

    def __init__(self, exporter: Any, where: str) -> None:
        self._where = where
        self._watch = Watch(exporter)
        self._delivery = _Delivery(exporter, self._watch)
        self._worker = Worker("otelbudget-logs")
        self.processor = sdk.BatchLogRecordProcessor(self._delivery)

    def close(self) -> Closing:
        self._watch.close()
        return Closing(self._watch, self._worker.do(self._finish, last=True), self._delivery.stop, self._where)

    def _finish(self) -> None:
        try:
            self.processor.shutdown()  # type: ignore[no-untyped-call] # the SDK's method has no annotations
        finally:
            self._watch.detach()


class _Delivery(Interruptible, _Exporter):  # type: ignore[misc]  # whichever name this SDK has for it
    def export(self, batch: Sequence[Any]) -> Any:
        return self._watch.export(
            lambda: self._exporter.export(batch), success=_Result.SUCCESS, failure=_Result.FAILURE
        )

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        flush: Callable[[int], bool] = getattr(self._exporter, "force_flush", lambda _: True)
        return flush(timeout_millis)
