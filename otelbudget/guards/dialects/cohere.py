"""Cohere's wire format, of its first version and its second. Tokenizing is no call.

An answer tells both what the model has read and made (``tokens``) and what is billed of it; the former is charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, count, get, spoken, text_of
from otelbudget.model.usage import Usage

_LAST: Final = ("message-end", "stream-end")
_SPOKEN: Final = ("content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-delta")


class Cohere(Dialect):
    """Each of its endpoints."""

    def answers(self, body: Mapping[str, Any]) -> int:
        return count(body.get("num_generations")) or 1

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        whole = event.get("response")
        usage = get(event.get("delta"), "usage") or get(whole, "meta")
        return {"id": event.get("id") or get(whole, "generation_id"), "usage": usage}

    def words(self, event: Mapping[str, Any]) -> str:
        if event.get("type") in _SPOKEN:
            return "".join(spoken(event.get("delta")))
        return text_of(event, "text") or "" if event.get("event_type") == "text-generation" else ""

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:  # noqa: ARG002
        return event.get("type") in _LAST or event.get("event_type") in _LAST


_CHAT: Final = Cohere("chat", ("max_tokens",))
_EMBEDDING: Final = Cohere("embeddings")
ENDPOINTS: Final[Endpoints] = (
    ("/chat", _CHAT),
    ("/generate", Cohere("text_completion", ("max_tokens",))),
    ("/summarize", Cohere("text_completion")),
    ("/embed", _EMBEDDING),
    ("/rerank", Cohere("rerank", fee=True)),
    ("/classify", Cohere("classify", fee=True)),
    ("/parse", Cohere("ocr", fee=True)),
    ("/audio/transcriptions", Cohere("transcription", fee=True)),
    *((path, Cohere("batch", fee=True)) for path in ("/batches", "/embed-jobs")),
)
