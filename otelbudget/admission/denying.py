"""What a judgement does beside holding: check events; a denial that stands also latches, is pending and is raised."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from otelbudget import forking, semconv
from otelbudget.admission import closing
from otelbudget.admission import settlement as accounting
from otelbudget.admission.admission import REPLAYED, Ask, Verdict, attempt
from otelbudget.model.amounts import NANOS, RESOURCES
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from otelbudget.admission.state import RunState
    from otelbudget.errors import BudgetExceeded
    from otelbudget.model.decision import Decision, Denial
    from otelbudget.runs.run import BudgetRun
    from otelbudget.telemetry.events import Site

__all__ = ["concluded", "judge", "observe", "refuse", "timed"]

#: Reasons that say nothing about how a run's budget was used: a run that only met these has not exhausted it.
PASSING: Final = ("busy", "frozen", "closed", "store_unavailable")
#: Reasons that a caller who does not listen meets again and again: events a few times per run, then counted.
REPEATING: Final = ("latched", "closed")


def judge(run: BudgetRun, ask: Ask, evaluate: Callable[[BudgetRun, Ask], Verdict] | None = None) -> Verdict:
    """One attempt, and another if it was refused while calls that nobody follows any more could be settled."""
    verdict = (evaluate or attempt)(run, ask)
    if not verdict.decision.allowed and closing.settle_overdue(run.engine):
        verdict = attempt(run, ask)
    return verdict


def timed(run: BudgetRun, ask: Ask) -> Verdict:
    """One attempt; one in 64 is timed."""
    if getattr(run.cell, ask.operation) & 63:
        return attempt(run, ask)
    began_ns = time.perf_counter_ns()
    verdict = attempt(run, ask)
    observe(run, ask.operation, began_ns, ask.site)
    return verdict


def observe(run: RunState, operation: str, began_ns: int, site: Site) -> None:
    """Put what a check took into its histogram."""
    forking.warn_once()  # a forked process counts from 0, and the first check of a budget is always timed
    seconds = (time.perf_counter_ns() - began_ns) / NANOS
    exemplar = events.trace_of(site)
    with run.lock:
        run.engine.meters.observe_check(operation, seconds, exemplar)


def concluded(run: BudgetRun, ask: Ask, verdict: Verdict) -> Decision:
    """The decision on a request that was admitted, which is said; raises BudgetExceeded for one that stays refused."""
    if not verdict.decision.allowed:
        raise refuse(run, ask, verdict)
    decision = verdict.decision
    if decision is REPLAYED:
        return decision
    if ask.site.span is not None and ask.held is None:  # a change of an open hold is not another check
        if decision.denial is None:
            run.say(ask.site, events.check_event, "allow", verdict.left)
            _mark(run, ask, "allow")
        else:
            run.say(ask.site, events.check_warned, decision.denial)
            _mark(run, ask, "warn", decision.denial.reason)
    accounting.say_crossed(run, ask.site, verdict.crossed)
    return decision


def _mark(run: BudgetRun, ask: Ask, decision: str, reason: str | None = None) -> None:
    """Whose call it is and what was decided, as attributes of the call's own span."""
    span = ask.site.span
    if span is None or ask.site is run.site or run.kind == "quota" or not span.is_recording():
        return
    run.mark(span)
    span.set_attribute(semconv.DECISION, decision)
    if reason is not None:
        span.set_attribute(semconv.REASON, reason)


# --- the refusal itself


def refuse(run: BudgetRun, ask: Ask, verdict: Verdict) -> BudgetExceeded:
    """Book a denial that stands, say it, and give the exception to raise."""
    denial = verdict.decision.denial
    assert denial is not None
    error = denial.error()
    first, loud = _book(run, ask, denial, verdict.blocker, error)
    error.receipt = None if run.kind == "quota" else run.receipt()
    _say(run, ask, denial, first=first, loud=loud)
    _mark(run, ask, "deny", denial.reason)
    return error


def _say(run: BudgetRun, ask: Ask, denial: Denial, *, first: bool, loud: bool) -> None:
    site = ask.site
    if site.span is not None:
        if loud:
            run.say(site, events.check_denied, denial, always=first or denial.reason in REPEATING)
        else:
            run.suppress(site)
    if first and run.site.span is not None and run.site.span.is_recording():
        run.site.span.set_attribute(f"{semconv.DENIED_PREFIX}{denial.resource or 'call'}.{denial.reason}", True)
    if run.kind == "implicit":
        closing.write_totals(run)


def _book(
    run: BudgetRun, ask: Ask, denial: Denial, blocker: BudgetRun | None, error: BudgetExceeded
) -> tuple[bool, bool]:
    """Latch, pend and count, as `_count` does."""
    key = (denial.resource, denial.reason)
    with run.engine.lock:
        if denial.reason == "limit" and blocker is not None and blocker.budget.latch and denial.resource in RESOURCES:
            blocker.latched |= 1 << RESOURCES.index(denial.resource)
        for payer in {run, blocker or run}:
            if denial.reason in ("limit", "deadline"):
                payer.ran_out = payer.ran_out or denial.resource
            payer.pending = {**(payer.pending or {})}
            # The exception keeps frames alive, and so whatever they hold: only for who will raise it again.
            payer.pending.setdefault(key, (error if payer.reraise else None, blocker or run))
            payer.refresh()
        if denial.reason not in PASSING and not run.closed:
            run.outcome = "exhausted"
        return _count(run, ask, denial)


def _count(run: BudgetRun, ask: Ask, denial: Denial) -> tuple[bool, bool]:
    """Count it; gives whether it is the first of its kind, and whether it is worth an event."""
    key = (denial.resource, denial.reason)
    first = key not in run.seen
    run.seen |= {key}
    if run.first_denial is None or (denial.reason not in PASSING and run.first_denial.reason in PASSING):
        run.first_denial = denial
    run.denials += 1
    meters = run.engine.meters
    cell = run.cell if denial.budget == run.account.name else meters.budget(run.tenant, denial.budget)
    cell.count(ask.operation, "deny", denial.reason)
    repeats = denial.reason in REPEATING
    loud = first or not repeats or run.events_left > 0
    if repeats:
        run.events_left -= 1
    return first, loud
