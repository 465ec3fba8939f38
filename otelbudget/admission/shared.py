"""Judging where quotas and shared runs are kept in a store that other processes share.

What this process keeps is judged first, and held. Then one trip holds it on all accounts of the store, or what is held
here is given back. For plain calls and for coroutines that is written once, see `stores.errands`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import sub
from typing import Any, Final

from otelbudget.admission import denial as denials
from otelbudget.admission import settlement, trips
from otelbudget.admission.admission import count_of, judge_here, lowered, wrapping_of
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import ELSEWHERE, GONE, REPLAYED, Judgement, Once, Request, refused
from otelbudget.errors import StoreError
from otelbudget.ledger.account import Hold
from otelbudget.ledger.change import write
from otelbudget.ledger.judging import tightest, warning
from otelbudget.model.amounts import NOTHING, Amounts
from otelbudget.model.decision import Decision, Denial
from otelbudget.model.vector import pack
from otelbudget.stores.base import Answer, WrongWindow, judge
from otelbudget.stores.errands import Steps, at_once, waited
from otelbudget.stores.owed import Unsent
from otelbudget.telemetry import events

#: How often it is asked for anew what has expired there, or what was asked for in windows that have ended.
_TRIES: Final = 2


def judge_shared(payer: Payer, request: Request) -> Judgement:
    """Judge *request*, and hold or charge it if it is admitted. Only that is counted: a denial may not stand."""
    return at_once(_judged(payer, request, ""))


async def ajudge_shared(payer: Payer, request: Request) -> Judgement:
    """`judge_shared` for coroutines: the trip is awaited."""
    return await waited(_judged(payer, request, "a"))


def _judged(payer: Payer, request: Request, twin: str) -> Steps[Judgement]:
    """The same by the methods of the store whose names begin with *twin*."""
    errand, judged = _Errand(payer, request), None
    while judged is None:
        judged = errand.begin()
        if judged is None:
            try:
                method, asked = errand.asks()
                answer = yield from payer.engine.store.ask(twin, method, *asked)
            except BaseException as error:  # noqa: BLE001 - only one of the store's stays
                judged = errand.failed(error)
            else:
                judged = errand.end(answer)
    return judged


class _Errand:
    """A request that a shared store has a say in."""

    def __init__(self, payer: Payer, request: Request) -> None:
        self._payer = payer
        self._at_once = request.operation == "tool" and request.hold is None  # so nobody else keeps it alive
        if self._at_once:
            request = request._replace(hold=Hold(payer), keeper=self)
        self._asked = request
        self._before = NOTHING if request.change is None or request.hold is None else request.hold.amounts
        self._there = self._before  # as much the store holds, as far as this one knows
        self._held = True  # there, once it is admitted
        self._warned: Denial | None = None
        self._tries = _TRIES

    def begin(self) -> Judgement | None:
        """Judge and hold it here: what came of it, None if the store is to be asked."""
        payer, request = self._payer, self._asked
        if request.change is None and request.hold is not None:
            request.hold.trip = None  # if it was asked for before, in vain, the old id has ended
        once = request.once  # a key stands for what the store has admitted, see `_admitted`
        here = request if once is None or once.hold is not None else request._replace(once=None)
        self._here = judged = judge_here(payer, here, counted=False)
        decision = judged.decision
        if not decision.allowed or decision is GONE or decision is REPLAYED:
            return judged
        hold, accounts = request.hold, payer.binding(request.model, request.owner).shared
        if hold is None or request.change is None:
            self._accounts = accounts
            if hold is not None and accounts:
                hold.trip = trips.anew(payer, hold, accounts, once=once)
        elif request.model is not None and settlement.late_known(payer, hold, request.model, request.owner):
            self._accounts = accounts
            self._move(hold, NOTHING)
        else:  # quotas that have come into force since are charged for the next hold
            self._accounts = () if hold.trip is None else hold.trip.accounts
            if self._keyed and self._tries == _TRIES and not any(self._before):  # else it were asked the same again
                self._end(hold, hold.trip, NOTHING)
        return None if self._accounts else self._admitted()

    def asks(self) -> tuple[str, tuple[Any, ...]]:
        """What is asked of the store: the method, and what with."""
        payer, hold = self._payer, self._asked.hold
        if hold is None:
            return "read", trips.look(payer, self._accounts)
        asked = trips.ask(payer, hold, self._there)
        self._lines = asked.lines
        return "reserve", (asked,)

    def end(self, answer: Answer) -> Judgement | None:
        """What comes of it by the answer of the store; None to try again."""
        payer, request, accounts = self._payer, self._asked, self._accounts
        if payer.engine.store.health.untold:
            self._tell()
        if request.change is None and (answer.replayed or (answer.gone and self._keyed)):
            return self._as_before(gone=answer.gone)
        if answer.gone and request.change is None:  # never admitted by an id that has ended
            return self.failed(WrongWindow(answer.now_s))
        if (answer.gone or answer.replayed) and request.hold is not None:
            return self._begin_anew(request.hold)
        held = request.hold is not None
        own = pack(self._there)
        more = pack(request.amounts if request.hold is None else request.hold.amounts) - own
        over = trips.answered(payer, accounts, answer, more, own, wrapping_of(payer, request), held=held)
        if over is not None and payer.engine.enforce:
            self._give_back(there=False)
            if request.once is not None and request.once.hold is not None:  # by what was admitted under its key
                return Judgement(REPLAYED)
            less = lowered(request, over, partial(self._fits, answer))
            if less is None:
                return refused(denials.of_account(payer, request, over, accounts), payer.ancestor_of(over.account))
            self._asked = less
            return None
        self._held = over is None or any(self._there)
        over = over or warning(accounts, more, payer.owner.level, own=more if held else 0)
        if over is not None:
            self._warned = denials.of_account(payer, request, over._replace(busy=False), accounts)
        return self._admitted()

    def _fits(self, answer: Answer, less: Sequence[int]) -> bool:
        """Whether the store, as it is by its *answer*, has room for *less*."""
        there = self._there
        return judge(answer.states, self._lines, tuple(map(sub, less, there)), there) is None

    def failed(self, error: BaseException) -> Judgement | None:
        """What comes of it without an answer; None to try again in the windows of now."""
        request = self._asked
        if isinstance(error, WrongWindow) and self._tries and request.hold is not None and request.change is None:
            self._give_back(there=False)
            self._tries -= 1
            return None
        detail = "the window of what was held there has ended" if isinstance(error, WrongWindow) else str(error)
        if isinstance(error, StoreError):
            self._payer.engine.store.health.untold.append("unreachable")
            self._tell()
        denial = Denial(reason="store_unavailable", detail=detail, tenant=self._payer.tenant)
        if isinstance(error, StoreError | WrongWindow) and self._goes_on(error):
            mode = self._payer.engine.store.failure.name
            self._warned = replace(denial, store_mode=mode if self._payer.engine.enforce else None)
            return self._admitted()
        self._give_back(error)
        if not isinstance(error, StoreError | WrongWindow):
            raise error
        return refused(denial)

    def _tell(self) -> None:
        store = self._payer.engine.store
        with suppress(IndexError):
            while store.health.untold:
                self._payer.say(self._asked.site, events.store_error, store.name, store.health.untold.popleft())

    def _goes_on(self, error: StoreError | WrongWindow) -> bool:
        """Whether the request is admitted although the store did not answer."""
        engine = self._payer.engine
        if not engine.enforce or isinstance(error, WrongWindow):
            return not engine.enforce
        asked = trips.instead(self._payer, self._asked, self._accounts)
        return bool(engine.store.admits(asked, held=self._asked.hold is not None))

    def _admitted(self) -> Judgement:
        payer, request, here = self._payer, self._asked, self._here
        once = request.once
        if once is not None and not payer.engine.ledger.locked(lambda: _first(once, request.hold)):
            self._give_back()
            return Judgement(REPLAYED)
        warned = here.decision.denial or self._warned
        if warned is not None:
            here.decision = Decision(True, warned=True, denial=warned)
        if request.change is None:
            payer.engine.ledger.add([count_of(payer, request.operation, warned)])
        hold = request.hold
        if hold is not None and hold.trip is not None:
            on_expiry = hold.on_expiry if self._held else NOTHING  # it was refused there, which nobody heeds
            hold.trip = hold.trip if hold.trip.on_expiry is on_expiry else hold.trip._replace(on_expiry=on_expiry)
        if self._at_once and request.hold is not None:
            here.crossed = settlement.charge_hold(payer, request.hold)
        if request.site.span is not None:
            here.tightest = tightest(payer.binding(request.model, request.owner).accounts)
        return here

    def _move(self, hold: Hold, charged: Amounts) -> None:
        """End what the store holds for *hold* by charging *charged*; the rest is to be held anew, as another one."""
        before = hold.trip
        paid = charged if before is None else tuple(map(max, charged, before.paid))
        self._end(hold, trips.anew(self._payer, hold, self._accounts, paid), charged)
        self._there = NOTHING

    def _end(self, hold: Hold, anew: trips.Trip, charged: Amounts) -> None:
        """End what the store holds for *hold* by charging *charged*; what it shall hold is *anew* from then on."""
        payer = self._payer
        owed = trips.owe(payer, hold, charged, partial(settlement.say_crossed, payer, self._asked.site))
        hold.trip = anew
        write(trips.owing(payer, owed))
        trips.send(payer, owed)

    def _begin_anew(self, hold: Hold) -> Judgement | None:
        """Its call is alive, but it has expired there, and another process may have its key by now: None to ask for all
        of it, beyond what that has charged."""
        if not self._tries:
            return self.failed(StoreError("what was held there has expired"))
        self._tries -= 1
        self._give_back()
        trip: trips.Trip = hold.trip
        if self._keyed:  # it is held anew under its key
            hold.trip = trip._replace(paid=tuple(map(max, trip.on_expiry, trip.paid)))
            self._there = NOTHING
        else:
            self._move(hold, trip.on_expiry)
        return None

    @property
    def _keyed(self) -> bool:
        """Whether the store knows what is held by its key."""
        hold = self._asked.hold
        return hold is not None and hold.trip is not None and bool(hold.trip.digest)

    def _as_before(self, *, gone: bool) -> Judgement:
        """It was admitted before, in another process; *gone*: and it is settled there."""
        once, hold, ledger = self._asked.once, self._asked.hold, self._payer.engine.ledger
        assert once is not None
        assert hold is not None
        if not ledger.locked(lambda: _first(once, hold)):
            self._give_back()
        elif gone:
            ledger.settle(hold, 0, "committed", writes=[(hold, "paid", ELSEWHERE)])
        return Judgement(REPLAYED)

    def _give_back(self, error: BaseException | None = None, *, there: bool = True) -> None:
        """Let go of what was held here; the store is told if it may be held *there* all the same.

        Not under a key: that is another's as well, who may have it by now, and whoever asks again is given it.
        """
        payer, request, hold = self._payer, self._asked, self._asked.hold
        if hold is None or hold.state != "open":
            return
        if payer.engine.ledger.later(partial(self._give_back, error, there=there)):  # a finalizer dropped its coroutine
            return
        if request.change is not None:
            if hold.amounts != self._before:  # or what comes later would come again and again
                payer.engine.ledger.resize(hold, self._before, force=True)
            return
        known = there and hold.trip is not None and not self._keyed and not isinstance(error, Unsent | WrongWindow)
        owed = trips.owe(payer, hold, NOTHING, lambda _: None) if known else ()
        payer.engine.ledger.settle(hold, 0, "released", writes=trips.owing(payer, owed))
        if owed and isinstance(error, StoreError):
            payer.engine.store.put_off()
        else:
            trips.send(payer, owed)


def _first(once: Once, hold: Hold | None) -> bool:
    """Whether nothing has been admitted under the key of *once*, for which *hold* stands from now on."""
    if once.hold is not None and once.hold is not hold:
        return False
    once.hold = hold
    return True
