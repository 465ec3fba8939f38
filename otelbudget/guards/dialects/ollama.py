"""Ollama's wire format; its last line tells the usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, spoken
from otelbudget.model.usage import Usage

_COUNTS: Final = ("prompt_eval_count", "eval_count")


class Ollama(Dialect):
    """Each of its endpoints; a negative maximum means none."""

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"model": event.get("model"), "usage": {name: event.get(name) for name in _COUNTS}}

    def words(self, event: Mapping[str, Any]) -> str:
        return "".join(spoken([event.get("message"), event.get("response"), event.get("thinking")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:  # noqa: ARG002
        return event.get("done") is True


_EMBEDDING: Final = Ollama("embeddings")
ENDPOINTS: Final[Endpoints] = (
    ("/api/chat", Ollama("chat", ("num_predict",), inside="options")),
    ("/api/generate", Ollama("text_completion", ("num_predict",), inside="options")),
    ("/api/embed", _EMBEDDING),
    ("/api/embeddings", _EMBEDDING),
)
