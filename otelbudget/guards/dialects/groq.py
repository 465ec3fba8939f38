"""Groq's dialect of OpenAI's: a stream tells its usage in ``x_groq`` of its last chunk, without being asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Endpoints, openai


class Chat(openai.OpenAI):
    """``POST /chat/completions``."""

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The chunk, with the usage that Groq puts beside it."""
        beside = event.get("x_groq")
        usage = beside.get("usage") if isinstance(beside, Mapping) else None
        return {**event, "usage": usage} if usage else event


ENDPOINTS: Final[Endpoints] = (("/chat/completions", Chat("chat", openai.CHAT_MAXIMA)), *openai.ENDPOINTS)
