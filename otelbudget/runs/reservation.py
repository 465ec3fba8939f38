"""`Reservation`: an amount held for one call, from its admission to its settlement.

A guarded call made in its block takes over its hold, see `lent_here`.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Unpack
from weakref import ref

from otelbudget import semconv
from otelbudget.admission import notices, settlement
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import ELSEWHERE, GONE, Request
from otelbudget.admission.state import RunState
from otelbudget.engine.owner import Owner
from otelbudget.errors import IdempotencyError
from otelbudget.ledger.account import Hold
from otelbudget.ledger.change import write
from otelbudget.model.amounts import COST, OUTPUT, RESOURCES, TOKENS, TOOLS, Amounts, amounts_from, shown
from otelbudget.model.decision import Decision
from otelbudget.model.keywords import OnUnknown, ResourceKeywords
from otelbudget.model.usage import Usage, sum_of
from otelbudget.runs import asking
from otelbudget.runs.view import text
from otelbudget.telemetry import events

#: The reservation in whose block this is.
entered: ContextVar[ref[Reservation] | None] = ContextVar("otelbudget-reservation", default=None)


def lent_here(run: RunState, model: str | None, owner: Owner | None) -> tuple[Reservation, Hold] | tuple[None, None]:
    """The reservation in whose block this is, and its hold for a call of *run*, which then settles it; None if it is
    not for such a call, or for no more."""
    here = entered.get()
    made = None if here is None else here()
    if made is None or not made._inside:
        return None, None
    held = run.engine.ledger.locked(partial(made._lend, run, model, owner))
    return (None, None) if held is None else (made, held)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of charging a usage: ``replayed`` if it had been charged before, and nothing has changed now."""

    replayed: bool


#: Of a call that is charged already.
NOTHING_MORE: Final = Usage(0, 0, cost_usd=0, steps=0)
CHARGED: Final = Recorded(replayed=False)
REPLAYED: Final = Recorded(replayed=True)


def unpaid(payer: Payer, usage: Usage) -> Usage:
    """What is still to be charged of *usage* that a user tells: nothing if a guard or a span has charged the call."""
    if not payer.engine.recent.was_seen(payer, usage):
        return usage
    notices.recorded_again(payer)
    return NOTHING_MORE


class Reservation:
    """Amounts held on a run and everything above it, or on a tenant's quotas, in the windows of when it was made.

    As a block: leaving it without `commit` or `release` charges the whole hold and warns; leaving it by an exception
    does what *on_unknown* says; either charges nothing more where a guard has charged a call made in the block. The
    first of these takes over what is held, whatever is committed after it.

    Attributes:
        on_unknown: After an exception, ``full`` charges the hold, ``input`` its steps and input tokens, ``open`` leaves
            it to expire.
        replayed: It has been given once more, to a request with the same idempotency key. Whoever has it calls only if
            the first one is known not to: of two calls one is held, and both are charged.
        already_settled: A `release` has come after it was settled, and changed nothing.
    """

    def __init__(self, payer: Payer, hold: Hold, on_unknown: OnUnknown, model: str | None, owner: Owner | None) -> None:
        self._payer = payer
        self._owner = owner
        self.model = model
        self.on_unknown: OnUnknown = on_unknown
        self.replayed = self.already_settled = False
        self._hold, self._before = hold, payer.engine.recent.last_here()
        self._said: Usage | None = None
        self._lent: Hold | None = None
        self._inside, self._outer = False, entered.get()

    @property
    def settled(self) -> bool:
        """Whether it was committed, released or taken over by a call, or has expired."""
        return self._hold.state != "open"

    @property
    def held(self) -> dict[str, Any]:
        """What it holds, ``{resource: amount}`` without zeros; nothing once it is settled."""
        if self.settled:
            return {}
        return {name: shown(i, self._hold.amounts[i]) for i, name in enumerate(RESOURCES) if self._hold.amounts[i]}

    def commit(self, usage: object = None) -> Recorded:
        """Charge what was used, over the hold and the limit too, and give the rest back.

        Args:
            usage: A `Usage`, or what `Usage.of` reads; what it does not know is charged as held. A number is tokens of
                `model`; None charges the hold.

        Returns:
            Whether that was ``replayed``: the same usage once more, and nothing has changed.

        Raises:
            IdempotencyError: It was committed before with another usage.
        """
        spent = None if usage is None else Usage.reported(usage)
        if spent is None and hasattr(type(usage), "__index__"):
            spent = Usage(tokens=usage, model=self.model)  # type: ignore[arg-type]
        if spent is None and usage is not None:
            kind = type(usage).__name__
            raise TypeError(f"commit() takes a Usage, or tokens as a whole number, or what reports a usage, not {kind}")
        if self._hold.state == ("open" if self._lent is None else "released"):  # nothing was committed yet
            if self._lent is not None and self._served(self._lent):
                write([(self._hold, "state", "committed"), (self._hold, "paid", spent)])
                return CHARGED
            if spent is not None:
                self._said, spent = spent, unpaid(self._payer, spent)
        here = self._payer.around()
        if settlement.settle(self._payer, self._hold, spent, here.site, asked_model=self.model, owner=here.owner):
            return CHARGED
        if self._hold.paid is not ELSEWHERE and spent not in (self._hold.paid, self._said):
            raise IdempotencyError("this reservation was committed before with another usage; it was charged once")
        return REPLAYED

    def release(self) -> bool:
        """Give everything back, charging nothing.

        Returns:
            False if it was ``already_settled``; nothing has changed then.
        """
        if not settlement.give_back(self._payer, self._hold):
            self.already_settled = True
            return False
        attributes = {semconv.RESOURCE: ",".join(r for r, a in zip(RESOURCES, self._hold.amounts, strict=True) if a)}
        self._payer.say(self._payer.around().site, events.release_event, attributes)
        return True

    def extend(self, **delta: Unpack[ResourceKeywords]) -> None:
        """Hold more.

        Raises:
            BudgetExceeded: It does not fit; the hold is unchanged.
            ValueError: The reservation was settled before.
        """
        _check_open(asking.decide(self._payer, self._asking(dict(delta))))

    async def acommit(self, usage: object = None) -> Recorded:
        """`commit` for coroutines."""
        return self.commit(usage)

    async def arelease(self) -> bool:
        """`release` for coroutines."""
        return self.release()

    async def aextend(self, **delta: Unpack[ResourceKeywords]) -> None:
        """`extend` for coroutines."""
        _check_open(await asking.adecide(self._payer, self._asking(dict(delta))))

    def _asking(self, delta: dict[str, Any]) -> Request:
        more = amounts_from({"steps": 0, **delta})
        here = self._payer.around()
        return Request("reserve", more, here.site, hold=self._hold, change="grow", permit=here.permit)

    def __repr__(self) -> str:
        amounts = ", ".join(f"{name} {text(name, amount)}" for name, amount in self.held.items())
        return f"<Reservation of {amounts or 'nothing'}, {self._hold.state}>"

    def _lend(self, run: RunState, model: str | None, owner: Owner | None) -> Hold | None:
        held = self._hold
        other = self._payer is not run or self.model not in (None, model) or self._owner is not owner
        if other or held.state != "open" or held.amounts[TOOLS]:
            return None
        # What is left of it is as good as released: committed all the same, it is charged in full, for its own sake.
        trip = held.trip and held.trip._replace(id=f"{held.trip.id}:left")
        left = replace(held, state="released", trip=trip)
        write([(self, "_lent", held), (self, "_hold", left)])
        return held

    @staticmethod
    def _served(lent: Hold) -> bool:
        """Whether the call that has taken *lent* over is under way, or got an answer."""
        free = lent.paid is None or lent.paid.tokens == lent.paid.cost_usd == 0
        return lent.state == "open" or not free

    def __enter__(self) -> Reservation:
        self._inside, self._outer = True, entered.get()
        entered.set(ref(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._inside, here = False, entered.get()
        if here is not None and here() is self:  # else it is left in another context
            entered.set(self._outer)
        if self._owes(kind):
            settlement.settle(self._payer, self._hold, self._owed(kind), self._payer.around().site)

    def _owes(self, kind: type[BaseException] | None) -> bool:
        """Whether leaving its block charges anything."""
        if self._lent is None:
            return not (self.settled or (kind is not None and self.on_unknown == "open"))
        # Without an answer the block may have gone on with another call, that nothing has seen.
        return kind is None and not (
            self._served(self._lent) or self.already_settled or self._hold.state == "committed"
        )

    def _owed(self, kind: type[BaseException] | None) -> Usage:
        payer, held = self._payer, self._hold.amounts
        if payer.engine.recent.made_since(self._before, payer, answered=kind is None):
            return NOTHING_MORE
        if kind is None:
            self._warn_forgotten()
        owed = _input_part(held) if kind is not None and self.on_unknown == "input" else held
        return sum_of(owed, estimated=True)

    async def __aenter__(self) -> Reservation:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        self.__exit__(kind, error, tb)

    def _warn_forgotten(self) -> None:
        frame: Any = sys._getframe(2)
        while frame is not None and str(frame.f_globals.get("__name__")).startswith("otelbudget."):
            frame = frame.f_back
        where = "unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self._payer.engine.warn_once(
            f"forgotten {where}",
            "the reservation that ended near %s was never committed, so its whole hold was charged;"
            " call commit(usage), or release() if nothing was used",
            where,
        )


def _check_open(extended: Decision) -> None:
    if extended is GONE:
        raise ValueError("this reservation is settled, it can't hold more")


def _input_part(amounts: Amounts) -> Amounts:
    """What is owed of a hold for a call whose outcome is unknown: all but the output it never showed."""
    output = amounts[OUTPUT]
    share = amounts[TOKENS] - output
    cost = amounts[COST] * share // amounts[TOKENS] if amounts[TOKENS] else amounts[COST]
    return amounts._replace(tokens=share, output_tokens=0, cost_nanousd=cost)
