"""Gemini's wire format. Counting tokens is no model call; images, videos and batches are a step.

Each chunk of a stream tells the usage so far, the first ones that of the prompt alone; thoughts are output and are in
the total. Interactions are another format, which keeps its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.calls.sizing import Kept
from otelbudget.guards.dialects import Dialect, Endpoints, count, get, spoken, text_of
from otelbudget.model.usage import Usage
from otelbudget.model.usage_names import PAID_ONCE

#: A tool that searches.
_SEARCH: Final = ("googleSearch", "google_search")


class Gemini(Dialect):
    """``generateContent`` and embeddings."""

    def answers(self, body: Mapping[str, Any]) -> int:
        """Candidates."""
        return count(get(body.get("generationConfig"), "candidateCount")) or 1

    def apart(self, body: Mapping[str, Any], provider: str) -> frozenset[str]:
        """Models that make pictures, or films, make them unless the request says otherwise."""
        silent = get(body.get("generationConfig"), "responseModalities") is None
        return frozenset({"image_output_tokens", "video_output_tokens"}) if silent else super().apart(body, provider)

    def searches(self, body: Mapping[str, Any]) -> int:
        """One, where all that a request may search costs the same."""
        paid_once = (text_of(body, "model") or "").rpartition("/")[2].startswith(PAID_ONCE)
        tools = body.get("tools")
        searching = isinstance(tools, list) and any(get(tool, name) is not None for tool in tools for name in _SEARCH)
        return int(paid_once and searching)

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """That of ``generationConfig``, for each candidate."""
        inner = body.get("generationConfig")
        maximum = super().max_output_tokens(inner if isinstance(inner, Mapping) else {})
        return maximum and maximum * self.answers(body)

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:  # noqa: ARG002
        """In ``generationConfig``."""
        return {"generationConfig": {**(body.get("generationConfig") or {}), "maxOutputTokens": maximum}}

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


class Interaction(Dialect):
    """``interactions``: of a model, or of an agent of Google's, which is one step whatever it does."""

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """That of ``generation_config``."""
        inner = body.get("generation_config")
        return super().max_output_tokens(inner if isinstance(inner, Mapping) else {})

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:  # noqa: ARG002
        """In ``generation_config``."""
        return {"generation_config": {**(body.get("generation_config") or {}), "max_output_tokens": maximum}}

    def kept(self, body: Mapping[str, Any]) -> Kept:
        """``previous_interaction_id``."""
        return Kept(text_of(body, "previous_interaction_id"))

    def words(self, event: Mapping[str, Any]) -> str:
        """Text, thoughts, and the arguments of functions."""
        return "".join(spoken(event.get("delta")))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """With the event that has the whole of it."""
        return event.get("event_type") == "interaction.completed" and usage is not None


_CONTENT: Final = Gemini("generate_content", ("maxOutputTokens",))
_EMBEDDING: Final = Gemini("embeddings")
ENDPOINTS: Final[Endpoints] = (
    (":generateContent", _CONTENT),
    (":streamGenerateContent", _CONTENT),
    (":embedContent", _EMBEDDING),
    (":batchEmbedContents", _EMBEDDING),
    (":predict", Gemini("image_generation", fee=True)),
    (":predictLongRunning", Gemini("video_generation", fee=True)),
    *(
        (path, Gemini("batch", fee=True))
        for path in (":batchGenerateContent", ":asyncBatchEmbedContent", "/batchPredictionJobs")
    ),
)
INTERACTIONS: Final[Endpoints] = (("/interactions", Interaction("generate_content", ("max_output_tokens",))),)
