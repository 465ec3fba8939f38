"""Whether a request may go on: one order of evaluation and one critical section, for every kind of request.

Order: closed, no_tenant, unpriced, frozen, deadline, depth, then the accounts from the widest to the leaf. What is
admitted is held or charged in the same critical section in which it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from otelbudget.admission import denial as denials
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import GONE, REPLAYED, Judgement, Request, refused
from otelbudget.admission.settlement import late_known
from otelbudget.admission.state import RunState
from otelbudget.ledger.account import Account, Crossing, Refusal
from otelbudget.ledger.change import Changes
from otelbudget.ledger.judging import refusal, tightest, warning
from otelbudget.model.amounts import COST, OUTPUT, STEPS, TOKENS, UNLIMITED
from otelbudget.model.decision import ALLOWED, Decision, Denial
from otelbudget.model.vector import pack

#: Resources that less output leaves more of.
_OUTPUT_COUNTS: Final = (TOKENS, OUTPUT, COST)

#: What is in the way, the run it belongs to, and whether that only warns.
Blocked = tuple[Denial, "RunState | None", bool]


def judge_here(payer: Payer, request: Request, *, counted: bool = True) -> Judgement:
    """Judge *request* by what this process keeps, and hold or charge it there if it is admitted.

    Only that is counted, if *counted*: a denial may not stand, nor does an admission before a shared store has its say.
    """
    engine, hold = payer.engine, request.hold
    now_ns = engine.clock_ns()
    joining: tuple[Account, ...] = ()
    if hold is not None and request.change:
        accounts = hold.accounts
        joining = late_known(payer, hold, request.model, request.owner) if engine.store is None else ()
    else:
        accounts = payer.binding(request.model, request.owner).here
    warned: Denial | None = None
    if (
        payer.unusual
        or now_ns + request.seconds_ns >= payer.until_ns
        or request.unpriced is not None
        or request.permit is not None
    ):
        blocked, warned = _by_state(payer, request, now_ns)
        if blocked is not None:
            return blocked
    unusual, by_state = payer.unusual, warned
    for account in accounts:
        if account.limits.warns is not None and warned is None:
            over = warning(accounts, request.beyond, payer.owner.level)
            warned = None if over is None else denials.of_account(payer, request, over, accounts)
    done = _taken(payer, request, accounts, joining, now_ns, warned, counted=counted)
    if not isinstance(done, Judgement):
        if engine.enforce:
            less = lowered(request, done, partial(_fits, payer, request, accounts, joining))
            if less is not None:
                return judge_here(payer, less, counted=counted)
            return refused(denials.of_account(payer, request, done, accounts), payer.ancestor_of(done.account))
        warned = by_state or denials.of_account(payer, request, done._replace(busy=False), accounts)
        done = _taken(payer, request, accounts, joining, now_ns, warned, counted=counted, force=True)
    if payer.unusual and not unusual and hold is not None and request.change is None:
        blocked, _ = _by_state(payer, request, now_ns)  # frozen or closed in the meantime
        if blocked is not None and engine.ledger.settle(hold, 0, "released") is not None:
            return blocked
    return done if isinstance(done, Judgement) else Judgement()


def judge_state(payer: Payer, request: Request) -> Judgement:
    """Judge *request* by the state of the lineage alone; nothing is counted."""
    return _by_state(payer, request, payer.engine.clock_ns())[0] or Judgement()


def _taken(
    payer: Payer,
    request: Request,
    accounts: tuple[Account, ...],
    joining: tuple[Account, ...],
    now_ns: int,
    warned: Denial | None,
    *,
    counted: bool,
    force: bool = False,
) -> Judgement | Refusal:
    """Hold, charge or only look, in one step with the counter of the decision."""
    ledger, hold = payer.engine.ledger, request.hold
    n = int(counted)
    count = (payer.cell, request.operation, n) if warned is None else count_of(payer, request.operation, warned, n)
    over: Refusal | None
    crossed: Sequence[Crossing] = ()
    if hold is None and request.operation == "tool":  # charged as it starts
        counts = [count, (payer.tenant_cell, "tool_calls", request.amounts.tool_calls)]
        done = ledger.take(accounts, pack(request.amounts), counts, payer.owner.level, now_ns, force=force)
        crossed, over = (done, None) if isinstance(done, list) else ((), done)
    elif hold is None:
        more = 0 if force else pack(request.amounts)
        wrapping = None if request.permit is None else wrapping_of(payer, request)
        over = ledger.check(accounts, more, payer.owner.level, count, now_ns, wrapping)
    elif request.change is not None:
        # Not counted: it belongs to the request that made the hold.
        over = ledger.resize(hold, request.amounts, joining=joining, grow=request.change == "grow", force=force)
        if hold.state != "open":
            return Judgement(GONE)
    else:
        hold.accounts, hold.priority = accounts, payer.owner.level
        hold.amounts, hold.vector = request.amounts, pack(request.amounts)
        writes: Changes = []
        if request.permit is not None and request.permit.holds(payer):
            hold.wrapping, hold.permit = request.permit.account, request.permit
            writes.append((request.permit, "used", True))
        over = ledger.hold(hold, request.keeper, [count], now_ns, writes, force=force, once=request.once)
        if request.once is not None and request.once.hold is not hold and over is None:
            return Judgement(REPLAYED)
    if over is not None:
        return over
    decision = ALLOWED if warned is None else Decision(True, warned=True, denial=warned)
    return Judgement(decision, None, None if request.site.span is None else tightest(accounts), crossed)


def wrapping_of(payer: Payer, request: Request) -> Account | None:
    """The account that a permit to wrap up lets *request* be judged by the full limits of, if there is one."""
    permit, hold = request.permit, request.hold
    if hold is not None:
        return hold.wrapping
    return permit.account if permit is not None and permit.holds(payer) and not permit.used else None


def lowered(request: Request, over: Refusal, fits: Callable[[Sequence[int]], bool]) -> Request | None:
    """*request* for less output, if that is what *over* lacks, and less *fits*."""
    if request.smaller is None or over.resource not in _OUTPUT_COUNTS:
        return None
    less = request.smaller(fits)
    # Never as much again, which was refused: so there is an end, whoever else comes in between.
    return None if less is None or less[OUTPUT] >= request.amounts[OUTPUT] else request._replace(amounts=less)


def _fits(
    payer: Payer, request: Request, accounts: Sequence[Account], joining: Sequence[Account], less: Sequence[int]
) -> bool:
    """Whether *request* would be admitted for *less*."""
    more, level, wrapping = pack(less), payer.owner.level, wrapping_of(payer, request)
    beyond = more - (pack(request.amounts) - request.beyond)
    return refusal(accounts, beyond, level, wrapping) is None and refusal(joining, more, level) is None


def count_of(payer: Payer, operation: str, warned: Denial | None, n: int = 1) -> tuple[object, str, int]:
    """The counter of an admission, and by how much it is raised."""
    if warned is None:
        return payer.cell, operation, n
    return payer.engine.meters.rare(payer.cell, operation, "warn", warned.reason), "n", n


# --- by state


def _by_state(payer: Payer, request: Request, now_ns: int) -> tuple[Judgement | None, Denial | None]:
    """What the state of the lineage refuses, and what it only warns of."""
    warned: Denial | None = None
    for denial, blocker, warns in _blocked(payer, request, now_ns):
        if payer.engine.enforce and not warns:
            return refused(denial, blocker), None
        warned = warned or denial
    return None, warned


def _blocked(payer: Payer, request: Request, now_ns: int) -> Iterator[Blocked]:
    """All that is in the way about the state of the lineage, in the order of evaluation."""
    lineage, permit = payer.lineage, request.permit
    # What was admitted may go on in a run that has ended.
    running = request.change not in (None, "adopt") and request.operation == "call"
    for one in () if running else lineage:
        if one.closed or one.over:
            yield denials.of_run(one, payer, "closed"), one, False
    if request.once is not None and request.once.hold is not None:
        return  # it was admitted before, whatever is in the way by now
    if not (payer.owner.known and all(one.owner.known for one in lineage)):
        yield denials.of_run(payer.run, payer, "no_tenant", tenant=None), None, False
    if request.amounts[STEPS] or any(request.amounts[1 : COST + 1]):
        models = [request.unpriced, *(one.unpriced for one in lineage if not running)]
        model = next((one for one in models if one is not None), None)
        if model is not None:
            accounts = payer.binding(request.model, request.owner).accounts
            yield *denials.unpriced(payer, model, accounts), False
    for one in lineage:
        if one.frozen is not None and not (one.closed or one.over):
            yield denials.of_run(one, payer, "frozen", detail=one.frozen or None), one, False
    if running:
        return
    if permit is not None and permit.holds(payer) and (spent := permit.refuses(request.amounts)) is not None:
        yield denials.of_run(permit.run, payer, "limit", resource=spent, detail="wrap_up"), permit.run, False
    yield from _late(payer, request, now_ns)
    if payer.kind == "implicit":  # its agent's span could not be refused, as a run that is opened is
        for one in too_deep(payer.above, len(payer.above)):
            yield denials.too_deep(one, payer, len(payer.above)), one, one.account.rule.warn


def _late(payer: Payer, request: Request, now_ns: int) -> Iterator[Blocked]:
    """The deadlines that have passed."""
    permit = request.permit
    for one in payer.lineage if payer.until_ns != UNLIMITED else ():
        if one.max_ns is None:
            continue
        elapsed, asked = one.elapsed_ns(now_ns), request.seconds_ns
        grace = permit.grace_ns if permit is not None and one is permit.run and not permit.used else 0
        if elapsed >= one.max_ns + grace if not asked else elapsed + asked > one.max_ns + grace:
            yield denials.deadline(one, payer, request, elapsed), one, one.account.rule.warn


def too_deep(lineage: Sequence[RunState], depth: int) -> list[RunState]:
    """Those of *lineage* inside of which *depth* is too deep."""
    allowed = ((one, one.budget.max_depth) for one in lineage)
    return [one for one, most in allowed if most is not None and depth > most]
