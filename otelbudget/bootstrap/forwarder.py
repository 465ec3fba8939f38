"""`Forwarder`: the one processor that a tracer provider keeps, through which it reaches the current manager.

A provider has no way to remove a processor, so ours stays for good and delegates to the manager and the exporters of
the present `setup()`, or to nothing.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otelbudget.errors import BudgetExceeded
from otelbudget.guards.boundary import contained

__all__ = ["Forwarder"]


class Forwarder(SpanProcessor):
    """Delegates to a manager and to span processors that export, while there are any.

    Attributes:
        manager: What decides about each span; None between `shutdown()` and the next `setup()`.
        exporters: What exports ended spans; each has its own bound on how long closing takes.
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
        """Let the manager decide.

        Raises:
            BudgetExceeded: The call of this span can't be paid for. The span is left as it is, not ended.
        """
        manager = self.manager
        if manager is None:
            return
        try:
            manager.on_start(span, parent_context)
        except BudgetExceeded:
            raise
        except Exception:
            with contained("a span starts"):
                raise

    def _on_ending(self, span: Span) -> None:
        manager = self.manager
        if manager is not None:
            try:
                manager._on_ending(span)
            except Exception:
                with contained("a span is ending"):
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
