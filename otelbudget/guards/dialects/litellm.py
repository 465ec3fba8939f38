"""litellm's dialect of OpenAI's, the same for all providers; a chunk with the usage that was asked for has a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Endpoints, anthropic, gemini, get, openai
from otelbudget.guards.litellm_results import asked_for
from otelbudget.model.usage import Usage


class Chat(openai.OpenAI):
    """``completion``."""

    def only_usage(self, event: Mapping[str, Any]) -> bool:
        """A chunk with usage in which nothing is said and nothing ends."""
        choices = event.get("choices") or []
        says = self.words(event) or any(get(choice, "finish_reason") for choice in choices)
        return not says and self.usage(event, "") is not None


class Embeddings(openai.OpenAI):
    """``embedding``, which may come from litellm's cache in part."""

    def usage(self, answer: object, provider: str) -> Usage | None:
        """That of what was asked for."""
        return super().usage(asked_for(answer), provider)


ENDPOINTS: Final[Endpoints] = (
    ("/chat/completions", Chat("chat", openai.CHAT_MAXIMA, asks_usage=True)),
    ("/embeddings", Embeddings("embeddings")),
    ("/ocr", openai.fee("ocr")),
    *openai.ENDPOINTS,
    *anthropic.ENDPOINTS,
    *gemini.ENDPOINTS,
    *gemini.INTERACTIONS,
)
