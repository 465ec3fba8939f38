"""How many tokens OpenAI's models for pictures and for speech make at most, by what a request says.

Pictures after its guide to image generation, from gpt-image-2 on after the calculator there (as given in June 2026 at
community.openai.com/t/1382699). Of qualities that neither has, the highest that they have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from otelbudget.estimate.tokens import estimate_tokens
from otelbudget.guards.dialects import count, text_of

#: Models that are paid by the token; others are by the picture, or by the character.
_PAINTERS: Final = re.compile(r"(?:chat)?gpt-image-")
_SPEAKERS: Final = re.compile(r"gpt-.*tts")
#: Their first ones: quality -> tokens of a square of 1024; larger ones are as many more as they have pixels.
_FIRST: Final = re.compile(r"(?:chatgpt-image-latest|gpt-image-1(?:[.-]|$))")
_OF_A_SQUARE: Final = {"low": 272, "medium": 1_056, "high": 4_160}
#: The later ones: quality -> tokens along the longer edge.
_ALONG: Final = {"low": 16, "medium": 48, "high": 96}
_SIZE: Final = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}\Z")
#: What ``auto`` may choose, and each picture that is shown before it is done.
_SIZES: Final = ("1024x1024", "1024x1536")
_PARTIAL: Final = 100
#: Speech is 20 tokens a second (USD 0.015 a minute at 12 per million), and says a token of text in up to 0.4 seconds.
_PER_TOKEN_SAID: Final = 8


def _model(body: Mapping[str, Any]) -> str:
    return (text_of(body, "model") or "").rpartition("/")[2]


def picture_tokens(body: Mapping[str, Any]) -> int:
    """Of one picture, as it is and while it is made; 0 if its model is not paid for them."""
    model, quality = _model(body), text_of(body, "quality") or ""
    if not _PAINTERS.match(model):
        return 0
    size = text_of(body, "size") or "auto"
    each = (_of_picture(model, quality, *map(int, one.split("x"))) for one in ([size] if _SIZE.match(size) else _SIZES))
    return max(each) + (count(body.get("partial_images")) or 0) * _PARTIAL


def _of_picture(model: str, quality: str, width: int, height: int) -> int:
    pixels = width * height
    if _FIRST.match(model):
        return -(-_OF_A_SQUARE.get(quality, _OF_A_SQUARE["high"]) * pixels // 1024**2)
    along = _ALONG.get(quality, _ALONG["high"])
    across = (2 * along * min(width, height) + max(width, height)) // (2 * max(width, height))
    return -(-along * across * (2_000_000 + pixels) // 4_000_000)


def speech_tokens(body: Mapping[str, Any]) -> int:
    """Of what is to be said, about; 0 if its model is not paid for them."""
    model = _model(body)
    return _PER_TOKEN_SAID * estimate_tokens(body.get("input"), model) if _SPEAKERS.match(model) else 0
