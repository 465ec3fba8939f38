"""OpenAI's wire forms: requests read into plain messages, answers written as JSON bodies and stream events."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from otelbudget.demo.script import Reply, Request
from otelbudget.demo.tokens import count_tokens, cut, prompt_tokens
from otelbudget.demo.writer import write

__all__ = ["Json", "Outcome", "chat", "chat_events", "error", "outcome", "response", "response_events", "wrong_number"]

Json = dict[str, Any]
_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer before it is put into a wire form."""

    request: Request
    pieces: tuple[str, ...]
    tool_calls: tuple[Json, ...]
    finish: str
    input_tokens: int
    output_tokens: int
    reply: Reply
    choices: int

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)

    @property
    def model(self) -> str:
        """The model that the request named."""
        return str(self.request.body.get("model", "demo-small"))


def outcome(request: Request, reply: Reply) -> Outcome:
    """What the server answers to *request*, as far as *reply* does not prescribe it."""
    messages, tools = _messages(request.body), _tools(request.body)
    said = write(messages, tools, _choice(request.body))
    prescribed = reply.text is not None or reply.chunks is not None
    calls = reply.tool_calls if reply.tool_calls is not None else (() if prescribed else said.tool_calls)
    tool_calls = tuple(
        {"id": f"call_{request.number}_{i}", "name": name, "arguments": json.dumps(arguments)}
        for i, (name, arguments) in enumerate(calls)
    )
    text = "" if tool_calls else said.text
    pieces = tuple(reply.chunks or _PIECE.findall(text if reply.text is None else reply.text))
    return _within_maximum(request, reply, pieces, tool_calls, prompt_tokens(messages, tools))


def _within_maximum(
    request: Request, reply: Reply, pieces: tuple[str, ...], tool_calls: tuple[Json, ...], input_tokens: int
) -> Outcome:
    body, finish = request.body, "tool_calls" if tool_calls else "stop"
    maximum = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    spoken = "".join(pieces)
    tokens = sum(count_tokens(call["name"] + call["arguments"]) + 3 for call in tool_calls) + count_tokens(spoken)
    tokens = reply.output_tokens if reply.output_tokens is not None else max(1, tokens)
    if maximum is not None and tokens > maximum:
        tokens, finish = maximum, "length"
        pieces, tool_calls = tuple(_PIECE.findall(cut(spoken, maximum))), ()
    choices = int(body.get("n") or 1)
    asked = input_tokens if reply.input_tokens is None else reply.input_tokens
    return Outcome(request, pieces, tool_calls, finish, asked, tokens * choices, reply, choices)


# --- reading requests

#: Numbers of a request -> the most that is answered; any of them at least 1.
_NUMBERS: dict[str, float] = {
    "max_completion_tokens": math.inf,
    "max_tokens": math.inf,
    "max_output_tokens": math.inf,
    "n": 128,
    "dimensions": 4096,
}


def wrong_number(body: Mapping[str, Any]) -> str | None:
    """What is wrong with a number of a request, or None."""
    for name, most in _NUMBERS.items():
        value = body.get(name)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            return f"{name} must be a whole number from 1{'' if most == math.inf else f' to {most}'}, got {value!r}"
    return None


def _messages(body: Mapping[str, Any]) -> list[Json]:
    if "messages" in body:
        return [_message(message) for message in body["messages"]]
    given = body.get("input") or ""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    start = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    return [_message(item) for item in start + list(items)]


def _message(item: Mapping[str, Any]) -> Json:
    if item.get("type") == "function_call":
        call = {"name": item["name"], "arguments": item["arguments"]}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": _text(item.get("output"))}
    calls = [dict(call.get("function") or {}) for call in item.get("tool_calls") or ()]
    return {"role": item.get("role", "user"), "content": _text(item.get("content")), "tool_calls": calls}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in parts)


def _tools(body: Mapping[str, Any]) -> list[Json]:
    """Functions offered: nested in chat completions, flat in responses."""
    return [dict(tool.get("function") or tool) for tool in body.get("tools") or () if tool.get("type") == "function"]


def _choice(body: Mapping[str, Any]) -> object:
    choice = body.get("tool_choice")
    return (choice.get("function") or choice).get("name") if isinstance(choice, dict) else choice


# --- chat completions


def chat(answer: Outcome) -> Json:
    """The body of a chat completion."""
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [_chat_call(call) for call in answer.tool_calls]
    choices = [
        {"index": i, "message": message, "finish_reason": answer.finish, "logprobs": None}
        for i in range(answer.choices)
    ]
    return _chat_head(answer, "chat.completion") | {"choices": choices} | _chat_usage(answer)


def chat_events(answer: Outcome) -> Iterator[Json | str]:
    """The chunks of a streamed chat completion, the last being ``[DONE]``."""
    head = _chat_head(answer, "chat.completion.chunk")
    include_usage = bool((answer.request.body.get("stream_options") or {}).get("include_usage"))
    tail: Json = {"usage": None} if include_usage else {}
    for i in range(answer.choices):
        for delta, finish in _deltas(answer):
            choice = {"index": i, "delta": delta, "finish_reason": finish, "logprobs": None}
            yield head | {"choices": [choice]} | tail
    if include_usage and answer.reply.send_usage:
        yield head | {"choices": []} | _chat_usage(answer)
    yield "[DONE]"


def _deltas(answer: Outcome) -> Iterator[tuple[Json, str | None]]:
    yield {"role": "assistant", "content": ""}, None
    for piece in answer.pieces:
        yield {"content": piece}, None
    for i, call in enumerate(answer.tool_calls):
        yield {"tool_calls": [{"index": i} | _chat_call(call)]}, None
    yield {}, answer.finish


def _chat_head(answer: Outcome, kind: str) -> Json:
    identity = f"chatcmpl-demo-{answer.request.number:06d}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": answer.model}


def _chat_call(call: Json) -> Json:
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}


def _chat_usage(answer: Outcome) -> Json:
    if not answer.reply.send_usage:
        return {}
    usage: Json = {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": answer.reply.reasoning_tokens},
    }
    return {"usage": usage}


# --- responses


def response(answer: Outcome) -> Json:
    """The body of a response."""
    cut_short = answer.finish == "length"
    details = {"incomplete_details": {"reason": "max_output_tokens"}} if cut_short else {}
    status = "incomplete" if cut_short else "completed"
    return _response_head(answer, status) | {"output": _items(answer)} | details | _response_usage(answer)


def response_events(answer: Outcome) -> Iterator[Json]:
    """The events of a streamed response, from ``response.created`` to ``response.completed``."""
    for number, event in enumerate(_events(answer)):
        yield event | {"sequence_number": number}


def _events(answer: Outcome) -> Iterator[Json]:
    started = _response_head(answer, "in_progress") | {"output": []}
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for i, item in enumerate(_items(answer)):
        yield from _item_events(answer, i, item)
    done = response(answer)
    yield {"type": f"response.{done['status']}", "response": done}


def _item_events(answer: Outcome, i: int, item: Json) -> Iterator[Json]:
    at: Json = {"item_id": item["id"], "output_index": i}
    empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
    yield {"type": "response.output_item.added", "output_index": i, "item": item | empty | {"status": "in_progress"}}
    if item["type"] == "message":
        at["content_index"] = 0
        part = item["content"][0]
        yield at | {"type": "response.content_part.added", "part": part | {"text": ""}}
        for piece in answer.pieces:
            yield at | {"type": "response.output_text.delta", "delta": piece, "logprobs": []}
        yield at | {"type": "response.output_text.done", "text": answer.text, "logprobs": []}
        yield at | {"type": "response.content_part.done", "part": part}
    else:
        arguments, kind = item["arguments"], "response.function_call_arguments"
        yield at | {"type": f"{kind}.delta", "delta": arguments}
        yield at | {"type": f"{kind}.done", "arguments": arguments, "name": item["name"]}
    yield {"type": "response.output_item.done", "output_index": i, "item": item}


def _items(answer: Outcome) -> list[Json]:
    number = answer.request.number
    calls: list[Json] = [
        {"type": "function_call", "id": f"fc_{number}_{i}", "call_id": call["id"], "status": "completed"}
        | {"name": call["name"], "arguments": call["arguments"]}
        for i, call in enumerate(answer.tool_calls)
    ]
    part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}
    return calls or [message]


def _response_head(answer: Outcome, status: str) -> Json:
    return {
        "id": f"resp_demo_{answer.request.number:06d}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": answer.model,
        "error": None,
        "incomplete_details": None,
        "instructions": answer.request.body.get("instructions"),
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": answer.request.body.get("tool_choice") or "auto",
        "tools": answer.request.body.get("tools") or [],
        "usage": None,
    }


def _response_usage(answer: Outcome) -> Json:
    if not answer.reply.send_usage:
        return {}
    usage: Json = {
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "input_tokens_details": {"cached_tokens": answer.reply.cached_tokens, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": answer.reply.reasoning_tokens},
    }
    return {"usage": usage}


# --- errors

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error(status: int, message: str | None = None) -> Json:
    """The body of an error answer."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    said = message or f"The demo server was told to answer {status}."
    return {"error": {"message": said, "type": kind, "param": None, "code": None}}
