"""Requests to tokens, before a call: what in them is text, and how much all that is no text counts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from otelbudget.estimate.media import (
    MAY_BE_SEALED,
    data_tokens,
    image_tokens,
    inline_tokens,
    is_sound,
    looks_like_data,
    media_tokens,
    sealed_in,
)
from otelbudget.estimate.tokenizer import count_texts
from otelbudget.model.reported import at

#: Tokens around each message, and around the whole prompt (OpenAI's counting recipe says 3 and 3, names one more).
PER_MESSAGE: Final = 4
PER_REQUEST: Final = 3
#: How many values of a request are looked at.
_MOST_VALUES: Final = 1_000_000

#: What a model reads of a request body, in every dialect; the second group is read as the JSON that it is.
_READ: Final = (
    *("messages", "input", "inputs", "prompt", "suffix", "instructions", "system"),
    *("contents", "content", "requests", "systemInstruction", "instances"),
    "questions",  # of decisions
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
    {"type", "role", "id", "call_id", "tool_call_id", "index", "status"} | {"annotations", "logprobs", "cache_control"}
)
#: Marks of what is to be written to a cache: Anthropic's, Bedrock's, OpenAI's, litellm's; and as JSON has them.
_CACHES: Final = ("cache_control", "cachePoint", "prompt_cache_breakpoint", "cache_control_injection_points")
_CACHES_IN_JSON: Final = re.compile(r'"(?:cache_control|cachePoint)":\{[^{}]*\}')
#: Fields whose value a model reads as it stands, also where it looks like data.
_SAID: Final = frozenset(
    {"text", "content", "input", "inputs", "prompt", "suffix"}
    | {"instructions", "system", "arguments", "output", "message"}
)
#: Data in a tool, such as the mask of one that makes pictures.
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
    walk.add(body.get("images"), "images")  # Cohere's and Ollama's
    for name in _READ_AS_JSON:
        walk.add_json(at(body, name))
    return Given(max(1, walk.tokens(model) + PER_REQUEST), walk.audio_tokens, frozenset(walk.apart))


class _Walk:
    """Collects the texts of nested values, and the tokens of all that is no text. Runs no further than it must."""

    def __init__(self, model: str | None) -> None:
        self._image, self._small_image = image_tokens(model)
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
        self.apart.update(("audio_input_tokens", "video_input_tokens"))  # a film has both

    def _without_data(self, found: re.Match[str]) -> str:
        self._tokens += data_tokens(found[0][1:], len(found[0]), self._image)
        return '""'

    def add(self, value: object, name: str = "content") -> None:
        """Add the texts in *value*, that of a field *name*, without the names of its fields."""
        queue = [(name, value)]
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
            if name not in _SAID and looks_like_data(value):
                tokens = data_tokens(value, len(value), self._image)
                self._tokens += tokens
                self.apart.add("image_input_tokens")
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
            self._tokens += data_tokens(head, len(value), self._image) if is_data else len(value) // 4 + 1
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
        media = media_tokens(kind, value, image, small) if isinstance(kind, str) else inline_tokens(value, image)
        if media:
            self._tokens += media
            self.apart.add("image_input_tokens")  # files have pictures in them too
            if is_sound(kind, value):
                self._add_sound(media)
            return ()
        sealed = {} if value.keys().isdisjoint(MAY_BE_SEALED) else sealed_in(value)
        self._tokens += sum(sealed.values())
        items = [(name, inner) for name, inner in value.items() if name not in sealed]
        if kind is None and "role" not in value:
            self._tokens += len(items)
            return [pair for name, inner in items for pair in (("content", name), (name, inner))]
        self._tokens += PER_MESSAGE if "role" in value else 0
        return [(name, inner) for name, inner in items if name not in _UNSEEN]
