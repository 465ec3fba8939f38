"""litellm's dialect of OpenAI's, the same for all providers; a chunk with the usage that was asked for has a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Endpoints, anthropic, gemini, get, openai


class Chat(openai.OpenAI):
    """``completion``."""

    def only_usage(self, event: Mapping[str, Any]) -> bool:
        """A chunk with usage in which nothing is said and nothing ends."""
        choices = event.get("choices") or []
        says = self.words(event) or any(get(choice, "finish_reason") for choice in choices)
        return not says and self.usage(event, "") is not None


ENDPOINTS: Final[Endpoints] = (
    ("/chat/completions", Chat("chat", openai.CHAT_MAXIMA, asks_usage=True)),
    ("/ocr", openai.fee("ocr")),
    *openai.ENDPOINTS,
    *anthropic.ENDPOINTS,
    *gemini.ENDPOINTS,
)
