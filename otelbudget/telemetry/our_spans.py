"""The spans that otelbudget opens itself. A span processor that fails on one is logged and changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context


_log = logging.getLogger(__name__)


def start(
    tracer: Tracer,
    name: str,
    context: Context | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str] | None = None,
    links: Sequence[Link] | None = None,
) -> Span:
    """A new span, not made current; one that records nothing if a span processor of the application raises."""
    try:
        return tracer.start_span(name, context, kind, attributes, links)
    except Exception:  # noqa: BLE001 - telemetry failing never changes a decision
        _log.exception("a span processor failed while the span %r started", name)
        return INVALID_SPAN


def end(span: Span) -> None:
    """End *span*."""
    try:
        span.end()
    except Exception:  # noqa: BLE001 - telemetry failing never replaces the application's own exception
        _log.exception("a span processor failed while a span of ours ended")
