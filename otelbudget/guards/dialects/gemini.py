"""Gemini's wire format. Counting tokens is no model call; images, videos and batches are a step.

Each chunk of a stream tells the usage so far, the first ones that of the prompt alone; thoughts are output and are in
the total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, count, get, spoken, text_of
from otelbudget.model.usage import Usage


class Gemini(Dialect):
    """``generateContent`` and embeddings."""

    def answers(self, body: Mapping[str, Any]) -> int:
        """Candidates."""
        return count(get(body.get("generationConfig"), "candidateCount")) or 1

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """That of ``generationConfig``, for each candidate."""
        inner = body.get("generationConfig")
        maximum = super().max_output_tokens(inner if isinstance(inner, Mapping) else {})
        return maximum and maximum * self.answers(body)

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:  # noqa: ARG002
        """In ``generationConfig``."""
        return {"generationConfig": {**(body.get("generationConfig") or {}), "maxOutputTokens": maximum}}

    def usage(self, answer: object, provider: str) -> Usage | None:
        """What is no input is output."""
        reported = get(answer, "usageMetadata") or get(answer, "usage")
        tool = count(get(reported, "toolUsePromptTokenCount")) or 0
        given = (count(get(reported, "promptTokenCount")) or 0) + tool
        thought = count(get(reported, "thoughtsTokenCount")) or 0
        made = (count(get(reported, "candidatesTokenCount")) or 0) + thought
        made = max(made, (count(get(reported, "totalTokenCount")) or 0) - given)
        if not (given or made):
            return None
        return Usage(
            given,
            made,
            cache_read_tokens=min(count(get(reported, "cachedContentTokenCount")) or 0, given),
            reasoning_tokens=min(thought, made),
            model=text_of(answer, "modelVersion") or text_of(answer, "model"),
            provider=provider,
            response_id=text_of(answer, "responseId") or text_of(answer, "id"),
        )

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The chunk, in other names."""
        names = (("model", "modelVersion"), ("id", "responseId"), ("usage", "usageMetadata"))
        return {name: event.get(theirs) for name, theirs in names}

    def words(self, event: Mapping[str, Any]) -> str:
        """Text, thoughts, and the names and arguments of functions."""
        candidates = event.get("candidates")
        parts = [get(one, "content") for one in candidates] if isinstance(candidates, list) else []
        return "".join(spoken(parts))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """With the reason why it has."""
        candidates = event.get("candidates")
        reasons = [get(one, "finishReason") for one in candidates] if isinstance(candidates, list) else []
        return usage is not None and any(reasons)


_CONTENT: Final = Gemini("generate_content", ("maxOutputTokens",))
_EMBEDDING: Final = Gemini("embeddings")
ENDPOINTS: Final[Endpoints] = (
    (":generateContent", _CONTENT),
    (":streamGenerateContent", _CONTENT),
    (":embedContent", _EMBEDDING),
    (":batchEmbedContents", _EMBEDDING),
    (":predict", Gemini("image_generation", fee=True)),
    (":predictLongRunning", Gemini("video_generation", fee=True)),
    (":batchGenerateContent", Gemini("batch", fee=True)),
)
