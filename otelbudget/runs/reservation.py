"""`Reservation`: an amount held for one call, from its admission to its settlement."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from otelbudget import semconv
from otelbudget.admission import admission
from otelbudget.admission import settlement as accounting
from otelbudget.admission.wanted import wanted
from otelbudget.errors import IdempotencyError
from otelbudget.ledger.ledger import Hold
from otelbudget.model.amounts import COST, NOTHING, OUTPUT, RESOURCES, TOKENS, Amounts, amounts_from, shown
from otelbudget.model.budget import Usage, sum_of
from otelbudget.runs import asking
from otelbudget.runs import wrap_up as wrapping
from otelbudget.runs.idempotency import CHARGED, REPLAYED, Keyed, Recorded, as_key
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from otelbudget.model.decision import Decision
    from otelbudget.runs.run import BudgetRun

__all__ = ["AsyncReserve", "Reservation", "estimate_of", "input_part", "reserve"]

OnUnknown = Literal["input", "full", "open"]


class Reservation:
    """Amounts held on a run and everything above it.

    As a block: leaving it without `commit` or `release` charges the whole hold and warns; leaving it by an exception
    does what *on_unknown* says.

    Attributes:
        run: Whose it is.
        on_unknown: After an exception, ``full`` charges the hold, ``input`` its steps and input tokens, ``open`` leaves
            it to expire.
        replayed: It has been given once more, to a request with the same idempotency key.
        already_settled: A `release` has come after it was settled, and changed nothing.
    """

    __slots__ = ("__weakref__", "_hold", "already_settled", "on_unknown", "replayed", "run")

    def __init__(self, run: BudgetRun, hold: Hold, on_unknown: OnUnknown) -> None:
        self.run = run
        self.on_unknown: OnUnknown = on_unknown
        self.replayed = self.already_settled = False
        self._hold = hold

    def stand_for(self, hold: Hold, on_unknown: OnUnknown) -> None:
        """Take the place of the reservation object that made *hold* and is gone. Called with the lock held."""
        self._hold, self.on_unknown = hold, on_unknown
        self.run = hold.payer
        hold.owner = ref(self)

    @property
    def hold(self) -> Hold:
        """Its hold in the ledger; for the modules of this folder."""
        return self._hold

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

    def commit(self, usage: Usage | None = None) -> Recorded:
        """Charge what was used, over the hold and the limit too, and give the rest back. None charges the hold.

        Returns:
            Whether that was ``replayed``: the same usage once more, and nothing has changed.

        Raises:
            IdempotencyError: It was committed before with another usage.
        """
        if usage is not None and not isinstance(usage, Usage):
            raise TypeError(f"commit() takes a Usage, got {usage!r}")
        if accounting.settle(self.run, self._hold, usage, self.run.site_here()):
            return CHARGED
        if usage != self._hold.paid:
            raise IdempotencyError("this reservation was committed before with another usage; it was charged once")
        return REPLAYED

    def release(self) -> bool:
        """Give everything back, charging nothing.

        Returns:
            False if it was ``already_settled``; nothing has changed then.
        """
        if not accounting.give_back(self.run, self._hold):
            self.already_settled = True
            return False
        attributes = {semconv.RESOURCE: ",".join(r for r, a in zip(RESOURCES, self._hold.amounts, strict=True) if a)}
        self.run.say(self.run.site_here(), events.release_event, attributes)
        return True

    def extend(self, **delta: Any) -> None:
        """Hold more.

        Raises:
            BudgetExceeded: It does not fit; the hold is unchanged.
            ValueError: The reservation was settled before.
        """
        more = amounts_from({"steps": 0, **delta}, NOTHING)
        _check_open(asking.decide(self.run, self._asking(more)))

    async def acommit(self, usage: Usage | None = None) -> Recorded:
        """`commit` for coroutines."""
        return self.commit(usage)

    async def arelease(self) -> bool:
        """`release` for coroutines."""
        return self.release()

    async def aextend(self, **delta: Any) -> None:
        """`extend` for coroutines."""
        more = amounts_from({"steps": 0, **delta}, NOTHING)
        _check_open(await asking.adecide(self.run, self._asking(more)))

    def _asking(self, more: Amounts) -> admission.Ask:
        return admission.Ask(more, "reserve", site=self.run.site_here(), held=self._hold)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.settled:
            return
        if kind is None:
            self._warn_forgotten()
            self._charge_estimate(self._hold.amounts)
        elif self.on_unknown == "full":
            self._charge_estimate(self._hold.amounts)
        elif self.on_unknown == "input":
            self._charge_estimate(input_part(self._hold.amounts))

    async def __aenter__(self) -> Reservation:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        self.__exit__(kind, error, tb)

    def _charge_estimate(self, amounts: Amounts) -> None:
        accounting.settle(self.run, self._hold, estimate_of(amounts), self.run.site_here())

    def _warn_forgotten(self) -> None:
        frame: Any = sys._getframe(2)
        while frame is not None and str(frame.f_globals.get("__name__")).startswith("otelbudget."):
            frame = frame.f_back
        where = "unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self.run.engine.warn_once(
            f"forgotten {where}",
            "the reservation that ended near %s was never committed, so its whole hold was charged;"
            " call commit(usage), or release() if nothing was used",
            where,
        )


def _check_open(extended: Decision) -> None:
    if extended is admission.GONE:
        raise ValueError("this reservation is settled, it can't hold more")


def reserve(run: BudgetRun, given: dict[str, Any]) -> Reservation:
    """Hold *given* for one call of *run*."""
    wait_ns = asking.patience(given)
    ask, made = _request(run, given)
    asking.decide(run, ask, wait_ns)
    return _made(ask, made)


def _request(run: BudgetRun, given: dict[str, Any]) -> tuple[admission.Ask, Reservation]:
    on_unknown = given.pop("on_unknown", "full")
    if on_unknown not in ("input", "full", "open"):
        raise ValueError(f"on_unknown must be 'input', 'full' or 'open', got {on_unknown!r}")
    key = as_key(given.pop("idempotency_key", None))
    if "seconds" in given:
        raise ValueError("seconds can't be reserved: time passes by itself; use check(seconds=...)")
    want = wanted(run, given)
    hold = Hold(run.accounts, want.amounts, payer=run)
    made = Reservation(run, hold, on_unknown)
    ask = admission.Ask(
        want.amounts,
        "reserve",
        site=run.site_here(),
        hold=hold,
        owner=made,
        permit=wrapping.permit(),
        model=want.model,
        unpriced=want.unpriced,
    )
    if key is not None:
        # Prices may change between two equal requests, so only a cost that was given is part of what is compared.
        payload = want.amounts if "cost_usd" in given else want.amounts._replace(cost_nanousd=0)
        ask.once = Keyed(run, key, payload)
    return ask, made


def _made(ask: admission.Ask, made: Reservation) -> Reservation:
    """The reservation that an admitted *ask* has made, or the earlier one that its key stands for."""
    earlier = None if ask.once is None else ask.once.earlier
    return made if earlier is None else earlier


class AsyncReserve:
    """What `areserve` gives: awaitable, and an async block."""

    __slots__ = ("_given", "_made", "_run")

    def __init__(self, run: BudgetRun, given: dict[str, Any]) -> None:
        self._run = run
        self._given = given
        self._made: Reservation | None = None

    def __await__(self) -> Generator[Any, None, Reservation]:
        return self._reserve().__await__()

    async def _reserve(self) -> Reservation:
        given = dict(self._given)
        wait_ns = asking.patience(given)
        ask, made = _request(self._run, given)
        await asking.adecide(self._run, ask, wait_ns)
        return _made(ask, made)

    async def __aenter__(self) -> Reservation:
        self._made = await self._reserve()
        return self._made

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        if self._made is not None:
            self._made.__exit__(kind, error, tb)


def input_part(amounts: Amounts) -> Amounts:
    """What is owed of a hold for a call whose outcome is unknown: all but the output it never showed."""
    output = amounts[OUTPUT]
    share = amounts[TOKENS] - output
    cost = amounts[COST] * share // amounts[TOKENS] if amounts[TOKENS] else amounts[COST]
    return amounts._replace(tokens=share, output_tokens=0, cost_nanousd=cost)


def estimate_of(amounts: Amounts) -> Usage:
    """Amounts as a usage that says it is an estimate."""
    return sum_of(amounts, estimated=True)
