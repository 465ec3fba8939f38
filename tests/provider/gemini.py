"""Gemini's wire form: requests read as OpenAI's chat completions, answers written as ``GenerateContentResponse``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.wire import Json, Outcome

MODEL = "gemini-2.5-flash"
PAINTER = "gemini-2.5-flash-image"
#: Of newer and older releases.
PREFIXES = tuple(f"/{version}/models/{model}:" for version in ("v1", "v1beta") for model in (MODEL, PAINTER))
PATHS = tuple(prefix + method for prefix in PREFIXES for method in ("generateContent", "streamGenerateContent"))


def as_chat(path: str, body: Mapping[str, Any]) -> Json:
    """The same request in OpenAI's form."""
    config = body.get("generationConfig") or {}
    system = [_message("system", body["systemInstruction"]["parts"])] if body.get("systemInstruction") else []
    messages = [_message(one.get("role", "user"), one["parts"]) for one in body["contents"]]
    declared = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]
    maximum = {"max_tokens": config["maxOutputTokens"]} if "maxOutputTokens" in config else {}
    return {
        "model": path.rpartition("/")[2].partition(":")[0],
        "messages": system + messages,
        "tools": [{"type": "function", "function": {"name": one["name"]}} for one in declared],
        "stream": path.endswith("streamGenerateContent"),
        **maximum,
    }


def _message(role: str, parts: list[Json]) -> Json:
    if any("functionResponse" in part for part in parts):
        return {"role": "tool", "content": json.dumps(parts)}
    return {"role": role.replace("model", "assistant"), "content": "".join(part.get("text", "") for part in parts)}


def content(outcome: Outcome) -> Json:
    """A whole answer."""
    calls = [call["function"] for call in outcome.tool_calls]
    parts = [{"functionCall": {"name": call["name"], "args": json.loads(call["arguments"])}} for call in calls]
    return _chunk(outcome, parts or [{"text": outcome.text}], last=True)


def events(outcome: Outcome) -> Iterator[Json]:
    """A streamed one: only the last chunk knows the output."""
    if outcome.tool_calls:
        yield content(outcome)
        return
    for i, piece in enumerate(outcome.pieces):
        yield _chunk(outcome, [{"text": piece}], last=i == len(outcome.pieces) - 1)


def _chunk(outcome: Outcome, parts: list[Json], *, last: bool) -> Json:
    reply = outcome.reply
    usage: Json = {"promptTokenCount": outcome.input_tokens, "totalTokenCount": outcome.input_tokens}
    if last:
        usage["candidatesTokenCount"] = outcome.output_tokens - reply.reasoning_tokens
        usage["thoughtsTokenCount"] = reply.reasoning_tokens
        usage["cachedContentTokenCount"] = reply.cached_tokens
        usage["totalTokenCount"] += outcome.output_tokens
        usage |= outcome.reply.usage
    finish = {"finishReason": "MAX_TOKENS" if outcome.finish == "length" else "STOP"} if last else {}
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **finish}],
        "modelVersion": outcome.model,
        "responseId": f"gemini-demo-{outcome.request.number:06d}",
        **({"usageMetadata": usage} if reply.send_usage else {}),
    }


def error(status: int, said: str) -> Json:
    """The body of an error answer."""
    return {"error": {"code": status, "message": said, "status": "INVALID_ARGUMENT"}}
