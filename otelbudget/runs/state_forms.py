"""The values of an exported run as JSON values and back; what can't be read says which field is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from otelbudget.amounts import COST, RESOURCES, UNLIMITED, Amounts, count, nanoseconds, nanousd, usd
from otelbudget.decision import REASONS, Denial
from otelbudget.errors import BudgetExceeded, ConfigError
from otelbudget.model import RunBudget, Usage
from otelbudget.stores.books import Where

__all__ = [
    "Part",
    "amounts_form",
    "budget_form",
    "denial_form",
    "error_form",
    "limits_form",
    "read_budget",
    "read_denial",
    "read_error",
    "read_usage",
    "usage_form",
]

_TEXTS: Final = ("resource", "budget", "scope")
_NUMBERS: Final = ("used", "reserved", "limit", "requested", "retry_after_s")
_MORE_TEXTS: Final = ("tenant", "run_id", "per", "priority", "origin", "detail")
_MORE_NUMBERS: Final = ("resets_in_s", "whole", "own_maximum", "set_aside")
_FLAGS: Final = ("ambient", "carved")
_FIELDS: Final = Amounts._fields


class Part:
    """A mapping inside a state, read field by field.

    Args:
        data: What should be a mapping.
        path: Where it is, for messages.

    Raises:
        ConfigError: From every method, naming the field.
    """

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            hint = "; read it with json.loads() first" if isinstance(data, str | bytes) else ""
            raise ConfigError(f"{path} must be a mapping, got {_short(data)}{hint}")
        self.data: Mapping[str, Any] = data
        self.path = path

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Say that a field is not what it has to be."""
        got = _short(self.data[name]) if name in self.data else "nothing"
        raise ConfigError(f"{self.path}.{name} must be {wanted}, got {got}")

    def get(self, name: str) -> Any:
        """The field *name*, which has to be there."""
        if name not in self.data:
            self.refuse(name, "given")
        return self.data[name]

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            self.refuse(name, "a text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "a text or null")
        return value

    def choice(self, name: str, *known: str) -> str:
        """One of *known*."""
        value = self.get(name)
        if value not in known:
            self.refuse(name, f"one of {', '.join(known)}")
        return str(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def number(self, name: str) -> int:
        """A whole number of at least 0, of any size: sums have no bound."""
        value = self.get(name)
        if type(value) is not int or value < 0:
            self.refuse(name, "a whole number of at least 0")
        return value

    def value(self, name: str) -> int | float | Decimal | None:
        """A finite number, money as text, or None."""
        value = self.get(name)
        if isinstance(value, str):
            return self.decimal(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0):
            self.refuse(name, "a finite number or null")
        return value

    def decimal(self, name: str) -> Decimal:
        """A decimal number, written as text."""
        try:
            found = Decimal(self.text(name))
        except InvalidOperation:
            self.refuse(name, "a decimal number as text")
        if not found.is_finite():
            self.refuse(name, "a finite decimal number as text")
        return found

    def part(self, name: str) -> Part:
        """A mapping."""
        return Part(self.get(name), f"{self.path}.{name}")

    def optional_part(self, name: str) -> Part | None:
        """A mapping, or None."""
        return None if self.get(name) is None else self.part(name)

    def parts(self, name: str) -> Iterator[Part]:
        """The mappings of a list."""
        for i, one in enumerate(self._list(name)):
            yield Part(one, f"{self.path}.{name}[{i}]")

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self._list(name)
        if not all(isinstance(one, str) for one in found):
            self.refuse(name, "a list of texts")
        return list(found)

    def _list(self, name: str) -> Sequence[Any]:
        value = self.get(name)
        if not isinstance(value, list | tuple):
            self.refuse(name, "a list")
        return value

    def amounts(self, name: str) -> Amounts:
        """Internal amounts of every resource."""
        part = self.part(name)
        return Amounts(*map(part.number, _FIELDS))

    def limits(self, name: str) -> tuple[int, ...]:
        """Internal limits of every resource; None is UNLIMITED."""
        part = self.part(name)
        return tuple(UNLIMITED if part.get(one) is None else min(part.number(one), UNLIMITED - 1) for one in _FIELDS)

    def made(self, make: Callable[[], Any]) -> Any:
        """What *make* gives; its error with where that is."""
        try:
            return make()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{self.path}: {error}") from error


def _short(value: object) -> str:
    said = repr(value)
    return f"{said if len(said) <= 60 else said[:57] + '...'} ({type(value).__name__})"


def amounts_form(amounts: Sequence[int]) -> dict[str, int]:
    """Amounts, by the names of `Amounts`."""
    return dict(zip(_FIELDS, amounts, strict=True))


def limits_form(limits: Sequence[int]) -> dict[str, int | None]:
    """Limits, by the names of `Amounts`."""
    return {name: n if n < UNLIMITED else None for name, n in zip(_FIELDS, limits, strict=True)}


# --- budgets


def budget_form(budget: RunBudget) -> dict[str, Any]:
    """A budget; a function as `on_exhausted` is only said to be one."""
    form: dict[str, Any] = {
        f"max_{resource}": None if n >= UNLIMITED else str(usd(n)) if i == COST else n
        for i, (resource, n) in enumerate(zip(RESOURCES, budget.limits, strict=True))
    }
    form["max_seconds"] = None if budget.max_ns is None else str(usd(budget.max_ns))
    form["max_depth"] = budget.max_depth
    form["name"] = budget.name
    form["on_exhausted"] = "function" if callable(budget.on_exhausted) else budget.on_exhausted
    form["wrap_up"] = None if budget.wrap_up is None else {r: _aside(r, n) for r, n in budget.wrap_up.items()}
    form["latch"] = budget.latch
    form["thresholds"] = list(budget.thresholds)
    form["on_unpriced"] = budget.on_unpriced
    form["origin"] = budget.origin
    return form


def _aside(resource: str, amount: Any) -> int | str:
    parse = {"cost_usd": nanousd, "seconds": nanoseconds}.get(resource)
    return count(resource, amount) if parse is None else str(usd(parse(resource, amount)))


def read_budget(part: Part, on_exhausted: Any) -> RunBudget:
    """A budget; *on_exhausted* replaces its own unless it is None."""
    given: dict[str, Any] = {one.name: part.get(one.name) for one in fields(RunBudget) if one.init}
    for name in ("name", "origin"):
        given[name] = part.optional_text(name)
    for name in ("max_cost_usd", "max_seconds"):
        given[name] = None if given[name] is None else part.decimal(name)
    aside = part.optional_part("wrap_up")
    if aside is not None:
        named = ("cost_usd", "seconds")
        given["wrap_up"] = {name: aside.decimal(name) if name in named else aside.number(name) for name in aside.data}
    given["latch"] = part.flag("latch")
    if on_exhausted is not None:
        given["on_exhausted"] = on_exhausted
    elif given["on_exhausted"] == "function":
        raise ConfigError(
            "on_exhausted of this run was a function, which a state can't carry: pass it again,"
            " resume(state, on_exhausted=...)"
        )
    budget: RunBudget = part.made(lambda: RunBudget(**given))
    return budget


# --- usages


def usage_form(usage: Usage | None) -> dict[str, Any] | None:
    """A usage, without what it leaves at its default."""
    if usage is None:
        return None
    found = {one.name: (getattr(usage, one.name), one.default) for one in fields(Usage)}
    return {n: str(v) if isinstance(v, Decimal) else v for n, (v, default) in found.items() if v != default}


def read_usage(part: Part | None) -> Usage | None:
    """A usage, or None."""
    if part is None:
        return None
    known = {one.name for one in fields(Usage)}
    given: dict[str, Any] = {}
    for name in part.data:
        if name not in known:
            part.refuse(name, "left out: it is no field of a Usage")
        if name in ("cost_usd", "reported_cost_usd"):
            given[name] = part.decimal(name)
        elif name in ("model", "provider", "response_id"):
            given[name] = part.optional_text(name)
        else:
            given[name] = part.flag(name) if name == "estimated" else part.number(name)
    usage: Usage = part.made(lambda: Usage(**given))
    return usage


# --- denials


def denial_form(denial: Denial | None) -> dict[str, Any] | None:
    """A denial."""
    if denial is None:
        return None
    names = (*_MORE_TEXTS, *_MORE_NUMBERS, *_FLAGS)
    where = None if denial.where is None else list(denial.where)
    return _shared_form(denial) | {name: _plain(getattr(denial, name)) for name in names} | {"where": where}


def error_form(error: BudgetExceeded | None) -> dict[str, Any] | None:
    """A pending exception, without its receipt."""
    return None if error is None else _shared_form(error) | {"message": str(error)}


def _shared_form(said: Denial | BudgetExceeded) -> dict[str, Any]:
    names = ("reason", *_TEXTS, *_NUMBERS, "resets_at")
    return {name: _plain(getattr(said, name)) for name in names}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, datetime) else value


def read_denial(part: Part | None) -> Denial | None:
    """A denial, or None."""
    if part is None:
        return None
    given = _read_shared(part)
    given |= {name: part.optional_text(name) for name in _MORE_TEXTS}
    given |= {name: part.value(name) for name in _MORE_NUMBERS}
    given |= {name: part.flag(name) for name in _FLAGS}
    if part.get("where") is not None:
        given["where"] = part.made(lambda: Where(*part.texts("where")))
    denial = Denial(**given)
    part.made(lambda: denial.message)  # so that numbers which make no sense are found now
    return denial


def read_error(part: Part | None) -> BudgetExceeded | None:
    """A pending exception, or None."""
    return None if part is None else BudgetExceeded(part.text("message"), **_read_shared(part))


def _read_shared(part: Part) -> dict[str, Any]:
    given: dict[str, Any] = {"reason": part.choice("reason", *REASONS)}
    given |= {name: part.optional_text(name) for name in _TEXTS}
    given |= {name: part.value(name) for name in _NUMBERS}
    resets_at = part.optional_text("resets_at")
    given["resets_at"] = None if resets_at is None else part.made(lambda: datetime.fromisoformat(resets_at))
    return given
