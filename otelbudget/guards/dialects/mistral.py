"""Mistral's dialect of OpenAI's, whose streams tell their usage without being asked; and its conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Endpoints, openai, spoken
from otelbudget.model.usage import Usage

_CHAT: Final = openai.OpenAI("chat", ("max_tokens",))


class Conversations(openai.OpenAI):
    """Starting one, going on with one, starting it again from an entry."""

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """That of ``completion_args``."""
        inner = body.get("completion_args")
        return super().max_output_tokens(inner) if isinstance(inner, Mapping) else None

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:  # noqa: ARG002
        """In ``completion_args``."""
        return {"completion_args": {**(body.get("completion_args") or {}), "max_tokens": maximum}}

    def words(self, event: Mapping[str, Any]) -> str:
        """Text, and the names and arguments of functions."""
        return "".join(spoken([event.get("content"), event.get("name"), event.get("arguments")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """With the event that has the usage."""
        return usage is not None or event.get("type") == "conversation.response.done"


_CONVERSATION: Final = Conversations("chat", ("max_tokens",))
ENDPOINTS: Final[Endpoints] = (
    ("/chat/completions", _CHAT),
    ("/agents/completions", _CHAT),
    ("/conversations", _CONVERSATION),
    ("/conversations/*", _CONVERSATION),
    # On Vertex AI, where all models have the same.
    ("/rawPredict", _CHAT),
    ("/streamRawPredict", _CHAT),
    ("/ocr", openai.fee("ocr")),
    ("/*moderations", openai.fee("moderation")),
    ("/*classifications", openai.fee("moderation")),
    ("/batch/jobs", openai.fee("batch")),
    *openai.ENDPOINTS,
)
