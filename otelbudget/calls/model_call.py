"""`ModelCall`: one model call from its admission to its settlement, whoever sees it: a guard, a span or both.

A guard calls `begin` before the request leaves and exactly one of `commit`, `release`, `failed` and `unknown` after.
The first of them counts, later ones do nothing, and none of them raises.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from otelbudget import semconv
from otelbudget.admission import admission
from otelbudget.admission import cost as costing
from otelbudget.admission import settlement as accounting
from otelbudget.calls import span as call_span
from otelbudget.calls.sizing import ModelRequest, needs, teach
from otelbudget.engine import scope
from otelbudget.errors import BudgetExceeded
from otelbudget.ledger.ledger import Hold
from otelbudget.model.amounts import COST, INPUT, OUTPUT, Amounts, usd
from otelbudget.model.budget import Usage
from otelbudget.runs import asking
from otelbudget.runs import tool_call as tools
from otelbudget.runs import wrap_up as wrapping
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site, site_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otelbudget.calls.sizing import Needs
    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun

__all__ = ["ModelCall", "ModelRequest", "abegin", "begin"]

#: By how many output tokens a stream's hold grows when it has used it up.
BLOCK: Final = 256


def begin(request: ModelRequest) -> ModelCall | None:
    """Admit a model call made here, or refuse it; None if nothing is set up, so the call is none of our business.

    Raises:
        BudgetExceeded: The call must not be sent.
    """
    while (prepared := _prepared(request)) is not None:
        call, ask = prepared
        try:
            decision = asking.decide(call.run, ask)
        except BaseException as error:
            call.refused(error)
            raise
        if decision is not admission.GONE:
            return call.admitted(ask)
    return None


async def abegin(request: ModelRequest) -> ModelCall | None:
    """`begin` for coroutines: awaits an async ``on_exhausted``."""
    while (prepared := _prepared(request)) is not None:
        call, ask = prepared
        try:
            decision = await asking.adecide(call.run, ask)
        except BaseException as error:
            call.refused(error)
            raise
        if decision is not admission.GONE:
            return call.admitted(ask)
    return None


def _prepared(request: ModelRequest) -> tuple[ModelCall, admission.Ask] | None:
    """The call and what it asks for: a new one, or what a span around it has reserved, to be resized."""
    engine = scope.active_engine()
    if engine is None:
        return None
    context = get_current()
    run = engine.run_here()
    tools.note_model_call(context, engine)
    around = engine.reserved_around(context, run)
    if around is not None and (change := around.take_over(request)) is not None:
        return around, change
    call = ModelCall(run, request)
    ask = call.ask()
    call.find_span(engine, context)
    ask.site = call.site
    return call, ask


class ModelCall:
    """One model call. Its object is what keeps its hold alive.

    Attributes:
        run: Who pays.
        request: What is asked for.
        max_output_tokens: The request's own maximum as it was admitted, for all answers: below that of *request*, or
            where that has none, whoever sends it must lower it to this. None if there is none.
        site: The span that hears of it: the instrumentor's, else our own.
        adopted: A guard has taken over what a span around it reserved.
        reporter: The instrumentation that told of it; None for a guard.
    """

    __slots__ = (
        "__weakref__",
        "_began_ns",
        "_hold",
        "_own_span",
        "adopted",
        "max_output_tokens",
        "reporter",
        "request",
        "run",
        "site",
    )

    def __init__(self, run: BudgetRun, request: ModelRequest, site: Site = events.NOWHERE) -> None:
        self.run = run
        self.request = request
        self.max_output_tokens = request.max_output_tokens
        self.site = site
        self.adopted = False
        self.reporter: str | None = None
        self._own_span: Span | None = None
        self._began_ns = time.time_ns()
        self._hold = Hold(run.accounts, Amounts(), payer=run)

    # --- admission

    def find_span(self, engine: Engine, context: Context) -> None:
        """Take the instrumentor's span for this call, or open one of our own."""
        span = engine.claim(context)
        if span is None:
            span = self._own_span = call_span.start(engine.tracer, self.request, context)
        self.site = site_of(span)

    def ask(self) -> admission.Ask:
        """What admitting this call means, its hold included."""
        wanted = self._needs()
        engine = self.run.engine
        with engine.lock:
            engine.meters.spend(
                self.run.tenant, self.request.model
            )  # born at zero, so that rate() sees the first spend
        hold = self._hold
        hold.amounts = wanted.amounts
        hold.on_expiry = wanted.on_expiry
        return admission.Ask(
            wanted.amounts,
            "call",
            site=self.site,
            hold=hold,
            owner=self,
            model=self.request.model,
            permit=wrapping.permit(),
            unpriced=wanted.unpriced,
            own_maximum=wanted.own_maximum,
            smaller=wanted.smaller,
        )

    def _needs(self) -> Needs:
        return needs(self.run, self.request, seen_whole=self.reporter is None)

    def take_over(self, request: ModelRequest) -> admission.Ask | None:
        """Take over, for a guard inside, what a span reserved for this call.

        Returns:
            What is to be asked: that the hold becomes what *request* needs. None if another guard was faster.
        """
        with self.run.engine.lock:
            if self.adopted or self._hold.state != "open":
                return None
            self.adopted = True
        self.reporter = None
        self.request = request
        wanted = self._needs()
        self._hold.on_expiry = wanted.on_expiry
        return admission.Ask(
            wanted.amounts,
            "call",
            site=self.site,
            held=self._hold,
            resize=True,
            model=request.model,
            unpriced=wanted.unpriced,
            own_maximum=wanted.own_maximum,
            smaller=wanted.smaller,
        )

    def admitted(self, ask: admission.Ask) -> ModelCall:
        """Take note of what was admitted, which may be less output than the request allows itself; gives the call."""
        self.max_output_tokens = ask.amounts[OUTPUT] if ask.lowered else self.request.max_output_tokens
        span = self.site.span
        if ask.lowered and span is not None and span.is_recording():
            span.set_attribute(semconv.CLAMPED_TO, ask.amounts[OUTPUT] // self.request.answers)
        return self

    def refused(self, error: BaseException) -> None:
        """Return what a call holds that is not sent after all, and end our own span of it."""
        if self.adopted:
            accounting.give_back(self.run, self._hold)
        self._end_span(error)

    def active(self) -> AbstractContextManager[Any]:
        """Make our own span the current one around the request; nothing if the instrumentor's is."""
        if self._own_span is None:
            return nullcontext()
        return trace.use_span(self._own_span, record_exception=False, set_status_on_exception=False)

    def grow(self, output_tokens: int) -> None:
        """Tell how much output a stream has shown so far; the hold follows in blocks.

        Raises:
            BudgetExceeded: No more output can be paid for: close the stream, then call `unknown`.
        """
        missing = output_tokens - self._hold.amounts[OUTPUT]
        if missing <= 0 or self._hold.state != "open":
            return
        block = -(-missing // BLOCK) * BLOCK
        usage = Usage(0, block, model=self.request.model, provider=self.request.provider)
        cost = costing.price(self.run, usage).nanousd
        ask = admission.Ask(Amounts(0, block, 0, block, cost), "call", site=self.site, held=self._hold)
        asking.decide(self.run, ask)

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
            usage = self._estimated(self._hold.amounts)
        elif usage.model is None or usage.provider is None:
            usage = replace(
                usage, model=usage.model or self.request.model, provider=usage.provider or self.request.provider
            )
        if self._settle(usage):
            lowered = self.max_output_tokens != self.request.max_output_tokens
            teach(self.run.engine, self.request, usage, seen_whole=self.reporter is None, lowered=lowered)

    def release(self, error: BaseException | None = None) -> None:
        """Nothing was sent: give everything back, the step too."""
        if accounting.give_back(self.run, self._hold):
            if self.site.span is not None and self.site.span.is_recording():
                self.run.say(self.site, events.release_event, {semconv.REASON: "not_sent"})
            self._end_span(error)

    def failed(self, usage: Usage | None = None, error: BaseException | None = None) -> None:
        """The provider answered with an error: one step, and the usage it reports, else no tokens."""
        nothing = Usage(0, 0, cost_usd=0, model=self.request.model, provider=self.request.provider)
        self._settle(usage or nothing, error)

    def unknown(self, output_tokens: int = 0, error: BaseException | None = None) -> None:
        """It was sent and nobody knows how it ended: one step, the input estimate and the output seen, flagged."""
        request = self.request
        usage = Usage(self.input_tokens, output_tokens, model=request.model, provider=request.provider, estimated=True)
        if isinstance(error, BudgetExceeded):
            cut: dict[str, events.Value | None] = {semconv.TOKENS_OUTPUT: output_tokens, semconv.REASON: error.reason}
            events.change_event(self.site, semconv.EVENT_STREAM_CUT, cut)
        self._settle(usage, error)

    def _estimated(self, amounts: Amounts) -> Usage:
        request = self.request
        cost = usd(amounts[COST]) if amounts[COST] else None
        return Usage(
            amounts[INPUT],
            amounts[OUTPUT],
            cost_usd=cost,
            model=request.model,
            provider=request.provider,
            estimated=True,
        )

    def _settle(self, usage: Usage, error: BaseException | None = None) -> bool:
        if self._hold.state in ("committed", "released"):
            return False
        held = self._hold.amounts
        if self._own_span is not None:
            call_span.describe(self._own_span, usage)
        asked = self.request.model
        if not accounting.settle(self.run, self._hold, usage, self.site, asked_model=asked, by_price=True):
            return False
        engine = self.run.engine
        engine.settled(self.run, usage, self._began_ns, self.reporter)
        if not usage.estimated and usage.tokens and held[INPUT] + held[OUTPUT]:
            with engine.lock:
                engine.meters.observe_estimate(usage.model, usage.tokens / (held[INPUT] + held[OUTPUT]))
        self._end_span(error)
        return True

    def _end_span(self, error: BaseException | None = None) -> None:
        span, self._own_span = self._own_span, None
        if span is not None:
            call_span.end(span, error)
