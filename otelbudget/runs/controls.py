"""What an operator or a handler changes about a running run: more budget, freeze, reset. Each change is an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otelbudget import ledger, semconv
from otelbudget.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, count, nanoseconds, nanousd
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
        TypeError: A keyword is no resource.
    """
    wanted = {**_parsed(delta), **_parsed(to or {})}
    if not wanted:
        raise TypeError(f"extend() needs what to extend, one of {', '.join(_KNOWN)}")
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
    for resource, old, new in changes:
        _say(run, semconv.EVENT_EXTEND, actor, reason, {semconv.RESOURCE: resource, semconv.OLD: old, semconv.NEW: new})
        if run.span is not None and run.span.is_recording():
            whole = resource not in ("cost_usd", "seconds")
            run.span.set_attribute(semconv.LIMIT_PREFIX + resource, int(new) if whole else new)


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
        run.max_ns = amount if setting else old + amount
        return old / NANOS, run.max_ns / NANOS
    i, account = _index(resource), run.account
    old = account.full[i]
    new = amount if setting else min(old + amount, UNLIMITED - 1)
    # What was set aside for wrapping up is spent once that is done.
    set_aside = 0 if run.wrapped_up else run.budget.limits[i] - run.budget.ordinary_limits[i]
    full, limits = list(account.full), list(account.limits)
    full[i], limits[i] = new, max(0, new - set_aside)
    ledger.relimit(account, limits, full)
    run.latched &= ~(1 << i)
    unit = NANOS if i == COST else 1
    return old / unit, new / unit


def freeze(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Refuse new calls and extensions of holds."""
    with run.engine.lock:
        run.frozen = reason or ""
        run.refresh()
    _say(run, semconv.EVENT_FREEZE, actor, reason, {semconv.OLD: False, semconv.NEW: True})


def unfreeze(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Admit calls again."""
    with run.engine.lock:
        run.frozen = None
        run.refresh()
    _say(run, semconv.EVENT_FREEZE, actor, reason, {semconv.OLD: True, semconv.NEW: False})


def reset(run: BudgetRun, actor: str | None, reason: str | None) -> None:
    """Nothing used, nothing refused, the clock at zero; holds stay, thresholds are armed anew."""
    with run.engine.lock:
        old = list(run.account.used)
        run.account.used[:] = [0] * len(RESOURCES)
        run.account.below = None
        ledger.rearm(run.account)
        run.started_ns = run.engine.clock_ns()
        run.latched = 0
        run.unpriced = run.first_denial = run.ran_out = None
        dealt = run.forget()
        run.denials = 0
        run.seen = frozenset()
        run.wrapped_up = False
        if not run.closed:
            run.outcome = "completed"
        run.refresh()
    del dealt
    for i in range(len(RESOURCES)):
        if old[i] or i == STEPS:
            was = old[i] / NANOS if i == COST else float(old[i])
            change = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: was, semconv.NEW: 0.0}
            _say(run, semconv.EVENT_RESET, actor, reason, change)


def _say(run: BudgetRun, event: str, actor: str | None, reason: str | None, change: dict[str, Any]) -> None:
    events.change_event(run.site, event, {**change, semconv.ACTOR: actor, semconv.REASON: reason})
