"""Amounts: how much of each resource, as integers.

Counts are counts, money is integer nano-USD, time is integer nanoseconds. Nothing here rounds silently except money
given finer than a nano-USD (half to even). Everything a caller hands in passes through `count`, `nanousd` or
`nanoseconds`, which refuse what can't be meant: NaN, infinity, negatives, bool, text, and anything at or above 2^53.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple, NoReturn

from otelbudget.errors import ConfigError
from otelbudget.model.keywords import unknown

NANOS: Final = 1_000_000_000
CEILING: Final = 2**53
_NANO: Final = Decimal("1E-9")
#: The application's own decimal context may be anything (3 digits, traps), so every operation here brings this one.
_EXACT: Final = Context(prec=64)
#: What an unlimited resource is compared against: above every sum of legal amounts.
UNLIMITED: Final = 2**62

#: The additive resources, in the order in which accounts are asked; an index into every `Amounts`.
RESOURCES: Final = ("steps", "tokens", "input_tokens", "output_tokens", "cost_usd", "tool_calls", "nested_tool_calls")
STEPS, TOKENS, INPUT, OUTPUT, COST, TOOLS, NESTED = range(7)
_IMPLY_A_STEP: Final = frozenset(RESOURCES[TOKENS:TOOLS])


class Unsaid(int):
    """A number that nobody gave. It reads as what it is, but steps and tool calls are charged as held instead, and
    input tokens that nobody told from output at the dearer of both."""


class Amounts(NamedTuple):
    """How much of each additive resource, in internal units."""

    steps: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    tool_calls: int = 0
    nested_tool_calls: int = 0


NOTHING: Final = Amounts()

Money = int | float | Decimal


def _refuse(name: str, value: object, wanted: str, error: type[Exception]) -> NoReturn:
    raise error(f"{name} must be {wanted}, got {value!r} ({type(value).__name__})")


def count(name: str, value: object, error: type[Exception] = ValueError) -> int:
    """*value* as a whole number of at least 0 and below 2^53; *error* naming *name* otherwise."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # it says so
    except TypeError:
        whole = None
    if whole is None:
        _refuse(name, value, "a whole number of at least 0", error)
    if not 0 <= whole < CEILING:
        _refuse(name, whole, f"from 0 to {CEILING - 1}", error)
    return whole


def _nanos(name: str, value: object, unit: str, error: type[Exception]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        _refuse(name, value, f"a number of {unit} of at least 0", error)
    # repr() gives the shortest decimal that a float stands for, so 0.05 is five cents and not 0.05000000000000000277;
    # float's own, since a subclass may say "np.float64(0.05)".
    exact = (
        value if isinstance(value, Decimal) else Decimal(float.__repr__(value) if isinstance(value, float) else value)
    )
    if not exact.is_finite() or exact < 0:
        _refuse(name, value, f"a finite number of {unit} of at least 0", error)
    if exact >= CEILING:
        _refuse(name, value, f"below {CEILING // NANOS:,} {unit}", error)
    nanos = int(exact.quantize(_NANO, ROUND_HALF_EVEN, _EXACT).scaleb(9, _EXACT))
    if nanos >= CEILING:
        _refuse(name, value, f"below {CEILING // NANOS:,} {unit}", error)
    return nanos


def nanousd(name: str, value: object, error: type[Exception] = ValueError) -> int:
    """*value* USD (int, Decimal or float) as integer nano-USD, half to even; floats mean the decimal they print as."""
    return _nanos(name, value, "USD", error)


def nanoseconds(name: str, value: object, error: type[Exception] = ValueError) -> int:
    """*value* seconds (int, Decimal or float) as integer nanoseconds."""
    return _nanos(name, value, "seconds", error)


def limit(name: str, resource: str, value: object) -> int:
    """*value* as a limit of a resource, or of ``seconds``, in internal units; ConfigError if it is none. One above 0
    that is too small to be counted is refused, not taken for 0."""
    if resource not in ("cost_usd", "seconds"):
        return count(name, value, ConfigError)
    parse, unit = (nanousd, "nano-USD") if resource == "cost_usd" else (nanoseconds, "nanosecond")
    nanos = parse(name, value, ConfigError)
    if not nanos and value:
        too_small = f"{name} is less than a {unit} (1e-9), got {value!r}, and would be a limit of 0"
        raise ConfigError(f"{too_small}; write 0 for none")
    return nanos


def usd(nano: int) -> Decimal:
    """Nano-USD as an exact Decimal in USD, without trailing zeros."""
    exact = Decimal(nano).scaleb(-9, _EXACT).normalize(_EXACT)
    return exact.quantize(Decimal(1), None, _EXACT) if exact == exact.to_integral_value() else exact


def nanos_of(exact: Money) -> int:
    """What `usd` gave, of any size, as nano-USD again."""
    return int(Decimal(exact).scaleb(9, _EXACT))


def shown(resource: int, amount: int) -> int | Decimal:
    """An internal amount of ``RESOURCES[resource]`` as users see it: money as Decimal USD, all else as int."""
    return usd(amount) if resource == COST else amount


def amounts_from(keywords: Mapping[str, object]) -> Amounts:
    """The amounts that the keywords of a check or reserve mean.

    A token or cost amount implies one step unless ``steps`` is given; tool amounts imply nothing. Tokens without a
    split count as input, and with one part of it the rest is the other.

    Raises:
        ValueError: An amount is not one.
        TypeError: A keyword is not a resource.
    """
    said: dict[str, int] = {}
    for name, value in keywords.items():
        if name not in RESOURCES:
            raise unknown("unknown resource", name, RESOURCES)
        if name == "cost_usd":
            said[name] = nanousd(name, value)
        else:  # what `count` does, without the call that most checks would pay for
            said[name] = value if type(value) is int and 0 <= value < CEILING else count(name, value)
    given, made = said.get("input_tokens"), said.get("output_tokens")
    split = (given or 0) + (made or 0)
    if split >= CEILING:
        count("input_tokens + output_tokens", split)
    tokens = said.get("tokens", split)
    if tokens < split or (given is not None and made is not None and tokens != split):
        raise ValueError(f"tokens ({tokens}) is not input_tokens + output_tokens ({split})")
    if given is None:
        given = Unsaid(tokens) if made is None and "tokens" in said else tokens - (made or 0)
    steps = said.get("steps", 0 if _IMPLY_A_STEP.isdisjoint(said) else 1)
    tools, nested = said.get("tool_calls", 0), said.get("nested_tool_calls", 0)
    return Amounts(steps, tokens, given, tokens - given, said.get("cost_usd", 0), tools, nested)
