"""Whether a request may go on: one order of evaluation, one critical section, for every kind of request.

Order: closed, no_tenant, unpriced, frozen, latched, deadline, then the accounts from the widest to the leaf. An admitted
request is held or charged in the same critical section in which it was judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget import ledger
from otelbudget.amounts import COST, OUTPUT, RESOURCES, STEPS, TOKENS, TOOLS, UNLIMITED, Amounts
from otelbudget.decision import ALLOWED, Decision
from otelbudget.runs import refusals
from otelbudget.telemetry.events import NOWHERE, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otelbudget.accounts import Account, Hold
    from otelbudget.decision import Denial
    from otelbudget.runs.idempotency import Keyed
    from otelbudget.runs.run import BudgetRun

__all__ = ["GONE", "REPLAYED", "Ask", "Verdict", "attempt", "one_call", "payers"]

#: Resources that less output leaves more of.
_OUTPUT_COUNTS: Final = (TOKENS, OUTPUT, COST)
#: What a change of a hold comes to that has been settled meanwhile.
GONE: Final = Decision(True)
#: What a request with an idempotency key comes to that was admitted before.
REPLAYED: Final = Decision(True)


class Ask:
    """One request: what it wants, and what happens when it is admitted.

    Args:
        amounts: Wanted, in internal units, `RESOURCES` order.
        operation: ``call``, ``check``, ``reserve``, ``tool`` or ``probe``.
        site: The span that hears of the decision.
        hold: Registered for *owner* on admission.
        held: An open hold that is to be changed, instead of a new one.
        resize: It is to be exactly *amounts* then; else it grows by them.
        charge: Charge at once on admission (tool calls).
        carve_for: The child run that this is to be carved out for.
        model: The model that is called, if known.
        seconds_ns: Wall time that has to be left.
        permit: The wrap-up permit of the context, if any.
        unpriced: The model that no price is known for, if that matters to this run.
        own_maximum: The request's own maximum of output tokens, for the message.
        smaller: Given what tells whether amounts fit, the most that does with less output, or None. Where too little
            is left of tokens or money, *amounts* becomes that and `lowered` true.
        once: What gives it an idempotency key or makes it one of several attempts, or None.
    """

    __slots__ = (
        "amounts",
        "carve_for",
        "charge",
        "held",
        "hold",
        "lowered",
        "model",
        "once",
        "operation",
        "own_maximum",
        "owner",
        "permit",
        "resize",
        "seconds_ns",
        "site",
        "smaller",
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
        held: Hold | None = None,
        resize: bool = False,
        charge: bool = False,
        carve_for: BudgetRun | None = None,
        model: str | None = None,
        seconds_ns: int = 0,
        permit: Any = None,
        unpriced: str | None = None,
        own_maximum: int | None = None,
        smaller: Callable[[Callable[[Sequence[int]], bool]], Amounts | None] | None = None,
    ) -> None:
        self.amounts = amounts
        self.operation = operation
        self.site = site
        self.hold = hold
        self.owner = owner
        self.held = held
        self.resize = resize
        self.charge = charge
        self.carve_for = carve_for
        self.model = model
        self.seconds_ns = seconds_ns
        self.permit = permit
        self.unpriced = unpriced
        self.own_maximum = own_maximum
        self.smaller = smaller
        self.lowered = False
        self.once: Keyed | None = None

    def lower(self, refused: ledger.Refusal, fits: Callable[[Sequence[int]], bool]) -> bool:
        """Ask for less output if that is what *refused* lacks and less would fit; called with the lock held."""
        less = self.smaller(fits) if self.smaller is not None and refused.resource in _OUTPUT_COUNTS else None
        if less is None:
            return False
        self.amounts, self.lowered = less, True
        if self.hold is not None:
            self.hold.amounts = less
        return True


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
    dealt: list[object] = []  # let go of after the lock
    with engine.lock:
        now_ns = engine.clock_ns()
        engine.sweep(now_ns)
        if ask.held is not None:
            return _change(run, ask, ask.held)
        if ask.once is not None and ask.once.replays(ask):
            return Verdict(REPLAYED)
        accounts = payers(run, ask.model) if ask.carve_for is None else run.accounts
        blocked = _blocked(run, ask, accounts, now_ns)
        warned: Denial | None = None
        if blocked is not None:
            denial, blocker = blocked
            if engine.enforce:
                return Verdict(Decision(False, denial=denial), blocker)
            warned = denial
        if warned is None:
            over = ledger.exceeds_warned(accounts, ask.amounts)
            late = _late(run, ask, None, now_ns, warn=True) if over is None else None
            warned = refusals.of_account(run, ask, over) if over is not None else late and late[0]
        crossed = _take(run, ask, accounts, now_ns)
        left = ledger.tightest(accounts) if ask.site.span is not None else None
        if ask.operation != "probe":
            dealt.extend([one.forget(reasons=("busy", "store_unavailable")) for one in run.lineage() if one.pending])
        if warned is None:
            setattr(run.cell, ask.operation, getattr(run.cell, ask.operation) + 1)
            return Verdict(ALLOWED, None, left, crossed)
        run.cell.count(ask.operation, "warn", warned.reason)
        return Verdict(Decision(True, warned=True, denial=warned), None, left, crossed)


def _change(run: BudgetRun, ask: Ask, held: Hold) -> Verdict:
    """Grow or resize an open hold. A closed run's calls may still grow: they were admitted."""
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
    if refused is None:
        over = _put_on_model(run, ask, held)
        if over is None:
            change = ledger.resize if ask.resize else ledger.extend
            over = change(held, Amounts(*ask.amounts), force=not engine.enforce)
            if over is not None and ask.lower(over, lambda less: change(held, Amounts(*less)) is None):
                over = change(held, Amounts(*ask.amounts))
        if over is None:
            return Verdict(ALLOWED)
        refused = refusals.of_account(run, ask, over), run.ancestor_of(over.account)
    return Verdict(Decision(False, denial=refused[0]), refused[1])


def _put_on_model(run: BudgetRun, ask: Ask, held: Hold) -> ledger.Refusal | None:
    """Count a hold on the quotas of a model that was not known when it was made."""
    more = run.engine.owners.of_model(run.org, ask.model)
    if not more or any(account.scope == "model" for account in held.accounts):
        return None
    return ledger.widen(held, more, force=not run.engine.enforce)


def _take(run: BudgetRun, ask: Ask, accounts: Sequence[Account], now_ns: int) -> Sequence[ledger.Crossing]:
    permit = ask.permit
    if permit is not None and permit.holds(run) and ask.operation in ("call", "reserve"):
        permit.used = True
        if ask.hold is not None:
            ask.hold.wrapping = permit.run.account
    if ask.hold is not None:
        ask.hold.accounts = tuple(accounts)
        ask.hold.priority = run.priority
        run.engine.store.register(ask.hold, ask.owner, now_ns)
        for one in run.lineage():
            one.open_holds += 1
        if ask.once is not None:
            ask.once.admitted(ask.hold, ask.owner)
    if ask.charge:
        run.tenant_cell.tool_calls += ask.amounts[TOOLS]
        return run.engine.store.charge(accounts, ask.amounts)
    if ask.carve_for is not None:
        ledger.carve(ask.carve_for.accounts, ask.amounts)
    return ()


def payers(run: BudgetRun, model: str | None = None) -> Sequence[Account]:
    """All that a request of now counts on, widest scope first: quotas in their present windows, then the runs.

    Called with the lock held.
    """
    owner, engine = run.owner, run.engine
    if not owner.books and (model is None or not engine.owners.quotas.models):
        return run.accounts
    now_s = engine.store.clock_s()
    quotas = [book.current(now_s) for book in owner.books]
    return (*quotas, *engine.owners.of_model(owner.org, model), *run.accounts)


def _blocked(
    run: BudgetRun, ask: Ask, accounts: Sequence[Account], now_ns: int
) -> tuple[Denial, BudgetRun | None] | None:
    """The first thing in the way, and the run it belongs to."""
    permit = ask.permit if ask.permit is not None and ask.permit.run in run.lineage() else None
    if run.plain and permit is None and ask.unpriced is None:
        state = None
    else:
        state = _by_state(run, ask, permit)
    state = state or _late(run, ask, permit, now_ns)
    if state is not None:
        return state
    wrapping = permit.run.account if permit is not None and permit.run is run and not permit.used else None
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
    if not run.owner.known:
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
    if permit is not None and (refused := permit.refuses(run, ask.amounts)) is not None:
        return refusals.plain(permit.run, run, "latched", detail="wrap_up", resource=refused), permit.run
    for one in lineage:
        if one.latched and not (permit is not None and one is run is permit.run):
            for i, amount in enumerate(ask.amounts):
                if amount and one.latched >> i & 1:
                    return refusals.latched(one, run, ask, i), one
    return None


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
        grace = permit.grace_ns if permit is not None and one is run is permit.run and not permit.used else 0
        late = elapsed >= max_ns + grace if not ask.seconds_ns else elapsed + ask.seconds_ns > max_ns + grace
        if late:
            return refusals.deadline(one, run, ask, elapsed), one
    return None


def one_call(run: BudgetRun) -> Amounts:
    """What a request without amounts asks for: one model call under every limit in scope."""
    if run.parent is None and not run.owner.limited:
        return run.budget.one_call
    limited = run.owner.limited.union(*(account.limited for account in run.accounts))
    return Amounts(*(1 if i == STEPS or (i in limited and STEPS < i <= COST) else 0 for i in range(len(RESOURCES))))
