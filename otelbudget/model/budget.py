"""What users hand in: `RunBudget` (what a run may spend) and `Usage` (what a call did spend)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import (
    CEILING,
    COST,
    INPUT,
    OUTPUT,
    RESOURCES,
    STEPS,
    TOOLS,
    UNLIMITED,
    Amounts,
    Money,
    count,
    limit,
    nanos_of,
    nanousd,
    usd,
)
from otelbudget.model.keywords import spelled
from otelbudget.model.text import read

if TYPE_CHECKING:
    from datetime import timedelta

    Count = int | str

#: ``"raise"``, ``"warn"`` (charge, flag, never block) or ``(denial, run) -> bool``; True evaluates once more.
OnExhausted = Literal["raise", "warn"] | Callable[[Any, Any], "bool | Awaitable[bool]"]
OnUnpriced = Literal["deny", "estimate", "allow"]


@spelled
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunBudget:
    """What one run may spend at most. A limit of None means unlimited; spending exactly the limit is allowed.

    Amounts may be texts as in a budgets.yaml (``"2k"``, ``"$0.05"``, ``"10s"``, ``"80%"``), times a timedelta.

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
    thresholds: tuple[float, ...] = (0.8, 0.95, 1.0)
    on_unpriced: OnUnpriced | None = None
    origin: str | None = field(default=None, compare=False)
    #: Limits in internal units, `RESOURCES` order, UNLIMITED where there is none.
    limits: tuple[int, ...] = field(init=False, repr=False)
    #: The same less what `wrap_up` sets aside: what ordinary calls see.
    ordinary_limits: tuple[int, ...] = field(init=False, repr=False)
    #: Wall time in nanoseconds, or None.
    max_ns: int | None = field(init=False, repr=False)
    #: By how many nanoseconds a wrap-up call may pass the deadline.
    wrap_up_ns: int = field(init=False, repr=False)

    if TYPE_CHECKING:  # what it takes, and gives as the numbers above

        def __init__(
            self,
            *,
            max_steps: Count | None = None,
            max_tokens: Count | None = None,
            max_input_tokens: Count | None = None,
            max_output_tokens: Count | None = None,
            max_cost_usd: Money | str | None = None,
            max_seconds: Money | str | timedelta | None = None,
            max_tool_calls: Count | None = None,
            max_nested_tool_calls: Count | None = None,
            max_depth: Count | None = None,
            name: str | None = None,
            on_exhausted: OnExhausted = "raise",
            wrap_up: Mapping[str, Money | str | timedelta] | None = None,
            thresholds: Iterable[float | str] = (0.8, 0.95, 1.0),
            on_unpriced: OnUnpriced | None = None,
            origin: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for resource in (*RESOURCES, "seconds", "depth"):
            name = f"max_{resource}"
            put(name, read(name, resource, getattr(self, name)))
        limits = limits_in(self, "max_", "max_")
        if self.max_depth is not None:
            put("max_depth", count("max_depth", self.max_depth, ConfigError))
        put("limits", limits)
        put("max_ns", None if self.max_seconds is None else limit("max_seconds", "seconds", self.max_seconds))
        put("wrap_up_ns", 0)
        put("ordinary_limits", limits)
        if self.wrap_up is not None:
            aside = {name: read(f"wrap_up.{name}", name, value) for name, value in self.wrap_up.items()}
            set_aside, wrap_up_ns = _set_aside(aside, limits)
            put("wrap_up", MappingProxyType(aside))
            put("wrap_up_ns", wrap_up_ns)
            put("ordinary_limits", tuple(most - kept for most, kept in zip(limits, set_aside, strict=True)))
        put("thresholds", ratios(self.thresholds))
        if not (self.on_exhausted in ("raise", "warn") or callable(self.on_exhausted)):
            raise ConfigError(f"on_exhausted must be 'raise', 'warn' or a callable, got {self.on_exhausted!r}")
        if self.on_unpriced not in (None, "deny", "estimate", "allow"):
            raise ConfigError(f"on_unpriced must be 'deny', 'estimate' or 'allow', got {self.on_unpriced!r}")

    def __repr__(self) -> str:
        return said(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return remade(self)


def said(value: Any) -> str:
    """For ``__repr__`` of a dataclass: what of it is not as by default."""
    given = ((one.name, getattr(value, one.name)) for one in fields(value) if one.init and one.repr)
    plain = {one.name: one.default for one in fields(value)}
    return f"{type(value).__name__}({', '.join(f'{name}={_plain(it)!r}' for name, it in given if it != plain[name])})"


def remade(value: Any) -> tuple[Any, ...]:
    """For ``__reduce__`` of a dataclass that holds read-only mappings, which do not pickle: how to make it anew."""
    given = {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.init}
    return partial(value.__class__, **given), ()


def _plain(value: Any) -> Any:
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, MappingProxyType) else value


def limits_in(given: object, prefix: str, called: str) -> tuple[int, ...]:
    """The attributes of *given* that are limits, in internal units and `RESOURCES` order; UNLIMITED where None."""
    values = ((resource, getattr(given, prefix + resource)) for resource in RESOURCES)
    return tuple(UNLIMITED if value is None else limit(called + name, name, value) for name, value in values)


def ratios(thresholds: Iterable[float | str]) -> tuple[float, ...]:
    """*thresholds* in ascending order, each once; ConfigError if one is no ratio above 0 and at most 1."""
    if not isinstance(thresholds, Iterable):
        raise ConfigError(f"thresholds must be a list of ratios, got {thresholds!r}")
    found = set()
    for value in (read("a threshold", "ratio", one) for one in thresholds):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ConfigError(f"a threshold must be a ratio above 0 and at most 1, got {value!r}")
        found.add(float(value))
    return tuple(sorted(found))


def _set_aside(wrap_up: Mapping[str, Money], limits: tuple[int, ...]) -> tuple[list[int], int]:
    amounts, given = [0] * len(limits), dict(wrap_up)
    wrap_up_ns = limit("wrap_up.seconds", "seconds", given.pop("seconds", 0))
    if limits[STEPS] < UNLIMITED:
        given.setdefault("steps", 1)
    for resource, value in given.items():
        if resource not in RESOURCES:
            raise ConfigError(f"wrap_up: unknown resource {resource!r}: known are seconds, {', '.join(RESOURCES)}")
        i = RESOURCES.index(resource)
        amounts[i] = limit(f"wrap_up.{resource}", resource, value)
        if limits[i] == UNLIMITED:
            raise ConfigError(f"wrap_up sets {resource} aside, but max_{resource} is not limited")
        if amounts[i] > limits[i]:
            raise ConfigError(f"wrap_up sets {value} {resource} aside, more than max_{resource} allows in all")
    return amounts, wrap_up_ns


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
