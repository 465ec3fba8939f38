"""Whether a request may go on: one order of evaluation, one critical section, for every kind of request.

Order: closed, no_tenant, unpriced, frozen, latched, deadline, depth, then the accounts from the widest to the leaf. An
admitted request is held or charged in the same critical section in which it was judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget.admission import refusals
from otelbudget.admission.request import GONE, REPLAYED, Ask, Verdict
from otelbudget.ledger import carves, ledger
from otelbudget.ledger.changes import Change
from otelbudget.model.amounts import COST, RESOURCES, STEPS, TOOLS, UNLIMITED, Amounts
from otelbudget.model.decision import ALLOWED, Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.admission.state import RunState
    from otelbudget.ledger.account import Account, Hold
    from otelbudget.model.decision import Denial
    from otelbudget.runs.run import BudgetRun

__all__ = ["GONE", "REPLAYED", "Ask", "Verdict", "attempt", "one_call", "payers"]

#: Scopes of the quotas that bind all that a run does, in the order in which they are asked.
_WIDEST: Final = ("org", "tenant", "user")


def attempt(run: BudgetRun, ask: Ask) -> Verdict:
    """Judge *ask*, and hold or charge it if it is admitted. Only that is counted: a denial may not stand."""
    engine = run.engine
    dealt: list[object] = []  # let go of after the lock
    with engine.lock:
        now_ns = engine.clock_ns()
        engine.sweep(now_ns)
        if ask.held is not None:
            return _change(run, ask, ask.held)
        if ask.once is not None and ask.once.replays(ask.owner):
            return Verdict(REPLAYED)
        if ask.wants is not None:
            ask.amounts = ask.wants()
        change = Change()
        judged = _judged(run, ask, now_ns, change)
        while judged.denial is None and not change.apply():
            # A signal handler or finalizer has reserved in between: judge what is left now.
            change = Change()
            judged = _judged(run, ask, now_ns, change)
        if judged.denial is not None:
            return Verdict(Decision(False, denial=judged.denial), judged.blocker)
        accounts, warned, crossed = judged.accounts, judged.warned, judged.crossed
        _taken(run, ask)
        left = ledger.tightest(accounts) if ask.site.span is not None else None
        if ask.operation != "probe":
            dealt.extend([one.forget(reasons=("busy", "store_unavailable")) for one in run.lineage() if one.pending])
        if warned is None:
            setattr(run.cell, ask.operation, getattr(run.cell, ask.operation) + 1)
            return Verdict(ALLOWED, None, left, crossed)
        run.cell.count(ask.operation, "warn", warned.reason)
        return Verdict(Decision(True, warned=True, denial=warned), None, left, crossed)


def _change(run: BudgetRun, ask: Ask, held: Hold) -> Verdict:
    """Grow or resize an open hold. What a call needs it may still hold in a run that is closed or latched, since it was
    admitted; what a caller adds to a reservation is a new request."""
    engine = run.engine
    if held.state != "open":
        return Verdict(GONE)
    refused: tuple[Denial, BudgetRun | None] | None = None
    if engine.enforce:
        frozen = next((one for one in run.lineage() if one.frozen is not None), None)
        if frozen is not None:
            refused = refusals.plain(frozen, run, "frozen", detail=frozen.frozen or None), frozen
        elif ask.unpriced is not None:
            refused = refusals.plain(run, run, "unpriced", detail=ask.unpriced or None, resource="cost_usd"), run
        elif ask.operation == "reserve" and held.permit is None:
            refused = _by_state(run, ask, None)
    if refused is None:
        over = _resized(run, ask, held)
        if over is None:
            engine.store.changed()  # it may have become smaller
            return Verdict(ALLOWED)
        refused = refusals.of_account(run, ask, over), run.ancestor_of(over.account)
    return Verdict(Decision(False, denial=refused[0]), refused[1])


def _resized(run: BudgetRun, ask: Ask, held: Hold) -> ledger.Refusal | None:
    """Make *held* what *ask* wants of it; also on the quotas of a model that was not known when it was made."""
    if not ask.resize:
        return ledger.extend(held, Amounts(*ask.amounts), force=not run.engine.enforce)
    joining = run.engine.owners.of_model(run.org, ask.model)
    if any(account.scope == "model" for account in held.accounts):
        joining = ()
    over = ledger.resize(held, Amounts(*ask.amounts), joining, force=not run.engine.enforce)
    if over is not None and ask.lower(over, lambda less: ledger.misfit(held, Amounts(*less), joining) is None):
        over = ledger.resize(held, Amounts(*ask.amounts), joining)
    return over


class _Judged(NamedTuple):
    """What a request would do, or why it may not."""

    accounts: Sequence[Account]
    warned: Denial | None = None
    crossed: Sequence[ledger.Crossing] = ()
    denial: Denial | None = None
    blocker: BudgetRun | None = None


def _judged(run: BudgetRun, ask: Ask, now_ns: int, change: Change) -> _Judged:
    """Whether *ask* may go on; if it may, *change* is made to hold or charge it."""
    accounts = payers(run, ask.model) if ask.carve_for is None else _runs(run)
    if ask.hold is not None or ask.charge or ask.carve_for is not None:
        change.watch(accounts)
    blocked = _blocked(run, ask, accounts, now_ns)
    warned: Denial | None = None
    if blocked is not None:
        warned, blocker = blocked
        if run.engine.enforce:
            return _Judged(accounts, denial=warned, blocker=blocker)
    if warned is None:
        warned = _exceeded(run, ask, accounts, now_ns)
    return _Judged(accounts, warned, _takes(run, ask, accounts, now_ns, change))


def _takes(
    run: BudgetRun, ask: Ask, accounts: Sequence[Account], now_ns: int, change: Change
) -> Sequence[ledger.Crossing]:
    """Put what an admitted *ask* wants into *change*."""
    permit = ask.permit
    wraps_up = permit is not None and permit.holds(run) and ask.operation in ("call", "reserve")
    if wraps_up:
        change.set(permit, "used", True)
    if ask.hold is not None:
        ask.hold.wrapping = permit.run.account if wraps_up else None
        ask.hold.permit = permit if wraps_up else None
        ask.hold.accounts = tuple(accounts)
        ask.hold.priority = run.priority
        run.engine.store.registers(change, ask.hold, ask.owner, now_ns)
        one: BudgetRun | None = run
        while one is not None:
            change.set(one, "open_holds", one.open_holds + 1)
            one = one.parent
    if ask.charge:
        return run.engine.store.charges(change, accounts, ask.amounts)
    if ask.carve_for is not None:
        ledger.carve_in(change, ask.carve_for.accounts, ask.amounts)
    return ()


def _taken(run: BudgetRun, ask: Ask) -> None:
    """What follows once *ask* holds or has charged what it wanted."""
    if ask.once is not None:
        ask.once.admitted(ask.owner)
    if ask.charge:
        run.tenant_cell.tool_calls += ask.amounts[TOOLS]
    elif ask.carve_for is not None:
        ask.carve_for.refresh()


def payers(run: RunState, model: str | None = None) -> Sequence[Account]:
    """All that a request of now counts on, widest scope first: quotas in their present windows, then the runs.

    Called with the lock held.
    """
    owner, engine = run.owner, run.engine
    if not owner.books and (model is None or not engine.owners.quotas.models):
        return run.accounts
    now_s = engine.store.clock_s()
    quotas: list[Account] = [book.current(now_s) for book in owner.books]
    runs: Sequence[Account] = run.accounts
    if runs[0].scope != "run":  # quotas that the root run has on its own
        quotas = sorted((*quotas, *(a for a in runs if a.scope != "run")), key=lambda one: _WIDEST.index(one.scope))
        runs = _runs(run)
    return (*quotas, *engine.owners.of_model(owner.org, model), *runs)


def _runs(run: RunState) -> list[Account]:
    """The accounts of the runs of its lineage alone."""
    return [account for account in run.accounts if account.scope == "run"]


def _blocked(
    run: BudgetRun, ask: Ask, accounts: Sequence[Account], now_ns: int
) -> tuple[Denial, BudgetRun | None] | None:
    """The first thing in the way, and the run it belongs to."""
    permit = ask.permit if ask.permit is not None and ask.permit.run in run.lineage() else None
    if run.plain and permit is None and ask.unpriced is None:
        state = None
    else:
        state = _by_state(run, ask, permit)
    state = state or _late(run, ask, permit, now_ns) or _too_deep(run)
    if state is not None:
        return state
    wrapping = permit.run.account if permit is not None and not permit.used else None
    refused = ledger.refusal(accounts, ask.amounts, wrapping, run.priority)
    if refused is None or (
        run.engine.enforce
        and ask.lower(refused, lambda less: ledger.refusal(accounts, less, wrapping, run.priority) is None)
    ):
        return None
    return refusals.of_account(run, ask, refused), run.ancestor_of(refused.account)


def _by_state(run: BudgetRun, ask: Ask, permit: Any) -> tuple[Denial, BudgetRun | None] | None:
    lineage = run.lineage()
    for one in lineage:
        if one.closed:
            return refusals.plain(one, run, "closed"), one
    if not all(one.owner.known for one in lineage):
        return refusals.plain(run, run, "no_tenant"), None
    if ask.amounts[STEPS] or any(ask.amounts[1 : COST + 1]):
        model = ask.unpriced
        for one in lineage:
            model = one.unpriced if model is None else model
        if model is not None:
            return refusals.plain(run, run, "unpriced", detail=model or None, resource="cost_usd"), run
    for one in lineage:
        if one.frozen is not None:
            return refusals.plain(one, run, "frozen", detail=one.frozen or None), one
    if permit is not None and (refused := permit.refuses(ask.amounts)) is not None:
        return refusals.plain(permit.run, run, "latched", detail="wrap_up", resource=refused), permit.run
    for one in lineage:
        if one.latched and not (permit is not None and one is permit.run):
            # What a carved child has been given is no new request of those above.
            asked = carves.on_each(run.accounts, ask.amounts)[run.accounts.index(one.account)]
            for i, amount in enumerate(asked):
                if amount and one.latched >> i & 1:
                    return refusals.latched(one, run, ask, i), one
    return None


def _exceeded(run: BudgetRun, ask: Ask, accounts: Sequence[Account], now_ns: int) -> Denial | None:
    """What an admitted request exceeds in accounts that only warn, or None."""
    over = ledger.refusal(accounts, ask.amounts, None, run.priority, warn=True)
    if over is not None:
        return refusals.of_account(run, ask, over._replace(busy=False))
    late = _late(run, ask, None, now_ns, warn=True) or _too_deep(run, warn=True)
    return None if late is None else late[0]


def _late(
    run: BudgetRun, ask: Ask, permit: Any, now_ns: int, *, warn: bool = False
) -> tuple[Denial, BudgetRun | None] | None:
    """The deadline that has passed, of a run that refuses or, with *warn*, of one that only warns."""
    if run.until_ns == UNLIMITED:
        return None
    for one in run.lineage():
        max_ns = one.max_ns
        if max_ns is None or one.account.warn is not warn:
            continue
        elapsed = one.elapsed_ns(now_ns)
        grace = permit.grace_ns if permit is not None and one is permit.run and not permit.used else 0
        late = elapsed >= max_ns + grace if not ask.seconds_ns else elapsed + ask.seconds_ns > max_ns + grace
        if late:
            return refusals.deadline(one, run, ask, elapsed), one
    return None


def _too_deep(run: BudgetRun, *, warn: bool = False) -> tuple[Denial, BudgetRun | None] | None:
    """The run above, one that refuses or, with *warn*, one that only warns, inside of which an agent's *run* is too
    deep. Its span could not be refused, so its calls are; a run that somebody opens is refused when it is opened."""
    if run.kind != "implicit" or run.parent is None:
        return None
    for one in run.parent.lineage():
        allowed = one.budget.max_depth
        if allowed is not None and run.depth > allowed and one.account.warn is warn:
            return refusals.too_deep(one, run, run.depth), one
    return None


def one_call(run: BudgetRun, model: str | None = None) -> Amounts:
    """What a request without amounts asks for: one call, of *model* if that is known, under every limit in scope."""
    engine = run.engine
    if run.parent is None and not run.owner.limited and (model is None or not engine.owners.quotas.models):
        return run.budget.one_call
    limited = run.owner.limited.union(*(account.limited for account in run.accounts))
    with engine.lock:
        limited = limited.union(*(account.limited for account in engine.owners.of_model(run.org, model)))
    return Amounts(*(1 if i == STEPS or (i in limited and STEPS < i <= COST) else 0 for i in range(len(RESOURCES))))
