"""OpenAI's wire format, which most providers speak: chat completions, completions, responses and embeddings.

Pictures, sound, moderation and batches are a step each; an upscaled or edited picture is one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, cost_of, count, get, spoken, text_of
from otelbudget.model.usage import Usage

#: Providers of chat completions that know ``max_tokens`` and not its successor, by their own documentation.
_OLD_MAXIMUM: Final = frozenset({"azure.ai.inference", "cohere", "deepseek", "mistral_ai", "perplexity", "together"})
#: The events of the Responses API that carry the whole response, with its usage.
_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")
#: Its deltas that are no text.
_BINARY_DELTAS: Final = ("response.audio.delta",)


class OpenAI(Dialect):
    """Each of its endpoints: they differ in the names of what they count."""

    def answers(self, body: Mapping[str, Any]) -> int:
        """Choices times prompts."""
        choices = max(count(body.get("n")) or 1, count(body.get("best_of")) or 1)
        return choices * _prompts(body.get("prompt"))

    def maximum_keys(self, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:
        """``max_completion_tokens`` in a chat that has none, but for a few providers."""
        given = any(body.get(key) is not None for key in self.maxima)
        if not given and provider in _OLD_MAXIMUM and "max_tokens" in self.maxima:
            return ("max_tokens",)
        return super().maximum_keys(body, provider)

    def usage(self, answer: object, provider: str) -> Usage | None:
        """The usage of a completion, a response, an embedding or a chunk of a stream."""
        reported = get(answer, "usage")
        given, made, total = _split(reported)
        if not (given or made or total):
            return None  # nothing costs nothing: a server that does not count
        details = get(reported, "prompt_tokens_details") or get(reported, "input_tokens_details")
        made_details = get(reported, "completion_tokens_details") or get(reported, "output_tokens_details")
        return Usage(
            input_tokens=given,
            output_tokens=made,
            tokens=total if given is None and made is None else None,
            cache_read_tokens=min(count(get(details, "cached_tokens")) or 0, given or 0),
            cache_write_tokens=min(count(get(details, "cache_write_tokens")) or 0, given or 0),
            reasoning_tokens=min(count(get(made_details, "reasoning_tokens")) or 0, made or 0),
            model=text_of(answer, "model"),
            provider=provider,
            response_id=text_of(answer, "id"),
            reported_cost_usd=cost_of(get(reported, "cost")),
        )

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The chunk itself, or the response in an event of the Responses API."""
        whole = event.get("response")
        return whole if isinstance(whole, Mapping) else event

    def words(self, event: Mapping[str, Any]) -> str:
        """Deltas of choices, or of the Responses API."""
        kind = event.get("type")
        if isinstance(kind, str):
            delta = event.get("delta")
            return delta if isinstance(delta, str) and kind not in _BINARY_DELTAS else ""
        choices = event.get("choices")
        if not isinstance(choices, list):
            return ""
        parts = [part for part in choices if isinstance(part, Mapping)]
        return "".join(text for part in parts for text in spoken([part.get("delta"), part.get("text")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """With the usage, which comes last."""
        return usage is not None or event.get("type") in _LAST_EVENTS

    def only_usage(self, event: Mapping[str, Any]) -> bool:
        """A chunk with usage and no choice."""
        return event.get("choices") == [] and self.usage(event, "") is not None


def fee(operation: str) -> OpenAI:
    """An endpoint that makes no tokens, but costs something."""
    return OpenAI(operation, fee=True)


def _prompts(prompt: object) -> int:
    """How many prompts a completion has: a list of texts or of token lists is several, a list of tokens one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _split(reported: object) -> tuple[int | None, int | None, int | None]:
    """Input, output and total as reported, one of the first two completed from the others."""
    given = _first(reported, "prompt_tokens", "input_tokens")
    made = _first(reported, "completion_tokens", "output_tokens")
    total = _first(reported, "total_tokens")
    if total is not None and given is not None:
        made = max(total - given, made or 0)  # reasoning that some leave out of the output; none of an embedding
    elif total is not None and made is not None and total >= made:
        given = total - made
    return given, made, total


def _first(holder: object, *names: str) -> int | None:
    return next((n for name in names if (n := count(get(holder, name))) is not None), None)


CHAT_MAXIMA: Final = ("max_completion_tokens", "max_tokens")
ENDPOINTS: Final[Endpoints] = (
    ("/chat/completions", OpenAI("chat", CHAT_MAXIMA, asks_usage=True)),
    ("/completions", OpenAI("text_completion", ("max_tokens",))),
    ("/responses", OpenAI("chat", ("max_output_tokens",))),
    ("/responses/compact", OpenAI("chat")),
    ("/embeddings", OpenAI("embeddings")),
    ("/images/*", fee("image_generation")),
    ("/audio/speech", fee("speech")),
    ("/audio/trans*", fee("transcription")),
    ("/moderations", fee("moderation")),
    ("/batches", fee("batch")),
    ("/videos", fee("video_generation")),
)
