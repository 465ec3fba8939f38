"""Anthropic's wire form: requests read as OpenAI's chat completions, answers written as messages and their events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.wire import Json, Outcome

PATH = "/v1/messages"
_CHOICES = {"any": "required", "auto": "auto", "none": "none"}
_ERRORS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def as_chat(body: Mapping[str, Any]) -> Json:
    """The same request in OpenAI's form."""
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    messages = [one for message in body["messages"] for one in _messages(message)]
    tools = [{"type": "function", "function": {"name": tool["name"]}} for tool in body.get("tools") or ()]
    choice = body.get("tool_choice") or {}
    named = {"function": {"name": choice["name"]}} if "name" in choice else _CHOICES[choice.get("type", "auto")]
    return {**body, "messages": system + messages, "tools": tools, "tool_choice": named}


def _messages(message: Mapping[str, Any]) -> Iterator[Json]:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "content": block.get("content") or ""}
    calls = [
        {"function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in blocks
        if block["type"] == "tool_use"
    ]
    text = "".join(block.get("text", "") for block in blocks)
    if text or calls:
        yield {"role": message["role"], "content": text, "tool_calls": calls}


def message(outcome: Outcome) -> Json:
    """A whole answer."""
    stopped = {"tool_calls": "tool_use", "length": "max_tokens"}.get(outcome.finish, "end_turn")
    return _head(outcome) | {"content": _blocks(outcome), "stop_reason": stopped} | _usage(outcome)


def events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one: its first event has the input, its ``message_delta`` the output."""
    whole = message(outcome)
    began = {name: 1 if name == "output_tokens" else count for name, count in whole.get("usage", {}).items()}
    yield {"type": "message_start", "message": _head(outcome) | ({"usage": began} if began else {})}
    yield {"type": "ping"}
    for i, block in enumerate(whole["content"]):
        text = block["type"] == "text"
        yield {
            "type": "content_block_start",
            "index": i,
            "content_block": block | ({"text": ""} if text else {"input": {}}),
        }
        for piece in outcome.pieces if text else [json.dumps(block["input"])]:
            kind, name = ("text_delta", "text") if text else ("input_json_delta", "partial_json")
            yield {"type": "content_block_delta", "index": i, "delta": {"type": kind, name: piece}}
        yield {"type": "content_block_stop", "index": i}
    made = {"usage": {"output_tokens": outcome.output_tokens}} if began else {"usage": {}}
    yield {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None}} | made
    yield {"type": "message_stop"}


def _head(outcome: Outcome) -> Json:
    identity = f"msg_demo_{outcome.request.number:06d}"
    empty = {"content": [], "stop_reason": None, "stop_sequence": None}
    return {"id": identity, "type": "message", "role": "assistant", "model": outcome.model} | empty


def _blocks(outcome: Outcome) -> list[Json]:
    calls = [(call["id"], call["function"]) for call in outcome.tool_calls]
    used: list[Json] = [
        {"type": "tool_use", "id": call, "name": function["name"], "input": json.loads(function["arguments"])}
        for call, function in calls
    ]
    return used or [{"type": "text", "text": outcome.text}]


def _usage(outcome: Outcome) -> Json:
    """Its input is what no cache had anything to do with."""
    if not outcome.reply.send_usage:
        return {}
    read, written = outcome.reply.cached_tokens, outcome.reply.written_tokens
    usage = {
        "input_tokens": outcome.input_tokens - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": outcome.output_tokens,
        **outcome.reply.usage,
    }
    return {"usage": usage}


def error(status: int, said: str) -> Json:
    """The body of an error answer."""
    return {"type": "error", "error": {"type": _ERRORS.get(status, "invalid_request_error"), "message": said}}
