"""The wire forms: requests read into plain messages, answers written as JSON bodies and stream events.

OpenAI's are here; Anthropic's and Gemini's are in files of their own.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from otelbudget.demo.server import Request
from otelbudget.demo.writer import Answer, count_tokens, cut, prompt_tokens, write
from provider import anthropic, bedrock, cohere, gemini, ollama
from provider.embeddings import embeddings
from provider.script import Reply

Json = dict[str, Any]
Event = Json | str
_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer before it is put into a wire form."""

    request: Request
    reply: Reply
    pieces: list[str]
    tool_calls: list[Json]
    finish: str
    input_tokens: int
    output_tokens: int
    choices: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def model(self) -> str:
        return str(self.request.body.get("model", "demo-small"))


def answer(request: Request, reply: Reply) -> Json | list[Event]:
    """What the server answers to *request*, as far as *reply* does not prescribe it: a body, or a stream's events."""
    if request.path in _EMBEDDINGS:
        return embeddings(request, reply)
    body, events = _FORMS[request.path]
    if request.path == anthropic.PATH:
        request = replace(request, body=anthropic.as_chat(request.body))
    elif request.path in gemini.PATHS:
        request = replace(request, body=gemini.as_chat(request.path, request.body))
    elif request.path in (*bedrock.CONVERSE, *bedrock.INVOKE):
        request = replace(request, body=bedrock.as_chat(request.path, request.body))
    elif request.path in (*cohere.PATHS, *ollama.PATHS):
        module = cohere if request.path in cohere.PATHS else ollama
        request = replace(request, body=module.as_chat(request.body))
    outcome = _outcome(request, reply)
    return list(events(outcome)) if request.body.get("stream") else body(outcome)


def _outcome(request: Request, reply: Reply) -> Outcome:
    body, messages, tools = request.body, _messages(request.body), _tools(request.body)
    said = _said(messages, [tool["name"] for tool in tools], _choice(body))
    calls = reply.tool_calls
    if calls is None:
        calls = said.tool_calls if reply.text is None and reply.chunks is None else ()
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]
    tool_calls: list[Json] = [
        {"id": f"call_{request.number}_{i}", "type": "function", "function": function}
        for i, function in enumerate(functions)
    ]
    ordinary = "" if tool_calls else said.text
    pieces = list(reply.chunks or _PIECE.findall(ordinary if reply.text is None else reply.text))
    finish, tokens = "tool_calls" if tool_calls else "stop", reply.output_tokens
    if tokens is None:
        called = sum(count_tokens(function["name"] + function["arguments"]) + 3 for function in functions)
        tokens = max(1, called + count_tokens("".join(pieces)))
    maximum = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    if maximum is not None and tokens > maximum:
        finish, tokens, tool_calls = "length", maximum, []
        pieces = _PIECE.findall(cut("".join(pieces), maximum))
    asked = prompt_tokens(messages, tools) if reply.input_tokens is None else reply.input_tokens
    choices = int(body.get("n") or 1)
    return Outcome(request, reply, pieces, tool_calls, finish, asked, tokens * choices, choices)


def _said(messages: list[Json], offered: list[str], choice: object) -> Answer:
    """What the demo's model says; it plays research only, and a call of another tool is made up here."""
    if not offered or choice == "none":
        return write(messages)
    researching = {"search", "read_document"} <= set(offered)
    if choice in offered or not researching:
        again = any(message["role"] == "tool" for message in messages)
        if choice in offered or choice == "required" or not again:
            return Answer(tool_calls=[(str(choice) if choice in offered else offered[0], {})])
    return write(messages, research=researching)


# --- reading requests

#: Numbers of a request, at least 1, and the most that is answered.
_NUMBERS = dict.fromkeys(("max_completion_tokens", "max_tokens", "max_output_tokens"), math.inf)
_NUMBERS |= {"n": 128, "dimensions": 4096}


def wrong(body: object) -> str | None:
    """What is wrong with the body of a request, or with a number in it; None if nothing is."""
    if not isinstance(body, dict):
        return "The body is not a JSON object."
    for name, most in _NUMBERS.items():
        value = body.get(name)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            return f"{name} must be a whole number from 1{'' if most == math.inf else f' to {most}'}, got {value!r}"
    return None


def _messages(body: Mapping[str, Any]) -> list[Json]:
    if "messages" in body:
        return [_message(message) for message in body["messages"]]
    given = body.get("input") or ""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    start = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    return [_message(item) for item in start + items]


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


def _usage(outcome: Outcome, asked: str, made: str, **details: int) -> Json:
    """The usage, if it is sent, in a form that calls input *asked* and output *made*, with more *details* of input."""
    if not outcome.reply.send_usage:
        return {}
    usage: Json = {
        f"{asked}_tokens": outcome.input_tokens,
        f"{made}_tokens": outcome.output_tokens,
        "total_tokens": outcome.input_tokens + outcome.output_tokens,
        f"{asked}_tokens_details": {"cached_tokens": outcome.reply.cached_tokens, **details},
        f"{made}_tokens_details": {"reasoning_tokens": outcome.reply.reasoning_tokens},
        **outcome.reply.usage,
    }
    return {"usage": usage}


# --- chat completions


def _chat(outcome: Outcome) -> Json:
    message: Json = {"role": "assistant", "content": outcome.text or None, "refusal": None}
    if outcome.tool_calls:
        message["tool_calls"] = outcome.tool_calls
    choices = [_chat_choice(i, outcome.finish, message=message) for i in range(outcome.choices)]
    return _chat_head(outcome, "chat.completion") | {"choices": choices} | _usage(outcome, "prompt", "completion")


def _chat_events(outcome: Outcome) -> Iterator[Event]:
    head = _chat_head(outcome, "chat.completion.chunk")
    include_usage = bool((outcome.request.body.get("stream_options") or {}).get("include_usage"))
    tail: Json = {"usage": None} if include_usage else {}
    deltas: list[Json] = [
        {"role": "assistant", "content": ""},
        *({"content": piece} for piece in outcome.pieces),
        *({"tool_calls": [{"index": i} | call]} for i, call in enumerate(outcome.tool_calls)),
    ]
    for i in range(outcome.choices):
        for delta in deltas:
            yield head | {"choices": [_chat_choice(i, None, delta=delta)]} | tail
        yield head | {"choices": [_chat_choice(i, outcome.finish, delta={})]} | tail
    if include_usage and outcome.reply.send_usage:
        yield head | {"choices": []} | _usage(outcome, "prompt", "completion")
    yield "[DONE]"


def _groq(outcome: Outcome) -> Json:
    return _chat(outcome) | {"service_tier": "on_demand"}


def _groq_events(outcome: Outcome) -> Iterator[Event]:
    """Groq tells the usage in its last chunk, asked or not, beside what OpenAI's form has."""
    *chunks, done = _chat_events(outcome)
    last, usage = chunks[-1], _usage(outcome, "prompt", "completion")
    assert isinstance(last, dict)
    yield from chunks[:-1]
    yield last | {"x_groq": {"id": "req_demo"} | usage}
    yield done


def _mistral_events(outcome: Outcome) -> Iterator[Event]:
    """Mistral tells the usage in its last chunk, asked or not."""
    *chunks, done = _chat_events(outcome)
    last = chunks[-1]
    assert isinstance(last, dict)
    yield from chunks[:-1]
    yield last | _usage(outcome, "prompt", "completion")
    yield done


def _chat_choice(index: int, finish: str | None, **said: Json) -> Json:
    return {"index": index, **said, "finish_reason": finish, "logprobs": None}


def _chat_head(outcome: Outcome, kind: str) -> Json:
    identity = f"chatcmpl-demo-{outcome.request.number:06d}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": outcome.model}


# --- responses


def _response(outcome: Outcome) -> Json:
    cut_short = outcome.finish == "length"
    details = {"incomplete_details": {"reason": "max_output_tokens"}} if cut_short else {}
    head = _response_head(outcome, "incomplete" if cut_short else "completed")
    return head | {"output": _items(outcome)} | details | _usage(outcome, "input", "output", cache_write_tokens=0)


def _response_events(outcome: Outcome) -> Iterator[Json]:
    started, done = _response_head(outcome, "in_progress"), _response(outcome)
    events = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        *(event for i, item in enumerate(done["output"]) for event in _item_events(outcome, i, item)),
        {"type": f"response.{done['status']}", "response": done},
    ]
    for number, event in enumerate(events):
        yield event | {"sequence_number": number}


def _item_events(outcome: Outcome, i: int, item: Json) -> Iterator[Json]:
    at: Json = {"item_id": item["id"], "output_index": i}
    empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
    yield {"type": "response.output_item.added", "output_index": i, "item": item | empty | {"status": "in_progress"}}
    if item["type"] == "message":
        at["content_index"] = 0
        part = item["content"][0]
        yield at | {"type": "response.content_part.added", "part": part | {"text": ""}}
        for piece in outcome.pieces:
            yield at | {"type": "response.output_text.delta", "delta": piece, "logprobs": []}
        yield at | {"type": "response.output_text.done", "text": outcome.text, "logprobs": []}
        yield at | {"type": "response.content_part.done", "part": part}
    else:
        arguments, kind = item["arguments"], "response.function_call_arguments"
        yield at | {"type": f"{kind}.delta", "delta": arguments}
        yield at | {"type": f"{kind}.done", "arguments": arguments, "name": item["name"]}
    yield {"type": "response.output_item.done", "output_index": i, "item": item}


def _items(outcome: Outcome) -> list[Json]:
    number = outcome.request.number
    calls: list[Json] = [
        {"type": "function_call", "id": f"fc_{number}_{i}", "call_id": call["id"], "status": "completed"}
        | call["function"]
        for i, call in enumerate(outcome.tool_calls)
    ]
    part = {"type": "output_text", "text": outcome.text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}
    return calls or [message]


def _response_head(outcome: Outcome, status: str) -> Json:
    body = outcome.request.body
    return {
        "id": f"resp_demo_{outcome.request.number:06d}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": outcome.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "usage": None,
    }


_Forms = tuple[Callable[[Outcome], Json], Callable[[Outcome], Iterator[Event]]]
#: Path -> (body of a plain answer, events of a stream).
_FORMS: dict[str, _Forms] = {
    "/v1/chat/completions": (_chat, _chat_events),
    "/v1/responses": (_response, _response_events),
    "/openai/v1/chat/completions": (_groq, _groq_events),
    "/mistral/v1/chat/completions": (_chat, _mistral_events),
    "/mistral/v1/fim/completions": (_chat, _mistral_events),
    "/mistral/v1/agents/completions": (_chat, _mistral_events),
    anthropic.PATH: (anthropic.message, anthropic.events),
    **dict.fromkeys(gemini.PATHS, (gemini.content, gemini.events)),
    cohere.CHAT: (cohere.message, cohere.events),
    cohere.OLD_CHAT: (cohere.old_message, cohere.old_events),
    **dict.fromkeys(ollama.PATHS, (ollama.last, ollama.lines)),
    **dict.fromkeys(bedrock.CONVERSE, (bedrock.converse, bedrock.converse_events)),
    **dict.fromkeys(bedrock.INVOKE, (bedrock.invoked, bedrock.invoked_events)),
}


def _line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _sse(event: Event) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()


_Frames = tuple[str, Callable[[Event], bytes]]
_AWS: _Frames = ("application/vnd.amazon.eventstream", bedrock.frame)
#: Path -> content type of a stream, and how its events are written.
_FRAMES: dict[str, _Frames] = {
    cohere.OLD_CHAT: ("application/stream+json", _line),
    **dict.fromkeys(ollama.PATHS, ("application/x-ndjson", _line)),
    **dict.fromkeys(bedrock.STREAMS, _AWS),
}


def framed(path: str, events: Sequence[Event]) -> tuple[str, list[bytes]]:
    """Content type and pieces of a stream that answers a request to *path*."""
    kind, write_event = _FRAMES.get(path, ("text/event-stream", _sse))
    return kind, list(map(write_event, events))


_EMBEDDINGS = ("/v1/embeddings", "/openai/v1/embeddings", "/mistral/v1/embeddings")
PATHS = (*_FORMS, *_EMBEDDINGS)


# --- errors

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error(path: str, status: int, message: str | None) -> Json:
    """The body of an error answer to *path*."""
    said = message or f"The demo server was told to answer {status}."
    if path.startswith(anthropic.PATH):
        return anthropic.error(status, said)
    if path.startswith(gemini.PREFIXES):
        return gemini.error(status, said)
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": said, "type": kind, "param": None, "code": None}}
