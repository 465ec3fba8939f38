"""Anthropic's messages, also as Bedrock and Vertex AI speak them. Counting tokens is no model call, a batch a step.

Its ``input_tokens`` are those that no cache had anything to do with: what was read from a cache and written to one
comes on top. A stream tells the input in ``message_start`` and the output in ``message_delta``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, count, get, named, spoken, text_of
from otelbudget.model.usage import Usage


class Messages(Dialect):
    """``POST /v1/messages``, where ``max_tokens`` is required."""

    def searches(self, body: Mapping[str, Any]) -> int:
        """``max_uses`` of its tools that search."""
        return sum(count(get(tool, "max_uses")) or 0 for tool in named(body.get("tools"), "web_search"))

    def words(self, event: Mapping[str, Any]) -> str:
        kind = event.get("type")
        if kind == "content_block_start":
            return text_of(event.get("content_block"), "name") or ""
        return "".join(spoken(event.get("delta"))) if kind == "content_block_delta" else ""

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """At ``message_delta``, which has the last count of the output."""
        return event.get("type") in ("message_delta", "message_stop") and usage is not None


ENDPOINTS: Final[Endpoints] = (
    ("/messages", Messages("chat", ("max_tokens",))),
    ("/messages/batches", Messages("batch", fee=True)),
)
