"""`Dispatcher`: what calls the span processors of a provider that `setup()` creates.

The SDK's own dispatcher stops at the first processor that raises and leaves the span open, and a later one may catch
what processors raise. This one shows a denied span to every processor, ends it and lets the denial through.
"""

from __future__ import annotations

import logging

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SynchronousMultiSpanProcessor
from opentelemetry.trace import Status, StatusCode

from otelbudget.bootstrap.forwarder import Forwarder
from otelbudget.errors import BudgetExceeded

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)


class Dispatcher(SynchronousMultiSpanProcessor):
    """Calls the application's processors and the `Forwarder`, in the order that denials need.

    Attributes:
        forwarder: Reaches the current manager; not in the list of processors that ``add_span_processor`` extends.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the SDK's constructor has no annotations
        self.forwarder = Forwarder()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Show the span to the other processors, then let the manager decide.

        Raises:
            BudgetExceeded: The call can't be paid for; the span has ended with status ERROR and is being exported.
        """
        for processor in self._span_processors:
            try:
                processor.on_start(span, parent_context)
            except BudgetExceeded:
                raise
            except Exception:  # noqa: BLE001 - telemetry failing never changes a decision
                _log.exception("span processor %s failed while a span started", type(processor).__name__)
        try:
            self.forwarder.on_start(span, parent_context)
        except BudgetExceeded as denied:
            span.set_status(Status(StatusCode.ERROR, f"{type(denied).__name__}: {denied}"))
            span.end()
            raise

    def _on_ending(self, span: Span) -> None:
        for processor in self._span_processors:
            try:
                processor._on_ending(span)
            except Exception:  # noqa: BLE001 - raised here, it would replace the application's own exception
                _log.exception("span processor %s failed while a span was ending", type(processor).__name__)
        self.forwarder._on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Show the ended span to every processor; an error of one is logged and stops no other."""
        for processor in self._span_processors:
            try:
                processor.on_end(span)
            except Exception:  # noqa: BLE001 - raised here, it would replace the application's own exception
                _log.exception("span processor %s failed while a span ended", type(processor).__name__)
        self.forwarder.on_end(span)

    def shutdown(self) -> None:
        """Shut the application's processors down, and flush ours."""
        self.forwarder.shutdown()
        super().shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what has ended so far."""
        ours = self.forwarder.force_flush(timeout_millis)
        return super().force_flush(timeout_millis) and ours
