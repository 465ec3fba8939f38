"""`Usage`: what a model call, or several, did spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

from otelbudget.model.amounts import (
    CEILING,
    COST,
    INPUT,
    OUTPUT,
    STEPS,
    TOOLS,
    Amounts,
    Money,
    count,
    nanos_of,
    nanousd,
    usd,
)
from otelbudget.model.values import said, spelled


class Unsaid(int):
    """A number that nobody gave: it reads as what it is, but a commit charges what is held instead."""


_ONE_STEP = Unsaid(1)
_NO_TOOL_CALLS = Unsaid(0)
_MAY_BE_UNKNOWN = ("input_tokens", "output_tokens", "tokens")
_COUNTS = ("steps", "tool_calls", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", *_MAY_BE_UNKNOWN)


@spelled
@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """What a model call, or several, used.

    Input includes cached tokens and output includes reasoning tokens. None means unknown, which is never taken for
    zero: a reservation charges its hold instead. Only ``tokens`` given: counted and priced as input.

    Example:
        >>> Usage(input_tokens=80, output_tokens=20, model="gpt-4o-mini").tokens
        100

    Args:
        input_tokens, output_tokens: As the provider counted them.
        tokens: Their sum, if the split is not known; set by itself where both are.
        cost_usd: What it cost; None takes the price of *model*.
        steps, tool_calls: How many model and tool calls this was; a commit that does not say it charges those that are
            held.
        cache_read_tokens, cache_write_tokens, reasoning_tokens: Parts of the above.
        model, provider, response_id: As the response says.
        estimated: The numbers are an estimate.
        reported_cost_usd: What the response says it cost: taken where ``trust_reported_cost`` is set, the configuration
            has no price for the model, and it is not zero.

    Raises:
        ValueError: A number is negative, not finite, not whole, or the sum does not fit its parts.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: int | None = None
    cost_usd: Money | None = None
    steps: int = _ONE_STEP
    tool_calls: int = _NO_TOOL_CALLS
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    estimated: bool = False
    reported_cost_usd: Money | None = None

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < CEILING:
                known = isinstance(value, Unsaid) or (value is None and name in _MAY_BE_UNKNOWN)
                put(name, value if known else count(name, value))
        for name in ("cost_usd", "reported_cost_usd"):
            if getattr(self, name) is not None:
                put(name, usd(nanousd(name, getattr(self, name))))
        given, made, tokens = self.input_tokens, self.output_tokens, self.tokens
        whole, known = (given or 0) + (made or 0), given is not None and made is not None
        if tokens is None:
            if whole >= CEILING:
                count("tokens", whole)
            if known:
                put("tokens", whole)
        elif known and tokens != whole:
            raise ValueError(f"tokens ({tokens}) is not input_tokens ({given}) + output_tokens ({made})")
        elif tokens < whole:
            raise ValueError(f"tokens ({tokens}) is less than the input or output tokens given")
        elif not known:
            given = tokens - (made or 0) if given is None else given
            put("input_tokens", given)
            put("output_tokens", tokens - given)

    def __repr__(self) -> str:
        return said(self)

    @property
    def cost_nanousd(self) -> int | None:
        """The cost in nano-USD, or None if unknown."""
        return None if self.cost_usd is None else nanos_of(self.cost_usd)

    def amounts(self, cost_nanousd: int = 0) -> Amounts:
        """As internal amounts, unknown token counts as 0, at the given cost."""
        given, made = self.input_tokens or 0, self.output_tokens or 0
        return Amounts(self.steps, given + made, given, made, cost_nanousd, self.tool_calls)


def sum_of(amounts: Sequence[int], *, estimated: bool = False) -> Usage:
    """What *amounts*, in `RESOURCES` order, come to. Unlike what one call used, a sum may be of any size."""
    known = {
        "input_tokens": amounts[INPUT],
        "output_tokens": amounts[OUTPUT],
        "tokens": amounts[INPUT] + amounts[OUTPUT],
        "cost_usd": usd(amounts[COST]),
        "steps": amounts[STEPS],
        "tool_calls": amounts[TOOLS],
        "estimated": estimated,
    }
    made = object.__new__(Usage)
    for one in fields(Usage):
        object.__setattr__(made, one.name, known.get(one.name, one.default))
    return made
