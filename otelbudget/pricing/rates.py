"""Exact integer rates, and what a usage costs at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from otelbudget.model.amounts import CEILING
from otelbudget.model.usage import Usage

#: What has a price of its own, in the order of `Rates`.
PARTS: Final = ("input", "cache_read", "cache_write", "output", "reasoning")
#: What a part without a price is charged as, in the order in which that is decided.
_PRICED_AS: Final = {"output": "input", "cache_read": "input", "cache_write": "input", "reasoning": "output"}


class Rates(NamedTuple):
    """Nano-USD per token of each part and per call, each times *scale*, so that all are whole numbers."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    call: int
    scale: int


class Parts(NamedTuple):
    """What of a `Usage` has a price; of one call that is yet to be made."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Known:
    """What a model costs: its rates, other ones above so many input tokens, and until when (wall clock) that holds."""

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    changes: bool = False
    until_s: float = math.inf

    def cost(self, usage: Usage | Parts) -> int:
        """Nano-USD, rounded up once, at most the greatest amount.

        Parts that exceed what they are parts of are charged, never subtracted.
        """
        given, made = usage.input_tokens or 0, usage.output_tokens or 0
        rates = self.rates
        for start, other in self.above:
            if given > start:
                rates = other
        # Unpacked: this runs twice per call, and a field of a named tuple costs as much as the sum.
        plain_rate, read_rate, write_rate, output_rate, reasoning_rate, call_rate, scale = rates
        read, written, reasoned = usage.cache_read_tokens, usage.cache_write_tokens, usage.reasoning_tokens
        plain, said = given - read - written, made - reasoned
        scaled = (plain * plain_rate if plain > 0 else 0) + (said * output_rate if said > 0 else 0)
        if read or written or reasoned:
            scaled += read * read_rate + written * write_rate + reasoned * reasoning_rate
        if call_rate:
            scaled += usage.steps * call_rate
        return min(-(-scaled // scale), CEILING - 1)


def rates(parts: Mapping[str, Fraction], call: Fraction = Fraction(0)) -> Rates:
    """Rates from nano-USD per token of each of `PARTS` and per call; a part without one costs what its whole does."""
    exact = {"input": Fraction(0), **parts}
    for part, whole in _PRICED_AS.items():
        exact.setdefault(part, exact[whole])
    fractions = [exact[part] for part in PARTS] + [call]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    return Rates._make([*(int(fraction * scale) for fraction in fractions), scale])
