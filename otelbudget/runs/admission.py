"""Whether a request may go on: one order of evaluation, one critical section, for every kind of request.

Order: closed, unpriced, frozen, latched, deadline, then the accounts from the widest to the leaf. An admitted request
is held or charged in the same critical section in which it was judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from otelbudget import ledger
from otelbudget.amounts import COST, NANOS, RESOURCES, STEPS, TOOLS, UNLIMITED, Amounts, shown
from otelbudget.decision import ALLOWED, Decision, Denial
from otelbudget.telemetry.events import NOWHERE, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.ledger import Account, Hold, Refusal
    from otelbudget.runs.run import BudgetRun

__all__ = ["Ask", "Verdict", "attempt", "attempt_growth", "attempt_resize", "one_call"]

#: After how many seconds a request that only open holds refuse is worth trying again.
BUSY_RETRY_S = 1.0


class Ask:
    """One request: what it wants, and what happens when it is admitted.

    Args:
        amounts: Wanted, in internal units, `RESOURCES` order.
        operation: ``call``, ``check``, ``reserve``, ``tool`` or ``probe``.
        site: The span that hears of the decision.
        hold: Registered for *owner* on admission.
        charge: Charge at once on admission (tool calls).
        seconds_ns: Wall time that has to be left.
        permit: The wrap-up permit of the context, if any.
        unpriced: The model that no price is known for, if that matters to this run.
        own_maximum: The request's own maximum of output tokens, for the message.
    """

    __slots__ = (
        "amounts",
        "charge",
        "hold",
        "operation",
        "own_maximum",
        "owner",
        "permit",
        "seconds_ns",
        "site",
        "unpriced",
    )

    def __init__(
        self,
        amounts: Sequence[int],
        operation: str,
        *,
        site: Site = NOWHERE,
        hold: Hold | None = None,
        owner: object = None,
        charge: bool = False,
        seconds_ns: int = 0,
        permit: Any = None,
        unpriced: str | None = None,
        own_maximum: int | None = None,
    ) -> None:
        self.amounts = amounts
        self.operation = operation
        self.site = site
        self.hold = hold
        self.owner = owner
        self.charge = charge
        self.seconds_ns = seconds_ns
        self.permit = permit
        self.unpriced = unpriced
        self.own_maximum = own_maximum


class Verdict(NamedTuple):
    """What came of an attempt.

    Attributes:
        decision: Its `denial` says why not.
        blocker: The run whose budget is in the way (it may be an ancestor); None if it is not a run's.
        left: (resource, what remains) of the tightest account, where somebody wants to hear it.
        crossed: Thresholds reached by charging at once.
    """

    decision: Decision
    blocker: BudgetRun | None = None
    left: tuple[int, int] | None = None
    crossed: Sequence[ledger.Crossing] = ()


def attempt(run: BudgetRun, ask: Ask) -> Verdict:
    """Judge *ask*, and hold or charge it if it is admitted. Only that is counted: a denial may not stand."""
    engine = run.engine
    with engine.lock:
        now_ns = engine.clock_ns()
        if ask.hold is not None:
            engine.sweep(now_ns)
        blocked = _blocked(run, ask, now_ns)
        warned: Denial | None = None
        if blocked is not None:
            denial, blocker = blocked
            if engine.enforce:
                return Verdict(Decision(False, denial=denial), blocker)
            warned = denial
        if warned is None:
            over = ledger.exceeds_warned(run.accounts, ask.amounts)
            warned = None if over is None else _of_account(run, ask, over)
        crossed = _take(run, ask, now_ns)
        left = ledger.tightest(run.accounts) if ask.site.span is not None else None
        if run.pending:
            run.pending = {k: e for k, e in run.pending.items() if k[1] not in ("busy", "store_unavailable")} or None
            run.refresh()
        if warned is None:
            setattr(run.cell, ask.operation, getattr(run.cell, ask.operation) + 1)
            return Verdict(ALLOWED, None, left, crossed)
        run.cell.count(ask.operation, "warn", warned.reason)
        return Verdict(Decision(True, warned=True, denial=warned), None, left, crossed)


def attempt_growth(run: BudgetRun, ask: Ask, held: Hold) -> Verdict | None:
    """Add *ask* to an open hold; None if it fits. A closed run's calls may still grow: they were admitted."""
    engine = run.engine
    with engine.lock:
        frozen = next((one for one in run.lineage() if one.frozen is not None), None)
        if frozen is not None and engine.enforce:
            return Verdict(Decision(False, denial=_plain_denial(frozen, run, "frozen", detail=frozen.frozen)), frozen)
        over = ledger.extend(held, Amounts(*ask.amounts), force=not engine.enforce)
        if over is None:
            return None
        return Verdict(Decision(False, denial=_of_account(run, ask, over)), run.ancestor_of(over.account))


def attempt_resize(run: BudgetRun, ask: Ask, held: Hold) -> Verdict | None:
    """Make an open hold exactly what *ask* wants; None if it has been settled meanwhile."""
    engine = run.engine
    with engine.lock:
        if held.state != "open":
            return None
        if ask.unpriced is not None and engine.enforce:
            denial = _plain_denial(run, run, "unpriced", detail=ask.unpriced or None, resource="cost_usd")
            return Verdict(Decision(False, denial=denial), run)
        over = ledger.resize(held, Amounts(*ask.amounts), force=not engine.enforce)
        if over is None:
            return Verdict(ALLOWED)
        return Verdict(Decision(False, denial=_of_account(run, ask, over)), run.ancestor_of(over.account))


def _take(run: BudgetRun, ask: Ask, now_ns: int) -> Sequence[ledger.Crossing]:
    permit = ask.permit
    if permit is not None and permit.holds(run) and ask.operation in ("call", "reserve"):
        permit.used = True
        if ask.hold is not None:
            ask.hold.wrapping = permit.run.account
    if ask.hold is not None:
        run.engine.store.register(ask.hold, ask.owner, now_ns)
        run.open_holds += 1
    if ask.charge:
        run.tenant_cell.tool_calls += ask.amounts[TOOLS]
        return ledger.charge(run.accounts, ask.amounts)
    return ()


def _blocked(run: BudgetRun, ask: Ask, now_ns: int) -> tuple[Denial, BudgetRun | None] | None:
    """The first thing in the way, and the run it belongs to."""
    permit = ask.permit if ask.permit is not None and ask.permit.holds(run) else None
    if run.plain and permit is None and ask.unpriced is None:
        state = None
    else:
        state = _by_state(run, ask, permit)
    state = state or _late(run, ask, permit, now_ns)
    if state is not None:
        return state
    wrapping = None if permit is None or permit.used else permit.run.account
    refused = ledger.refusal(run.accounts, ask.amounts, wrapping)
    if refused is None:
        return None
    return _of_account(run, ask, refused), run.ancestor_of(refused.account)


def _by_state(run: BudgetRun, ask: Ask, permit: Any) -> tuple[Denial, BudgetRun | None] | None:
    lineage = run.lineage()
    for one in lineage:
        if one.closed:
            return _plain_denial(one, run, "closed"), one
    if ask.amounts[STEPS] or any(ask.amounts[1 : COST + 1]):
        model = ask.unpriced
        for one in lineage:
            model = one.unpriced if model is None else model
        if model is not None:
            return _plain_denial(run, run, "unpriced", detail=model or None, resource="cost_usd"), run
    for one in lineage:
        if one.frozen is not None:
            return _plain_denial(one, run, "frozen", detail=one.frozen or None), one
    if permit is not None and (permit.used or not ask.amounts[STEPS]):
        resource = permit.resource if ask.amounts[STEPS] else "tool_calls"
        return _plain_denial(permit.run, run, "latched", detail="wrap_up", resource=resource), permit.run
    for one in lineage:
        if one.latched and not (permit is not None and one is permit.run):
            for i, amount in enumerate(ask.amounts):
                if amount and one.latched >> i & 1:
                    return _latched(one, run, ask, i), one
    return None


def _latched(one: BudgetRun, run: BudgetRun, ask: Ask, i: int) -> Denial:
    account = one.account
    return Denial(
        reason="latched",
        resource=RESOURCES[i],
        budget=account.name,
        scope="run",
        used=shown(i, account.used[i]),
        reserved=shown(i, account.reserved[i]),
        limit=shown(i, account.limits[i]) if account.limits[i] < UNLIMITED else None,
        requested=shown(i, ask.amounts[i]),
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
    )


def _plain_denial(
    one: BudgetRun, run: BudgetRun, reason: str, *, detail: str | None = None, resource: str | None = None
) -> Denial:
    return Denial(
        reason=reason,
        resource=resource,
        budget=one.account.name,
        scope="run",
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        detail=detail,
    )


def _late(run: BudgetRun, ask: Ask, permit: Any, now_ns: int) -> tuple[Denial, BudgetRun | None] | None:
    if run.until_ns == UNLIMITED:
        return None
    for one in run.lineage():
        max_ns = one.max_ns
        if max_ns is None or one.account.warn:
            continue
        elapsed = one.elapsed_ns(now_ns)
        grace = permit.grace_ns if permit is not None and one is permit.run and not permit.used else 0
        late = elapsed >= max_ns + grace if not ask.seconds_ns else elapsed + ask.seconds_ns > max_ns + grace
        if late:
            denial = Denial(
                reason="deadline",
                resource="seconds",
                budget=one.account.name,
                scope="run",
                used=elapsed / NANOS,
                limit=max_ns / NANOS,
                requested=ask.seconds_ns / NANOS,
                tenant=run.tenant,
                run_id=run.run_id,
                ambient=run.kind == "ambient",
            )
            return denial, one
    return None


def _of_account(run: BudgetRun, ask: Ask, refused: Refusal) -> Denial:
    account: Account = refused.account
    i = refused.resource
    output_counts = RESOURCES[i] in ("tokens", "output_tokens", "cost_usd")
    return Denial(
        reason="busy" if refused.busy else "limit",
        resource=RESOURCES[i],
        budget=account.name,
        scope=account.scope,
        used=shown(i, refused.used),
        reserved=shown(i, refused.reserved),
        limit=shown(i, refused.limit),
        requested=shown(i, ask.amounts[i]),
        retry_after_s=BUSY_RETRY_S if refused.busy else None,
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        own_maximum=ask.own_maximum if output_counts else None,
    )


def one_call(run: BudgetRun) -> Amounts:
    """What a request without amounts asks for: one model call under every limit in scope."""
    if run.parent is None:
        return run.budget.one_call
    limited = {i for account in run.accounts for i in account.limited}
    return Amounts(*(1 if i == STEPS or (i in limited and STEPS < i <= COST) else 0 for i in range(len(RESOURCES))))
