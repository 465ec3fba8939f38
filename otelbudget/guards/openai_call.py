"""One call of the ``openai`` SDK: what is asked of the budget for it, what is sent, and how it comes to be settled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget.calls.sizing import ModelRequest
from otelbudget.engine.context import active_engine
from otelbudget.estimate.tokens import count_input
from otelbudget.guards import watch
from otelbudget.guards.boundary import contained
from otelbudget.guards.charge import Charge
from otelbudget.guards.exchange import Exchange, never_sent
from otelbudget.guards.openai_streams import BodyWatch, StreamWatch, json_usage
from otelbudget.guards.openai_usage import (
    answer_usage,
    answers_of,
    body_of,
    cost_of,
    endpoint_of,
    max_output_tokens,
    maximum_keys,
    provider_of,
    text_of,
)

if TYPE_CHECKING:
    from otelbudget.calls.model_call import ModelCall
    from otelbudget.model.usage import Usage

#: Where a proxy says what an answer cost.
_COST_HEADER: Final = "x-litellm-response-cost"
#: Base URLs whose server refused a stream because it was asked for its usage.
_without_usage: set[str] = set()


class Plan(NamedTuple):
    """What a call asks for: *stream_options* get its usage out of a stream, a lower maximum goes under *maxima*."""

    request: ModelRequest
    stream_options: Mapping[str, Any] | None
    base_url: str
    maxima: tuple[str, ...]


def plan(client: Any, options: Any, *, stream: bool) -> Plan | None:
    """What the SDK's ``FinalRequestOptions`` ask for; None if they make no tokens, or nobody counts them."""
    endpoint = None if active_engine() is None else endpoint_of(options.method, options.url)
    if endpoint is None:
        return None
    watch.settle_dropped()
    request = ModelRequest(
        provider="openai", operation=endpoint.operation, model=None, input_tokens=1, max_output_tokens=None
    )
    body: Mapping[str, Any] = {}
    maxima: tuple[str, ...] = ()
    # Into bytes that the application has made itself nothing can be put.
    open_body = isinstance(options.json_data, Mapping)
    with contained("reading a request of openai"):
        body = body_of(options.json_data, options.extra_json, getattr(options, "content", None))  # since openai 3
        provider = provider_of(client)
        maxima = maximum_keys(endpoint, body, provider) if open_body else ()
        request = ModelRequest(
            provider=provider,
            operation=endpoint.operation,
            model=text_of(body, "model"),
            input_tokens=count_input(body),
            max_output_tokens=max_output_tokens(endpoint, body),
            answers=answers_of(body),
            lowerable=bool(maxima),
        )
    base_url = str(getattr(client, "base_url", ""))
    ask = stream and endpoint.asks_usage and open_body and base_url not in _without_usage
    return Plan(request, _asking(body.get("stream_options")) if ask else None, base_url, maxima)


def _asking(given: object) -> Mapping[str, Any] | None:
    """Stream options that ask for the usage; None if the caller has decided about it."""
    if not given:
        return {"include_usage": True}
    return {**given, "include_usage": True} if isinstance(given, Mapping) and "include_usage" not in given else None


def _with(options: Any, values: Mapping[str, Any]) -> Any:
    """A copy of *options* whose body has other *values*; ``extra_body`` goes over the body when it is sent."""
    changed = copy.copy(options)
    changed.extra_json = {**(options.extra_json or {}), **values}
    return changed


class Way:
    """One admitted call on its way: the *options* to send, and its *exchange*, entered around the SDK's function."""

    def __init__(self, planned: Plan, call: ModelCall, options: Any) -> None:
        self.exchange = Exchange()
        self._plan = planned
        self._charge = Charge(call, planned.request, self.exchange)
        maximum = call.max_output_tokens
        if maximum is not None and maximum != planned.request.max_output_tokens:
            options = _with(options, dict.fromkeys(planned.maxima, maximum // planned.request.answers))
        self._given = options
        asking = planned.stream_options
        self.options = options if asking is None else _with(options, {"stream_options": asking})

    def goes_on_without_usage(self, error: BaseException) -> bool:
        """Whether the server refused only because it was asked for the usage: then send what the caller gave."""
        if self.options is self._given or getattr(error, "status_code", None) not in (400, 422):
            return False
        said = str(getattr(error, "body", ""))
        if "stream_options" not in said and "include_usage" not in said:
            return False
        self.options = self._given
        _without_usage.add(self._plan.base_url)
        return True

    def arrived(self, result: Any) -> None:
        """The SDK gave *result* to its caller: settle by it, or when its body has been read."""
        with contained("reading an answer of openai"):
            response = self._response(result)
            self._charge.reported_cost_usd = cost_of(getattr(response, "headers", {}).get(_COST_HEADER))
            if response is not None and not response.is_closed:
                self._follow(response)
                return
            self._charge.answered(answer_usage(result, self._plan.request.provider) or self._usage_in(response))
            return
        self._charge.answered(None)

    def _response(self, result: Any) -> Any:
        """The HTTP response; a client that sends in its own way shows it only in its result."""
        if self.exchange.response is not None:
            return self.exchange.response
        found = getattr(result, "http_response", None) or getattr(result, "response", None)
        return found if hasattr(found, "iter_bytes") else None

    def _follow(self, response: Any) -> None:
        plain = "json" in response.headers.get("content-type", "")
        hide = self.options is not self._given
        watch.attach(response, BodyWatch(self._charge) if plain else StreamWatch(self._charge, hide_usage=hide))
        self.exchange.response = None  # it must be free to go when nobody else has it any more

    def failed(self, error: BaseException) -> None:
        """The SDK's function raised: settle by what is known of the attempts."""
        with contained("settling a failed call of openai"):
            response = self.exchange.response or getattr(error, "response", None)
            if response is None:
                self._no_answer(error)
            elif response.status_code >= 400:
                self._charge.refused(self._usage_in(response), error)
            elif isinstance(error, Exception):
                # An answer that the SDK, or a parser of the application, did not like: it was made and is paid.
                self._charge.answered(self._usage_in(response))
            else:
                self._charge.lost(0, error)

    def _no_answer(self, error: BaseException) -> None:
        unnoted = isinstance(error.__cause__, Exception) and not never_sent(error.__cause__)
        if self.exchange.unknown or (not self.exchange.started and unnoted):
            self._charge.lost(0, error)
        else:
            self._charge.call.release(error)  # nothing of it ever left

    def _usage_in(self, response: Any) -> Usage | None:
        """The usage in the body of a response that has been read."""
        try:
            body = b"" if response is None else response.content
        except RuntimeError:  # nobody has read it
            return None
        return json_usage(body, self._plan.request.provider)
