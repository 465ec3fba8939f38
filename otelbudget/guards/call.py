"""One guarded call: what is asked of the budget for it, what is sent, and how it comes to be settled.

A mechanism says in a `Wire` how the requests of its SDKs are read and changed, and has them sent by `carried`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.context import get_current

from otelbudget.calls import model_call as calls
from otelbudget.calls.sizing import ModelRequest
from otelbudget.engine.context import HELD, active_engine
from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.estimate.tokens import read_input
from otelbudget.guards import caps, watch
from otelbudget.guards.boundary import contained
from otelbudget.guards.charge import Charge, Part
from otelbudget.guards.dialects import Dialect, cost_of, dialect_of, get, text_of
from otelbudget.guards.exchange import Exchange, unnoted
from otelbudget.guards.framing import Framing, framing_of
from otelbudget.guards.providers import provider_of
from otelbudget.guards.streams import BodyWatch, StreamWatch, json_body
from otelbudget.guards.watch import Watch
from otelbudget.model.usage import Usage
from otelbudget.model.usage_names import TIER

if TYPE_CHECKING:
    from otelbudget.guards.sdks import Sdk

#: (base URL, model) whose server refused a stream because it was asked for its usage; forgotten if they are too many.
_without_usage: set[tuple[str, str | None]] = set()
_MOST_WITHOUT: Final = 1_000
#: What may be due to that, and what says so in an error of any kind.
_MAYBE_ASKED: Final = (400, 404, 422)
_ASKED: Final = ("stream_options", "include_usage", "streamoptions")


class Wire(NamedTuple):
    """How the requests of a mechanism are read.

    Args:
        endpoint: Gives method and URL of a request.
        body: Gives its body; empty if nobody can read it.
        changed: Gives the same request with other values in its body.
        open: Whether it can be changed.
        framing: Gives how a streamed answer is cut, for its content type; None if it is no stream.
        attach: Lets a watch follow an answer.
        provider: Gives who answers a client, else a default.
        holds: Says whether what is sent inside, through other guards, is a part of the call; None if nothing is.
        answer: Makes a response of what the SDK's function gives; None where its attempts tell of theirs.
    """

    endpoint: Callable[[Any], tuple[str, str]]
    body: Callable[[Any], Mapping[str, Any]]
    changed: Callable[[Any, Mapping[str, Any]], Any]
    open: Callable[[Any], bool]
    framing: Callable[[str], Framing | None] = framing_of
    attach: Callable[[Any, Watch], None] = watch.attach
    provider: Callable[[Any, str], str] = provider_of
    holds: Callable[[], bool] | None = None
    answer: Callable[[Any], Any] | None = None


#: `carried`, or `acarried`, which gives a coroutine and takes what does.
Carry = Callable[["Plan | None", Any, Callable[[Any], Any]], Any]


class Plan(NamedTuple):
    """What a call asks for; *stream_options* get its usage out of a stream."""

    sdk: Sdk
    wire: Wire
    dialect: Dialect
    request: ModelRequest
    stream_options: Mapping[str, Any] | None
    endpoint: tuple[str, str | None]
    around: Charge | None  # the call that it is in


def plan(sdk: Sdk, wire: Wire, client: Any, sent: Any, *, stream: bool) -> Plan | None:
    """What *sent*, a request of the SDK, asks for; None if it makes no tokens, or nobody counts them."""
    engine = active_engine()
    dialect = None if engine is None else dialect_of(sdk.endpoints, *wire.endpoint(sent))
    if engine is None or dialect is None:
        return None
    watch.settle_dropped()
    request = ModelRequest(provider=sdk.provider, operation=dialect.operation, model=None, input_tokens=1)
    body: Mapping[str, Any] = {}
    with contained(f"reading a request of {sdk.name}"):
        body, provider = wire.body(sent), wire.provider(client, sdk.provider)
        model = text_of(body, "model")
        given = read_input(body, model)
        request = ModelRequest(
            provider=provider,
            operation=dialect.operation,
            model=model,
            input_tokens=given.tokens,
            max_output_tokens=dialect.max_output_tokens(body),
            answers=dialect.answers(body),
            images=dialect.images(body),
            searches=dialect.searches(body) if body.get("tools") else 0,
            tier=text_of(body, *TIER),
            apart=given.apart | dialect.apart(body, provider),
            audio_input_tokens=given.audio_tokens,
            lowerable=wire.open(sent) and bool(dialect.maximum_keys(body, provider)),
            kept=dialect.kept(body),
        )
    endpoint = str(getattr(client, "base_url", "")), request.model
    may_ask = engine.config.estimates.ask_usage and endpoint not in _without_usage
    ask = stream and dialect.asks_usage and may_ask and wire.open(sent)
    options = _asking(body.get("stream_options")) if ask else None
    return Plan(sdk, wire, dialect, request, options, endpoint, HELD.of(get_current()))


def _asking(given: object) -> Mapping[str, Any] | None:
    """Stream options that ask for the usage; None if the caller has decided about it."""
    if not given:
        return {"include_usage": True}
    return {**given, "include_usage": True} if isinstance(given, Mapping) and "include_usage" not in given else None


def carried(planned: Plan | None, sent: Any, send: Callable[[Any], Any]) -> Any:
    """Have *sent* admitted and sent, or raise BudgetExceeded; gives what *send*, the SDK's own, gives."""
    call = None if planned is None else (planned.around and _part(planned)) or calls.begin(planned.request)
    if planned is None or call is None:
        with unnoted():
            return send(sent)
    way = Way(planned, call, sent)
    while True:
        try:
            with way.exchange, call.active(), way.holding():
                result = send(way.sent)
        except BaseException as error:
            if way.goes_on_without_usage(error):
                continue
            if (denial := way.failed(error)) is not None:
                raise denial from denial.__cause__
            raise
        way.arrived(result)
        return result


async def acarried(planned: Plan | None, sent: Any, send: Callable[[Any], Awaitable[Any]]) -> Any:
    """`carried` for coroutine functions."""
    call = None if planned is None else (planned.around and _part(planned)) or await calls.abegin(planned.request)
    if planned is None or call is None:
        with unnoted():
            return await send(sent)
    way = Way(planned, call, sent)
    while True:
        try:
            with way.exchange, call.active(), way.holding():
                result = await send(way.sent)
        except BaseException as error:
            if way.goes_on_without_usage(error):
                continue
            if (denial := way.failed(error)) is not None:
                raise denial from denial.__cause__
            raise
        way.arrived(result)
        return result


def _part(planned: Plan) -> Part | None:
    """The call as a part of the one around it, if it is one."""
    outer, request = planned.around, planned.request
    if outer is None or not outer.lend():
        return None
    return Part(outer, request.max_output_tokens, request.input_tokens)


class Way:
    """One admitted call on its way: what is *sent*, and its *exchange*, entered around the SDK's function."""

    def __init__(self, planned: Plan, call: calls.ModelCall | Part, sent: Any) -> None:
        self.exchange = Exchange(call, self._another)
        self._plan = planned
        self._charge = Charge(call, planned.request, self.exchange, planned.wire.holds)
        maximum = call.max_output_tokens
        if maximum is not None and maximum != planned.request.max_output_tokens:
            each, request = maximum // planned.request.answers, planned.request
            values = planned.dialect.lowered(planned.wire.body(sent), request.provider, each)
            sent = planned.wire.changed(sent, values)
        self._given = sent
        asking = planned.stream_options
        self.sent = sent if asking is None else planned.wire.changed(sent, {"stream_options": asking})
        self._refused = False
        #: What is sent inside is a part of this, with a mechanism that says so.
        self.holding: Callable[[], AbstractContextManager[None]] = (
            self._charge.holding if planned.wire.holds else nullcontext
        )

    def _another(self) -> calls.ModelCall | Part:
        """Somebody between us and the SDK asks again though there is an answer: that is paid, and what is asked now."""
        call = _part(self._plan) or calls.begin(self._plan.request)
        if call is not None:
            self.arrived(None)
            self._charge = Charge(call, self._plan.request, self.exchange, self._plan.wire.holds)
        return self._charge.call

    def goes_on_without_usage(self, error: BaseException) -> bool:
        """Whether the server may have refused because it was asked for the usage: then send what the caller gave."""
        status, body = getattr(error, "status_code", None), getattr(error, "body", "")
        if self.sent is self._given or not isinstance(status, int) or any(map(caps.is_cap, (body, get(body, "error")))):
            return False
        said = f"{error} {body}".lower()
        if status not in _MAYBE_ASKED and not any(name in said for name in _ASKED):
            return False
        self.sent, self._refused = self._given, True
        self.exchange.answered(None)
        return True

    def arrived(self, result: Any) -> None:
        """The SDK gave *result* to its caller: settle by it, or when its body has been read."""
        if self._refused:  # and did not, without that question
            if len(_without_usage) >= _MOST_WITHOUT:
                _without_usage.clear()
            _without_usage.add(self._plan.endpoint)
        with contained(f"reading an answer of {self._plan.sdk.name}"):
            if self._plan.wire.answer is not None:
                self.exchange.answered(self._plan.wire.answer(result))
            if self.exchange.nothing_sent:
                self._charge.spared()
                return
            response = self.exchange.response
            headers = getattr(response, "headers", {})
            self._charge.reported_cost_usd = cost_of(headers.get("x-litellm-response-cost"))  # a proxy's
            if response is not None and response.status_code >= 400:
                self._charge.refused(self._usage_in(response))
                return
            dialect, request = self._plan.dialect, self._plan.request
            # Sound and pictures say no usage, but in events.
            says = not dialect.fee or "event-stream" in headers.get("content-type", "")
            if response is not None and not response.is_closed and says:
                self._follow(response)
                return
            told = dialect.usage(result, request.provider) or self._usage_in(response)
            if told is None and caps.in_body(self._body(response)):
                self._charge.refused(None)
            else:
                free = dialect.fee and not request.max_output_tokens
                self._charge.answered(told or (Usage(0, 0) if free else None))
            return
        self._charge.answered(None)

    def _follow(self, response: Any) -> None:
        dialect, kind = self._plan.dialect, response.headers.get("content-type", "")
        hide = self.sent is not self._given
        framing = self._plan.wire.framing(kind)
        self._plan.wire.attach(
            response,
            BodyWatch(self._charge, dialect)
            if framing is None
            else StreamWatch(self._charge, dialect, framing, hide_usage=hide),
        )
        self.exchange.response = None  # it must be free to go when nobody else has it any more

    def failed(self, error: BaseException) -> BudgetExceeded | None:
        """The SDK's function raised: settle by what is known of the attempts; gives the denial that is behind it."""
        holds = self._plan.wire.holds  # then the library makes errors, and their responses, of its own
        response = self.exchange.response or (None if holds else getattr(error, "response", None))
        with contained(f"settling a failed call of {self._plan.sdk.name}"):
            if response is None:
                self._no_answer(error)
            elif response.status_code >= 400:
                self._charge.refused(self._usage_in(response), error)
            elif isinstance(error, Exception):
                # An answer that the SDK, or a parser of the application, did not like: it was made and is paid.
                self._charge.answered(self._usage_in(response))
            else:
                self._charge.lost(error)
        if (denial := found_in(error)) is not None:
            return denial if holds and isinstance(error, Exception) else None
        return None if response is not None else self._charge.timed_out(error)

    def _no_answer(self, error: BaseException) -> None:
        sent = self.exchange.may_have_been_sent(error)
        if sent or self.exchange.earlier:
            self.exchange.earlier -= not sent  # then the last one that was is among those
            self._charge.lost(error)
        elif self.exchange.heard:  # it failed between two attempts
            self._charge.refused(None, error)
        else:
            self._charge.call.release(error)  # nothing of it ever left

    def _usage_in(self, response: Any) -> Usage | None:
        return self._plan.dialect.usage(json_body(self._body(response)), self._plan.request.provider)

    @staticmethod
    def _body(response: Any) -> bytes:
        try:
            return b"" if response is None else response.content
        except RuntimeError:  # nobody has read it
            return b""
