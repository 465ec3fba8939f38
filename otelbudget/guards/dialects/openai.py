"""OpenAI's wire format, which most providers speak: chat completions, completions, responses, decisions and embeddings.

Pictures, videos, sound, moderation, reranking and batches are a step each; an upscaled or edited picture is one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from otelbudget.calls.sizing import Kept
from otelbudget.guards.dialects import Dialect, Endpoints, count, get, named, spoken, text_of
from otelbudget.guards.dialects.made import picture_tokens, speech_tokens
from otelbudget.model.usage import Usage

#: Providers of chat completions that know ``max_tokens`` and not its successor, by their own documentation.
_OLD_MAXIMUM: Final = frozenset({"azure.ai.inference", "cohere", "deepseek", "mistral_ai", "perplexity", "together"})
#: Who writes to a cache unasked; its newer models have a price for that.
_WRITES: Final = ("openai", "azure.ai.openai")
_WRITTEN: Final = frozenset({"cache_write_tokens"})
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

    def apart(self, body: Mapping[str, Any], provider: str) -> frozenset[str]:
        """OpenAI writes to its cache unasked, unless a request says that it marks itself what to write."""
        writes = provider in _WRITES and text_of(body, "prompt_cache_options.mode") != "explicit"
        return super().apart(body, provider) | (_WRITTEN if writes else frozenset())

    def maximum_keys(self, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:
        """``max_completion_tokens`` in a chat that has none, but for a few providers."""
        keys = super().maximum_keys(body, provider)
        if keys == CHAT_MAXIMA[:1] and body.get(keys[0]) is None and provider in _OLD_MAXIMUM:
            return CHAT_MAXIMA[1:]
        return keys

    def words(self, event: Mapping[str, Any]) -> str:
        kind = event.get("type")
        if isinstance(kind, str):
            delta = event.get("delta")
            return delta if isinstance(delta, str) and kind not in _BINARY_DELTAS else ""
        return "".join(text for one in _choices(event) for text in spoken([one.get("delta"), one.get("text")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """With the usage, which comes last, unless each chunk has that of all so far."""
        goes_on = any(get(choice, "finish_reason") is None for choice in _choices(event))
        return (usage is not None and not goes_on) or event.get("type") in _LAST_EVENTS

    def only_usage(self, event: Mapping[str, Any]) -> bool:
        return event.get("choices") == [] and self.usage(event, "") is not None


def _choices(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = event.get("choices")
    return [one for one in choices if isinstance(one, Mapping)] if isinstance(choices, list) else []


class Responses(OpenAI):
    """The Responses API, which keeps its answers, and conversations of them."""

    def searches(self, body: Mapping[str, Any]) -> int:
        """``max_tool_calls``, if one of its tools searches the web."""
        return (count(body.get("max_tool_calls")) or 0) if named(body.get("tools"), "web_search") else 0

    def kept(self, body: Mapping[str, Any]) -> Kept:
        """``previous_response_id``, and ``conversation``: an id, or an object with one."""
        conversation = text_of(body, "conversation") or text_of(body.get("conversation"), "id")
        return Kept(text_of(body, "previous_response_id"), conversation)


def fee(operation: str, made: Callable[[Mapping[str, Any]], int] | None = None) -> OpenAI:
    """An endpoint that makes no text, but costs something."""
    return OpenAI(operation, fee=True, made=made)


def _prompts(prompt: object) -> int:
    """How many prompts a completion has: a list of texts or of token lists is several, a list of tokens one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


CHAT_MAXIMA: Final = ("max_completion_tokens", "max_tokens")
ENDPOINTS: Final[Endpoints] = (
    ("/chat/completions", OpenAI("chat", CHAT_MAXIMA, asks_usage=True)),
    ("/completions", OpenAI("text_completion", ("max_tokens",), asks_usage=True)),
    ("/responses", Responses("chat", ("max_output_tokens",))),
    ("/responses/compact", Responses("chat")),
    ("/decisions", OpenAI("chat")),
    ("/embeddings", OpenAI("embeddings")),
    ("/images/*", fee("image_generation", picture_tokens)),
    ("/audio/speech", fee("speech", speech_tokens)),
    ("/audio/trans*", fee("transcription")),
    ("/moderations", fee("moderation")),
    ("/batches", fee("batch")),
    *((f"/videos{path}", fee("video_generation")) for path in ("", "/edits", "/extensions", "/*/remix")),
    ("/rerank", fee("rerank")),
    ("/queue/submit", fee("batch")),
)
#: Groq's streams tell their usage, in ``x_groq`` of the last chunk, without being asked.
GROQ: Final[Endpoints] = (("/chat/completions", OpenAI("chat", CHAT_MAXIMA)), *ENDPOINTS)
