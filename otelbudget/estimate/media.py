"""What of a request is no text, in tokens: pictures, sound, files, and reasoning that its provider has sealed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from otelbudget.model.names import undated
from otelbudget.model.reported import at

#: An image: OpenAI and Anthropic charge 85 at low detail and at most some 1,500 otherwise, by a size not known here.
PER_IMAGE: Final = 1_500
PER_SMALL_IMAGE: Final = 85
#: The same of models where both are other numbers: gpt-4o-mini's cost as much as gpt-4o's, at a price of a 33rd part.
_IMAGES_OF: Final = {"gpt-4o-mini": (48_169, 2_833)}
#: Characters of base64 per token: sound at 48 kB/s is 10 tokens a second, a page of PDF 40 kB and 1,500 tokens.
AUDIO_PER_TOKEN: Final = 1_000
FILE_PER_TOKEN: Final = 25
_IMAGES: Final = frozenset(("image_url", "input_image", "image", "computer_screenshot", "image_generation_call"))
_FILES: Final = frozenset(("file", "input_file", "document", "audio", "video"))
#: What is, or has in it, sound: types of parts, and how media types of Gemini's begin.
_SOUNDS: Final = frozenset(("input_audio", "audio", "video"))
_SOUND_TYPES: Final = ("audio/", "video/")
_TEXTS: Final = ("text", "content")
#: Where providers give their reasoning away encrypted -> bytes of it that are no text: of OpenAI's by its own Codex
#: (estimate_reasoning_length), of Anthropic's as seen on short thoughts, of which a signature has the whole. Answers of
#: Gemini that tell their thoughts' tokens too have 4.2 to 4.7 bytes for each.
_SEALED: Final = {
    "encrypted_content": 650,
    **dict.fromkeys(("signature", "redactedContent"), 230),
    **dict.fromkeys(("thoughtSignature", "thought_signature"), 0),
}
#: Types of parts whose ``data`` is that.
_SEALED_DATA: Final = {"redacted_thinking": 230, "reasoning.encrypted": 650}
#: All of these fields.
MAY_BE_SEALED: Final = frozenset({*_SEALED, "data"})
#: Where a part shows the thought that it has the signature of: Anthropic's, Bedrock's.
_SHOWN: Final = ("thinking", "text")
#: Bytes of text per token.
_BYTES_PER_TOKEN: Final = 4
#: Shorter values are never taken for data.
_SHORTEST_DATA: Final = 256
_BASE64: Final = re.compile(r"(?:data:[\w.+/-]*(?:;[\w=.-]+)*;base64,|[A-Za-z0-9+/_-]{60}[A-Za-z0-9+/_\r\n-]{190})")
#: How base64 of PNG, JPEG and GIF begins, and what that of WebP has in its middle.
_PICTURES: Final = ("iVBORw", "/9j/", "R0lGOD")
_WEBP: Final = "RUJQ"


def image_tokens(model: str | None) -> tuple[int, int]:
    """Of an image for *model*, and of one at low detail."""
    return _IMAGES_OF.get(undated((model or "").rpartition("/")[2]), (PER_IMAGE, PER_SMALL_IMAGE))


def looks_like_data(value: object) -> bool:
    """Whether *value* is base64, as far as can be told, or bytes."""
    if isinstance(value, str):
        return len(value) >= _SHORTEST_DATA and _BASE64.match(value) is not None
    return isinstance(value, bytes)


def sealed_in(part: Mapping[Any, Any]) -> dict[str, int]:
    """Fields of *part* that are sealed reasoning -> the tokens of each beyond what *part* shows of it."""
    kind = part.get("type")
    names = _SEALED | {"data": _SEALED_DATA[kind]} if isinstance(kind, str) and kind in _SEALED_DATA else _SEALED
    found = {}
    for name in names.keys() & part.keys():
        if looks_like_data(value := part[name]):
            length = len(value) if isinstance(value, bytes) else len(value) * 3 // 4
            shown = (
                ""
                if name != "signature"
                else next((one for key in _SHOWN if isinstance(one := part.get(key), str)), "")
            )
            hidden = length - names[name] - len(shown.encode("utf-8", "surrogatepass"))
            found[name] = max(0, hidden) // _BYTES_PER_TOKEN
    return found


def data_tokens(value: str, length: int, image: int) -> int:
    """Tokens of a picture, which are *image*, sound or file of *length*, which begins with *value* as base64."""
    head, _, data = value[:100].rpartition("base64,")
    if head.startswith("data:image/") or data.startswith(_PICTURES) or data[12:16] == _WEBP:
        return image
    return length // AUDIO_PER_TOKEN + 1 if head.startswith("data:audio/") else max(image, length // FILE_PER_TOKEN)


def media_tokens(kind: str, part: Mapping[Any, Any], image: int, small: int) -> int:
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


def inline_tokens(part: Mapping[Any, Any], image: int) -> int:
    """The same of Gemini's parts, which have no type."""
    if "inlineData" not in part and "fileData" not in part:
        return 0
    inner = part.get("inlineData")
    mime = inner.get("mimeType") if isinstance(inner, Mapping) else None
    each = AUDIO_PER_TOKEN if isinstance(mime, str) and mime.startswith("audio/") else FILE_PER_TOKEN
    is_image = isinstance(mime, str) and mime.startswith("image/")
    return image if is_image else max(image, _data_length(part, "inlineData", "data") // each)


def is_sound(kind: object, part: Mapping[Any, Any]) -> bool:
    """Whether a part that is no text may be sound; of a file that nobody says the type of, too."""
    if isinstance(kind, str):
        return kind in _SOUNDS
    inline, file = at(part, "inlineData.mimeType"), at(part, "fileData.mimeType")
    return str(inline or file or "video/").startswith(_SOUND_TYPES)


def _data_length(part: Mapping[Any, Any], inside: str, name: str) -> int:
    inner = part.get(inside)  # Mistral has sound there itself
    data = inner.get(name) if isinstance(inner, Mapping) else inner or part.get(name)
    return len(data) if isinstance(data, str | bytes) else 0
