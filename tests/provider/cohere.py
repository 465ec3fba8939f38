"""Cohere's wire forms, of both versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.wire import Json, Outcome

CHAT, OLD_CHAT = "/cohere/v2/chat", "/cohere/v1/chat"
PATHS = (CHAT, OLD_CHAT)


def as_chat(body: Mapping[str, Any]) -> Json:
    """The same request in OpenAI's form."""
    messages = body.get("messages") or [{"role": "user", "content": body.get("message", "")}]
    return {**body, "messages": messages}


def _usage(outcome: Outcome) -> Json:
    if not outcome.reply.send_usage:
        return {}
    tokens = {"input_tokens": float(outcome.input_tokens), "output_tokens": float(outcome.output_tokens)}
    billed = {name: number // 2 for name, number in tokens.items()}
    return {"billed_units": billed, "tokens": tokens, "cached_tokens": float(outcome.reply.cached_tokens)}


def _id(outcome: Outcome) -> str:
    return f"cohere-demo-{outcome.request.number:06d}"


def message(outcome: Outcome) -> Json:
    """A whole answer."""
    said = {"role": "assistant", "content": [{"type": "text", "text": outcome.text}]}
    return {"id": _id(outcome), "finish_reason": "COMPLETE", "message": said, "usage": _usage(outcome)}


def events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one."""
    yield {"type": "message-start", "id": _id(outcome), "delta": {"message": {"role": "assistant", "content": []}}}
    start = {"message": {"content": {"type": "text", "text": ""}}}
    yield {"type": "content-start", "index": 0, "delta": start}
    for piece in outcome.pieces:
        yield {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}
    yield {"type": "content-end", "index": 0}
    yield {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _usage(outcome)}}


def old_message(outcome: Outcome) -> Json:
    """A whole answer of the first version."""
    meta = {"api_version": {"version": "1"}, **_usage(outcome)}
    return {"text": outcome.text, "generation_id": _id(outcome), "finish_reason": "COMPLETE", "meta": meta}


def old_events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one."""
    yield {"event_type": "stream-start", "is_finished": False, "generation_id": _id(outcome)}
    for piece in outcome.pieces:
        yield {"event_type": "text-generation", "is_finished": False, "text": piece}
    whole = old_message(outcome)
    yield {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": whole}
