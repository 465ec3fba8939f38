"""Requests to tokens, before a call: what in them is text, and how much all that is no text counts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from otelbudget.estimate.tokenizer import count_texts
from otelbudget.model.reported import at

#: Tokens around each message, and around the whole prompt (OpenAI's counting recipe says 3 and 3, names one more).
PER_MESSAGE: Final = 4
PER_REQUEST: Final = 3
#: An image: OpenAI and Anthropic charge 85 at low detail and at most some 1,500 otherwise, by a size not known here.
PER_IMAGE: Final = 1_500
PER_SMALL_IMAGE: Final = 85
#: Characters of base64 per token: sound at 48 kB/s is 10 tokens a second, a page of PDF 40 kB and 1,500 tokens.
AUDIO_PER_TOKEN: Final = 1_000
FILE_PER_TOKEN: Final = 25

#: How many values of a request are looked at.
_MOST_VALUES: Final = 1_000_000

#: What a model reads of a request body, in every dialect; the second group is read as the JSON that it is.
_READ: Final = (
    *("messages", "input", "inputs", "prompt", "suffix", "instructions", "system"),
    *("contents", "content", "requests", "systemInstruction"),
    *("message", "preamble", "chat_history", "documents", "texts"),  # Cohere's
    "inputText",  # Amazon Titan's
)
_READ_AS_JSON: Final = (
    *("tools", "functions", "response_format", "text"),
    *("output_config.format", "output_format", "toolConfig.tools"),  # Anthropic's, Bedrock's
    *("generationConfig.responseSchema", "generationConfig.responseJsonSchema"),
)
#: Fields of messages and their parts that the provider does not show to the model.
_UNSEEN: Final = frozenset(
    {"type", "role", "id", "call_id", "tool_call_id", "index", "status"}
    | {"annotations", "logprobs", "encrypted_content", "cache_control", "signature"}
)
_IMAGES: Final = frozenset(("image_url", "input_image", "image", "computer_screenshot"))
_FILES: Final = frozenset(("file", "input_file", "document"))
_TEXTS: Final = ("text", "content")
#: Fields whose value a model reads as it stands, also where it looks like data.
_SAID: Final = frozenset(
    {
        "text",
        "content",
        "input",
        "inputs",
        "prompt",
        "suffix",
        "instructions",
        "system",
        "arguments",
        "output",
        "message",
    }
)
#: Shorter values are never taken for data.
_SHORTEST_DATA: Final = 256
_BASE64: Final = re.compile(r"(?:data:[\w.+/-]*(?:;[\w=.-]+)*;base64,|[A-Za-z0-9+/_-]{60}[A-Za-z0-9+/_\r\n-]{190})")
#: How base64 of PNG, JPEG and GIF begins, and what that of WebP has in its middle.
_PICTURES: Final = ("iVBORw", "/9j/", "R0lGOD")
_WEBP: Final = "RUJQ"
#: The mask of a tool that makes pictures.
_IN_JSON: Final = re.compile('"data:[^"]*"')


def estimate_tokens(value: object, model: str | None = None) -> int:
    """About how many input tokens *value* is.

    Example:
        >>> estimate_tokens("How does a token bucket limit requests?")
        11

    Args:
        value: A text, a list of messages, a whole request body, or any JSON-like value, which counts as its JSON
            would. Nothing else is refused: an object counts by its attributes.
        model: For a tokenizer, see ``setup(tokenizer=...)``; without one, all models count alike.

    Returns:
        At least 1, except 0 for None and for an empty text, list or mapping.
    """
    if isinstance(value, str):
        return max(1, count_texts([value], model)) if value else 0
    if not value:
        return 0 if value is None or isinstance(value, list | tuple | Mapping | bytes) else 1
    if isinstance(value, Mapping) and any(name in value for name in ("messages", "input", "prompt")):
        return count_input(value, model)
    walk = _Walk()
    walk.add(value)
    return max(1, walk.tokens(model))


def count_input(body: object, model: str | None = None) -> int:
    """The input tokens of a whole request body as it is sent as JSON, estimated, at least 1. Never raises.

    Understands Anthropic's messages and OpenAI's chat completions, responses, completions and embeddings; token ids
    count one each. What the
    provider keeps on its side (``previous_response_id``, a stored prompt) can't be seen here.
    """
    if not isinstance(body, Mapping):
        return max(1, estimate_tokens(body, model))
    walk = _Walk()
    for name in _READ:
        walk.add(body.get(name))
    for name in _READ_AS_JSON:
        walk.add_json(at(body, name))
    return max(1, walk.tokens(model) + PER_REQUEST)


class _Walk:
    """Collects the texts of nested values, and the tokens of all that is no text. Runs no further than it must."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens = 0
        self._left = _MOST_VALUES

    def tokens(self, model: str | None) -> int:
        """Of everything added so far."""
        return self._tokens + count_texts(self._texts, model)

    def add_json(self, value: object) -> None:
        """Add *value* as JSON, with the names and the punctuation in it."""
        if value:
            try:
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=vars)
            except Exception:  # noqa: BLE001  what is no JSON is counted all the same
                self.add(value)
            else:
                self._texts.append(_IN_JSON.sub(self._without_data, text))

    def _without_data(self, found: re.Match[str]) -> str:
        self._tokens += _data(found[0][1:], len(found[0]))
        return '""'

    def add(self, value: object) -> None:
        """Add the texts in *value*, without the names of its fields."""
        queue = [("content", value)]
        while queue and self._left > 0:
            self._left -= 1
            name, found = queue.pop()
            try:
                queue.extend(self._inside(name, found))
            except Exception:  # noqa: BLE001  a value that can't be read must not stop the call it belongs to
                self._tokens += 1
        self._tokens += len(queue)

    def _inside(self, name: str, value: Any) -> Any:
        """Count *value* itself, which has a *name*; gives the values inside it, with theirs."""
        if isinstance(value, str):
            if len(value) >= _SHORTEST_DATA and name not in _SAID and _BASE64.match(value):
                self._tokens += _data(value, len(value))
            else:
                self._texts.append(value)
        elif isinstance(value, Mapping):
            return self._mapping(value)
        elif isinstance(value, list | tuple | set | frozenset):
            if not set(map(type, value)) <= {int, float}:
                return [(name, one) for one in value]
            self._tokens += len(value)  # token ids and vectors: a million of them must not cost a million steps
        elif isinstance(value, bytes | bytearray):
            self._tokens += (
                _data(b64encode(value[:99]).decode(), len(value)) if len(value) > 64 else len(value) // 4 + 1
            )
        elif value is not None:
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict) and not callable(value):
                return self._mapping(attributes)
            self._tokens += 1
        return ()

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        kind = value.get("type")
        media = _media(kind, value) if isinstance(kind, str) else _inline(value)
        if media:
            self._tokens += media
            return ()
        items = list(value.items())
        if kind is None and "role" not in value:
            self._tokens += len(items)
            return [pair for name, inner in items for pair in (("content", name), (name, inner))]
        self._tokens += PER_MESSAGE if "role" in value else 0
        return [(name, inner) for name, inner in items if name not in _UNSEEN]


def _data(value: str, length: int) -> int:
    """Tokens of a picture, sound or file of *length*, which begins with *value* as base64."""
    head, _, data = value[:100].rpartition("base64,")
    if head.startswith("data:image/") or data.startswith(_PICTURES) or data[12:16] == _WEBP:
        return PER_IMAGE
    return length // AUDIO_PER_TOKEN + 1 if head.startswith("data:audio/") else max(PER_IMAGE, length // FILE_PER_TOKEN)


def _media(kind: str, part: Mapping[Any, Any]) -> int:
    """Tokens of a part that is no text; 0 for all others."""
    if kind in _IMAGES:
        where = part.get("image_url")
        detail = part.get("detail") or (where.get("detail") if isinstance(where, Mapping) else None)
        return PER_SMALL_IMAGE if detail == "low" else PER_IMAGE
    if kind == "input_audio":
        return _data_length(part, "input_audio", "data") // AUDIO_PER_TOKEN + 1
    source = part.get("source")  # where Anthropic has what others have in the part itself
    if kind in _FILES and not (isinstance(source, Mapping) and source.get("type") in _TEXTS):
        length = max(_data_length(part, "file", "file_data"), _data_length(part, "source", "data"))
        return max(PER_IMAGE, length // FILE_PER_TOKEN)
    return 0


def _inline(part: Mapping[Any, Any]) -> int:
    """The same of Gemini's parts, which have no type."""
    if "inlineData" not in part and "fileData" not in part:
        return 0
    inner = part.get("inlineData")
    mime = inner.get("mimeType") if isinstance(inner, Mapping) else None
    each = AUDIO_PER_TOKEN if isinstance(mime, str) and mime.startswith("audio/") else FILE_PER_TOKEN
    is_image = isinstance(mime, str) and mime.startswith("image/")
    return PER_IMAGE if is_image else max(PER_IMAGE, _data_length(part, "inlineData", "data") // each)


def _data_length(part: Mapping[Any, Any], inside: str, name: str) -> int:
    inner = part.get(inside)  # Mistral has sound there itself
    data = inner.get(name) if isinstance(inner, Mapping) else inner or part.get(name)
    return len(data) if isinstance(data, str | bytes) else 0
