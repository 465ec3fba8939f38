"""What may stand in a ``budgets.yaml``: one table, from names to what their values must be.

To add a setting, add a line to the table of its section and a parameter to what the section builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from otelbudget.config.scalars import parse_count, parse_flag, parse_ratio, parse_seconds, parse_usd
from otelbudget.config.settings import Estimates, TelemetryConfig, did_you_mean
from otelbudget.errors import ConfigError
from otelbudget.model import RunBudget
from otelbudget.pricing import Price

if TYPE_CHECKING:
    from yaml.nodes import Node

    from otelbudget.config.reader import Entry, Path, Reader

__all__ = ["FILE", "INVALID", "Kind"]

#: What a kind gives for a value that is wrong; the reader has noted why.
INVALID: Final[Any] = object()


class Kind(Protocol):
    """What a value must be."""

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        """The value of *node*, or INVALID after noting what is wrong."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text that *parse* understands; ``null``, no limit, if *nullable*."""

    parse: Callable[[str], Any]
    wanted: str
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        text = reader.text(node, path, self.wanted)
        if text is None:
            return INVALID
        if self.nullable and text.value and reader.is_null(node):
            return None
        try:
            return self.parse(text.value)
        except ValueError as error:
            wanted = f"{self.wanted}, or null for no limit" if self.nullable else self.wanted
            hint = f"; {error}" if str(error) else ""
            reader.wrong(node, path, f"must be {wanted}, got {text.shown}{hint}")
            return INVALID


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words; *later* ones are for versions to come."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        wanted = " or ".join(self.words)
        text = reader.text(node, path, wanted)
        if text is None:
            return INVALID
        if text.value in self.words:
            return text.value
        if text.value in self.later:
            reader.wrong(node, path, f"{text.shown} is not supported by this version yet; it must be {wanted}")
        else:
            reader.wrong(node, path, f"must be {wanted}, got {text.shown}")
        return INVALID


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: Kind

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        items = reader.sequence(node, path)
        if items is None:
            return INVALID
        values = [self.item.read(reader, item, (*path, str(i))) for i, item in enumerate(items)]
        return INVALID if INVALID in values else tuple(values)


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of known names, from which *build* makes a value."""

    fields: Mapping[str, Kind]
    build: Callable[..., Any]
    required: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    may_be_empty: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if self.may_be_empty and reader.is_null(node):
            return self.build()
        entries = reader.mapping(node, path)
        if entries is None:
            return INVALID
        values = {name: self._value(reader, name, entry, (*path, name)) for name, entry in entries.items()}
        for name in self.required:
            if name not in entries:
                reader.wrong(node, path, f"{name} is missing")
                return INVALID
        if INVALID in values.values():
            return INVALID
        try:
            return self.build(**values)
        except ConfigError as error:
            name = str(error).split(maxsplit=1)[0]
            if name in entries:
                node, path = entries[name].value, (*path, name)
            reader.wrong(node, path, str(error))
            return INVALID

    def _value(self, reader: Reader, name: str, entry: Entry, path: Path) -> Any:
        if name in self.fields:
            return self.fields[name].read(reader, entry.value, path)
        later = name in self.later
        reader.wrong(
            entry.key,
            path,
            "not supported by this version yet" if later else f"unknown setting{did_you_mean(name, self.fields)}",
        )
        return INVALID


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of free names to values of one kind; nothing at all is an empty one."""

    item: Kind
    names_budgets: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        entries = {} if reader.is_null(node) else reader.mapping(node, path)
        if entries is None:
            return INVALID
        if self.names_budgets:
            reader.budgets.extend(entries)
        values = {name: self.item.read(reader, entry.value, (*path, name)) for name, entry in entries.items()}
        return INVALID if INVALID in values.values() else values


@dataclass(frozen=True, slots=True)
class BudgetOrName:
    """A budget in place, or the name of one; ``null`` if *nullable*."""

    budget: Kind
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if not reader.is_scalar(node):
            return self.budget.read(reader, node, path)
        text = reader.text(node, path, "a budget or the name of one")
        if text is None:
            return INVALID
        if reader.is_null(node):
            if self.nullable:
                return None
            reader.wrong(node, path, f"must be a budget or the name of one, got {text.shown}")
            return INVALID
        return reader.refer(text, node, path)


def _threshold(text: str) -> float:
    ratio = parse_ratio(text)
    if not ratio:
        raise ValueError("a threshold of nothing is always crossed")
    return float(ratio)


def _port(text: str) -> int:
    port = parse_count(text)
    if port > 65_535:
        raise ValueError("")
    return port


def _at_least_1(text: str) -> int:
    number = parse_count(text)
    if not number:
        raise ValueError("")
    return number


_COUNT = "a whole number such as 5, 50k or 1.5M"
_USD = "an amount of money such as $2.50"
_SECONDS = "a time such as 30s, 5m or 1h30m"

_RESOURCES: dict[str, tuple[Callable[[str], Any], str]] = {
    "steps": (parse_count, _COUNT),
    "tokens": (parse_count, _COUNT),
    "input_tokens": (parse_count, _COUNT),
    "output_tokens": (parse_count, _COUNT),
    "cost_usd": (parse_usd, _USD),
    "seconds": (parse_seconds, _SECONDS),
    "tool_calls": (parse_count, _COUNT),
    "nested_tool_calls": (parse_count, _COUNT),
}

_ON_UNPRICED = Choice(("deny", "estimate", "allow"))

_BUDGET = Section(
    {
        **{f"max_{name}": Scalar(*how, nullable=True) for name, how in _RESOURCES.items()},
        "max_depth": Scalar(parse_count, _COUNT, nullable=True),
        "on_exhausted": Choice(("raise", "warn")),
        "wrap_up": Section({name: Scalar(*how) for name, how in _RESOURCES.items()}, dict),
        "latch": Scalar(parse_flag, "true or false"),
        "thresholds": ListOf(Scalar(_threshold, "a ratio above 0 and at most 1, such as 80%")),
        "on_unpriced": _ON_UNPRICED,
    },
    RunBudget,
)

_PRICE = Section(
    {
        "input": Scalar(parse_usd, _USD),
        "output": Scalar(parse_usd, _USD),
        "cache_read": Scalar(parse_usd, _USD),
        "cache_write": Scalar(parse_usd, _USD),
        "reasoning": Scalar(parse_usd, _USD),
        "per": Scalar(_at_least_1, "a number of tokens such as 1M or 1k"),
        "discount": Scalar(parse_ratio, "a ratio from 0 to 1, such as 10%"),
    },
    Price,
    required=("input",),
)

_ESTIMATES = Section(
    {"output_tokens": Scalar(_at_least_1, "a whole number of at least 1, such as 256")},
    Estimates,
    later=("hold", "clamp", "min_output_tokens"),
    may_be_empty=True,
)

_TELEMETRY = Section(
    {
        "events": Choice(("span",), later=("log", "both")),
        "max_tenants": Scalar(_at_least_1, "a whole number of at least 1, such as 500"),
        "max_models": Scalar(_at_least_1, "a whole number of at least 1, such as 50"),
        "top_runs": Scalar(parse_count, _COUNT),
        "metrics_port": Scalar(_port, "a port from 0 to 65535"),
    },
    TelemetryConfig,
    may_be_empty=True,
)

#: The whole file.
FILE: Final = Section(
    {
        "budgets": Named(_BUDGET, names_budgets=True),
        "default_budget": BudgetOrName(_BUDGET, nullable=True),
        "agents": Named(BudgetOrName(_BUDGET)),
        "prices": Named(_PRICE),
        "estimates": _ESTIMATES,
        "telemetry": _TELEMETRY,
        "on_unpriced": _ON_UNPRICED,
    },
    dict,
    later=("tenants", "quotas", "store", "tenant_from", "trust_reported_cost", "require_tenant", "on_store_error"),
)
