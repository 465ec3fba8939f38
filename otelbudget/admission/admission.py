"""Whether a request may go on: one order of evaluation and one critical section, for every kind of request.

Order: closed, no_tenant, unpriced, frozen, deadline, depth, then the accounts from the widest to the leaf. What is
admitted is held or charged in the same critical section in which it fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otelbudget.admission import denial as denials
from otelbudget.admission import notices
from otelbudget.admission.request import GONE, REPLAYED, Judgement, Request
from otelbudget.ledger.change import Changes
from otelbudget.ledger.judging import refusal, tightest, warning
from otelbudget.model.amounts import COST, OUTPUT, STEPS, TOKENS, UNLIMITED, Amounts
from otelbudget.model.decision import ALLOWED, Decision, Denial
from otelbudget.model.vector import pack

if TYPE_CHECKING:
    from otelbudget.admission.payer import Payer
    from otelbudget.admission.state import RunState
    from otelbudget.ledger.account import Account, Crossing, Hold, Refusal

#: Resources that less output leaves more of.
_OUTPUT_COUNTS: Final = (TOKENS, OUTPUT, COST)

Blocked = tuple[Denial, "RunState | None"]


def judge_here(payer: Payer, request: Request, *, counted: bool = True) -> Judgement:
    """Judge *request* by what this process keeps, and hold or charge it there if it is admitted.

    Only that is counted, if *counted*: a denial may not stand, nor does an admission before a shared store has its say.
    """
    engine = payer.engine
    now_ns = engine.clock_ns()
    hold = request.hold
    if hold is not None and request.change:
        accounts = hold.accounts
    else:
        bound = payer.binding(request.model, request.owner)
        accounts = bound.here
        if bound.free:
            notices.unlimited_run(payer)
    warned: Denial | None = None
    if (
        payer.unusual
        or now_ns + request.seconds_ns >= payer.until_ns
        or request.unpriced is not None
        or request.permit is not None
    ):
        blocked = _by_state(payer, request, now_ns)
        if blocked is not None and engine.enforce:
            return Judgement(Decision(False, denial=blocked[0]), blocked[1])
        warned = _warned_by_state(payer, request, now_ns) if blocked is None else blocked[0]
    if not engine.enforce:
        return _observed(payer, request, accounts, now_ns, warned, counted=counted)
    for account in accounts:
        if account.limits.warns is not None and warned is None:
            warned = _warned(payer, request, accounts)
    unusual = payer.unusual
    done = _taken(payer, request, accounts, now_ns, warned, counted=counted)
    if payer.unusual and not unusual and hold is not None and request.change is None:
        blocked = _by_state(payer, request, now_ns)  # frozen or closed in the meantime
        if blocked is not None and engine.ledger.settle(hold, 0, "released") is not None:
            return Judgement(Decision(False, denial=blocked[0]), blocked[1])
    return done if isinstance(done, Judgement) else _refused(payer, request, accounts, done, counted=counted)


def judge_state(payer: Payer, request: Request) -> Judgement:
    """Judge *request* by the state of the lineage alone; nothing is counted."""
    if not payer.engine.enforce:
        return Judgement()
    blocked = _by_state(payer, request, payer.engine.clock_ns())
    return Judgement() if blocked is None else Judgement(Decision(False, denial=blocked[0]), blocked[1])


def _taken(
    payer: Payer,
    request: Request,
    accounts: tuple[Account, ...],
    now_ns: int,
    warned: Denial | None,
    *,
    counted: bool,
    force: bool = False,
) -> Judgement | Refusal:
    """Hold, charge or only look, in one step with the counter of the decision."""
    ledger, level, hold = payer.engine.ledger, payer.owner.level, request.hold
    operation = request.operation
    n = 1 if counted else 0
    counts: list[tuple[object, str, int]] = [
        (payer.cell, operation, n) if warned is None else count_of(payer, operation, warned, n)
    ]
    crossed: list[Crossing] = []
    refused: Refusal | None
    if hold is not None and request.change is not None:
        joining, grow = _joining(payer, request, hold), request.change == "grow"
        # Not counted: it belongs to the request that made the hold.
        refused = ledger.resize(hold, request.amounts, joining=joining, grow=grow, force=force)
        if hold.state != "open":
            return Judgement(GONE)
    elif hold is not None:
        hold.accounts = accounts
        writes = _prepared(payer, hold, request)
        refused = ledger.hold(hold, request.keeper, counts, now_ns, writes, force=force, once=request.once)
        if request.once is not None and request.once.hold is not hold and refused is None:
            return Judgement(REPLAYED)
    elif operation == "tool":
        counts.append((payer.tenant_cell, "tool_calls", request.amounts.tool_calls))
        charged = ledger.charge(
            accounts, pack(request.amounts), counts, [], judged=None if force else level, now_ns=now_ns
        )
        crossed, refused = (charged, None) if isinstance(charged, list) else ([], charged)
    else:
        permit = request.permit
        wrapping = permit.account if permit is not None and permit.holds(payer) and not permit.used else None
        more = 0 if force else pack(request.amounts)
        refused = ledger.check(accounts, more, level, counts[0], now_ns, wrapping)
    if refused is not None:
        return refused
    if operation != "probe":
        for one in payer.lineage if payer.pending or payer.above else ():
            if one.pending:
                ledger.locked(lambda one=one: one.forget(reasons=("busy", "store_unavailable")))  # type: ignore[misc]
    decision = ALLOWED if warned is None else Decision(True, warned=True, denial=warned)
    return Judgement(decision, None, None if request.site.span is None else tightest(accounts), crossed)


def _prepared(payer: Payer, hold: Hold, request: Request) -> Changes:
    """Make *hold* what *request* asks for; gives what its admission changes beside accounts."""
    hold.amounts, hold.vector, hold.priority = request.amounts, pack(request.amounts), payer.owner.level
    permit = request.permit
    if permit is None or not permit.holds(payer):
        return []
    hold.wrapping, hold.permit = permit.account, permit
    return [(permit, "used", True)]


def _joining(payer: Payer, request: Request, hold: Hold) -> tuple[Account, ...]:
    """The quotas of a model that was not known when *hold* was made."""
    if request.model is None or any(account.scope == "model" for account in hold.accounts):
        return ()
    return tuple(one for one in payer.binding(request.model, request.owner).here if one.scope == "model")


def _refused(
    payer: Payer, request: Request, accounts: tuple[Account, ...], refused: Refusal, *, counted: bool
) -> Judgement:
    """Ask for less output if that is what *refused* lacks and less fits; else the denial."""
    if request.smaller is not None and refused.resource in _OUTPUT_COUNTS:
        hold, level = request.hold, payer.owner.level
        held = hold.vector if hold is not None and request.change == "resize" else 0
        wrapping = None if request.permit is None else request.permit.account

        def fits(less: Amounts) -> bool:
            return refusal(accounts, pack(less) - held, level, wrapping) is None

        less = request.smaller(fits)  # type: ignore[arg-type]
        if less is not None:
            return judge_here(payer, request._replace(amounts=less), counted=counted)
    denial = denials.of_account(payer, request, refused, accounts)
    return Judgement(Decision(False, denial=denial), payer.ancestor_of(refused.account))


def _observed(
    payer: Payer,
    request: Request,
    accounts: tuple[Account, ...],
    now_ns: int,
    warned: Denial | None,
    *,
    counted: bool,
) -> Judgement:
    """Admit it whatever refuses, and flag that, for a manager that enforces nothing."""
    level, hold = payer.owner.level, request.hold
    more = pack(request.amounts) - (hold.vector if hold is not None and request.change == "resize" else 0)
    over = refusal(accounts, more, level) or warning(accounts, more, level)
    if over is not None and warned is None:
        warned = denials.of_account(payer, request, over._replace(busy=False), accounts)
    done = _taken(payer, request, accounts, now_ns, warned, counted=counted, force=True)
    assert isinstance(done, Judgement) or done.busy
    return done if isinstance(done, Judgement) else Judgement()


def _warned(payer: Payer, request: Request, accounts: tuple[Account, ...]) -> Denial | None:
    """What the request exceeds of rules that only warn, or None."""
    hold = request.hold
    more = pack(request.amounts) - (hold.vector if hold is not None and request.change == "resize" else 0)
    over = warning(accounts, more, payer.owner.level)
    return None if over is None else denials.of_account(payer, request, over, accounts)


def count_of(payer: Payer, operation: str, warned: Denial | None, n: int = 1) -> tuple[object, str, int]:
    """The counter of an admission, and by how much it is raised."""
    if warned is None:
        return payer.cell, operation, n
    return payer.engine.meters.rare(payer.cell, operation, "warn", warned.reason), "n", n


# --- by state


def _by_state(payer: Payer, request: Request, now_ns: int) -> Blocked | None:
    """The first thing about the state of the lineage that is in the way, and the run it belongs to."""
    lineage, permit = payer.lineage, request.permit
    # What was admitted may go on in a run that has ended.
    running = request.change is not None and request.operation == "call"
    for one in () if running else lineage:
        if one.closed:
            return denials.of_state(one, payer, "closed"), one
    if request.once is not None and request.once.hold is not None:
        return None  # it was admitted before, whatever is in the way by now
    if not (payer.owner.known and all(one.owner.known for one in lineage)):
        return denials.no_tenant(payer), None
    if request.amounts[STEPS] or any(request.amounts[1 : COST + 1]):
        model = request.unpriced
        for one in () if running else lineage:
            model = one.unpriced if model is None else model
        if model is not None:
            return denials.unpriced(payer, model, payer.binding(request.model, request.owner).accounts)
    for one in lineage:
        if one.frozen is not None and not one.closed:
            return denials.of_state(one, payer, "frozen", one.frozen or None), one
    if running:
        return None
    if permit is not None and permit.holds(payer) and (spent := permit.refuses(request.amounts)) is not None:
        return denials.spent_wrap_up(permit.run, payer, spent), permit.run
    return _late(payer, request, now_ns) or _too_deep(payer)


def _warned_by_state(payer: Payer, request: Request, now_ns: int) -> Denial | None:
    late = _late(payer, request, now_ns, warn=True) or _too_deep(payer, warn=True)
    return None if late is None else late[0]


def _late(payer: Payer, request: Request, now_ns: int, *, warn: bool = False) -> Blocked | None:
    """The deadline that has passed, of a run that refuses or, with *warn*, of one that only warns."""
    if payer.until_ns == UNLIMITED:
        return None
    permit = request.permit
    for one in payer.lineage:
        if one.max_ns is None or one.account.rule.warn is not warn:
            continue
        elapsed = one.elapsed_ns(now_ns)
        grace = permit.grace_ns if permit is not None and one is permit.run and not permit.used else 0
        asked = request.seconds_ns
        if elapsed >= one.max_ns + grace if not asked else elapsed + asked > one.max_ns + grace:
            return denials.deadline(one, payer, request, elapsed), one
    return None


def _too_deep(payer: Payer, *, warn: bool = False) -> Blocked | None:
    """The run above, one that refuses or, with *warn*, one that only warns, inside of which an agent's run is too deep.

    Its span could not be refused, so its calls are; a run that somebody opens is refused when it is opened.
    """
    run = payer.run
    if run is None or run.kind != "implicit":
        return None
    for one in run.above:
        allowed = one.budget.max_depth
        if allowed is not None and run.depth > allowed and one.account.rule.warn is warn:
            return denials.too_deep(one, payer, run.depth), one
    return None
