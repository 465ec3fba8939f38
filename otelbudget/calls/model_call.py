"""`ModelCall`: one model call from its admission to its settlement, whoever sees it: a guard, a span or both.

A guard calls `begin` before the request leaves and exactly one of `commit`, `release`, `failed` and `unknown` after.
The first of them counts, later ones do nothing, and none of them raises.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import Span

from otelbudget import semconv
from otelbudget.admission import cost, settlement
from otelbudget.admission.request import GONE, Request
from otelbudget.admission.state import RunState
from otelbudget.calls import span as call_span
from otelbudget.calls.sizing import ModelRequest, Sizing, as_held, dearest, teach
from otelbudget.engine import context as contexts
from otelbudget.engine.owner import Owner
from otelbudget.errors import BudgetExceeded
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import COST, INPUT, NANOS, OUTPUT, Amounts, usd
from otelbudget.model.usage import Usage
from otelbudget.runs import ambient, asking, blocks, reservation
from otelbudget.runs import tool_call as tools
from otelbudget.runs.reservation import Reservation
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site, site_of

#: By how many output tokens a stream's hold grows when it has used it up.
BLOCK: Final = 256


def begin(request: ModelRequest) -> ModelCall | None:
    """Admit a model call made here, or refuse it; None if nothing is set up, so the call is none of our business.

    Raises:
        BudgetExceeded: The call must not be sent.
    """
    while (prepared := _prepared(request)) is not None:
        call, asked = prepared
        try:
            decision = asking.decide(call.run, asked)
        except BaseException as error:
            call.refused(error)
            raise
        if decision is not GONE:
            return call.admitted()
    return None


async def abegin(request: ModelRequest) -> ModelCall | None:
    """`begin` for coroutines: awaits an async ``on_exhausted``."""
    while (prepared := _prepared(request)) is not None:
        call, asked = prepared
        try:
            decision = await asking.adecide(call.run, asked)
        except BaseException as error:
            call.refused(error)
            raise
        if decision is not GONE:
            return call.admitted()
    return None


def _prepared(request: ModelRequest) -> tuple[ModelCall, Request] | None:
    """The call and what it asks for: a new one, or what a span around it has reserved, to be resized."""
    engine = contexts.active_engine()
    if engine is None:
        return None
    context = get_current()
    run: RunState = contexts.run_here() or ambient.outside(engine)
    spans = engine.spans
    nodes = [] if spans is None else spans.tree.around(context, exact=True)
    tools.note_model_call(context, nodes)
    lender = spans.lender(nodes, run) if nodes else None
    if lender is not None and (change := lender.call.take_over(request, site_of(lender.span))) is not None:
        return lender.call, change
    own = None
    span = spans.claim(nodes[0]) if nodes and nodes[0].kind is not None else None
    if span is None:
        span = own = call_span.start(engine.tracer, request, context)
    call = ModelCall(run, request, site_of(span), own_span=own)
    return call, call.ask()


@dataclass(slots=True, eq=False, repr=False, weakref_slot=True)
class ModelCall:
    """One model call. Its object is what keeps its hold alive."""

    run: RunState
    request: ModelRequest
    #: The span that hears of it: the instrumentor's, else our own.
    site: Site = events.NOWHERE
    _owner: Owner | None = None
    own_span: Span | None = None
    #: The instrumentation that told of it; None for a guard.
    reporter: str | None = None
    #: A guard has taken over what a span around it reserved.
    adopted: bool = False
    #: The reservation whose hold it has taken over, and which lives as long as this.
    _lender: Reservation | None = None
    #: The request's own maximum as it was admitted, for all answers: below that of *request*, or where that has none,
    #: whoever sends it must lower it to this. None if there is none.
    max_output_tokens: int | None = field(init=False)
    _began_ns: int = field(default_factory=time.time_ns)
    _hold: Hold = field(init=False)
    _wanted_output: int = field(init=False)
    #: How much more than was settled its reader may read.
    _read_on: int = 0

    # --- admission

    def ask(self, change: Literal["resize", "adopt"] | None = None) -> Request:
        """What admitting this call means, its hold included; or that its hold becomes what it needs by now."""
        around = self.run.around()
        if change is None:
            self._owner = self._owner or around.owner
            self._hold = Hold(self.run)
            if reservation.entered.get() is not None:
                self._lender, lent = reservation.lent_here(self.run, self.request.model, around.owner)
                if lent is not None:  # what a permit to wrap up has admitted is not asked for it once more
                    self._hold, change = lent, "adopt" if lent.permit is None else "resize"
        reserved = None if self._lender is None else self._hold.amounts
        wanted = Sizing(self.run, self.request, self._owner, seen_whole=self.reporter is None, reserved=reserved)
        self._wanted_output, self.max_output_tokens = wanted.amounts[OUTPUT], self.request.max_output_tokens
        self._hold.on_expiry = wanted.on_expiry
        self._hold.counts = cost.expiry_counts(self.run, self.request.model, wanted.on_expiry)
        return Request(
            "call",
            wanted.amounts,
            self.site,
            self.request.model,
            self._owner,
            around.permit,
            wanted.unpriced,
            hold=self._hold,
            keeper=self,
            change=change,
            own_maximum=wanted.own_maximum,
            smaller=wanted.smaller(),
        )

    def take_over(self, request: ModelRequest, site: Site) -> Request | None:
        """Take over, for a guard inside, what a span reserved for this call: what is to be asked, that the hold becomes
        what *request* needs. None if another guard was faster."""
        if not self.run.engine.ledger.locked(self._adopted):
            return None
        self.reporter = None
        self.request, self.site = request, site
        return self.ask("resize")

    def _adopted(self) -> bool:
        """Whether a guard may take it over, which is then done."""
        if self.adopted or self._hold.state != "open":
            return False
        self.adopted = True
        return True

    def admitted(self) -> ModelCall:
        """Take note of what was admitted, which may be less output than the request allows itself; gives the call."""
        output = self._hold.amounts[OUTPUT]
        lowered = output < self._wanted_output
        if lowered:
            self.max_output_tokens = output
        span = self.site.span
        if lowered and span is not None and span.is_recording():
            span.set_attribute(semconv.CLAMPED_TO, output // self.request.answers)
        return self

    def refused(self, error: BaseException) -> None:
        """Return what a call holds that is not sent after all, and end our own span of it."""
        if self.adopted or self._lender is not None:
            settlement.give_back(self.run, self._hold)
        call_span.end(self.own_span, error)

    def active(self) -> AbstractContextManager[Any]:
        """Make our own span the current one around the request; nothing if the instrumentor's is."""
        if self.own_span is None:
            return nullcontext()
        return trace.use_span(self.own_span, record_exception=False, set_status_on_exception=False)

    def again(self, in_s: float = 0) -> None:
        """Tell that the request is to be sent once more, in so many seconds: refused if its run's time is over then."""
        run, in_ns = self.run, int(in_s * NANOS)
        if run.engine.clock_ns() + in_ns >= run.until_ns:
            asking.decide(run, Request("call", site=self.site, seconds_ns=in_ns), judge=blocks.judge_time)

    def grow(self, output_tokens: int, charged: int = 0) -> None:
        """Tell how much output a stream has shown so far; the hold follows in blocks. Where it has been settled, for
        *charged* of output, since its reader let go: what is read on must fit, too.

        Raises:
            BudgetExceeded: No more output can be paid for: close the stream, then call `unknown`, or `late`.
        """
        held = None if self.settled else self._hold
        missing = output_tokens - (charged + self._read_on if held is None else held.amounts[OUTPUT])
        if missing <= 0 or (held is None and self.run.closed):
            return  # what is read after its run is charged
        more, maximum = -(-missing // BLOCK) * BLOCK, self.max_output_tokens
        if held is None:
            self._read_on += more
            more = self._read_on if maximum is None else min(self._read_on, max(0, maximum - charged))
        usage = dearest(self.run, self.request, self._usage(0, more), self._owner)
        amounts = Amounts(0, more, 0, more, cost.price(self.run, usage, None, self._owner).nanousd)
        if held is None:
            asking.decide(self.run, Request("call", amounts, self.site, self.request.model, self._owner))
        else:
            asking.decide(self.run, Request("call", amounts, self.site, hold=held, change="grow"))

    # --- settlement

    @property
    def input_tokens(self) -> int:
        """The input that is held for: counted, and corrected by what was learned of the model."""
        return self._hold.amounts[INPUT]

    @property
    def settled(self) -> bool:
        """Whether what it held has been charged or given back."""
        return self._hold.state != "open"

    def commit(self, usage: Usage | None = None) -> None:
        """The answer is here. None: it carries no usage, so the estimate is charged and flagged."""
        if usage is None:
            held = self._hold.amounts
            cost = usd(held[COST]) if held[COST] else None
            usage = self._usage(held[INPUT], held[OUTPUT], cost_usd=cost, estimated=True)
        if self._settle(usage):
            lowered = self.max_output_tokens != self.request.max_output_tokens
            teach(self.run.engine, self.request, usage, seen_whole=self.reporter is None, lowered=lowered)

    def release(self, error: BaseException | None = None) -> None:
        """Nothing was sent: give everything back, the step too."""
        if settlement.give_back(self.run, self._hold):
            if self.site.span is not None and self.site.span.is_recording():
                self.run.say(self.site, events.release_event, {semconv.REASON: "not_sent"})
            call_span.end(self.own_span, error)

    def failed(self, usage: Usage | None = None, error: BaseException | None = None) -> None:
        """The provider answered with an error: one step, and the usage it reports, else no tokens."""
        self._settle(usage or self._usage(0, 0, cost_usd=0), error)

    def unknown(
        self, output_tokens: int = 0, error: BaseException | None = None, *, usage: Usage | None = None
    ) -> Usage:
        """It was sent and nobody knows how it ended: one step, the input estimate and the output seen, flagged; or
        *usage*, where more than that is known. With ``estimates.on_unknown: full`` at least what it holds, unless its
        stream was cut for want of budget. Gives what is charged."""
        usage = usage or self._usage(self.input_tokens, output_tokens, estimated=True)
        if isinstance(error, BudgetExceeded):
            cut = {semconv.TOKENS_OUTPUT: usage.output_tokens, semconv.REASON: error.reason}
            events.change_event(self.site, semconv.EVENT_STREAM_CUT, cut)
        elif self.run.engine.config.estimates.on_unknown == "full":
            usage = as_held(self.run, self.request, self._hold.amounts, usage, self._owner)
        self._settle(usage, error)
        return usage

    def late(self, usage: Usage) -> None:
        """Charge what it has used since it was settled."""
        names = {n: getattr(usage, n) or getattr(self.request, n) for n in ("model", "provider", "tier")}
        asked, usage = self.request.model, replace(usage, **names)
        settlement.record(self.run, usage, self.site, asked_model=asked, owner=self._owner)

    def _usage(self, input_tokens: int, output_tokens: int, **more: Any) -> Usage:
        asked = self.request
        return Usage(input_tokens, output_tokens, model=asked.model, provider=asked.provider, tier=asked.tier, **more)

    def _settle(self, usage: Usage, error: BaseException | None = None) -> bool:
        if self._hold.state in ("committed", "released"):
            return False
        run, hold, held, asked = self.run, self._hold, self._hold.amounts, self.request.model
        usage = self.request.asked(usage)
        if self.own_span is not None:
            call_span.describe(self.own_span, usage)
        if not settlement.settle(run, hold, usage, self.site, asked_model=asked, by_price=True, owner=self._owner):
            return False
        run.engine.recent.settled(run.work, usage, self._began_ns, self.reporter)
        if not usage.estimated and usage.tokens and (estimate := held[INPUT] + held[OUTPUT]):
            run.engine.meters.observe_estimate(usage.model, usage.tokens / estimate)
        call_span.end(self.own_span, error)
        return True
