"""Anthropic's messages, also as Bedrock and Vertex AI speak them. Counting tokens is no model call, a batch a step.

Its ``input_tokens`` are those that no cache had anything to do with: what was read from a cache and written to one
comes on top. A stream tells the input in ``message_start`` and the output in ``message_delta``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, count, get, spoken, text_of
from otelbudget.model.usage import Usage

_COUNTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
#: Work of the provider's own that the totals of a message leave out.
_BESIDE: Final = ("compaction", "advisor_message")


class Messages(Dialect):
    """``POST /v1/messages``, where ``max_tokens`` is required."""

    def maximum_keys(self, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:
        """``max_tokens``; not where it has to stay above a budget for thinking that the request names."""
        thinks = count(get(body.get("thinking"), "budget_tokens"))
        return () if thinks else super().maximum_keys(body, provider)

    def usage(self, answer: object, provider: str) -> Usage | None:
        """The usage of a message, or of what is known of one."""
        reported = get(answer, "usage")
        parts = [reported, *_beside(reported)]
        fresh, read, written, made = (sum(count(get(part, name)) or 0 for part in parts) for name in _COUNTS)
        given = fresh + read + written
        if not (given or made):
            return None
        thought = count(get(get(reported, "output_tokens_details"), "thinking_tokens")) or 0
        return Usage(
            given,
            made,
            cache_read_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=min(thought, made),
            model=text_of(answer, "model"),
            provider=provider,
            response_id=text_of(answer, "id"),
        )

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message that ``message_start`` begins, or what ``message_delta`` adds to its usage."""
        message = event.get("message")
        return message if isinstance(message, Mapping) else {"usage": event.get("usage")}

    def words(self, event: Mapping[str, Any]) -> str:
        """Text, thinking, and the names and arguments of tools."""
        kind = event.get("type")
        if kind == "content_block_start":
            return text_of(event.get("content_block"), "name") or ""
        return "".join(spoken(event.get("delta"))) if kind == "content_block_delta" else ""

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """At ``message_delta``, which has the last count of the output."""
        return event.get("type") in ("message_delta", "message_stop") and usage is not None


def _beside(reported: object) -> list[object]:
    iterations = get(reported, "iterations")
    return [one for one in iterations if get(one, "type") in _BESIDE] if isinstance(iterations, list) else []


ENDPOINTS: Final[Endpoints] = (
    ("/messages", Messages("chat", ("max_tokens",))),
    ("/messages/batches", Messages("batch", fee=True)),
)
