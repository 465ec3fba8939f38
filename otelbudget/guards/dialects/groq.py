"""Groq's dialect of OpenAI's: a stream tells its usage in ``x_groq`` of its last chunk, without being asked."""

from __future__ import annotations

from typing import Final

from otelbudget.guards.dialects import Endpoints, openai

ENDPOINTS: Final[Endpoints] = (("/chat/completions", openai.OpenAI("chat", openai.CHAT_MAXIMA)), *openai.ENDPOINTS)
