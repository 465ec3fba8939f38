"""What a refusal does: the run's `on_exhausted` first, then latch, pending denial, counter, event, exception."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from otelbudget import semconv
from otelbudget.amounts import NANOS, RESOURCES
from otelbudget.runs import closing
from otelbudget.runs.admission import Ask, Verdict, attempt
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from otelbudget.decision import Decision, Denial
    from otelbudget.errors import BudgetExceeded
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.state import RunState
    from otelbudget.telemetry.events import Site

__all__ = ["adecide", "decide", "observe", "refuse"]

#: Reasons that more budget can lift, so `on_exhausted` is asked.
_LIFTABLE: Final = ("limit", "deadline")
#: How often a coroutine looks whether another caller's `on_exhausted` has answered.
_POLL_S: Final = 0.005


def decide(run: BudgetRun, ask: Ask) -> Decision:
    """Judge *ask*; raises BudgetExceeded if it stays refused."""
    verdict = _timed(run, ask)
    if not verdict.decision.allowed:
        handler = _handler(run, verdict)
        if handler is not None:
            verdict = _handled(run, ask, verdict, handler)
        if not verdict.decision.allowed:
            raise refuse(run, ask, verdict)
    return _admitted(run, ask, verdict)


async def adecide(run: BudgetRun, ask: Ask) -> Decision:
    """`decide` for coroutines: awaits an async `on_exhausted`."""
    verdict = _timed(run, ask)
    if not verdict.decision.allowed:
        handler = _handler(run, verdict)
        if handler is not None:
            verdict = await _ahandled(run, ask, verdict, handler)
        if not verdict.decision.allowed:
            raise refuse(run, ask, verdict)
    return _admitted(run, ask, verdict)


def _timed(run: BudgetRun, ask: Ask) -> Verdict:
    """One attempt; one in 64 is timed."""
    if getattr(run.cell, ask.operation) & 63:
        return attempt(run, ask)
    began_ns = time.perf_counter_ns()
    verdict = attempt(run, ask)
    observe(run, ask.operation, began_ns, ask.site)
    return verdict


def observe(run: RunState, operation: str, began_ns: int, site: Site) -> None:
    """Put what a check took into its histogram."""
    seconds = (time.perf_counter_ns() - began_ns) / NANOS
    exemplar = events.trace_of(site)
    with run.lock:
        run.engine.meters.observe_check(operation, seconds, exemplar)


def _admitted(run: BudgetRun, ask: Ask, verdict: Verdict) -> Decision:
    decision = verdict.decision
    if ask.site.span is not None:
        run.say(ask.site, events.check_event, "warn" if decision.warned else "allow", verdict.left)
        _mark(run, ask, "warn" if decision.warned else "allow")
    for crossing in verdict.crossed:
        events.threshold_event((run.ancestor_of(crossing.account) or run).site, crossing)
    return decision


def _mark(run: BudgetRun, ask: Ask, decision: str, reason: str | None = None) -> None:
    """Whose call it is and what was decided, as attributes of the call's own span."""
    span = ask.site.span
    if span is None or ask.site is run.site or not span.is_recording():
        return
    span.set_attribute(semconv.RUN_ID, run.run_id)
    span.set_attribute(semconv.TENANT, run.tenant)
    span.set_attribute(semconv.DECISION, decision)
    if reason is not None:
        span.set_attribute(semconv.REASON, reason)


# --- on_exhausted


class _Gate:
    """Lets one caller at a time ask a run's `on_exhausted`; who asks from inside it is not let in again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: object = None


def _gate(run: BudgetRun) -> _Gate:
    if run.gate is None:
        with run.engine.lock:
            if run.gate is None:
                run.gate = _Gate()
    gate: _Gate = run.gate
    return gate


def _me() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.get_ident()


def _handler(run: BudgetRun, verdict: Verdict) -> tuple[Callable[..., Any], BudgetRun] | None:
    denial = verdict.decision.denial
    payer = verdict.blocker or run
    callback = payer.budget.on_exhausted
    if denial is None or denial.reason not in _LIFTABLE or not callable(callback) or _gate(payer).inside == _me():
        return None
    return callback, payer


def _handled(run: BudgetRun, ask: Ask, verdict: Verdict, handler: tuple[Callable[..., Any], BudgetRun]) -> Verdict:
    callback, payer = handler
    gate = _gate(payer)
    with gate.lock:
        verdict = attempt(run, ask)  # while we waited, another caller's answer may have made room
        if verdict.decision.allowed:
            return verdict
        gate.inside = _me()
        try:
            answer = callback(verdict.decision.denial, payer)
        except BaseException:
            refuse(run, ask, verdict)
            raise
        finally:
            gate.inside = None
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError("on_exhausted is async, but this call is not: use the async client, or areserve/acheck")
        return attempt(run, ask) if answer else verdict


async def _ahandled(
    run: BudgetRun, ask: Ask, verdict: Verdict, handler: tuple[Callable[..., Any], BudgetRun]
) -> Verdict:
    callback, payer = handler
    gate = _gate(payer)
    while not gate.lock.acquire(blocking=False):
        await asyncio.sleep(_POLL_S)
    try:
        verdict = attempt(run, ask)
        if verdict.decision.allowed:
            return verdict
        gate.inside = _me()
        try:
            answer = callback(verdict.decision.denial, payer)
            if inspect.isawaitable(answer):
                answer = await _awaited(answer)
        except BaseException:
            refuse(run, ask, verdict)
            raise
        finally:
            gate.inside = None
        return attempt(run, ask) if answer else verdict
    finally:
        gate.lock.release()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


# --- the refusal itself


def refuse(run: BudgetRun, ask: Ask, verdict: Verdict) -> BudgetExceeded:
    """Book a denial that stands, say it, and give the exception to raise."""
    denial = verdict.decision.denial
    assert denial is not None
    error = denial.error(run.receipt())
    first, loud = _book(run, ask, denial, verdict.blocker, error)
    site = ask.site
    if site.span is not None:
        if loud:
            run.say(site, events.check_denied, denial, always=first)
        else:
            run.suppress(site)
        _mark(run, ask, "deny", denial.reason)
    if first and run.site.span is not None and run.site.span.is_recording():
        run.site.span.set_attribute(f"{semconv.DENIED_PREFIX}{denial.resource or 'call'}", denial.reason)
    if run.kind == "implicit":
        closing.write_totals(run)
    return error


def _book(
    run: BudgetRun, ask: Ask, denial: Denial, blocker: BudgetRun | None, error: BudgetExceeded
) -> tuple[bool, bool]:
    """Latch, pend and count; gives whether it is the first of its kind, and whether it is worth an event."""
    engine = run.engine
    key = (denial.resource, denial.reason)
    with engine.lock:
        if denial.reason == "limit" and blocker is not None and blocker.budget.latch and denial.resource in RESOURCES:
            blocker.latched |= 1 << RESOURCES.index(denial.resource)
        for payer in {run, blocker or run}:
            payer.pending = {**(payer.pending or {})}
            payer.pending.setdefault(key, error)
            payer.refresh()
        first = key not in run.seen
        run.seen |= {key}
        run.outcome = "exhausted"
        if run.first_denial is None:
            run.first_denial = denial
        run.denials += 1
        cell = run.cell if denial.budget == run.account.name else engine.meters.budget(run.tenant, denial.budget)
        cell.count(ask.operation, "deny", denial.reason)
        loud = denial.reason != "latched" or run.events_left > 0
        if denial.reason == "latched":
            run.events_left -= 1
    return first, loud
