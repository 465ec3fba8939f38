"""The span that a guard opens for a call that no instrumentor has one for, after the GenAI conventions; no content."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from otelbudget import semconv
from otelbudget.admission.closing import describe_error
from otelbudget.calls.sizing import ModelRequest
from otelbudget.model.usage import Usage
from otelbudget.telemetry import our_spans


def start(tracer: Tracer, request: ModelRequest, context: Context) -> Span:
    """A span for *request*; not made current."""
    asked = {semconv.GEN_AI_REQUEST_MODEL: request.model} if request.model else {}
    return our_spans.start(
        tracer,
        f"{request.operation} {request.model}" if request.model else request.operation,
        context,
        kind=SpanKind.CLIENT,
        attributes={semconv.GEN_AI_OPERATION: request.operation, semconv.GEN_AI_PROVIDER: request.provider, **asked},
    )


def end(span: Span | None, error: BaseException | None) -> None:
    """End it, if there is one, with status ERROR if *error* says why."""
    if span is None:
        return
    if error is not None:
        describe_error(span, error)
    our_spans.end(span)


def describe(span: Span, usage: Usage) -> None:
    """The response's facts, after the GenAI conventions, on a span of our own."""
    if not span.is_recording():
        return
    facts = {
        semconv.GEN_AI_RESPONSE_MODEL: usage.model,
        semconv.GEN_AI_RESPONSE_ID: usage.response_id,
        semconv.GEN_AI_INPUT_TOKENS: usage.input_tokens,
        semconv.GEN_AI_OUTPUT_TOKENS: usage.output_tokens,
        semconv.GEN_AI_CACHE_READ: usage.cache_read_tokens or None,
        semconv.GEN_AI_CACHE_WRITE: usage.cache_write_tokens or None,
        semconv.GEN_AI_REASONING: usage.reasoning_tokens or None,
    }
    for name, value in facts.items():
        if value is not None:
            span.set_attribute(name, value)
