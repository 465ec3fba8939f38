"""How a run ends: no new calls at once; its totals, histograms and span follow the last call that is still open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otelbudget import forking, semconv
from otelbudget.ledger import ledger
from otelbudget.ledger.account import CarvedAccount
from otelbudget.model.amounts import COST, NANOS, RESOURCES, UNLIMITED
from otelbudget.stores.memory import held
from otelbudget.telemetry import events, our_spans

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun

__all__ = ["close", "discard", "finish_if_idle", "settle_overdue", "tend", "write_limits", "write_totals"]

#: Why a run is frozen that goes on where its exported state is resumed: leaving it here is no end.
EXPORTED: Final = "its state was exported, and it goes on where that is resumed"


def close(run: BudgetRun, outcome: str) -> None:
    """Refuse new calls in *run*; finish it now, or when its last open call settles."""
    engine = run.engine
    settle_overdue(engine)
    with engine.lock:
        if run.closed:
            return
        _uncarve(run)  # first: what is interrupted after it can be closed again
        run.closed = True
        engine.explicit_runs -= run.kind == "explicit"
        run.plain = False
        run.outcome = "paused" if run.frozen == EXPORTED else outcome
        run.ended_ns = engine.clock_ns()
        waiting = run.open_holds > 0
    if waiting:
        # An abandoned hold is reclaimed by then, so the totals are final whatever happened to its call.
        engine.lingering.append((run.ended_ns + engine.store.ttl_ns, run))
    else:
        _finish(run)


def discard(run: BudgetRun) -> None:
    """Undo the opening of a run that was refused what it needs, or that nobody got hold of."""
    engine = run.engine
    with engine.lock:
        _uncarve(run)
        run.closed = run.finished = True
        run.plain = False
        engine.explicit_runs -= run.kind == "explicit"
        engine.meters.live.discard(run)
        run.tenant_cell.active -= 1


def _uncarve(run: BudgetRun) -> None:
    if isinstance(run.account, CarvedAccount):
        ledger.uncarve(run.accounts)
        run.engine.store.changed()


def settle_overdue(engine: Engine) -> bool:
    """Settle what the garbage collector has dropped since the last time; gives whether there was anything.

    Nothing where this thread holds the lock: the collector and signal handlers look at runs in the middle of anything.
    """
    if held(engine.lock):
        return False
    settled = False
    for settle in engine.overdue:
        settled |= settle()
    return settled


def finish_if_idle(run: BudgetRun) -> None:
    """Finish those of *run* and the runs above it that are closed and whose last call has just settled."""
    for one in reversed(run.lineage()):
        if one.closed and not one.finished and one.open_holds <= 0:
            _finish(one)


def tend(engine: Engine, *, everything: bool = False) -> None:
    """Finish the closed runs whose open calls are never heard of again; all closed ones if *everything*."""
    forking.warn_once()
    settle_overdue(engine)
    if not engine.lingering:
        return
    now_ns = engine.clock_ns()
    with engine.lock:
        engine.sweep(now_ns)
    for _ in range(len(engine.lingering)):
        try:
            due_ns, run = engine.lingering.popleft()
        except IndexError:  # another thread tends too
            return
        if run.finished:
            continue
        if everything or due_ns <= now_ns or run.open_holds <= 0:
            _finish(run)
        else:
            engine.lingering.append((due_ns, run))


def _finish(run: BudgetRun) -> None:
    engine = run.engine
    exemplar = events.trace_of(run.site)
    with engine.lock:
        if run.finished:
            return
        run.finished = True
        engine.meters.live.discard(run)
        run.tenant_cell.active -= 1
        if run.outcome != "paused":  # what it comes to is counted where it ends
            seconds = run.elapsed_ns(run.ended_ns) / NANOS
            run.tenant_cell.ended(run.outcome, run.account.used, seconds, exemplar)
    if run.span is not None and run.kind == "explicit":
        write_totals(run)
        our_spans.end(run.span)
    run.forget_here()


def write_limits(run: BudgetRun, span: Span) -> None:
    """Say on a run's span whose it is and what it may spend; nothing about limits that nobody set."""
    if not span.is_recording():
        return
    account = run.account
    span.set_attribute(semconv.RUN_ID, run.run_id)
    span.set_attribute(semconv.TENANT, run.tenant)
    if account.name:
        span.set_attribute(semconv.BUDGET, account.name)
    if run.user:
        span.set_attribute(semconv.USER, run.user)
    for i in account.limited:
        limit = account.full[i]
        span.set_attribute(semconv.LIMIT_PREFIX + RESOURCES[i], limit / NANOS if i == COST else limit)
    if run.max_ns is not None:
        span.set_attribute(semconv.LIMIT_PREFIX + "seconds", run.max_ns / NANOS)


def write_totals(run: BudgetRun) -> None:
    """Say on a run's span what it has used, in all and itself, and how it ended if it did."""
    span = run.span
    if span is None or not span.is_recording():
        return
    account = run.account
    for i, (resource, direct) in enumerate(zip(RESOURCES, account.own(), strict=True)):
        used = account.used[i]
        span.set_attribute(semconv.USED_PREFIX + resource, used / NANOS if i == COST else used)
        span.set_attribute(semconv.USED_DIRECT_PREFIX + resource, direct / NANOS if i == COST else direct)
    now_ns = run.ended_ns if run.ended_ns != UNLIMITED else run.engine.clock_ns()
    span.set_attribute(semconv.USED_PREFIX + "seconds", run.elapsed_ns(now_ns) / NANOS)
    if run.ended_ns != UNLIMITED or run.outcome == "exhausted":
        span.set_attribute(semconv.OUTCOME, run.outcome)
    if run.first_denial is not None:
        span.set_attribute(semconv.REASON, run.first_denial.reason)
