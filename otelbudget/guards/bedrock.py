"""The guard of Bedrock's runtime in boto3, in ``botocore.client.BaseClient._make_api_call``; retries happen inside.

That function serves all of AWS: calls of other services and operations pass at once. ``aiobotocore`` has its own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from otelbudget.guards import exchange
from otelbudget.guards.call import Wire, carried, plan
from otelbudget.guards.dialects.bedrock import METRICS
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import Framing, chunk_data
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.readers import reading, twin
from otelbudget.guards.streams import json_body
from otelbudget.guards.watch import Watch, follow

_COUNTS: Final = {"inputTokenCount": "input", "outputTokenCount": "output"}


class BedrockGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        (base,) = self._classes()
        self._take(base, "_make_api_call", self._call)
        self._note(import_module("botocore.endpoint").Endpoint, "_send", _attempt)
        self._replace(import_module("botocore.eventstream").EventStream, "__iter__", reading)

    def _classes(self) -> tuple[Any, ...]:
        return (import_module(self._sdk.module).BaseClient,)

    def _taken(self) -> tuple[str, ...]:
        return ("_make_api_call",)

    def _call(self, original: Callable[..., Any], client: Any, operation_name: str, api_params: Any) -> Any:
        if client._service_model.service_name != "bedrock-runtime":
            return original(client, operation_name, api_params)
        asked = _Asked(operation_name, api_params)

        def send(sent: _Asked) -> Any:
            result = original(client, *sent)
            exchange.answered(_answer(result))
            return result

        return carried(plan(self._sdk, _WIRE, client, asked, stream=False), asked, send)


class _Asked(NamedTuple):
    """An operation and its parameters, as boto3 takes them."""

    operation: str
    params: Mapping[str, Any]


def _answer(result: dict[str, Any]) -> Answer:
    """The parsed answer as a response: a stream is to be read yet; a body is read, and can still be read by others."""
    stream, body = result.get("stream"), result.get("body")
    headers = result.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if stream is not None or hasattr(body, "get_initial_response"):
        return Answer(200, unread=stream or body, headers=headers)
    if body is None:
        told = {name: result.get(name) for name in ("usage", "serviceTier")}
        return Answer(200, json.dumps(told).encode(), headers=headers)
    data = body.read()
    result["body"] = type(body)(io.BytesIO(data), len(data))
    counts = {name: _number(headers.get(f"x-amzn-bedrock-{kind}-token-count")) for name, kind in _COUNTS.items()}
    return Answer(200, json.dumps({**json_body(data), METRICS: counts}).encode(), headers=headers)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _body(asked: _Asked) -> Mapping[str, Any]:
    """The parameters, or the model's own body among them; with the name of the model or guardrail, also of an ARN."""
    given = asked.params.get("body")
    body = asked.params if given is None else _invoked(given)
    name = asked.params.get("modelId") or asked.params.get("guardrailIdentifier")
    return {**body, "model": str(name).rpartition("/")[2] if name else None}


def _invoked(given: object) -> Mapping[str, Any]:
    return json_body(given.encode() if isinstance(given, str) else given) if isinstance(given, bytes | str) else {}


def _changed(asked: _Asked, values: Mapping[str, Any]) -> _Asked:
    given = asked.params.get("body")
    if given is not None:
        values = {"body": json.dumps({**_invoked(given), **values}).encode()}
    return asked._replace(params={**asked.params, **values})


def _attempt(original: Callable[..., Any], endpoint: Any, request: Any) -> Any:
    """Of what sends one; older releases of botocore take no timeout for it."""
    context = getattr(request, "context", {})
    if "client_config" in context:
        own = context.get("read_timeout") or context["client_config"].read_timeout
        if (least := exchange.within(own)) != own:
            request.context = {**context, "read_timeout": least}
    return _ATTEMPTS.one(original, endpoint, request)


# --- streams: botocore's ``EventStream`` and its messages


def _attach(answer: Answer, watch: Watch) -> None:
    """Follow a stream's messages."""
    stream, raw = answer.unread, answer.unread._raw_stream
    messages = type(stream)._create_raw_event_generator(twin(stream, "_event_generator"))

    def close() -> None:
        raw.close()
        watch.dropped()

    stream._event_generator, stream.close = watch.read(messages, raw.close), close
    follow(stream, watch)


def _data(message: Any) -> bytes:
    """What a message says: under the name of its event, or what it carries of an invoked model."""
    kind = message.headers.get(":event-type")
    if kind == "chunk":
        return chunk_data(message.payload)
    return json.dumps({str(kind): json_body(message.payload)}).encode()


_MESSAGES: Final = Framing(lambda kept, message: ([message], kept), _data)
_ATTEMPTS: Final = Attempts(lambda _: None)
_WIRE: Final = Wire(
    endpoint=lambda asked: ("POST", f"{asked.params.get('modelId')}/{asked.operation}"),
    body=_body,
    changed=_changed,
    open=lambda asked: asked.params.get("body") is None or bool(_invoked(asked.params["body"])),
    framing=lambda _: _MESSAGES,
    attach=_attach,
)
