"""The guard of ``google-genai``: Gemini, on its own API and on Vertex AI; its websockets (Live) are not seen, and its
Interactions are Speakeasy's.

It sits in ``_api_client.BaseApiClient._request`` and its async twin, which each logical call passes once; retries run
``_request_once`` inside. There are three HTTP clients below, so an answer is followed where it has been cut already:
in the segments of ``HttpResponse``. An asynchronous stream is a generator of generators, which the loop closes one by
one, later than its reader lets it go.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any, Final

from otelbudget.guards import exchange, watch
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import PARSED
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.streams import json_body

#: The frame of each asynchronous stream that somebody has, as its ``id()`` -> that stream, and what follows the answers
#: that it reads. A frame that has ended is gone before its stream is, and another may have its ``id()``.
_open: Final[dict[int, tuple[weakref.ref[Any], list[watch.Watch]]]] = {}
_MODEL: Final = re.compile(r"/([^/:]+):\w+$")


class GoogleGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        base = self._inside("_api_client").BaseApiClient
        self._take(base, "_request", partial(self._call, carried))
        self._take(base, "_async_request", partial(self._call, acarried))
        self._note(base, "_request_once", partial(_attempt, _ATTEMPTS.one))
        self._note(base, "_async_request_once", partial(_attempt, _ATTEMPTS.aone))
        self._note(base, "_ensure_aiohttp_ssl_ctx", _trying_again)
        self._note(self._inside("models").AsyncModels, "generate_content_stream", _opening)
        self._note(self._inside("chats").AsyncChat, "send_message_stream", _opening)

    def _call(self, carry: Carry, original: Callable[..., Any], client: Any, *args: Any, **how: Any) -> Any:
        request, rest = _split(args, how)
        planned = plan(self._sdk, _WIRE, client, request, stream=rest.get("stream") is True)
        return carry(planned, request, lambda sent: original(client, sent, **rest))


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


def _attempt(
    note: Callable[..., Any], original: Callable[..., Any], client: Any, request: Any, *args: Any, **how: Any
) -> Any:
    request = dataclasses.replace(request, timeout=exchange.within(request.timeout))
    return note(original, client, request, *args, **how)


async def _opening(original: Callable[..., Awaitable[Any]], *args: Any, **how: Any) -> Any:
    """Of what gives an asynchronous stream."""
    stream = await original(*args, **how)
    if (frame := getattr(stream, "ag_frame", None)) is not None:
        opened = _open[id(frame)] = weakref.ref(stream), []
        weakref.finalize(stream, _left, id(frame), opened).atexit = False
    return stream


def _left(frame: int, opened: tuple[weakref.ref[Any], list[watch.Watch]]) -> None:
    if _open.get(frame) is opened:
        del _open[frame]
    for follower in opened[1]:
        follower.dropped()


def _attach(answer: Answer, follower: watch.Watch) -> None:
    """Follow it, also where the generators end that are about to read it."""
    watch.attach_segments(answer.unread, follower)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        stream, followers = _open.get(id(frame), (None, []))
        if stream is not None and getattr(stream(), "ag_frame", None) is frame:
            followers.append(follower)
        frame = frame.f_back


def _trying_again(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Of what is called where the connection of an attempt over aiohttp has failed, before it is made once more."""
    if (error := sys.exc_info()[1]) is not None:
        exchange.lost(error)
        exchange.begins()
    return original(*args, **how)


# --- the SDK's ``HttpRequest``


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
    attach=_attach,
)
