"""`Reservation`: an amount held for one call, from its admission to its settlement."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import ref

from otelbudget import semconv
from otelbudget.admission import settlement
from otelbudget.admission.cost import wanted
from otelbudget.admission.request import GONE, Once, Request
from otelbudget.errors import IdempotencyError
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import (
    COST,
    NOTHING,
    OUTPUT,
    RESOURCES,
    TOKENS,
    Amounts,
    amounts_from,
    nanoseconds,
    shown,
)
from otelbudget.model.keywords import OnUnknown, ReserveKeywords, ResourceKeywords, unknown
from otelbudget.model.usage import Usage, sum_of
from otelbudget.runs import asking
from otelbudget.runs.blocks import Block
from otelbudget.runs.idempotency import CHARGED, NOTHING_MORE, REPLAYED, Keys, Recorded, as_key, keys_of, unpaid
from otelbudget.runs.receipt import text
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from otelbudget.admission.payer import Payer
    from otelbudget.model.decision import Decision

__all__ = ["AsyncReserve", "Reservation", "reserve"]


_KNOWN: Final = {**ReserveKeywords.__annotations__, "seconds": None}  # which has an error of its own


class Reservation:
    """Amounts held on a run and everything above it, or on a tenant's quotas, in the windows of when it was made.

    As a block: leaving it without `commit` or `release` charges the whole hold and warns; leaving it by an exception
    does what *on_unknown* says; either charges nothing more where a guard has charged a call made in the block.

    Attributes:
        on_unknown: After an exception, ``full`` charges the hold, ``input`` its steps and input tokens, ``open`` leaves
            it to expire.
        replayed: It has been given once more, to a request with the same idempotency key.
        already_settled: A `release` has come after it was settled, and changed nothing.
    """

    __slots__ = (
        *("__weakref__", "_before", "_hold", "_payer", "_said"),
        *("already_settled", "model", "on_unknown", "replayed"),
    )

    def __init__(self, payer: Payer, hold: Hold, on_unknown: OnUnknown, model: str | None) -> None:
        self._payer = payer
        self.model = model
        self.on_unknown: OnUnknown = on_unknown
        self.replayed = self.already_settled = False
        self._hold, self._before = hold, payer.engine.recent.last_here()
        self._said: Usage | None = None

    @property
    def settled(self) -> bool:
        """Whether it was committed, released or has expired."""
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
        spent = None if usage is None else self._spent(usage)
        if spent is not None and not self.settled:
            self._said, spent = spent, unpaid(self._payer, spent)
        here = self._payer.around()
        if settlement.settle(self._payer, self._hold, spent, here.site, asked_model=self.model, owner=here.owner):
            return CHARGED
        if spent not in (self._hold.paid, self._said):
            raise IdempotencyError("this reservation was committed before with another usage; it was charged once")
        return REPLAYED

    def _spent(self, used: Any) -> Usage:
        if hasattr(used, "__index__"):
            return Usage(tokens=used, model=self.model)
        found = used if isinstance(used, Usage) else Usage.reported(used)
        if found is None:
            kind = type(used).__name__
            raise TypeError(f"commit() takes a Usage, or tokens as a whole number, or what reports a usage, not {kind}")
        return found

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
        more = amounts_from({"steps": 0, **delta}, NOTHING)
        _, site, _, permit = self._payer.around()
        return Request("reserve", more, site, hold=self._hold, change="grow", permit=permit)

    def __repr__(self) -> str:
        amounts = ", ".join(f"{name} {text(name, amount)}" for name, amount in self.held.items())
        return f"<Reservation of {amounts or 'nothing'}, {self._hold.state}>"

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.settled or (kind is not None and self.on_unknown == "open"):
            return
        settlement.settle(self._payer, self._hold, self._owed(kind), self._payer.around().site)

    def _owed(self, kind: type[BaseException] | None) -> Usage:
        run, held, recent = self._payer.run, self._hold.amounts, self._payer.engine.recent
        if run is not None and recent.made_since(self._before, run.account, answered=kind is None):
            return NOTHING_MORE
        if kind is None:
            self._warn_forgotten()
        owed = _input_part(held) if kind is not None and self.on_unknown == "input" else held
        return sum_of(owed, estimated=True)

    async def __aenter__(self) -> Reservation:
        return self

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


def reserve(payer: Payer, given: dict[str, Any], keys: Keys | None = None) -> Reservation:
    """Hold *given* for one call of *payer*."""
    request, made, wait_ns = _request(payer, given, keys)
    asking.decide(payer, request, wait_ns)
    return made if request.once is None else _replayed(request.once, made)


def _request(payer: Payer, given: dict[str, Any], keys: Keys | None) -> tuple[Request, Reservation, int]:
    """What is asked for, the reservation that it becomes, and how long it may wait."""
    if strange := given.keys() - _KNOWN:
        raise unknown("reserve() has no", min(strange), _KNOWN)
    wait_ns = nanoseconds("wait_s", given.pop("wait_s")) if "wait_s" in given else 0
    on_unknown = given.pop("on_unknown", "full")
    if on_unknown not in ("input", "full", "open"):
        raise ValueError(f"on_unknown must be 'input', 'full' or 'open', got {on_unknown!r}")
    if "seconds" in given:
        raise ValueError("seconds can't be reserved: time passes by itself; use check(seconds=...)")
    key = given.pop("idempotency_key", None)
    priced = "cost_usd" in given
    _, site, owner, permit = payer.around()
    amounts, model, unpriced = wanted(payer, given, owner)
    hold = Hold(payer)
    made = Reservation(payer, hold, on_unknown, model)
    once = None
    if key is not None:
        keys = keys or keys_of(payer)
        # Prices may change between two equal requests, so only a cost that was given is part of what is compared.
        payload = amounts if priced else amounts._replace(cost_nanousd=0)
        once = keys.once(payer.tenant, as_key(key), Once("reserve", payload, on_unknown))
    request = Request("reserve", amounts, site, model, owner, hold, made, permit=permit, unpriced=unpriced, once=once)
    return request, made, wait_ns


def _replayed(once: Once, made: Reservation) -> Reservation:
    """The reservation that a key stands for: the one just *made*, or an earlier one."""
    if once.hold is None or once.hold is made._hold:
        return made
    hold = once.hold
    earlier: Reservation | None = hold.owner()
    if earlier is None:  # its object is gone: this one takes its place
        made._payer, made._hold, made.on_unknown, earlier = hold.payer, hold, once.on_unknown, made
        hold.owner = ref(made)
    earlier.replayed = True
    return earlier


class AsyncReserve(Block, Coroutine[Any, Any, Reservation]):
    """What `areserve` gives: a coroutine, and an async block."""

    advice = "write `await run.areserve(...)`, or `async with run.areserve(...) as held:`"

    def __init__(self, payer: Payer, given: dict[str, Any], keys: Keys | None = None) -> None:
        self._asked = (payer, given, keys)
        self._begun: Coroutine[Any, Any, Reservation] | None = None
        super().__init__()

    @property
    def _coroutine(self) -> Coroutine[Any, Any, Reservation]:
        self.used = True
        self._begun = self._begun or self._reserve(*self._asked)
        return self._begun

    def __await__(self) -> Generator[Any, None, Reservation]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As a coroutine has it."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """As a coroutine has it."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """As a coroutine has it."""
        self.used = True
        if self._begun is not None:
            self._begun.close()

    @staticmethod
    async def _reserve(payer: Payer, given: dict[str, Any], keys: Keys | None) -> Reservation:
        request, made, wait_ns = _request(payer, dict(given), keys)
        await asking.adecide(payer, request, wait_ns)
        return made if request.once is None else _replayed(request.once, made)

    async def __aenter__(self) -> Reservation:
        self._made = await self
        return self._made

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        self._made.__exit__(kind, error, tb)


def _input_part(amounts: Amounts) -> Amounts:
    """What is owed of a hold for a call whose outcome is unknown: all but the output it never showed."""
    output = amounts[OUTPUT]
    share = amounts[TOKENS] - output
    cost = amounts[COST] * share // amounts[TOKENS] if amounts[TOKENS] else amounts[COST]
    return amounts._replace(tokens=share, output_tokens=0, cost_nanousd=cost)
