"""`BudgetRun.export_state`: what a run is at rest, as a value that JSON can carry; `resuming` continues it.

Calls in flight can't be paused, so it is a root run between its calls. What its quotas count stays with the store that
they live in, but for those that every run has on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.errors import BudgetError
from otelbudget.model.amounts import RESOURCES
from otelbudget.runs.idempotency import keys_of
from otelbudget.runs.pause import forms
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from otelbudget.model.amounts import Amounts
    from otelbudget.model.budget import Usage
    from otelbudget.runs.attempts import LogicalCall
    from otelbudget.runs.idempotency import Entry
    from otelbudget.runs.run import BudgetRun

__all__ = ["FORMAT", "VERSION", "export"]

FORMAT: Final = "otelbudget.run"
VERSION: Final = 1
#: Why an exported run is frozen.
EXPORTED: Final = "its state was exported, and it goes on where that is resumed"


def export(run: BudgetRun, *, freeze: bool) -> dict[str, Any]:
    """The state of *run*; with *freeze* it is frozen in the same moment, and its leaving is no end.

    Raises:
        BudgetError: It is inside another run, has ended, was exported before, or has calls or runs open.
    """
    closing.settle_overdue(run.engine)
    dealt: object = None  # let go of after the lock
    with run.engine.lock:
        run.engine.sweep(run.engine.clock_ns())
        _check_at_rest(run)
        state = _form(run)
        crossed, run.unannounced = run.unannounced, ()
        was = run.frozen is not None
        if freeze:
            keys_of(run).exported = True
            run.frozen = run.frozen or EXPORTED
            dealt = run.forget()  # what is pending goes on with the run
            run.engine.store.changed()
        run.refresh()
    del dealt
    for crossing in crossed:
        events.threshold_event((run.ancestor_of(crossing.account) or run).site, crossing)
    if freeze:
        change: dict[str, Any] = {semconv.OLD: was, semconv.NEW: True, semconv.REASON: "export_state"}
        events.change_event(run.site, semconv.EVENT_FREEZE, change)
    return state


def _check_at_rest(run: BudgetRun) -> None:
    if run.parent is not None:
        raise BudgetError("a run inside another one has no state of its own: export the outermost run")
    if run.closed:
        raise BudgetError("this run has ended; export its state before leaving it")
    if run.keys is not None and run.keys.exported:
        raise BudgetError("the state of this run was exported before, and it goes on there; run.unfreeze() undoes that")
    if run.open_holds:
        raise BudgetError(
            f"{run.open_holds} calls of this run are in flight (open reservations or model calls):"
            f" export its state when they are settled"
        )
    live: Any = run.engine.meters.live
    inside = sum(run in one.lineage() for one in live if one is not run and not one.closed)
    if inside:
        raise BudgetError(f"{inside} runs inside this one are open: export its state when they are left")


def _form(run: BudgetRun) -> dict[str, Any]:
    account = run.account
    context = None if run.span is None else run.span.get_span_context()
    return {
        "format": FORMAT,
        "version": VERSION,
        "run_id": run.run_id,
        "traceparent": _traceparent(context),
        "owner": {"org": run.org, "tenant": run.tenant, "user": run.user, "priority": run.priority},
        "budget": forms.budget_form(run.budget),
        "limits": forms.limits_form(account.full),
        "ordinary_limits": forms.limits_form(account.limits),
        "max_ns": run.max_ns,
        "elapsed_ns": max(0, run.elapsed_ns(run.engine.clock_ns())),
        "used": forms.amounts_form(account.used),
        "used_below": None if account.below is None else forms.amounts_form(account.below),
        "quotas": [
            {"scope": one.scope, "name": one.name, "used": forms.amounts_form(one.used)} for one in run.accounts[:-1]
        ],
        "outcome": run.outcome,
        "latched": [resource for i, resource in enumerate(RESOURCES) if run.latched >> i & 1],
        "wrapped_up": run.wrapped_up,
        "ran_out": run.ran_out,
        "unpriced": run.unpriced,
        "frozen": run.frozen,
        "denials": run.denials,
        "first_denial": forms.denial_form(run.first_denial),
        "pending": [
            {"resource": resource, "reason": reason, "error": forms.error_form(error)}
            for (resource, reason), (error, _) in (run.pending or {}).items()
        ],
        **_keys_form(run),
    }


def _traceparent(context: SpanContext | None) -> str | None:
    if context is None or not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _keys_form(run: BudgetRun) -> dict[str, Any]:
    """What was done under each key, and how many steps each logical call was charged."""
    if run.keys is None:
        return {"calls": [], "keys": []}
    entries: dict[str, Entry] = run.keys.entries
    calls: dict[str, LogicalCall] = run.keys.calls
    every = (*calls.values(), *(one.attempt.call for one in entries.values() if one.attempt is not None))
    number = {id(call): i for i, call in enumerate({id(call): call for call in every}.values())}
    forms: list[dict[str, Any]] = [{} for _ in number]
    for call in every:
        forms[number[id(call)]] = {"names": [], "charged": call.charged}
    for name, call in calls.items():
        forms[number[id(call)]]["names"].append(name)
    return {"calls": forms, "keys": [_entry_form(key, one, number) for key, one in entries.items()]}


def _entry_form(key: str, entry: Entry, number: dict[int, int]) -> dict[str, Any]:
    attempt = entry.attempt
    if attempt is None:
        return {"key": key, "kind": "record", "usage": forms.usage_form(cast("Usage", entry.payload))}
    return {
        "key": key,
        "kind": "reserve",
        "amounts": forms.amounts_form(cast("Amounts", entry.payload)),
        "held": forms.amounts_form(attempt.hold.amounts),
        "state": attempt.hold.state,
        "paid": forms.usage_form(attempt.hold.paid),
        "on_unknown": entry.on_unknown,
        "steps": attempt.steps,
        "call": number[id(attempt.call)],
    }
