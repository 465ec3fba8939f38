"""Bedrock's wire forms: Converse, and models invoked with their own bodies; streams are framed as AWS does."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from provider import anthropic

if TYPE_CHECKING:
    from provider.wire import Event, Json, Outcome

CLAUDE, LLAMA = "anthropic.claude-haiku-4-5", "meta.llama3-3-70b-instruct"
METRICS = "amazon-bedrock-invocationMetrics"
CONVERSE = (f"/model/{CLAUDE}/converse", f"/model/{CLAUDE}/converse-stream")
_HOW = ("invoke", "invoke-with-response-stream")
INVOKE = tuple(f"/model/{model}/{how}" for model in (CLAUDE, LLAMA) for how in _HOW)
STREAMS = tuple(path for path in CONVERSE + INVOKE if path.endswith("stream"))


def as_chat(path: str, body: Mapping[str, Any]) -> Json:
    """The same request in OpenAI's form."""
    if path in INVOKE[:2]:
        chat = anthropic.as_chat(body)
    else:
        maximum = (body.get("inferenceConfig") or {}).get("maxTokens", body.get("max_gen_len"))
        said = "".join(part.get("text", "") for message in body.get("messages") or () for part in message["content"])
        messages = [{"role": "user", "content": said or body.get("prompt", "")}]
        chat = {"messages": messages, **({"max_tokens": maximum} if maximum else {})}
    return {**chat, "model": path.split("/")[2], "stream": path in STREAMS}


def converse(outcome: Outcome) -> Json:
    """A whole answer."""
    said = {"message": {"role": "assistant", "content": [{"text": outcome.text}]}}
    return {"output": said, "stopReason": "end_turn", **_usage(outcome)}


def _usage(outcome: Outcome) -> Json:
    given, made, read = outcome.input_tokens, outcome.output_tokens, outcome.reply.cached_tokens
    counts = {"inputTokens": given - read, "outputTokens": made, "totalTokens": given + made}
    usage = (
        {"usage": {**counts, "cacheReadInputTokens": read, **outcome.reply.usage}} if outcome.reply.send_usage else {}
    )
    return {**usage, "metrics": {"latencyMs": 1}}


def converse_events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one: ``{event: what it says}``."""
    yield {"messageStart": {"role": "assistant"}}
    for piece in outcome.pieces:
        yield {"contentBlockDelta": {"delta": {"text": piece}, "contentBlockIndex": 0}}
    yield {"contentBlockStop": {"contentBlockIndex": 0}}
    yield {"messageStop": {"stopReason": "end_turn"}}
    yield {"metadata": _usage(outcome)}


def invoked(outcome: Outcome) -> Json:
    """A whole answer in the model's own form; Llama's is not told its usage here, but in headers."""
    return anthropic.message(outcome) if outcome.model == CLAUDE else {"generation": outcome.text}


def invoked_events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one."""
    chunks: list[Any] = [{"generation": piece} for piece in outcome.pieces]
    *before, last = list(anthropic.events(outcome)) if outcome.model == CLAUDE else [*chunks, {"generation": ""}]
    for event in before:
        yield {"chunk": event}
    counts = {"inputTokenCount": outcome.input_tokens, "outputTokenCount": outcome.output_tokens}
    yield {"chunk": {**last, METRICS: counts} if outcome.reply.send_usage else last}


def frame(event: Event) -> bytes:
    """An event as AWS frames it: lengths, checksum, headers, JSON, checksum; a chunk is base64 in it."""
    assert isinstance(event, dict)
    ((kind, said),) = event.items()
    if kind == "chunk":
        said = {"bytes": base64.b64encode(json.dumps(said).encode()).decode()}
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2) + value.encode()
    payload = json.dumps(said).encode()
    prelude = (16 + len(headers) + len(payload)).to_bytes(4) + len(headers).to_bytes(4)
    body = prelude + binascii.crc32(prelude).to_bytes(4) + headers + payload
    return body + binascii.crc32(body).to_bytes(4)
