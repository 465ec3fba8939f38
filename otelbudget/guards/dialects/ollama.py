"""Ollama's wire format; its last line tells the usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, spoken
from otelbudget.model.usage import Usage

_COUNTS: Final = ("prompt_eval_count", "eval_count")


class Ollama(Dialect):
    """Each of its endpoints."""

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """That of ``options``, where a negative one means none."""
        inner = body.get("options")
        return super().max_output_tokens(inner if isinstance(inner, Mapping) else {})

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:  # noqa: ARG002
        """In ``options``."""
        return {"options": {**(body.get("options") or {}), "num_predict": maximum}}

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The line, with its counts as its usage."""
        return {"model": event.get("model"), "usage": {name: event.get(name) for name in _COUNTS}}

    def words(self, event: Mapping[str, Any]) -> str:
        """Text, thoughts, and the names and arguments of tools."""
        return "".join(spoken([event.get("message"), event.get("response"), event.get("thinking")]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:  # noqa: ARG002
        """With the line that says so."""
        return event.get("done") is True


_EMBEDDING: Final = Ollama("embeddings")
ENDPOINTS: Final[Endpoints] = (
    ("/api/chat", Ollama("chat", ("num_predict",))),
    ("/api/generate", Ollama("text_completion", ("num_predict",))),
    ("/api/embed", _EMBEDDING),
    ("/api/embeddings", _EMBEDDING),
)
