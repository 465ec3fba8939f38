"""What a decision does: an admitted request is said; a refusal is pending, counted, said, and becomes an exception."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from otelbudget import forking, semconv
from otelbudget.admission import closing, notices, settlement
from otelbudget.admission.closing import PASSING
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import GONE, NONE_YET, REPLAYED, Judgement, Refusals, Request
from otelbudget.admission.state import RunState
from otelbudget.errors import BudgetExceeded
from otelbudget.model.amounts import NANOS
from otelbudget.model.decision import Decision, Denial
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site

#: How many denials of one kind become events of a run; later ones are counted.
LOUD: Final = 8


def observe(payer: Payer, operation: str, began_ns: int, site: Site) -> None:
    """Put what a check took into its histogram."""
    forking.first_use()  # a forked process counts from 0, and the first check of a budget is always timed
    seconds = (time.perf_counter_ns() - began_ns) / NANOS
    payer.engine.meters.observe_check(operation, seconds, events.trace_of(site))


def admitted(payer: Payer, request: Request, judged: Judgement) -> Decision:
    """Say that a request was admitted; gives the decision."""
    decision, site = judged.decision, request.site
    if payer.engine.ledger.expired:
        settlement.tell_expired(payer.engine)
    if decision is REPLAYED or decision is GONE:
        return decision
    for one in payer.lineage if payer.refused.pending or payer.above else ():
        if one.refused.pending:
            payer.engine.ledger.locked(partial(one.forget, reasons=("busy", "store_unavailable")))
    # Another change of an open hold is not another check.
    if site.span is not None and request.change in (None, "adopt"):
        if decision.denial is None:
            payer.say(site, events.check_event, "allow", judged.tightest, request.tool)
        else:
            payer.say(site, events.check_warned, decision.denial, request.tool)
        if site is not payer.site:
            _mark(payer, site, "allow" if decision.denial is None else "warn", decision.denial)
    if judged.crossed:
        settlement.say_crossed(payer, site, judged.crossed)
    return decision


def _mark(payer: Payer, site: Site, decision: str, denial: Denial | None) -> None:
    """Whose call it is and what was decided, as attributes of the call's own span."""
    span = site.span
    if span is None or site is payer.site or payer.kind == "quota" or not span.is_recording():
        return
    attributes: dict[str, Any] = {semconv.RUN_ID: payer.run_id, semconv.TENANT: payer.owner.tenant}
    attributes[semconv.DECISION] = decision
    if denial is not None:
        attributes[semconv.REASON] = denial.reason
    if denial is not None and denial.store_mode is not None:
        attributes[semconv.STORE_MODE] = denial.store_mode
    if denial is not None and decision == "deny":
        said = {semconv.BUDGET: denial.budget, semconv.RESOURCE: denial.resource, semconv.SCOPE: denial.scope}
        attributes.update({name: value for name, value in said.items() if value is not None})
    payer.say(site, events.mark, attributes)


# --- the refusal itself


def refuse(payer: Payer, request: Request, judged: Judgement) -> BudgetExceeded:
    """Book a denial that stands, say it, and give the exception to raise."""
    denial = judged.decision.denial
    assert denial is not None
    error = denial.error()
    run, times = payer.run, 1
    if run is not None:
        blocker = judged.blocker or run
        times = payer.engine.ledger.locked(lambda: _pend(run, blocker, denial, error))
    note(payer, request.operation, denial, again=times > 1)
    notices.refused(payer, denial, judged.blocker or run, times)
    _say(payer, request, denial, times)
    _mark(payer, request.site, "deny", denial)
    return error


def note(payer: Payer, operation: str, denial: Denial, decision: str = "deny", *, again: bool = False) -> None:
    """Count a decision; *again* if its run has met that before."""
    said = (denial.budget, operation, decision, denial.reason, denial.resource)
    payer.engine.meters.count(payer.tenant, *said, again=again)


def probed(payer: Payer, judged: Judgement) -> bool:
    """Whether it would be admitted; a denial is counted, and nothing else."""
    decision = judged.decision
    if decision.denial is not None and not decision.allowed:
        note(payer, "probe", decision.denial)
    return decision.allowed


def _pend(run: RunState, blocker: RunState, denial: Denial, error: BudgetExceeded) -> int:
    """Have it raised again at the end of those runs; gives how often *run* has met it, this time included."""
    key = (denial.resource, denial.reason, blocker)
    # A run that nobody opened can't raise it again at its end: that is for the one around it.
    opened = [one for one in run.lineage if one.kind != "implicit"] if blocker.kind == "implicit" else []
    for one in {run, blocker, *opened[-1:]}:
        refused = one.refused = Refusals() if one.refused is NONE_YET else one.refused
        if denial.reason in ("limit", "deadline"):
            refused.ran_out = refused.ran_out or denial.resource
        # The exception keeps frames alive, and so whatever they hold: only for who will raise it again.
        refused.pending = refused.pending or {}
        refused.pending.setdefault(key, error if one.reraise else None)
    if denial.reason not in PASSING and not run.closed:
        run.outcome = "exhausted"
    refused = run.refused
    if refused.first is None or (denial.reason not in PASSING and refused.first.reason in PASSING):
        refused.first = denial
    refused.times[key[:2]] = times = refused.times.get(key[:2], 0) + 1
    return times


def _say(payer: Payer, request: Request, denial: Denial, times: int) -> None:
    site = request.site
    if times > LOUD:
        if site.span is not None or events.logs():
            payer.suppress(site)
    else:
        told = events.refusal(denial, request.tool)
        payer.log(site, semconv.EVENT_CHECK, told)
        payer.say(site, partial(events.add, always=times == 1, logged=True), semconv.EVENT_CHECK, told)
    span = payer.site.span
    if times == 1 and span is not None and span.is_recording():
        kind = f"{semconv.DENIED_PREFIX}{denial.resource or 'call'}.{denial.reason}"
        payer.say(payer.site, events.mark, {kind: True})
    if payer.kind == "implicit" and payer.run is not None:
        closing.write_totals(payer.run)
