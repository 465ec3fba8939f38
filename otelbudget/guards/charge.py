"""How a guarded call is charged when it is over, with what is known of its earlier attempts."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import get_current

from otelbudget.engine.context import HELD, attached
from otelbudget.errors import BudgetExceeded
from otelbudget.model.amounts import nanousd, usd
from otelbudget.model.usage import PARTS, Usage
from otelbudget.model.usage_names import CACHED, MADE, READ, REASONING, SEEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from otelbudget.admission.state import RunState
    from otelbudget.calls.model_call import ModelCall
    from otelbudget.calls.sizing import ModelRequest
    from otelbudget.guards.exchange import Exchange

_COUNTS: Final = ("input_tokens", "output_tokens")
_ADDED: Final = (*_COUNTS, *PARTS)
_PARTS_OF: Final = {
    **dict.fromkeys((*CACHED, *SEEN), "input_tokens"),
    **dict.fromkeys((REASONING, *MADE), "output_tokens"),
}


def _sums(one: Usage, other: Usage) -> dict[str, Any]:
    sums: dict[str, Any] = {name: (getattr(one, name) or 0) + (getattr(other, name) or 0) for name in _ADDED}
    sums["estimated"] = one.estimated or other.estimated
    mine, others = one.reported_cost_usd, other.reported_cost_usd
    if mine is None or others is None:  # nobody says that of both
        return sums | {"reported_cost_usd": None}
    return sums | {"reported_cost_usd": usd(nanousd("cost", mine) + nanousd("cost", others))}


def _more(before: Usage, usage: Usage) -> dict[str, Any]:
    """What *usage* has beyond *before*; no more of a part than of what it is a part of, or it would be added to it."""
    more = {name: max(0, (getattr(usage, name) or 0) - (getattr(before, name) or 0)) for name in _ADDED}
    more |= {part: min(more[part], more[whole]) for part, whole in _PARTS_OF.items()}
    written = min(more["cache_write_tokens"], more["input_tokens"] - more["cache_read_tokens"])
    more |= {"cache_write_tokens": written, "cache_write_1h_tokens": min(more["cache_write_1h_tokens"], written)}
    return more | {part: min(more[part], more["cache_read_tokens"], more[of]) for part, of in READ.items()}


def _tokens(usage: Usage) -> int:
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


class Charge:
    """One admitted call and its settlement. Attempts without an answer may have been worked on: each adds the input."""

    __slots__ = (
        *("_awaiting", "_charged", "_own", "_parted", "_told", "_turn", "_under_way"),
        *("call", "exchange", "left", "reported_cost_usd", "request"),
    )

    def __init__(
        self, call: ModelCall | Part, request: ModelRequest, exchange: Exchange, own: Callable[[], bool] | None = None
    ) -> None:
        self.call = call
        self.request = request
        self.exchange = exchange
        #: What a header of the answer says it cost, for a usage that does not say.
        self.reported_cost_usd: Decimal | None = None
        #: Whether what has parts is known to have sent something.
        self.left = False
        self._charged: Usage | None = None
        #: What each part has used.
        self._told: dict[object, Usage] = {}
        #: Says whether what is sent inside, from here, is the library's own doing; None where nothing is.
        self._own = own
        #: Whose turn it is, to be taken in one step: of parts in several threads it is one's.
        self._turn = [True]
        self._parted = self._under_way = self._awaiting = False

    def holding(self) -> AbstractContextManager[None]:
        """Have the calls inside be parts of this one."""
        return attached(HELD.put(get_current(), self))

    def lend(self) -> bool:
        """Whether what is about to be sent is a part of this: it pays one answer, so nothing is while another part is
        under way, or has answered; nor what the application sends from a callback.

        Raises:
            BudgetExceeded: It is not the first, and comes after the run's deadline.
        """
        if self.call.settled or not (self._turn and self._own and self._own()):
            return False
        if self._parted:
            self.call.again()
        try:
            self._turn.pop()
        except IndexError:  # another thread was faster
            return False
        self._parted = self._under_way = True
        return True

    def part_ended(self, *, answered: bool, left: bool = True) -> None:
        """The part that was under way is over; without an answer, the next one is another attempt."""
        self._under_way = False
        self.left |= left
        if not answered:
            self._turn = [True]
        if self._awaiting:
            self._awaiting = False
            self.answered(None)

    def note(self, part: object, usage: Usage) -> None:
        """A *part* has used this in all: what the parts say goes before what is said of the whole."""
        self._told[part] = dataclasses.replace(usage, steps=1)
        if self._charged is not None:  # it has outlived the whole
            self._late(self._charged, self._noted)

    @property
    def _noted(self) -> Usage | None:
        noted: Usage | None = None
        for usage in self._told.values():
            noted = usage if noted is None else dataclasses.replace(usage, tokens=None, **_sums(noted, usage))
        return noted

    def part_grows(self, output_tokens: int) -> None:
        """A part's stream has shown so much output, which is the whole's unless that has one that is followed."""
        if self._awaiting:
            self.grow(output_tokens)

    def grow(self, output_tokens: int) -> None:
        """A stream has shown so much output; raises BudgetExceeded if no more can be paid for."""
        self.call.grow(output_tokens, (self._charged and self._charged.output_tokens) or 0)

    def spared(self) -> None:
        """There was an answer without asking for it: only what parts before that have used is charged."""
        if self._noted is None:
            self.call.release()
        else:
            self.answered(None)

    def answered(self, usage: Usage | None) -> None:
        """An answer arrived; None if it says no usage: then its part's is charged, when that is over, else the hold."""
        noted = self._noted
        if noted is not None and (usage is None or not noted.estimated or _tokens(usage) < _tokens(noted)):
            usage = noted
        if usage is None and self._under_way:
            self._awaiting = True  # what has come can't be followed, but what it is made of is
            return
        if usage is not None and usage.reported_cost_usd is None and self.reported_cost_usd is not None:
            usage = dataclasses.replace(usage, reported_cost_usd=self.reported_cost_usd)
        usage = usage and self._with_earlier(usage)
        if self._charged is None:
            self._charged = usage
            self.call.commit(usage)
        else:
            self._late(self._charged, usage)

    def refused(self, usage: Usage | None, error: BaseException | None = None) -> None:
        """The server answered with an error, perhaps with a usage."""
        usage = self._noted or usage
        if self.exchange.earlier:
            usage = self._with_earlier(usage or Usage(input_tokens=0, output_tokens=0))
        self.call.failed(usage, error)

    def lost(self, error: BaseException | None, usage: Usage | None = None) -> None:
        """It was sent, no whole answer came: *usage* is what was seen of it, None if nothing."""
        # A part is settled as soon as its reader lets go of it, so what was seen of the whole may be more.
        usage = max((one for one in (self._noted, usage) if one is not None), key=_tokens, default=None)
        if usage is None:
            usage = Usage(self.call.input_tokens, 0, model=self.request.model, provider=self.request.provider)
        usage = self._with_earlier(dataclasses.replace(usage, estimated=True))
        if self._charged is None:
            self._charged = usage  # whatever comes while it is settled is late
            self._charged = self.call.unknown(error=error, usage=usage)
        else:
            self._late(self._charged, usage)

    def timed_out(self, error: BaseException) -> BudgetExceeded | None:
        """The denial that *error* is due to, and has as its cause, where an attempt had no more time than its run."""
        if not self.exchange.bounded or not isinstance(error, Exception):
            return None
        try:
            self.call.again()
        except BudgetExceeded as denial:
            denial.__cause__ = error
            return denial
        return None

    def _late(self, before: Usage, usage: Usage | None) -> None:
        """Charge what came after the call was settled, since its reader had let go of it."""
        if usage is None:
            return
        more = _more(before, usage)
        if any(more.values()):
            named = {name: getattr(usage, name) for name in ("model", "provider", "tier")}
            late = Usage(**more, **named, steps=0)
            self._charged = dataclasses.replace(before, tokens=None, **_sums(before, late))
            self.call.late(late)

    def _with_earlier(self, usage: Usage) -> Usage:
        attempts = self.exchange.earlier
        if not attempts or usage.input_tokens is None:
            return usage
        more = usage.input_tokens + attempts * self.call.input_tokens
        whole = dataclasses.replace(usage, input_tokens=more, tokens=None, estimated=True)
        reported = usage.reported_cost_usd
        if reported and usage.tokens and whole.tokens:
            # It is the cost of the last attempt alone: the others are as dear for each token.
            nano = -(-nanousd("cost", reported) * whole.tokens // usage.tokens)
            return dataclasses.replace(whole, reported_cost_usd=usd(nano))
        return whole


class Part:
    """A call inside the call of *outer*: what a library sends through an SDK that is guarded too, as a `ModelCall`.

    It is neither judged nor charged by itself: it tells the outer call what it used, which is charged when that ends.
    """

    def __init__(self, outer: Charge, max_output_tokens: int | None, input_tokens: int) -> None:
        self._outer = outer
        self.max_output_tokens: int | None = max_output_tokens
        self.input_tokens = input_tokens

    @property
    def settled(self) -> bool:
        """Whether the outer call is over: what is sent after that is a call of its own."""
        return self._outer.call.settled

    @property
    def run(self) -> RunState:
        """The run that pays the outer call."""
        return self._outer.call.run

    def active(self) -> AbstractContextManager[Any]:
        """The outer call has its span."""
        return nullcontext()

    def again(self, in_s: float = 0) -> None:
        """A retry inside: none is sent after the deadline of the outer call, whose guard tells its caller."""
        self._outer.call.again(in_s)

    def grow(self, output_tokens: int, charged: int = 0) -> None:  # noqa: ARG002
        """The outer call sees its stream itself, where it has one that is followed."""
        self._outer.part_grows(output_tokens)

    def commit(self, usage: Usage | None = None) -> None:
        """The outer call is told what was used."""
        self._ended(usage, answered=True)

    def failed(self, usage: Usage | None = None, error: BaseException | None = None) -> None:  # noqa: ARG002
        """An attempt that ended in an error."""
        self._ended(usage, answered=False)

    def unknown(self, *, error: BaseException | None = None, usage: Usage) -> None:  # noqa: ARG002
        """An attempt that nobody knows the end of. Nothing is charged yet, so what is told later goes before it."""
        self._ended(usage, answered=False)

    def release(self, error: BaseException | None = None) -> None:  # noqa: ARG002
        """An attempt that never left."""
        self._outer.part_ended(answered=False, left=False)

    def late(self, usage: Usage) -> None:
        """More of an attempt."""
        self._outer.note(object(), usage)

    def _ended(self, usage: Usage | None, *, answered: bool) -> None:
        if usage is not None:
            self._outer.note(self, usage)
        self._outer.part_ended(answered=answered)
