"""The guard of dspy's own client, ``dspy._vendor.lm15``, which speaks several providers' formats over its own sockets.

It sits where its transports send a request. What dspy tries again is a call of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any, Final

from otelbudget.guards import exchange
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.providers import provider_at
from otelbudget.guards.streams import json_body
from otelbudget.guards.watch import Watch, follow


class DspyGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        sync, asynchronous = self._classes()
        self._take(sync, "stream", self._stream)
        self._take(asynchronous, "_do_stream", self._astream)

    def _classes(self) -> tuple[Any, ...]:
        return self._inside("_sync").StdlibTransport, self._inside("_async").StdlibAsyncTransport

    def _taken(self) -> tuple[str, ...]:
        return ("stream", "_do_stream")

    def _takes(self, function: FunctionType | None) -> bool:
        # The asynchronous one's ``stream`` leads to its ``_do_stream``.
        return super()._takes(function) or getattr(function, "__qualname__", "") == "StdlibAsyncTransport.stream"

    def _stream(self, original: Callable[..., Any], transport: Any, request: Any) -> Any:
        def send(sent: Any) -> Any:
            return _ATTEMPTS.one(original, transport, _in_time(transport, sent))

        return carried(self._plan(request), request, send)

    async def _astream(self, original: Callable[..., Awaitable[Any]], transport: Any, request: Any) -> Any:
        async def send(sent: Any) -> Any:
            return await _ATTEMPTS.aone(original, transport, _in_time(transport, sent))

        return await acarried(self._plan(request), request, send)

    def _plan(self, request: Any) -> Any:
        to = SimpleNamespace(base_url=request.url)
        return plan(self._sdk, _WIRE, to, request, stream=json_body(request.body).get("stream") is True)


def _in_time(transport: Any, request: Any) -> Any:
    within = exchange.within(request.read_timeout or transport._read_timeout)
    return dataclasses.replace(request, read_timeout=within)


def _changed(request: Any, values: Mapping[str, Any]) -> Any:
    return dataclasses.replace(request, body=json.dumps({**json_body(request.body), **values}).encode())


def _attach(answer: Answer, watch: Watch) -> None:
    """Follow the body of a response, until it is given back."""
    response, release = answer.unread, answer.unread._release

    def released(body_consumed: bool) -> Any:
        watch.dropped()
        return release(body_consumed)

    chunks = response._chunks
    response._chunks = watch.aread(chunks, _anothing) if hasattr(chunks, "__anext__") else watch.read(chunks, _nothing)
    response._release = released
    follow(response, watch)


def _nothing() -> None:
    """Who reads a response gives it back, also where its stream is cut."""


async def _anothing() -> None: ...


def _answer(response: Any) -> Answer:
    return Answer(response.status, unread=response, headers={name.lower(): value for name, value in response.headers})


_ATTEMPTS: Final = Attempts(lambda _: None, _answer)
_WIRE: Final = Wire(
    endpoint=lambda request: (request.method, request.url),
    body=lambda request: json_body(request.body),
    changed=_changed,
    # What is signed can't be changed.
    open=lambda request: not any(value.startswith("AWS4") for _, value in request.headers),
    attach=_attach,
    provider=lambda to, default: provider_at(to.base_url) or default,
)
