"""Pausing a run: `export` gives what it is between two calls as a value that JSON can carry, `rebuild` goes on from it.

What its quotas count stays with the store that they live in, its denials and idempotency keys with the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from re import fullmatch
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Names, tags_of
from otelbudget.errors import BudgetError, ConfigError
from otelbudget.model.amounts import CEILING, RESOURCES, UNLIMITED, Amounts, shown, usd
from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import PRIORITIES
from otelbudget.model.vector import SHIFTS, unpack
from otelbudget.telemetry import events

_W3C: Final = TraceContextTextMapPropagator()
#: What the attributes of a run's owner, and of the run itself, are called in its state.
_OWNER: Final = ("org", "tenant", "user", "agent", "conversation", "priority")
_AS_LEFT: Final = ("frozen", "unpriced", "wrapped_up")
#: What makes a budget.
_BUDGET: Final = frozenset(one.name for one in fields(RunBudget) if one.init)
#: More than any run can have used, in units or nanoseconds, and than telemetry and stores can tell.
_TOO_MUCH: Final = 2**63


def export(run: RunState, *, freeze: bool) -> dict[str, Any]:
    """The state of *run*; with *freeze* it is frozen in the same moment, and leaving it is no end."""
    closing.settle_overdue(run.engine)
    run.engine.ledger.sweep(run.engine.clock_ns())
    state = run.engine.ledger.locked(lambda: _exported(run, freeze=freeze))
    if freeze:
        change: dict[str, Any] = {semconv.OLD: state["frozen"] is not None, semconv.NEW: True}
        events.change_event(run.site, semconv.EVENT_FREEZE, change | {semconv.REASON: "export_state"})
    return state


def _exported(run: RunState, *, freeze: bool) -> dict[str, Any]:
    if run.sharing is not None:
        raise BudgetError("a shared run needs no state: other processes go on with continue_run(run.run_id)")
    if run.above:
        raise BudgetError("a run inside another one has no state of its own: export the outermost run")
    if run.closed:
        raise BudgetError("this run has ended; export its state before leaving it")
    if run.exported:
        raise BudgetError("the state of this run was exported before, and it goes on there; run.unfreeze() undoes that")
    if holds := run.account.holds:
        raise BudgetError(f"{holds} calls of this run are in flight: export its state when they are settled")
    if inside := _open_inside(run):
        raise BudgetError(f"{inside} runs inside this one are open: export its state when they are left")
    state = form(run)
    if freeze:
        run.exported, run.frozen = True, "its state was exported"
        run.refresh()  # in the same step, or a call that is not in that state could go on here
    return state


def _open_inside(run: RunState) -> int:
    return sum((not (one.closed or one.finished)) + _open_inside(one) for one in run.runs_inside())


def form(run: RunState) -> dict[str, Any]:
    """What another process needs to know of *run* to go on with it, as JSON can carry it."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(run.span or trace.INVALID_SPAN))
    return {
        "format": "otelbudget.run",
        "version": 1,
        "run_id": run.run_id,
        "traceparent": carrier.get("traceparent"),
        "budget": _plain(_budget_form(run)),
        "used": dict(zip(Amounts._fields, unpack(run.account.used), strict=True)),
        "elapsed_ns": max(0, run.elapsed_ns(run.engine.clock_ns())),
        **{name: getattr(run.owner, name) for name in _OWNER},
        **{name: getattr(run, name) for name in _AS_LEFT},
        "tags": dict(run.owner.tags),
    }


def _budget_form(run: RunState) -> dict[str, Any]:
    """What makes its budget, with the limits as they are by now."""
    rule, budget = run.account.rule, run.budget
    limits = {RESOURCES[i]: (i, limit) for i, limit in enumerate(rule.full) if limit < UNLIMITED}
    form = {name: getattr(budget, name) for name in _BUDGET}
    form |= {f"max_{name}": shown(i, min(limit, CEILING - 1)) for name, (i, limit) in limits.items()}
    form["max_seconds"] = None if run.max_ns is None else usd(min(run.max_ns, CEILING - 1))
    if budget.wrap_up is not None:
        form["wrap_up"] = {name: shown(i, limit - rule.limits[0][i]) for name, (i, limit) in limits.items()}
        form["wrap_up"]["seconds"] = usd(budget.wrap_up_ns)
    return form


def _plain(value: Any) -> Any:
    """*value* as JSON has it; a function as `on_exhausted` is only said to be one."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if callable(value):
        return "function"
    return str(value) if isinstance(value, Decimal) else list(value) if isinstance(value, tuple) else value


# --- going on


def _is_sum(value: object) -> bool:
    return type(value) is int and 0 <= value < _TOO_MUCH


def _is_used(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) == set(Amounts._fields) and all(map(_is_sum, value.values()))


def _is_tags(value: object) -> bool:
    with suppress(TypeError, ValueError):
        return value is not None and tags_of(value) is not None
    return False


_NAME: Final = (lambda value: isinstance(value, str) and value, "a text that is not empty")
_NAME_OR_NONE: Final = (lambda value: value is None or _NAME[0](value), "a text that is not empty, or null")
_TEXT_OR_NONE: Final = (lambda value: isinstance(value, str | None), "a text or null")
#: What each field has to be: what tells, and in words.
_FIELDS: Final[Mapping[str, tuple[Callable[[Any], object], str]]] = {
    "format": (lambda value: value == "otelbudget.run", "'otelbudget.run', as in what run.export_state() gives"),
    "version": (lambda value: type(value) is int and value == 1, "1, the only one that this otelbudget reads"),
    "run_id": (lambda value: isinstance(value, str) and fullmatch("[0-9a-f]{32}", value), "32 hexadecimal digits"),
    "traceparent": (lambda value: value is None or links({"traceparent": value}), "a W3C traceparent or null"),
    **dict.fromkeys(("org", "tenant"), _NAME),
    **dict.fromkeys(("user", "agent", "conversation"), _NAME_OR_NONE),
    "tags": (_is_tags, "a mapping of at most 8 names to texts"),
    "priority": (lambda value: value in PRIORITIES, f"one of {', '.join(PRIORITIES)}"),
    "budget": (lambda value: isinstance(value, Mapping) and value.keys() >= _BUDGET, f"a mapping of {sorted(_BUDGET)}"),
    "used": (_is_used, f"a whole number from 0 to 2^63 - 1 for each of {', '.join(Amounts._fields)}"),
    "elapsed_ns": (_is_sum, "a whole number from 0 to 2^63 - 1"),
    **dict.fromkeys(("frozen", "unpriced"), _TEXT_OR_NONE),
    "wrapped_up": (lambda value: isinstance(value, bool), "true or false"),
}


def read(state: object, on_exhausted: Any) -> RunBudget:
    """Check *state*, and give its budget; *on_exhausted* replaces that of the budget, unless it is None."""
    if not isinstance(state, Mapping):
        raise ConfigError(f"state must be a mapping, as export_state gives it, got {state!r:.60}")
    for name, (holds, wanted) in _FIELDS.items():
        if name not in state or not holds(state[name]):
            got = f"{state[name]!r:.60}" if name in state else "nothing"
            raise ConfigError(f"state.{name} must be {wanted}, got {got}")
    given = dict(state["budget"])
    if on_exhausted is not None:
        given["on_exhausted"] = on_exhausted
    elif given["on_exhausted"] == "function":
        said = "on_exhausted of this run was a function, which a state can't carry: pass it to resume(on_exhausted=...)"
        raise ConfigError(said)
    try:
        if not all(isinstance(given[name], str | None) for name in ("name", "origin")):
            raise TypeError("name and origin must be text or null")
        for name in ("max_cost_usd", "max_seconds"):
            given[name] = _number(given[name])
        if given["wrap_up"] is not None:
            given["wrap_up"] = {name: _number(value) for name, value in given["wrap_up"].items()}
        return RunBudget(**given)
    except (ValueError, TypeError, AttributeError, InvalidOperation) as error:
        raise ConfigError(f"state.budget: {error}") from error


def _number(value: Any) -> Any:
    return Decimal(value) if isinstance(value, str) else value


def links(state: Mapping[str, Any]) -> list[Link]:
    """A link to the span that the run had, if it had one."""
    parent = state["traceparent"]
    carrier = {"traceparent": parent} if isinstance(parent, str) else {}
    span = trace.get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    return [Link(span)] if span.is_valid else []


def names(state: Mapping[str, Any]) -> Names:
    """Whose the run is."""
    return Names(**{name: state[name] for name in _OWNER}, tags=tags_of(state["tags"]))


def rebuild(
    engine: Engine, budget: RunBudget, state: Mapping[str, Any], *, reraise: bool
) -> tuple[RunState, list[Link]]:
    """A run that goes on from *state*, which has been read, and links to its span; its time goes on from now."""
    owner = engine.directory.owner(names(state))
    if any(one.run_id == state["run_id"] for one in list(engine.meters.live)):
        raise BudgetError(
            f"run {state['run_id']} is open in this process: leave it before its state is resumed here,"
            f" or it could spend twice what it has left"
        )
    run = RunState(engine, budget, owner, reraise=reraise)
    run.number = int(state["run_id"], 16)
    run.started_ns -= state["elapsed_ns"]
    for name in _AS_LEFT:
        setattr(run, name, state[name])
    used = sum(state["used"][name] << shift for name, shift in zip(Amounts._fields, SHIFTS, strict=True))
    # Its own account, and those of quotas that every run has on its own; what was crossed before is no news.
    engine.ledger.charge(run.accounts, used, (), [])
    run.refresh()
    return run, links(state)
