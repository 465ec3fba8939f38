"""What a test may prescribe to the server: `Reply`, given one by one or chosen by a callable from a `Request`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from otelbudget.demo.server import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One prescribed answer. What is not prescribed is as the server would have it: text, tool calls, usage.

    Args:
        text: The answer.
        chunks: The answer as the pieces that a stream sends.
        tool_calls: ``(name, arguments)`` for each tool call of the answer.
        input_tokens, output_tokens: Usage; output never above the request's own maximum.
        cached_tokens, written_tokens, reasoning_tokens: Parts of the above: read from and written to a cache.
        usage: More of the usage, in the provider's own names.
        send_usage: False leaves usage out of the answer.
        status: HTTP status; 400 and above answer with an error in OpenAI's form, whose message is *error*.
        headers: Further response headers, such as ``retry-after``.
        latency_s: Seconds before the answer begins; None takes the server's.
        fault: ``reset``: the connection is reset before any answer. ``reset_after_headers``: after status and headers.
            ``hang``: no answer until the server closes. ``drop``: half of the answer, then a reset.
    """

    text: str | None = None
    chunks: Sequence[str] | None = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    reasoning_tokens: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    send_usage: bool = True
    status: int = 200
    error: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    latency_s: float | None = None
    fault: Literal["reset", "reset_after_headers", "hang", "drop"] | None = None


#: Replies in order of arrival, or what chooses one; without one the server answers as it would.
Script = Iterable[Reply] | Callable[[Request], Reply | None]
