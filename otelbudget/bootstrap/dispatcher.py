"""Span processors of ours: `Forwarder` in any tracer provider, `Dispatcher` around all others in one that we make."""

from __future__ import annotations

import logging

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.trace import Status, StatusCode

from otelbudget.errors import BudgetExceeded
from otelbudget.guards.boundary import contained

_log = logging.getLogger(__name__)


class Forwarder(SpanProcessor):
    """The one processor that a tracer provider, which can't remove any, keeps: it delegates to the current manager and
    to span processors that export, while there are any.

    A boundary is entered only for an error: it takes 0.5 us, and every span passes here four times.
    """

    def __init__(self) -> None:
        self.manager: SpanProcessor | None = None
        self.exporters: tuple[SpanProcessor, ...] = ()

    def connect(self, manager: SpanProcessor, exporters: tuple[SpanProcessor, ...]) -> None:
        """Delegate to *manager* and *exporters* from now on."""
        self.exporters = exporters
        self.manager = manager

    def disconnect(self) -> None:
        """Delegate to nothing; spans that end later are not exported by us."""
        self.manager = None
        self.exporters = ()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Let the manager decide; a span that is denied is left as it is, not ended."""
        manager = self.manager
        if manager is not None:
            try:
                manager.on_start(span, parent_context)
            except Exception:
                with contained("a span starts"):
                    raise

    def on_end(self, span: ReadableSpan) -> None:
        """Let the manager account for the span, then export it. Nothing is raised into the application."""
        manager = self.manager
        if manager is not None:
            try:
                manager.on_end(span)
            except Exception:
                with contained("a span has ended"):
                    raise
        for exporter in self.exporters:
            try:
                exporter.on_end(span)
            except Exception:
                with contained("exporting a span"):
                    raise

    def shutdown(self) -> None:
        """Flush. The provider may be shut down before us and still make spans, so nothing is closed here."""
        self.force_flush(2000)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what has ended so far."""
        flushed = [exporter.force_flush(timeout_millis) for exporter in self.exporters]
        return all(flushed)


class Dispatcher(SynchronousMultiSpanProcessor):
    """Calls the application's processors, then the `Forwarder`, which is not in the list that they are added to.

    The SDK's own stops at the first processor that raises, leaves the span open, and lets a later one catch the denial.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the SDK's constructor has no annotations
        self.forwarder = Forwarder()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Show the span to the other processors, then let the manager decide; a denied one has ended in ERROR."""
        for processor in self._span_processors:
            self._show(processor, "on_start", "started", BudgetExceeded, span, parent_context)
        try:
            self.forwarder.on_start(span, parent_context)
        except BudgetExceeded as denied:
            span.set_status(Status(StatusCode.ERROR, f"{type(denied).__name__}: {denied}"))
            span.end()
            raise

    def _on_ending(self, span: Span) -> None:
        for processor in self._span_processors:
            self._show(processor, "_on_ending", "was ending", (), span)

    def on_end(self, span: ReadableSpan) -> None:
        """Show the ended span to every processor; an error of one is logged and stops no other."""
        for processor in self._span_processors:
            self._show(processor, "on_end", "ended", (), span)
        self.forwarder.on_end(span)

    def _show(
        self, one: SpanProcessor, method: str, moment: str, passing: type[Exception] | tuple[()], *args: object
    ) -> None:
        """Call *one* of the application's processors; only errors *passing* reach it."""
        try:
            getattr(one, method)(*args)
        except passing:
            raise
        except Exception:  # noqa: BLE001 - telemetry changes no decision and replaces no exception of others
            _log.exception("span processor %s failed while a span %s", type(one).__name__, moment)

    def shutdown(self) -> None:
        """Shut the application's processors down, and flush ours."""
        self.forwarder.shutdown()
        super().shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what has ended so far."""
        ours = self.forwarder.force_flush(timeout_millis)
        return super().force_flush(timeout_millis) and ours
