"""The guard of ``google-genai``: Gemini, on its own API and on Vertex AI; its websockets (Live) are not seen, and its
Interactions are Speakeasy's.

It sits in ``_api_client.BaseApiClient._request`` and its async twin, which each logical call passes once; retries run
``_request_once`` inside. There are three HTTP clients below, so an answer is followed where it has been cut already:
in the segments of ``HttpResponse``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from otelbudget.guards import exchange, watch
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import PARSED
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.streams import json_body

_MODEL: Final = re.compile(r"/([^/:]+):\w+$")


class GoogleGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        (base,) = self._classes()
        self._take(base, "_request", self._request)
        self._take(base, "_async_request", self._arequest)
        self._note(base, "_request_once", _once)
        self._note(base, "_async_request_once", _aonce)

    def _classes(self) -> tuple[Any, ...]:
        return (self._inside("_api_client").BaseApiClient,)

    def _taken(self) -> tuple[str, ...]:
        return ("_request", "_async_request")

    def _request(self, original: Callable[..., Any], client: Any, *args: Any, **how: Any) -> Any:
        request, rest = _split(args, how)
        return carried(self._plan(client, request, rest), request, lambda sent: original(client, sent, **rest))

    async def _arequest(self, original: Callable[..., Awaitable[Any]], client: Any, *args: Any, **how: Any) -> Any:
        request, rest = _split(args, how)
        return await acarried(self._plan(client, request, rest), request, lambda sent: original(client, sent, **rest))

    def _plan(self, client: Any, request: Any, how: Mapping[str, Any]) -> Any:
        return plan(self._sdk, _WIRE, client, request, stream=how.get("stream") is True)


def _split(args: tuple[Any, ...], how: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The request, and what else there is, by name."""
    named = {**dict(zip(("http_request", "http_options", "stream"), args, strict=False)), **how}
    return named.pop("http_request"), named


def _answer(response: Any) -> Answer:
    """An ``HttpResponse`` as other SDKs' look."""
    streamed = response.response_stream
    if isinstance(streamed, list):
        return Answer(200, "".join(map(str, streamed)).encode(), headers=response.headers)
    return Answer(200, unread=response, headers=response.headers)


_ATTEMPTS: Final = Attempts(lambda error: getattr(error, "code", None), _answer)


def _once(original: Callable[..., Any], client: Any, request: Any, *args: Any, **how: Any) -> Any:
    return _ATTEMPTS.one(original, client, _in_time(request), *args, **how)


async def _aonce(original: Callable[..., Awaitable[Any]], client: Any, request: Any, *args: Any, **how: Any) -> Any:
    return await _ATTEMPTS.aone(original, client, _in_time(request), *args, **how)


# --- the SDK's ``HttpRequest``


def _in_time(request: Any) -> Any:
    return dataclasses.replace(request, timeout=exchange.within(request.timeout))


def _body(request: Any) -> Mapping[str, Any]:
    """The body, with the model that is in the URL."""
    data = json_body(request.data) if isinstance(request.data, bytes | bytearray) else request.data or {}
    found = _MODEL.search(request.url.partition("?")[0])
    return {**data, "model": found[1]} if found else data


def _changed(request: Any, values: Mapping[str, Any]) -> Any:
    return dataclasses.replace(request, data={**request.data, **values})


_WIRE: Final = Wire(
    endpoint=lambda request: (request.method, request.url),
    body=_body,
    changed=_changed,
    open=lambda request: isinstance(request.data, Mapping),
    framing=lambda _: PARSED,
    attach=lambda answer, follower: watch.attach_segments(answer.unread, follower),
)
