"""Ollama's wire form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.wire import Json, Outcome

CHAT, GENERATE = "/api/chat", "/api/generate"
PATHS = (CHAT, GENERATE)


def as_chat(body: Mapping[str, Any]) -> Json:
    """The same request in OpenAI's form."""
    messages = body.get("messages") or [{"role": "user", "content": body.get("prompt", "")}]
    maximum = (body.get("options") or {}).get("num_predict")
    return {**body, "messages": messages, **({"max_tokens": maximum} if (maximum or 0) > 0 else {})}


def _line(outcome: Outcome, text: str, **more: Any) -> Json:
    said = {"message": {"role": "assistant", "content": text}} if outcome.request.path == CHAT else {"response": text}
    return {"model": outcome.model, "created_at": "2026-11-01T00:00:00Z", "done": False, **said, **more}


def _done(outcome: Outcome, text: str) -> Json:
    counts = {"prompt_eval_count": outcome.input_tokens, "eval_count": outcome.output_tokens}
    return _line(outcome, text, done=True, done_reason="stop", **(counts if outcome.reply.send_usage else {}))


def last(outcome: Outcome) -> Json:
    """A whole answer."""
    return _done(outcome, outcome.text)


def lines(outcome: Outcome) -> Iterator[Json]:
    """A streamed one."""
    for piece in outcome.pieces:
        yield _line(outcome, piece)
    yield _done(outcome, "")
