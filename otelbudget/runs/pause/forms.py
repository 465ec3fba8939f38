"""The values of an exported run as JSON values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from otelbudget.errors import BudgetExceeded, ConfigError
from otelbudget.model.amounts import COST, RESOURCES, UNLIMITED, Amounts, count, nanoseconds, nanousd, usd
from otelbudget.model.budget import RunBudget, Usage
from otelbudget.model.decision import Denial
from otelbudget.model.message import REASONS
from otelbudget.runs.pause.parts import Part
from otelbudget.stores.books import Where

__all__ = [
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
