"""Pausing a run: `export` gives what it is between two calls as a value that JSON can carry, `rebuild` goes on from it.

What its quotas count stays with the store that they live in, its denials and idempotency keys with the run itself.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.admission.closing import EXPORTED
from otelbudget.errors import BudgetError, ConfigError
from otelbudget.ledger.thresholds import rearm
from otelbudget.model.amounts import CEILING, RESOURCES, UNLIMITED, Amounts, shown, usd
from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import PRIORITIES
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun

__all__ = ["export", "links", "read", "rebuild"]

FORMAT: Final = "otelbudget.run"
VERSION: Final = 1
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_W3C: Final = TraceContextTextMapPropagator()
#: Attributes of a run that are fields of its state by the same name.
_OWNER: Final = ("org", "tenant", "user", "priority")
_AS_LEFT: Final = ("frozen", "unpriced", "wrapped_up")


def export(run: BudgetRun, *, freeze: bool) -> dict[str, Any]:
    """The state of *run*; with *freeze* it is frozen in the same moment, and leaving it is no end.

    Raises:
        BudgetError: It is inside another run, has ended, was exported before, or has calls or runs open.
    """
    closing.settle_overdue(run.engine)
    with run.engine.lock:
        run.engine.sweep(run.engine.clock_ns())
        _check_at_rest(run)
        state = _form(run)
        if freeze:
            run.frozen = EXPORTED
            run.refresh()
            run.engine.store.changed()
    if freeze:
        change: dict[str, Any] = {
            semconv.OLD: state["frozen"] is not None,
            semconv.NEW: True,
            semconv.REASON: "export_state",
        }
        events.change_event(run.site, semconv.EVENT_FREEZE, change)
    return state


def _check_at_rest(run: BudgetRun) -> None:
    live: Any = run.engine.meters.live
    if run.parent is not None:
        raise BudgetError("a run inside another one has no state of its own: export the outermost run")
    if run.closed:
        raise BudgetError("this run has ended; export its state before leaving it")
    if run.frozen == EXPORTED:
        raise BudgetError("the state of this run was exported before, and it goes on there; run.unfreeze() undoes that")
    if run.open_holds:
        raise BudgetError(f"{run.open_holds} calls of this run are in flight: export its state when they are settled")
    if inside := sum(run in one.lineage() for one in live if one is not run and not one.closed):
        raise BudgetError(f"{inside} runs inside this one are open: export its state when they are left")


def _form(run: BudgetRun) -> dict[str, Any]:
    carrier: dict[str, str] = {}
    if run.span is not None:
        _W3C.inject(carrier, trace.set_span_in_context(run.span))
    return {
        "format": FORMAT,
        "version": VERSION,
        "run_id": run.run_id,
        "traceparent": carrier.get("traceparent"),
        "budget": _budget_form(run),
        "used": dict(zip(Amounts._fields, run.account.used, strict=True)),
        "elapsed_ns": max(0, run.elapsed_ns(run.engine.clock_ns())),
        **{name: getattr(run, name) for name in (*_OWNER, *_AS_LEFT)},
    }


def _budget_form(run: BudgetRun) -> dict[str, Any]:
    """The budget with its limits as they are by now; a function as `on_exhausted` is only said to be one."""
    account, budget = run.account, run.budget
    form: dict[str, Any] = {one.name: getattr(budget, one.name) for one in fields(budget) if one.init}
    for i, (resource, limit) in enumerate(zip(RESOURCES, account.full, strict=True)):
        form[f"max_{resource}"] = None if limit >= UNLIMITED else shown(i, min(limit, CEILING - 1))
    form["max_seconds"] = None if run.max_ns is None else usd(min(run.max_ns, CEILING - 1))
    if budget.wrap_up is not None:
        aside = {RESOURCES[i]: _plain(shown(i, account.full[i] - account.limits[i])) for i in account.limited}
        form["wrap_up"] = {**aside, "seconds": str(usd(budget.wrap_up_ns))}
    return {name: _plain(value) for name, value in form.items()}


def _plain(value: Any) -> Any:
    if callable(value):
        return "function"
    return str(value) if isinstance(value, Decimal) else list(value) if isinstance(value, tuple) else value


# --- going on


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_sum(value: object) -> bool:
    return type(value) is int and value >= 0


#: What each field has to be: a function that tells, and in words.
_FIELDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "format": (lambda given: given == FORMAT, f"{FORMAT!r}, as in what run.export_state() gives"),
    "version": (lambda given: _is_sum(given) and given == VERSION, f"{VERSION}, the only one read here"),
    "run_id": (lambda given: _is_name(given) and _RUN_ID.fullmatch(given) is not None, "32 hexadecimal digits"),
    "traceparent": (lambda given: given is None or bool(links({"traceparent": given})), "a W3C traceparent or null"),
    "org": (_is_name, "a text that is not empty"),
    "tenant": (_is_name, "a text that is not empty"),
    "user": (lambda given: given is None or _is_name(given), "a text that is not empty, or null"),
    "priority": (lambda given: given in PRIORITIES, f"one of {', '.join(PRIORITIES)}"),
    "budget": (lambda given: isinstance(given, Mapping), "a mapping"),
    "used": (
        lambda given: isinstance(given, Mapping) and all(_is_sum(given.get(name)) for name in Amounts._fields),
        f"whole numbers of at least 0 for {', '.join(Amounts._fields)}",
    ),
    "elapsed_ns": (_is_sum, "a whole number of at least 0"),
    "frozen": (_is_text, "a text or null"),
    "unpriced": (_is_text, "a text or null"),
    "wrapped_up": (lambda given: isinstance(given, bool), "true or false"),
}


def read(state: object, on_exhausted: Any) -> RunBudget:
    """Check *state*, and give its budget; *on_exhausted* replaces that of the budget, unless it is None.

    Raises:
        ConfigError: It is not what `export_state` gives; the message names the field.
    """
    if not isinstance(state, Mapping):
        hint = "; read it with json.loads() first" if isinstance(state, str | bytes) else ""
        raise ConfigError(f"state must be a mapping, got {reprlib.repr(state)}{hint}")
    for name, (holds, wanted) in _FIELDS.items():
        if name not in state or not holds(state[name]):
            got = reprlib.repr(state[name]) if name in state else "nothing"
            raise ConfigError(f"state.{name} must be {wanted}, got {got}")
    given = dict(state["budget"])
    if on_exhausted is not None:
        given["on_exhausted"] = on_exhausted
    elif given.get("on_exhausted") == "function":
        raise ConfigError(
            "on_exhausted of this run was a function, which a state can't carry: pass it again,"
            " resume(state, on_exhausted=...)"
        )
    return _read_budget(given)


def _read_budget(given: dict[str, Any]) -> RunBudget:
    missing = [one.name for one in fields(RunBudget) if one.init and one.name not in given]
    wrong = missing or [name for name in ("name", "origin") if not _is_text(given[name])]
    if wrong:
        raise ConfigError(f"state.budget.{wrong[0]} must be {'given' if missing else 'a text or null'}")
    try:
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
    carrier = {"traceparent": str(state["traceparent"])}
    span = trace.get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    return [Link(span)] if span.is_valid else []


def rebuild(engine: Engine, budget: RunBudget, state: Mapping[str, Any], *, reraise: bool) -> BudgetRun:
    """A run that goes on from *state*, which has been read; its time goes on from now.

    Raises:
        BudgetError: That run is open in this process.
    """
    from otelbudget.runs.run import BudgetRun

    owner = engine.owners.owner(**{name: state[name] for name in _OWNER})
    live: Any = engine.meters.live
    with engine.lock:
        if any(one.run_id == state["run_id"] for one in live):
            raise BudgetError(
                f"run {state['run_id']} is open in this process: leave it before its state is resumed here,"
                f" or it could spend twice what it has left"
            )
        run = BudgetRun(engine, budget, owner, reraise=reraise)
        run.number = int(state["run_id"], 16)
        run.started_ns -= state["elapsed_ns"]
        for name in _AS_LEFT:
            setattr(run, name, state[name])
        for account in run.accounts:  # its own, and those of quotas that every run has on its own
            account.used[:] = [state["used"][name] for name in Amounts._fields]
            rearm(account)
        run.refresh()
    return run
