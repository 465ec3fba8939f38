"""Exact integer rates, and what a usage costs at them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from otelbudget.model.amounts import CEILING, Unsaid
from otelbudget.model.usage import Usage
from otelbudget.model.usage_names import READ

#: What of a usage is priced by the token, in the order of `Rates`; each is charged as what it is a part of where it has
#: no price.
PARTS: Final = {"input": "", "output": "input", "cache_read": "input", "cache_write": "input", "reasoning": "output"}
#: What few models price apart -> field of `Usage`, and what it is a part of: none if it is priced by the piece.
APART: Final = {
    "audio_input": ("audio_input_tokens", "input"),
    "image_input": ("image_input_tokens", "input"),
    "audio_output": ("audio_output_tokens", "output"),
    "image_output": ("image_output_tokens", "output"),
    "video_input": ("video_input_tokens", "input"),
    "video_output": ("video_output_tokens", "output"),
    "cache_write_1h": ("cache_write_1h_tokens", "cache_write"),
    "cache_audio_read": ("cache_audio_read_tokens", "cache_read"),
    "cache_image_read": ("cache_image_read_tokens", "cache_read"),
    "image": ("images", ""),
    "search": ("searches", ""),
    "file_search": ("file_searches", ""),
    "request": ("steps", ""),
}
#: What of the input may be read from a cache -> that; without a price it costs what it does where it is not.
_CACHED: Final = {"audio_input": "cache_audio_read", "image_input": "cache_image_read"}
_READ: Final = {seen: cached for cached, seen in READ.items()}
#: What is priced by the piece.
EACH: Final = tuple(name for name, (_, whole) in APART.items() if not whole)


class Rates(NamedTuple):
    """Nano-USD per token of each part, each times *scale*, so that all are whole numbers.

    Args:
        apart: (field of `Usage`, what it is a part of, rate) of all that is priced apart.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    scale: int
    apart: tuple[tuple[str, str, int], ...] = ()


class Parts(NamedTuple):
    """What of a `Usage` has a price; of one call that is yet to be made."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    steps: int = 1
    images: int = 0
    searches: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    video_input_tokens: int = 0
    video_output_tokens: int = 0
    cache_write_1h_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What a model costs: its rates, other ones above so many input tokens, and until when (wall clock) that holds.

    Attributes:
        source: Whose price it is, and which.
        dearer: Fields of `Usage` whose tokens cost more than what they are a part of.
    """

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    changes: bool = False
    until_s: float = math.inf
    source: str = ""
    dearer: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        every = (self.rates, *(rates for _, rates in self.above))
        object.__setattr__(self, "dearer", frozenset(name for rates in every for name in _dearer(rates)))

    def cost(self, usage: Usage | Parts) -> int:
        """Nano-USD, rounded up once, at most the greatest amount. Tokens that nobody split are as dear as the dearer of
        input and output."""
        given, made = usage.input_tokens or 0, usage.output_tokens or 0
        rates = self.rates
        for start, other in self.above:
            if given > start:
                rates = other
        # Unpacked: this runs twice per call, and a field of a named tuple costs as much as the sum.
        plain_rate, output_rate, read_rate, write_rate, reasoning_rate, scale, apart = rates
        if type(given) is Unsaid and output_rate > plain_rate:
            plain_rate = output_rate
        read, written, reasoned = usage.cache_read_tokens, usage.cache_write_tokens, usage.reasoning_tokens
        plain, said = given - read - written, made - reasoned
        scaled = (plain * plain_rate if plain > 0 else 0) + (said * output_rate if said > 0 else 0)
        if read or written or reasoned:
            scaled += read * read_rate + written * write_rate + reasoned * reasoning_rate
        if apart and any(getattr(usage, name, 0) for name, _, _ in apart):
            left = {"input": (plain, plain_rate), "output": (said, output_rate)}
            left |= {"cache_write": (written, write_rate), "cache_read": (read, read_rate)}
            scaled += _apart(usage, apart, left)
        return min(-(-scaled // scale), CEILING - 1)


def _dearer(rates: Rates) -> Iterator[str]:
    plain = rates._asdict()
    parts = ((f"{part}_tokens", whole, plain[part]) for part, whole in PARTS.items() if part not in ("input", "output"))
    return (name for name, whole, rate in (*parts, *rates.apart) if whole and rate > plain[whole])


def _apart(usage: Usage | Parts, rates: tuple[tuple[str, str, int], ...], left: dict[str, tuple[int, int]]) -> int:
    """What is to be added for what is priced apart; *left* of a whole, at its rate, is what no other part has had.

    What of the sound and the pictures doesn't fit beside all that was cached was cached, whatever is told of it.
    """
    more, cached = 0, {name: getattr(usage, name, 0) for name in _READ.values()}
    for name, whole, rate in rates:
        number: int = cached[name] if name in cached else getattr(usage, name, 0)
        if whole:
            room, plain_rate = left[whole]
            wanted = number - cached[_READ[name]] if name in _READ else number
            number = min(wanted, max(0, room))
            left[whole] = room - number, plain_rate
            rate -= plain_rate
            if name in _READ:
                cached[_READ[name]] += wanted - number
        more += number * rate
    return more


def rates(exact: Mapping[str, Fraction]) -> Rates:
    """Rates from nano-USD per token, or piece, of each of `PARTS` and `APART`; a part without one costs what its whole
    does, what is priced by the piece nothing."""
    full = {"input": Fraction(0), **exact}
    for part, whole in PARTS.items():
        full.setdefault(part, full[whole or "input"])
    for seen, cached in _CACHED.items():
        if seen in full or cached in full:
            full.setdefault(seen, full["input"])
            full.setdefault(cached, full[seen])
    scale = math.lcm(*(fraction.denominator for fraction in full.values()))
    apart = tuple((*APART[name], int(full[name] * scale)) for name in APART if full.get(name) is not None)
    return Rates._make([*(int(full[part] * scale) for part in PARTS), scale, apart])
