"""`RunBudget`: what one run may spend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import RESOURCES, STEPS, UNLIMITED, Money, count, limit
from otelbudget.model.text import read
from otelbudget.model.values import Value, spelled

_Count = int | str

#: ``"raise"``, ``"warn"`` (charge, flag, never block) or ``(denial, run) -> bool``; True evaluates once more.
OnExhausted = Literal["raise", "warn"] | Callable[[Any, Any], "bool | Awaitable[bool]"]
OnUnpriced = Literal["deny", "estimate", "allow"]


@spelled
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunBudget(Value):
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
            max_steps: _Count | None = None,
            max_tokens: _Count | None = None,
            max_input_tokens: _Count | None = None,
            max_output_tokens: _Count | None = None,
            max_cost_usd: Money | str | None = None,
            max_seconds: Money | str | timedelta | None = None,
            max_tool_calls: _Count | None = None,
            max_nested_tool_calls: _Count | None = None,
            max_depth: _Count | None = None,
            name: str | None = None,
            on_exhausted: OnExhausted = "raise",
            wrap_up: Mapping[str, Money | str | timedelta] | None = None,
            thresholds: Iterable[float | str] = (0.8, 0.95, 1.0),
            on_unpriced: OnUnpriced | None = None,
            origin: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        if not (self.name is None or isinstance(self.name, str)):
            raise ConfigError(f"name must be text, got {self.name!r}")
        if not (self.wrap_up is None or isinstance(self.wrap_up, Mapping)):
            raise ConfigError(f"wrap_up must map resources to amounts, {{'tokens': 500}}, got {self.wrap_up!r}")
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


def limits_in(given: object, prefix: str, called: str) -> tuple[int, ...]:
    """The attributes of *given* that are limits, in internal units and `RESOURCES` order; UNLIMITED where None."""
    values = ((resource, getattr(given, prefix + resource)) for resource in RESOURCES)
    return tuple(UNLIMITED if value is None else limit(called + name, name, value) for name, value in values)


def ratios(thresholds: Iterable[float | str]) -> tuple[float, ...]:
    """*thresholds* in ascending order, each once; ConfigError if one is no ratio above 0 and at most 1."""
    if isinstance(thresholds, str) or not isinstance(thresholds, Iterable):
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
