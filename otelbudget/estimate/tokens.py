"""Requests to tokens, before a call: what in them is text, and how much all that is no text counts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from otelbudget.estimate.tokenizer import count_texts
from otelbudget.model.names import undated
from otelbudget.model.reported import at

#: Tokens around each message, and around the whole prompt (OpenAI's counting recipe says 3 and 3, names one more).
PER_MESSAGE: Final = 4
PER_REQUEST: Final = 3
#: An image: OpenAI and Anthropic charge 85 at low detail and at most some 1,500 otherwise, by a size not known here.
PER_IMAGE: Final = 1_500
PER_SMALL_IMAGE: Final = 85
#: The same of models where both are other numbers: gpt-4o-mini's cost as much as gpt-4o's, at a price of a 33rd part.
_IMAGES_OF: Final = {"gpt-4o-mini": (48_169, 2_833)}
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
_FILES: Final = frozenset(("file", "input_file", "document", "audio", "video"))
#: What is, or has in it, sound: types of parts, and how media types of Gemini's begin.
_SOUNDS: Final = frozenset(("input_audio", "audio", "video"))
_SOUND_TYPES: Final = ("audio/", "video/")
#: Marks of what is to be written to a cache: Anthropic's, Bedrock's, OpenAI's, litellm's; and as JSON has them.
_CACHES: Final = ("cache_control", "cachePoint", "prompt_cache_breakpoint", "cache_control_injection_points")
_CACHES_IN_JSON: Final = re.compile(r'"(?:cache_control|cachePoint)":\{[^{}]*\}')
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
    walk = _Walk(model)
    walk.add(value)
    return max(1, walk.tokens(model))


class Given(NamedTuple):
    """The input of a request.

    Args:
        tokens: How many there are, at least 1.
        audio_tokens: How many of them are sound.
        apart: What of them may have a price of its own, as fields of `Usage`.
    """

    tokens: int
    audio_tokens: int = 0
    apart: frozenset[str] = frozenset()


def count_input(body: object, model: str | None = None) -> int:
    """The input tokens of a whole request body as it is sent as JSON, estimated, at least 1. Never raises."""
    return read_input(body, model).tokens


def read_input(body: object, model: str | None = None) -> Given:
    """The input of a whole request body as it is sent as JSON, its tokens estimated. Never raises.

    Understands Anthropic's messages and OpenAI's chat completions, responses, completions and embeddings; token ids
    count one each. What the provider keeps on its side (``previous_response_id``, a stored prompt) can't be seen here.
    """
    if not isinstance(body, Mapping):
        return Given(max(1, estimate_tokens(body, model)))
    walk = _Walk(model)
    walk.note_caches(body)
    for name in _READ:
        walk.add(body.get(name))
    for name in _READ_AS_JSON:
        walk.add_json(at(body, name))
    return Given(max(1, walk.tokens(model) + PER_REQUEST), walk.audio_tokens, frozenset(walk.apart))


class _Walk:
    """Collects the texts of nested values, and the tokens of all that is no text. Runs no further than it must."""

    def __init__(self, model: str | None) -> None:
        name = undated((model or "").rpartition("/")[2])
        self._image, self._small_image = _IMAGES_OF.get(name, (PER_IMAGE, PER_SMALL_IMAGE))
        self._texts: list[str] = []
        self._tokens = 0
        self._left = _MOST_VALUES
        self.audio_tokens = 0
        self.apart: set[str] = set()

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
                for found in _CACHES_IN_JSON.findall(text):
                    self._note_cache(found)

    def note_caches(self, value: Mapping[Any, Any]) -> None:
        """Note whether *value* is marked as to be written to a cache."""
        for name in _CACHES:
            if value.get(name):
                self._note_cache(str(value[name]))

    def _note_cache(self, mark: str) -> None:
        self.apart.update(("cache_write_tokens", "cache_write_1h_tokens") if "1h" in mark else ("cache_write_tokens",))

    def _add_sound(self, tokens: int) -> None:
        self.audio_tokens += tokens
        self.apart.add("audio_input_tokens")

    def _without_data(self, found: re.Match[str]) -> str:
        self._tokens += _data(found[0][1:], len(found[0]), self._image)
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
                tokens = _data(value, len(value), self._image)
                self._tokens += tokens
                if value.startswith("data:audio/"):
                    self._add_sound(tokens)
            else:
                self._texts.append(value)
        elif isinstance(value, Mapping):
            return self._mapping(value)
        elif isinstance(value, list | tuple | set | frozenset):
            if not set(map(type, value)) <= {int, float}:
                return [(name, one) for one in value]
            self._tokens += len(value)  # token ids and vectors: a million of them must not cost a million steps
        elif isinstance(value, bytes | bytearray):
            is_data, head = len(value) > 64, b64encode(value[:99]).decode()
            self._tokens += _data(head, len(value), self._image) if is_data else len(value) // 4 + 1
        elif value is not None:
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict) and not callable(value):
                return self._mapping(attributes)
            self._tokens += 1
        return ()

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if not value.keys().isdisjoint(_CACHES):
            self.note_caches(value)
        kind = value.get("type")
        image, small = self._image, self._small_image
        media = _media(kind, value, image, small) if isinstance(kind, str) else _inline(value, image)
        if media:
            self._tokens += media
            if _is_sound(kind, value):
                self._add_sound(media)
            return ()
        items = list(value.items())
        if kind is None and "role" not in value:
            self._tokens += len(items)
            return [pair for name, inner in items for pair in (("content", name), (name, inner))]
        self._tokens += PER_MESSAGE if "role" in value else 0
        return [(name, inner) for name, inner in items if name not in _UNSEEN]


def _data(value: str, length: int, image: int) -> int:
    """Tokens of a picture, which are *image*, sound or file of *length*, which begins with *value* as base64."""
    head, _, data = value[:100].rpartition("base64,")
    if head.startswith("data:image/") or data.startswith(_PICTURES) or data[12:16] == _WEBP:
        return image
    return length // AUDIO_PER_TOKEN + 1 if head.startswith("data:audio/") else max(image, length // FILE_PER_TOKEN)


def _media(kind: str, part: Mapping[Any, Any], image: int, small: int) -> int:
    """Tokens of a part that is no text; 0 for all others."""
    if kind in _IMAGES:
        where = part.get("image_url")
        detail = part.get("detail") or (where.get("detail") if isinstance(where, Mapping) else None)
        return small if detail == "low" else image
    if kind == "input_audio":
        return _data_length(part, "input_audio", "data") // AUDIO_PER_TOKEN + 1
    source = part.get("source")  # where Anthropic has what others have in the part itself
    if kind in _FILES and not (isinstance(source, Mapping) and source.get("type") in _TEXTS):
        length = max(_data_length(part, "file", "file_data"), _data_length(part, "source", "data"))
        return max(image, length // FILE_PER_TOKEN)
    return 0


def _inline(part: Mapping[Any, Any], image: int) -> int:
    """The same of Gemini's parts, which have no type."""
    if "inlineData" not in part and "fileData" not in part:
        return 0
    inner = part.get("inlineData")
    mime = inner.get("mimeType") if isinstance(inner, Mapping) else None
    each = AUDIO_PER_TOKEN if isinstance(mime, str) and mime.startswith("audio/") else FILE_PER_TOKEN
    is_image = isinstance(mime, str) and mime.startswith("image/")
    return image if is_image else max(image, _data_length(part, "inlineData", "data") // each)


def _is_sound(kind: object, part: Mapping[Any, Any]) -> bool:
    """Whether a part that is no text may be sound; of a file that nobody says the type of, too."""
    if isinstance(kind, str):
        return kind in _SOUNDS
    inline, file = at(part, "inlineData.mimeType"), at(part, "fileData.mimeType")
    return str(inline or file or "video/").startswith(_SOUND_TYPES)


def _data_length(part: Mapping[Any, Any], inside: str, name: str) -> int:
    inner = part.get(inside)  # Mistral has sound there itself
    data = inner.get(name) if isinstance(inner, Mapping) else inner or part.get(name)
    return len(data) if isinstance(data, str | bytes) else 0
