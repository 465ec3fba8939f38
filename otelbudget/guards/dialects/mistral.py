"""Mistral's dialect of OpenAI's, whose streams tell their usage without being asked; and its conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Endpoints, openai, spoken
from otelbudget.model.usage import Usage

_CHAT: Final = openai.OpenAI("chat", ("max_tokens",))


class Conversations(openai.OpenAI):
    """Starting one, going on with one, starting it again from an entry."""

    def words(self, event: Mapping[str, Any]) -> str:
        return "".join(spoken([event.get("content"), event.get("name"), event.get("arguments")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        return usage is not None or event.get("type") == "conversation.response.done"


_CONVERSATION: Final = Conversations("chat", ("max_tokens",), inside="completion_args")
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
