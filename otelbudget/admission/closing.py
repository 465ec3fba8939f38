"""How a run ends: no new calls at once; its totals, histograms and span follow the last call that is still open.

Leaving its block raises a denial that nobody has dealt with, where the rules say so.
"""

from __future__ import annotations

import asyncio
import contextlib
from copy import copy
from functools import partial
from typing import Any, Final

from opentelemetry.trace import Span, Status, StatusCode

from otelbudget import forking, semconv
from otelbudget.admission import denial as denials
from otelbudget.admission import notices
from otelbudget.admission.payer import Around, Payer
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.ledger.account import Account
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.amounts import COST, NANOS, RESOURCES, UNLIMITED
from otelbudget.model.decision import Denial
from otelbudget.model.vector import unpack
from otelbudget.telemetry import events, our_spans
from otelbudget.telemetry.events import Site

#: Reasons that say nothing about how a run's budget was used: a run that only met these has not exhausted it.
PASSING: Final = ("busy", "frozen", "closed", "store_unavailable")


#: Exceptions that steer the program and pass a run unchanged, whatever is pending.
_STEERING: Final = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)


def leave(run: RunState, error: BaseException | None) -> None:
    """End *run*; raises its pending denial where the rules say so.

    No exception: the first pending denial. BudgetExceeded, or what steers the program: nothing, it goes on unchanged.
    Another exception that a denial caused: BudgetExceeded from it. Any other: a note is added.
    """
    if run.sharing is not None:
        run.sharing.learn()
    pending = run.first_pending() if run.reraise else None
    exceeded = isinstance(error, BudgetExceeded)
    steering = isinstance(error, _STEERING) or (
        isinstance(error, BaseExceptionGroup) and not isinstance(error, Exception)  # such a one is in there
    )
    cause = None if exceeded or steering else found_in(error)
    exhausted = run.outcome == "exhausted" or exceeded or cause is not None
    if error is None or isinstance(error, Exception):  # steering the program is none
        describe_error(run.span, pending if error is None else error)
    close(run, "exhausted" if exhausted else "completed" if error is None else "error")
    if run.sharing is not None:
        run.sharing.close()
    # Nobody asks for them any more, and their tracebacks hold the frames of whatever was refused.
    run.refused.pending = None
    if exceeded or steering:
        return
    if error is None:
        if pending is not None:
            try:
                raise pending
            finally:
                del pending  # or this frame and the traceback would keep each other alive
    elif cause is not None:
        if run.reraise:
            raise copy(cause) from error
    elif pending is not None:
        with contextlib.suppress(Exception):  # the application's exception passes, with or without a note
            error.add_note(f"In this run a call was refused before: {pending}")


def describe_error(span: Span | None, error: BaseException | None) -> None:
    """Status ERROR and its type on a span of ours, if it is ended by an error."""
    if span is not None and error is not None and span.is_recording():
        name = events.type_name(error)
        span.set_attribute(semconv.ERROR_TYPE, name)
        span.set_status(Status(StatusCode.ERROR, str(error) if isinstance(error, BudgetExceeded) else name))


def close(run: RunState, outcome: str) -> None:
    """Refuse new calls in *run*; finish it now, or when its last open call settles."""
    engine = run.engine
    if engine.ledger.later(partial(close, run, outcome)):
        return
    settle_overdue(engine)
    if run.closed:
        return
    end_carve(run.engine.ledger, run.run_accounts())
    engine.ledger.locked(partial(_close, run, outcome))
    if run.account.holds > 0:
        engine.lingering.append(run)
    if run.account.holds <= 0:
        _finish(run)


def _close(run: RunState, outcome: str) -> None:
    if not run.closed:
        run.closed = True
        run.engine.explicit_runs -= run.kind == "explicit"
        goes_on = run.exported or (run.sharing is not None and not run.sharing.opener)
        run.outcome = "paused" if goes_on else outcome
        run.outcome = _outcome(run)
        run.ended_ns = run.engine.clock_ns()
        run.refresh()


def discard(run: RunState) -> None:
    """Undo the opening of a run that was refused what it needs, or that nobody got hold of."""
    end_carve(run.engine.ledger, run.run_accounts())
    run.engine.ledger.locked(partial(_discard, run))
    if run.span is not None and run.kind == "explicit":
        our_spans.end(run.span)


def _discard(run: RunState) -> None:
    if not run.finished:
        run.closed = True
        run.engine.explicit_runs -= run.kind == "explicit"
        run.engine.meters.live.pop(run, None)
        run.tenant_cell.active -= 1
        run.refresh()


def end_carve(ledger: Ledger, accounts: tuple[Account, ...]) -> None:
    """Give back what is carved out for the last of *accounts*, a run's, if anything is."""
    if accounts[-1].floor and not ledger.later(partial(end_carve, ledger, accounts)):
        ledger.set_floor(accounts, lambda: 0)


def settle_overdue(engine: Engine) -> bool:
    """Settle what nobody follows any more, and tell of what has expired; gives whether there was anything.

    Nothing in the middle of an operation: the collector and signal handlers look at runs at any moment.
    """
    if engine.ledger.inside:
        return False
    settled = False
    for settle in engine.overdue:
        settled |= settle()
    return settled


def finish_if_idle(payer: Payer) -> None:
    """Finish those of *payer* and the runs above it that are closed and whose last call has just settled."""
    for one in reversed(payer.lineage):
        if one.closed and not one.finished and one.account.holds <= 0:
            _finish(one)


def tend(engine: Engine, *, everything: bool = False) -> None:
    """Finish the closed runs whose open calls are never heard of again; all closed ones if *everything*."""
    forking.first_use()
    settle_overdue(engine)
    if not engine.lingering:
        return
    now_ns = engine.clock_ns()
    engine.ledger.sweep(now_ns)
    for _ in range(len(engine.lingering)):
        try:
            run = engine.lingering.popleft()
        except IndexError:  # another thread tends too
            return
        # An abandoned hold is reclaimed by then, so the totals are final whatever happened to its call.
        due = run.ended_ns + engine.ledger.open.ttl_ns <= now_ns
        if everything or due or run.account.holds <= 0:
            _finish(run)
        elif not run.finished:
            engine.lingering.append(run)


def _finish(run: RunState) -> None:
    exemplar = events.trace_of(run.site)
    if not run.engine.ledger.locked(partial(_finished, run, exemplar)):
        return
    cause = why(run, run.outcome)
    if cause is not None and cause.reason == "overage":
        notices.overage(cause)
    if run.span is not None and run.kind == "explicit":
        write_totals(run)
        our_spans.end(run.span)
    run.here = Around()  # the last context looked at holds on to the run


def _finished(run: RunState, exemplar: Any) -> bool:
    if run.finished:
        return False
    run.outcome = _outcome(run)
    run.engine.meters.live.pop(run, None)
    run.tenant_cell.active -= 1
    if run.outcome != "paused":  # what it comes to is counted where it ends
        seconds = run.elapsed_ns(run.ended_ns) / NANOS
        tenant, used = run.tenant_cell.tenant, unpack(run.account.used)
        run.engine.meters.observe_run(tenant, run.outcome, used, seconds, exemplar)
    return True


def _outcome(run: RunState) -> str:
    """How *run* ends if it ends as it stands: over a limit of its own it has exhausted it, also without a refusal."""
    over = run.outcome in ("completed", "error") and denials.overage(run) is not None
    return "exhausted" if over else run.outcome


def why(run: RunState, outcome: str) -> Denial | None:
    """What *outcome* is due to: the first denial, or what was used over a limit where none says so."""
    first = run.refused.first
    unsaid = outcome == "exhausted" and (first is None or first.reason in PASSING)
    return (denials.overage(run) or first) if unsaid else first


def write_limits(run: RunState, span: Span) -> None:
    """Say on a run's span whose it is and what it may spend; nothing about limits that nobody set."""
    if not span.is_recording():
        return
    account = run.account
    said: dict[str, Any] = {semconv.RUN_ID: run.run_id, semconv.TENANT: run.tenant}
    if account.name:
        said[semconv.BUDGET] = account.name
    if run.owner.user:
        said[semconv.USER] = run.owner.user
    for i, limit in enumerate(account.rule.full):
        if limit < UNLIMITED:
            said[semconv.LIMIT_PREFIX + RESOURCES[i]] = limit / NANOS if i == COST else limit
    if run.max_ns is not None:
        said[semconv.LIMIT_PREFIX + "seconds"] = run.max_ns / NANOS
    span.set_attributes(said)


def write_totals(run: RunState) -> None:
    """Say on a run's span what it has used, in all and itself, and how it ended if it did."""
    span = run.span
    if span is None or not span.is_recording():
        return
    account = run.account
    now_ns = run.ended_ns if run.ended_ns != UNLIMITED else run.engine.clock_ns()
    said: dict[str, Any] = {semconv.USED_PREFIX + "seconds": run.elapsed_ns(now_ns) / NANOS}
    for i, (resource, used, direct) in enumerate(zip(RESOURCES, unpack(account.used), account.own(), strict=True)):
        said[semconv.USED_PREFIX + resource] = used / NANOS if i == COST else used
        said[semconv.USED_DIRECT_PREFIX + resource] = direct / NANOS if i == COST else direct
    outcome = _outcome(run)
    if run.ended_ns != UNLIMITED or outcome == "exhausted":
        said[semconv.OUTCOME] = outcome
    if (cause := why(run, outcome)) is not None:
        said[semconv.REASON] = cause.reason
    run.say(Site(span), events.mark, said)
