"""The guard of dspy's own client, ``dspy._vendor.lm15``, which speaks several providers' formats over its own sockets.

It sits where its transports send a request. What dspy tries again is a call of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from otelbudget.guards import exchange
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.providers import provider_at
from otelbudget.guards.streams import json_body
from otelbudget.guards.watch import Watch, follow


class DspyGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        self._take(self._inside("_sync").StdlibTransport, "stream", partial(self._call, carried, _ATTEMPTS.one))
        asynchronous = self._inside("_async").StdlibAsyncTransport
        self._take(asynchronous, "_do_stream", partial(self._call, acarried, _ATTEMPTS.aone))

    def _call(
        self, carry: Carry, note: Callable[..., Any], original: Callable[..., Any], transport: Any, request: Any
    ) -> Any:
        def send(sent: Any) -> Any:
            within = exchange.within(sent.read_timeout or transport._read_timeout)
            return note(original, transport, dataclasses.replace(sent, read_timeout=within))

        to = SimpleNamespace(base_url=request.url)
        planned = plan(self._sdk, _WIRE, to, request, stream=json_body(request.body).get("stream") is True)
        return carry(planned, request, send)


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
