"""What users hand in: `RunBudget` (what a run may spend) and `Usage` (what a call did spend)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import (
    COST,
    INPUT,
    OUTPUT,
    RESOURCES,
    STEPS,
    TOKENS,
    TOOLS,
    UNLIMITED,
    Amounts,
    Money,
    count,
    money_limit,
    nanos_of,
    nanousd,
    time_limit,
    usd,
)

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["OnExhausted", "RunBudget", "Usage", "ratios", "sum_of"]

#: ``"raise"``, ``"warn"`` (charge, flag, never block) or ``(denial, run) -> bool``; True evaluates once more.
OnExhausted = Literal["raise", "warn"] | Callable[[Any, Any], "bool | Awaitable[bool]"]
OnUnpriced = Literal["deny", "estimate", "allow"]

_LIMIT_FIELDS = tuple(f"max_{resource}" for resource in RESOURCES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBudget:
    """What one run may spend at most. A limit of None means unlimited; spending exactly the limit is allowed.

    Example:
        >>> RunBudget(max_steps=5, max_tokens=2000, max_seconds=10, max_cost_usd=0.05).max_steps
        5

    Args:
        max_steps: Model calls.
        max_tokens: Input plus output tokens.
        max_input_tokens: Input tokens, cached ones included.
        max_output_tokens: Output tokens, reasoning included.
        max_cost_usd: Money in USD; int, Decimal, or a float read as the decimal it prints as.
        max_seconds: Wall time since the run began.
        max_tool_calls: Tool calls.
        max_nested_tool_calls: Tool calls made inside a tool call.
        max_depth: How deep child runs may nest; the root run has depth 0.
        name: The name that denials, events and metrics show.
        on_exhausted: What a denial does, see `OnExhausted`.
        wrap_up: ``{resource: amount}`` set aside inside the limits for one last call, see ``BudgetRun.wrap_up()``; one
            step is implied; ``seconds`` lets that call pass a deadline by so much.
        latch: After a raised denial of a resource, refuse further requests for it at once.
        thresholds: Ratios of each limit whose crossing is reported once.
        on_unpriced: What a call of a model without a price does under a cost limit; None takes the manager's policy.
        origin: Where it was written, ``file:line``, for messages.

    Raises:
        ConfigError: A limit is negative, not finite, not a number, not a whole one where it counts things, or above 0
            and too small to be counted.
    """

    max_steps: int | None = None
    max_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_usd: Money | None = field(default=None, compare=False)
    max_seconds: Money | None = field(default=None, compare=False)
    max_tool_calls: int | None = None
    max_nested_tool_calls: int | None = None
    max_depth: int | None = None
    name: str | None = None
    on_exhausted: OnExhausted = "raise"
    wrap_up: Mapping[str, Money] | None = field(default=None, compare=False)
    latch: bool = True
    thresholds: tuple[float, ...] = (0.8, 0.95, 1.0)
    on_unpriced: OnUnpriced | None = None
    origin: str | None = field(default=None, compare=False)
    #: Limits in internal units, `RESOURCES` order, UNLIMITED where there is none.
    limits: tuple[int, ...] = field(init=False, repr=False)
    #: The same less what `wrap_up` sets aside: what ordinary calls see.
    ordinary_limits: tuple[int, ...] = field(init=False, repr=False)
    #: What a check without amounts asks for under these limits.
    one_call: Amounts = field(init=False, repr=False, compare=False)
    #: Wall time in nanoseconds, or None.
    max_ns: int | None = field(init=False, repr=False)
    #: By how many nanoseconds a wrap-up call may pass the deadline.
    wrap_up_ns: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        limits = tuple(_limit(name, getattr(self, name)) for name in _LIMIT_FIELDS)
        if self.max_depth is not None:
            put("max_depth", count("max_depth", self.max_depth, ConfigError))
        put("limits", limits)
        put("max_ns", None if self.max_seconds is None else time_limit("max_seconds", self.max_seconds, ConfigError))
        set_aside, wrap_up_ns = _set_aside(self.wrap_up, limits)
        put("ordinary_limits", tuple(a - b if a < UNLIMITED else a for a, b in zip(limits, set_aside, strict=True)))
        put("wrap_up_ns", wrap_up_ns)
        if self.wrap_up is not None:
            put("wrap_up", MappingProxyType(dict(self.wrap_up)))
        asked = [1 if i in (TOKENS, INPUT, OUTPUT, COST) and limits[i] < UNLIMITED else 0 for i in range(len(limits))]
        asked[STEPS] = 1
        put("one_call", Amounts(*asked))
        put("thresholds", ratios(self.thresholds))
        if not (self.on_exhausted in ("raise", "warn") or callable(self.on_exhausted)):
            raise ConfigError(f"on_exhausted must be 'raise', 'warn' or a callable, got {self.on_exhausted!r}")
        if self.on_unpriced not in (None, "deny", "estimate", "allow"):
            raise ConfigError(f"on_unpriced must be 'deny', 'estimate' or 'allow', got {self.on_unpriced!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        if self.wrap_up is not None:
            given["wrap_up"] = dict(self.wrap_up)
        return (_rebuild_budget, (given,))


def _rebuild_budget(given: dict[str, Any]) -> RunBudget:
    return RunBudget(**given)


def _limit(name: str, value: object) -> int:
    if value is None:
        return UNLIMITED
    return money_limit(name, value, ConfigError) if name == "max_cost_usd" else count(name, value, ConfigError)


def ratios(thresholds: Iterable[float]) -> tuple[float, ...]:
    """*thresholds* in ascending order, each once; ConfigError if one is no ratio above 0 and at most 1."""
    if not isinstance(thresholds, Iterable):
        raise ConfigError(f"thresholds must be a list of ratios, got {thresholds!r}")
    return tuple(sorted({_ratio(value) for value in thresholds}))


def _ratio(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"a threshold must be a ratio above 0 and at most 1, got {value!r}")
    return float(value)


def _set_aside(wrap_up: Mapping[str, Money] | None, limits: tuple[int, ...]) -> tuple[list[int], int]:
    amounts = [0] * len(limits)
    if wrap_up is None:
        return amounts, 0
    given = dict(wrap_up)
    wrap_up_ns = time_limit("wrap_up.seconds", given.pop("seconds", 0), ConfigError)
    if limits[STEPS] < UNLIMITED:
        given.setdefault("steps", 1)
    for resource, value in given.items():
        if resource not in RESOURCES:
            raise ConfigError(f"wrap_up: unknown resource {resource!r}: known are seconds, {', '.join(RESOURCES)}")
        i = RESOURCES.index(resource)
        amounts[i] = (money_limit if i == COST else count)(f"wrap_up.{resource}", value, ConfigError)
        if limits[i] == UNLIMITED:
            raise ConfigError(f"wrap_up sets {resource} aside, but max_{resource} is not limited")
        if amounts[i] > limits[i]:
            raise ConfigError(f"wrap_up sets {value} {resource} aside, more than max_{resource} allows in all")
    return amounts, wrap_up_ns


class _Unsaid(int):
    """A number that nobody gave: it reads as what it is, but a commit charges what is held instead."""


_ONE_STEP = _Unsaid(1)
_NO_TOOL_CALLS = _Unsaid(0)


@dataclass(frozen=True, slots=True)
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
        for name in ("steps", "tool_calls", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"):
            if not isinstance(getattr(self, name), _Unsaid):
                put(name, count(name, getattr(self, name)))
        for name in ("input_tokens", "output_tokens", "tokens"):
            if getattr(self, name) is not None:
                put(name, count(name, getattr(self, name)))
        for name in ("cost_usd", "reported_cost_usd"):
            if getattr(self, name) is not None:
                put(name, usd(nanousd(name, getattr(self, name))))
        known_input, known_output = self.input_tokens, self.output_tokens
        if self.tokens is None:
            whole = count("tokens", (known_input or 0) + (known_output or 0))
            if known_input is not None and known_output is not None:
                put("tokens", whole)
        elif known_input is not None and known_output is not None:
            if self.tokens != known_input + known_output:
                raise ValueError(
                    f"tokens ({self.tokens}) is not input_tokens ({known_input}) + output_tokens ({known_output})"
                )
        elif (known_input or known_output or 0) > self.tokens:
            raise ValueError(f"tokens ({self.tokens}) is less than the input or output tokens given")
        elif known_input is not None:
            put("output_tokens", self.tokens - known_input)
        else:
            put("input_tokens", self.tokens - (known_output or 0))
            put("output_tokens", known_output or 0)

    @property
    def says_steps(self) -> bool:
        """Whether ``steps`` was given; else it is one for a record, and for a commit what is held."""
        return not isinstance(self.steps, _Unsaid)

    @property
    def says_tool_calls(self) -> bool:
        """Whether ``tool_calls`` was given; 0 has to be said."""
        return not isinstance(self.tool_calls, _Unsaid)

    @property
    def cost_nanousd(self) -> int | None:
        """The cost in nano-USD, or None if unknown."""
        return None if self.cost_usd is None else nanos_of(self.cost_usd)

    def amounts(self, cost_nanousd: int = 0) -> Amounts:
        """As internal amounts, unknown token counts as 0, at the given cost."""
        return Amounts(
            self.steps,
            (self.input_tokens or 0) + (self.output_tokens or 0),
            self.input_tokens or 0,
            self.output_tokens or 0,
            cost_nanousd,
            self.tool_calls,
            0,
        )

    @property
    def cost(self) -> Decimal | None:
        """The cost as Decimal USD, or None if unknown."""
        nano = self.cost_nanousd
        return None if nano is None else usd(nano)


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
