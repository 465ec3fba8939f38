"""What an operator or a handler changes about a running run: more budget, freeze, reset. Each change is an event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from otelbudget import semconv
from otelbudget.admission.request import NONE_YET
from otelbudget.admission.state import RunState
from otelbudget.model.amounts import COST, NANOS, RESOURCES, STEPS, UNLIMITED, count, nanoseconds, nanousd
from otelbudget.model.keywords import unknown
from otelbudget.model.quota import PRIORITIES
from otelbudget.model.vector import unpack
from otelbudget.telemetry import events

T = TypeVar("T")
_KNOWN = (*RESOURCES, "seconds")
_IN_NANOS = {"cost_usd": nanousd, "seconds": nanoseconds}


def extend(
    run: RunState, delta: Mapping[str, Any], to: Mapping[str, Any] | None, actor: str | None, reason: str | None
) -> None:
    """Add *delta* to the run's own limits, or set those of *to*; clears the pending denial of each, re-arms thresholds.

    ValueError or TypeError if a resource is none or not limited, or an amount is not one; then nothing has changed.
    """
    _check_names(actor, reason)
    wanted = _wanted(delta, to)
    changes, _ = _changed(run, lambda: run.engine.ledger.locked(lambda: _extended(run, wanted, to or ())))
    run.refresh()
    run.engine.ledger.after(room=True)
    for resource, old, new in changes:
        _say(run, semconv.EVENT_EXTEND, actor, reason, {semconv.RESOURCE: resource, semconv.OLD: old, semconv.NEW: new})
        if run.span is not None and run.span.is_recording():
            run.span.set_attribute(semconv.LIMIT_PREFIX + resource, new if resource in _IN_NANOS else int(new))


def _wanted(delta: Mapping[str, Any], to: Mapping[str, Any] | None) -> dict[str, int]:
    if to is not None and not isinstance(to, Mapping):
        raise TypeError(f"to= takes the new limits by resource, as in to={{'steps': 4}}, got {to!r}")
    wanted: dict[str, int] = {}
    for name, value in (*delta.items(), *(to or {}).items()):
        if name not in _KNOWN:
            raise unknown("unknown resource", name, _KNOWN)
        if name in wanted:
            raise TypeError(f"extend() got {name} both as what to add and in to=, which sets it; say one of them")
        wanted[name] = _IN_NANOS.get(name, count)(name, value)
    if not wanted:
        raise TypeError(f"extend() needs what to extend, one of {', '.join(_KNOWN)}")
    return wanted


def _extended(
    run: RunState, wanted: Mapping[str, int], set_to: Collection[str]
) -> tuple[list[tuple[str, float, float]], list[object]]:
    """What has changed, (resource, from, to), and the denials dealt with, which are let go of after the lock."""
    full, max_ns = run.account.rule.full, UNLIMITED if run.max_ns is None else run.max_ns
    old = {name: max_ns if name == "seconds" else full[RESOURCES.index(name)] for name in wanted}
    for resource, was in old.items():
        if was >= UNLIMITED:
            raise ValueError(f"max_{resource} is not limited, so it can't be extended")
    changes = []
    for resource, amount in wanted.items():
        new = amount if resource in set_to else min(old[resource] + amount, UNLIMITED - 1)
        if resource == "seconds":
            run.max_ns = new
        else:
            limit(run, RESOURCES.index(resource), new)
        unit = NANOS if resource in _IN_NANOS else 1
        changes.append((resource, old[resource] / unit, new / unit))
    return changes, [run.forget(resource) for resource in wanted]


def limit(run: RunState, i: int, full: int) -> None:
    """Limit one resource to *full* in all; what wrapping up may use stays set aside, until that is done."""
    rule, budget = run.account.rule, run.budget
    aside = 0 if run.wrapped_up else budget.limits[i] - budget.ordinary_limits[i]
    whole, limits = list(rule.full), list(rule.limits[0])
    whole[i], limits[i] = full, max(0, full - aside) if full < UNLIMITED else UNLIMITED
    rule = replace(rule, full=tuple(whole), limits=(tuple(limits),) * len(PRIORITIES))
    run.engine.ledger.limit(run.account, (rule,))


def _changed(run: RunState, change: Callable[[], T]) -> T:
    """What *change* gives, once all who share *run* are told; as long as that is not known, it is as it was."""
    if run.sharing is None:
        return change()
    done: T = run.sharing.change(change)
    return done


def freeze(run: RunState, actor: str | None, reason: str | None, *, frozen: bool = True) -> None:
    """Refuse new calls and extensions of holds, or admit them again."""
    _check_names(actor, reason)
    was = _changed(run, lambda: _frozen(run, (reason or "") if frozen else None))
    run.exported = run.exported and frozen  # it goes on here after all
    run.refresh()
    run.engine.ledger.after(room=True)
    _say(run, semconv.EVENT_FREEZE, actor, reason, {semconv.OLD: was, semconv.NEW: frozen})


def _frozen(run: RunState, why: str | None) -> bool:
    was, run.frozen = run.frozen is not None, why
    return was


def reset(run: RunState, actor: str | None, reason: str | None) -> None:
    """Nothing used, nothing refused, the clock at zero; limits and holds stay, thresholds are armed anew."""
    _check_names(actor, reason)
    engine = run.engine
    if engine.ledger.later(lambda: reset(run, actor, reason)):
        return
    old = unpack(engine.ledger.forget(run.account) if run.sharing is None else run.sharing.forget())
    if run.wrapped_up:  # what an `extend` made ordinary since then is set aside again
        run.wrapped_up = False
        for i, full in enumerate(run.account.rule.full):
            limit(run, i, full)
    engine.ledger.locked(lambda: _forgotten(run))
    run.refresh()
    engine.ledger.after(room=True)
    for i in range(len(RESOURCES)):
        if old[i] or i == STEPS:
            was = old[i] / NANOS if i == COST else float(old[i])
            change = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: was, semconv.NEW: 0.0}
            _say(run, semconv.EVENT_RESET, actor, reason, change)


def _forgotten(run: RunState) -> object:
    """What it held on to, which is let go of after the lock."""
    run.started_ns = min(run.engine.clock_ns(), run.ended_ns)
    if not run.closed:
        run.outcome = "completed"
    gone = run.forget()
    run.unpriced, run.refused = None, NONE_YET
    return gone


def _check_names(actor: str | None, reason: str | None) -> None:
    for name, value in (("actor", actor), ("reason", reason)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text, got {value!r} ({type(value).__name__})")


def _say(run: RunState, event: str, actor: str | None, reason: str | None, change: dict[str, Any]) -> None:
    events.change_event(run.site, event, {**change, semconv.ACTOR: actor, semconv.REASON: reason})
