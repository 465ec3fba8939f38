"""The guards of Bedrock's runtime in boto3 and in aiobotocore, which has asynchronous functions in the same places.

They sit in ``_make_api_call`` of the client, inside of which retries happen. It serves all of AWS: calls of other
services and operations pass at once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any, Final, NamedTuple

from otelbudget.guards import exchange
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.dialects.bedrock import METRICS
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import Framing, chunk_data
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.readers import areading, reading, twin
from otelbudget.guards.streams import json_body
from otelbudget.guards.watch import Watch, follow

_COUNTS: Final = {"inputTokenCount": "input", "outputTokenCount": "output"}


class _Guard(SdkGuard):
    def _call(
        self, carry: Carry, send: Callable[..., Any], original: Callable[..., Any], client: Any, *given: Any, **how: Any
    ) -> Any:
        if client._service_model.service_name != "bedrock-runtime":
            return original(client, *given, **how)
        asked = _Asked(*given, **how)
        planned = plan(self._sdk, _WIRE, client, asked, stream=False)
        return carry(planned, asked, lambda sent: send(original, client, sent))


class BedrockGuard(_Guard):
    """The guard of boto3."""

    def _take_over(self) -> None:
        base = import_module(self._sdk.module).BaseClient
        self._take(base, "_make_api_call", partial(self._call, carried, _send))
        self._note(import_module("botocore.endpoint").Endpoint, "_send", partial(_attempt, _ATTEMPTS.one))
        self._replace(import_module("botocore.eventstream").EventStream, "__iter__", reading)

    def _takes(self, function: FunctionType | None) -> bool:
        return super()._takes(function) or (function is not None and function.__module__ == "aiobotocore.client")


class AioBedrockGuard(_Guard):
    """The guard of aiobotocore."""

    def _take_over(self) -> None:
        base = import_module(self._sdk.module).AioBaseClient
        self._take(base, "_make_api_call", partial(self._call, acarried, _asend))
        self._note(import_module("aiobotocore.endpoint").AioEndpoint, "_send", partial(_attempt, _AATTEMPTS.aone))
        self._replace(import_module("aiobotocore.eventstream").AioEventStream, "__aiter__", areading)


def _send(original: Callable[..., Any], client: Any, asked: _Asked) -> Any:
    result = original(client, *asked)
    body, data = _body_to_read(result), None
    if body is not None:
        data = body.read()
        result["body"] = type(body)(io.BytesIO(data), len(data))
    exchange.answered(_answer(result, data))
    return result


async def _asend(original: Callable[..., Awaitable[Any]], client: Any, asked: _Asked) -> Any:
    result = await original(client, *asked)
    body, data = _body_to_read(result), None
    if body is not None:
        data = await body.read()
        _give_again(body, data)
    exchange.answered(_answer(result, data))
    return result


def _give_again(body: Any, data: bytes) -> None:
    """Have *body*, whose *data* has been read, be read once more; with httpx it has a buffer of its own."""
    body._amount_read = 0
    if hasattr(body, "_buffer"):
        body._buffer = data
    else:
        body._raw_stream = _Again(body._raw_stream, data)


class _Again:
    """A response of an asynchronous HTTP client whose *data* has been read, to be read once more."""

    def __init__(self, response: Any, data: bytes) -> None:
        self._response, self._left = response, data
        self.content = self

    async def read(self, amount: int = -1) -> bytes:
        """As aiohttp's ``content`` has it."""
        amount = len(self._left) if amount < 0 else amount
        data, self._left = self._left[:amount], self._left[amount:]
        return data

    def at_eof(self) -> bool:
        """As aiohttp's ``content`` has it."""
        return not self._left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)


class _Asked(NamedTuple):
    """What boto3's functions take."""

    operation_name: str
    api_params: Mapping[str, Any]


def _body_to_read(result: Mapping[str, Any]) -> Any:
    """The body of an answer that is no stream, which can be read only once."""
    body = result.get("body")
    return None if hasattr(body, "get_initial_response") else body


def _answer(result: Mapping[str, Any], data: bytes | None) -> Answer:
    """The parsed answer as a response: a stream is to be read yet; *data* is a body that has been read."""
    headers = result.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if data is not None:
        counts = {name: _number(headers.get(f"x-amzn-bedrock-{kind}-token-count")) for name, kind in _COUNTS.items()}
        return Answer(200, json.dumps({**json_body(data), METRICS: counts}).encode(), headers=headers)
    if (stream := result.get("stream") or result.get("body")) is not None:
        return Answer(200, unread=stream, headers=headers)
    told = {name: result.get(name) for name in ("usage", "serviceTier")}
    return Answer(200, json.dumps(told).encode(), headers=headers)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _body(asked: _Asked) -> Mapping[str, Any]:
    """The parameters, or the model's own body among them; with the name of the model or guardrail, also of an ARN."""
    given = asked.api_params.get("body")
    body = asked.api_params if given is None else _invoked(given)
    name = asked.api_params.get("modelId") or asked.api_params.get("guardrailIdentifier")
    return {**body, "model": str(name).rpartition("/")[2] if name else None}


def _invoked(given: object) -> Mapping[str, Any]:
    return json_body(given) if isinstance(given, bytes | bytearray | str) else {}


def _changed(asked: _Asked, values: Mapping[str, Any]) -> _Asked:
    given = asked.api_params.get("body")
    if given is not None:
        values = {"body": json.dumps({**_invoked(given), **values}).encode()}
    return asked._replace(api_params={**asked.api_params, **values})


def _attempt(note: Callable[..., Any], original: Callable[..., Any], endpoint: Any, request: Any) -> Any:
    """Have an attempt wait no longer than its run; older releases of botocore take no timeout for it."""
    context = getattr(request, "context", {})
    if "client_config" in context:
        own = context.get("read_timeout") or context["client_config"].read_timeout
        if (least := exchange.within(own)) != own:
            request.context = {**context, "read_timeout": least}
    return note(original, endpoint, request)


# --- streams: botocore's ``EventStream`` and its messages


def _attach(answer: Answer, watch: Watch) -> None:
    """Follow a stream's messages."""
    stream, raw = answer.unread, answer.unread._raw_stream
    messages = type(stream)._create_raw_event_generator(twin(stream, "_event_generator"))

    def close() -> None:
        raw.close()
        watch.dropped()

    async def aclose() -> None:
        raw.close()

    asynchronous = hasattr(messages, "__anext__")
    followed = watch.aread(messages, aclose) if asynchronous else watch.read(messages, raw.close)
    stream._event_generator, stream.close = followed, close
    follow(stream, watch)


def _data(message: Any) -> bytes:
    """What a message says: under the name of its event, or what it carries of an invoked model."""
    kind = message.headers.get(":event-type")
    if kind == "chunk":
        return chunk_data(message.payload)
    return json.dumps({str(kind): json_body(message.payload)}).encode()


_MESSAGES: Final = Framing(lambda kept, message: ([message], kept), _data)
_ATTEMPTS: Final = Attempts(lambda _: None)
#: Whose body has to be awaited, and says no usage where it is an error.
_AATTEMPTS: Final = Attempts(lambda _: None, lambda response: Answer(response.status_code))
_WIRE: Final = Wire(
    endpoint=lambda asked: ("POST", f"{asked.api_params.get('modelId')}/{asked.operation_name}"),
    body=_body,
    changed=_changed,
    open=lambda asked: asked.api_params.get("body") is None or bool(_invoked(asked.api_params["body"])),
    framing=lambda _: _MESSAGES,
    attach=_attach,
)
