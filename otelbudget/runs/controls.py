"""What an operator or a handler changes about a running run: more budget, freeze, reset. Each change is an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otelbudget import semconv
from otelbudget.admission.closing import EXPORTED
from otelbudget.ledger import ledger
from otelbudget.model.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, count, nanoseconds, nanousd
from otelbudget.runs import timeout as deadlines
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

__all__ = ["extend", "freeze", "reset", "unfreeze"]

_KNOWN = (*RESOURCES, "seconds")


def extend(
    run: BudgetRun, delta: Mapping[str, Any], to: Mapping[str, Any] | None, actor: str | None, reason: str | None
) -> None:
    """Add *delta* to the run's own limits, or set those of *to*; clears latch, pending denial and thresholds of each.

    Raises:
        ValueError: A resource is not limited, or an amount is not one; nothing has changed then.
        TypeError: A keyword is no resource, or *to* no mapping of resources.
    """
    _check_names(actor, reason)
    wanted = _wanted(delta, to)
    changes: list[tuple[str, float, float]] = []
    dealt: list[object] = []  # let go of after the lock
    with run.engine.lock:
        for resource in wanted:
            if (run.max_ns is None) if resource == "seconds" else _index(resource) not in run.account.limited:
                raise ValueError(f"max_{resource} is not limited, so it can't be extended")
        for resource, amount in wanted.items():
            setting = to is not None and resource in to
            changes.append((resource, *_change(run, resource, amount, setting=setting)))
            dealt.append(run.forget(resource))
        run.refresh()
        if "seconds" in wanted:
            deadlines.moved(run)
        run.engine.store.changed()
    for resource, old, new in changes:
        _say(run, semconv.EVENT_EXTEND, actor, reason, {semconv.RESOURCE: resource, semconv.OLD: old, semconv.NEW: new})
        if run.span is not None and run.span.is_recording():
            whole = resource not in ("cost_usd", "seconds")
            run.span.set_attribute(semconv.LIMIT_PREFIX + resource, int(new) if whole else new)


def _wanted(delta: Mapping[str, Any], to: Mapping[str, Any] | None) -> dict[str, int]:
    if to is not None and not isinstance(to, Mapping):
        raise TypeError(f"to= takes the new limits by resource, as in to={{'steps': 4}}, got {to!r}")
    wanted = {**_parsed(delta), **_parsed(to or {})}
    if not wanted:
        raise TypeError(f"extend() needs what to extend, one of {', '.join(_KNOWN)}")
    twice = [name for name in to or {} if name in delta]
    if twice:
        raise TypeError(f"extend() got {twice[0]} both as what to add and in to=, which sets it; say one of them")
    return wanted


def _parsed(given: Mapping[str, Any]) -> dict[str, int]:
    parsed = {}
    for name, value in given.items():
        if name not in _KNOWN:
            raise TypeError(f"unknown resource {name!r}: known are {', '.join(_KNOWN)}")
        parse = {"cost_usd": nanousd, "seconds": nanoseconds}.get(name, count)
        parsed[name] = parse(name, value)
    return parsed


def _index(resource: str) -> int:
    return RESOURCES.index(resource)


def _change(run: BudgetRun, resource: str, amount: int, *, setting: bool) -> tuple[float, float]:
    if resource == "seconds":
        old = run.max_ns or 0
        run.max_ns = amount if setting else min(old + amount, UNLIMITED - 1)
        return old / NANOS, run.max_ns / NANOS
    i, account = _index(resource), run.account
    old = account.full[i]
    new = amount if setting else min(old + amount, UNLIMITED - 1)
    full, limits = list(account.full), list(account.limits)
    # What was set aside for wrapping up is spent once that is done.
    full[i], limits[i] = new, new if run.wrapped_up else max(0, new - _set_aside(run, i))
    ledger.relimit(account, limits, full)
    run.latched &= ~(1 << i)
    unit = NANOS if i == COST else 1
    return old / unit, new / unit


def _set_aside(run: BudgetRun, i: int) -> int:
    return run.budget.limits[i] - run.budget.ordinary_limits[i]


def freeze(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Refuse new calls and extensions of holds."""
    _freeze(run, actor, reason, frozen=True)


def unfreeze(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Admit calls again."""
    _freeze(run, actor, reason, frozen=False)


def _freeze(run: BudgetRun, actor: str | None, reason: str | None, *, frozen: bool) -> None:
    _check_names(actor, reason)
    with run.engine.lock:
        was = run.frozen is not None
        if not frozen:
            run.frozen = None
        elif run.frozen != EXPORTED:  # that stays the reason: it goes on elsewhere
            run.frozen = reason or ""
        run.refresh()
        run.engine.store.changed()
    _say(run, semconv.EVENT_FREEZE, actor, reason, {semconv.OLD: was, semconv.NEW: frozen})


def reset(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Nothing used, nothing refused, the clock at zero; limits and holds stay, thresholds are armed anew."""
    _check_names(actor, reason)
    with run.engine.lock:
        account = run.account
        old = list(account.used)
        ledger.forget(account)
        if run.wrapped_up:  # what an `extend` made ordinary since then is set aside again
            run.wrapped_up = False
            limits = [max(0, limit - _set_aside(run, i)) for i, limit in enumerate(account.full)]
            ledger.relimit(account, limits, account.full)
        run.started_ns = run.engine.clock_ns()
        run.latched = run.denials = 0
        run.unpriced = run.first_denial = run.ran_out = None
        dealt = run.forget()
        run.seen = frozenset()
        if not run.closed:
            run.outcome = "completed"
        run.refresh()
        deadlines.moved(run)
        run.engine.store.changed()
    del dealt
    for i in range(len(RESOURCES)):
        if old[i] or i == STEPS:
            was = old[i] / NANOS if i == COST else float(old[i])
            change = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: was, semconv.NEW: 0.0}
            _say(run, semconv.EVENT_RESET, actor, reason, change)


def _check_names(actor: str | None, reason: str | None) -> None:
    for name, value in (("actor", actor), ("reason", reason)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text, got {value!r} ({type(value).__name__})")


def _say(run: BudgetRun, event: str, actor: str | None, reason: str | None, change: dict[str, Any]) -> None:
    events.change_event(run.site, event, {**change, semconv.ACTOR: actor, semconv.REASON: reason})
