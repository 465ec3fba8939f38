"""Gemini's wire format. Counting tokens is no model call; images, videos and batches are a step.

Each chunk of a stream tells the usage so far, the first ones that of the prompt alone; thoughts are output and are in
the total. Interactions, whose answers are kept, and decisions are another format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.calls.sizing import Kept
from otelbudget.guards.dialects import Dialect, Endpoints, count, get, spoken, text_of
from otelbudget.model.reported import at
from otelbudget.model.usage import Usage
from otelbudget.model.usage_names import PAID_ONCE

#: A tool that searches.
_SEARCH: Final = ("googleSearch", "google_search")


class Gemini(Dialect):
    """``generateContent`` and embeddings."""

    def answers(self, body: Mapping[str, Any]) -> int:
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

    def words(self, event: Mapping[str, Any]) -> str:
        candidates = event.get("candidates")
        parts = [get(one, "content") for one in candidates] if isinstance(candidates, list) else []
        return "".join(spoken(parts))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        candidates = event.get("candidates")
        reasons = [get(one, "finishReason") for one in candidates] if isinstance(candidates, list) else []
        return usage is not None and any(reasons)


class Embeddings(Gemini):
    """Also of Vertex AI, where older models tell the tokens of each text."""

    def usage(self, answer: object, provider: str) -> Usage | None:
        told, predictions = super().usage(answer, provider), get(answer, "predictions")
        if told is not None or not isinstance(predictions, list):
            return told
        counts = [count(at(one, "embeddings.statistics.token_count")) for one in predictions]
        return Usage(sum(filter(None, counts)), 0, provider=provider) if any(counts) else None


class Interaction(Dialect):
    """``interactions``: of a model, or of an agent of Google's, which is one step whatever it does."""

    def kept(self, body: Mapping[str, Any]) -> Kept:
        return Kept(text_of(body, "previous_interaction_id"))

    def words(self, event: Mapping[str, Any]) -> str:
        return "".join(spoken(event.get("delta")))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        return event.get("event_type") == "interaction.completed" and usage is not None


_CONTENT: Final = Gemini("generate_content", ("maxOutputTokens",), inside="generationConfig")
_EMBEDDING: Final = Embeddings("embeddings")
ENDPOINTS: Final[Endpoints] = (
    (":generateContent", _CONTENT),
    (":streamGenerateContent", _CONTENT),
    (":embedContent", _EMBEDDING),
    (":batchEmbedContents", _EMBEDDING),
    ("/models/*embed*:predict", _EMBEDDING),
    (":predict", Gemini("image_generation", fee=True)),
    (":predictLongRunning", Gemini("video_generation", fee=True)),
    *(
        (path, Gemini("batch", fee=True))
        for path in (":batchGenerateContent", ":asyncBatchEmbedContent", "/batchPredictionJobs")
    ),
)
INTERACTIONS: Final[Endpoints] = (
    ("/interactions", Interaction("generate_content", ("max_output_tokens",), inside="generation_config")),
    ("/decisions", Interaction("generate_content")),
)
