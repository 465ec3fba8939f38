"""The guard of every SDK made by the Stainless generator: one mechanism for many rows of `sdks`.

It sits in the method of ``_base_client.{SyncAPIClient,AsyncAPIClient}`` that every client class (Azure, Bedrock,
Vertex, subclasses) and every way of calling passes once per logical call: plain, streamed, ``parse``, ``stream()``, raw
and streaming responses. Retries of the SDK happen inside, so they are one call; a middleware of Anthropic's that asks
again though it has an answer makes another. Other endpoints pass untouched.

A response made with ``background=true`` is charged at its hold, since it answers before it has worked; fetching it is
free. Assistants, agent sessions, realtime and websockets are not seen: they answer elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from otelbudget.guards import caps, exchange, patching
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.streams import json_body


class StainlessGuard(SdkGuard):
    """The guard of one SDK."""

    _entries = ("request",)

    def _take_over(self) -> None:
        module = self._inside("_base_client")
        sync, asynchronous = module.SyncAPIClient, module.AsyncAPIClient
        # Older releases have ``request`` alone.
        function = self._sdk.function if hasattr(sync, self._sdk.function) else "request"
        for base, carry, sleeping in ((sync, carried, exchange.sleeping), (asynchronous, acarried, _sleeping)):
            self._take(base, function, partial(self._call, carry))
            self._note(base, "_process_response", exchange.processing)
            self._note(base, "_sleep_for_retry", sleeping)
        streaming = self._inside("_streaming")
        self._note_stream(streaming.Stream, streaming.AsyncStream)
        for inherited, guard in _INHERITED.items():
            self._notes.extend(patching.take_over(getattr(sync, inherited, None), guard))

    def _call(
        self, carry: Carry, original: Callable[..., Any], client: Any, cast_to: Any, options: Any, **how: Any
    ) -> Any:
        planned = plan(self._sdk, _WIRE, client, options, stream=how.get("stream") is True)
        return carry(planned, options, lambda sent: original(client, cast_to, sent, **how))


def _unless_capped(original: Callable[..., bool], client: Any, response: Any) -> bool:
    """Of ``_should_retry``: a cap of the provider's own would refuse the next attempt as well."""
    if not original(client, response):
        return False
    with suppress(Exception):
        return not caps.in_body(response.read())
    response.aclose = partial(_read_and_close, response)  # an asynchronous stream, which can't be read here
    return True


async def _read_and_close(response: Any) -> None:
    del response.aclose
    with suppress(Exception):
        await response.aread()
    await response.aclose()


async def _sleeping(original: Callable[..., Awaitable[None]], client: Any, *args: Any, **kwargs: Any) -> None:
    """Of the asynchronous ``_sleep_for_retry``, which is called when that has been read and closed."""
    response: Any = kwargs.get("response")
    body = b""
    with suppress(AttributeError, RuntimeError):  # there is none, or nobody has read it
        body = response.content
    if caps.in_body(body):
        raise client._make_status_error_from_response(response) from None
    await exchange.sleeping(original, client, *args, **kwargs)


_INHERITED: Final[Mapping[str, Callable[..., Any]]] = {
    "_build_request": exchange.building,
    "_calculate_retry_timeout": exchange.pausing,
    "_should_retry": _unless_capped,
}


# --- the SDK's ``FinalRequestOptions``


def body_of(options: Any) -> Mapping[str, Any]:
    """The body that will be sent: the SDK's own with ``extra_body`` over it, or JSON given as bytes; else empty."""
    content, body, extra = getattr(options, "content", None), options.json_data, options.extra_json
    raw = content if isinstance(content, bytes | bytearray) else body
    if isinstance(raw, bytes | bytearray):
        body = json_body(raw)
    body = body if isinstance(body, Mapping) else {}
    return {**body, **extra} if isinstance(extra, Mapping) else body


def _changed(options: Any, values: Mapping[str, Any]) -> Any:
    """A copy of *options* whose body has other *values*, also where ``extra_body`` goes over it when it is sent."""
    changed = copy.copy(options)
    changed.json_data = {**options.json_data, **values}
    if options.extra_json:
        changed.extra_json = {**options.extra_json, **values}
    return changed


_WIRE = Wire(
    endpoint=lambda options: (options.method, options.url),
    body=body_of,
    changed=_changed,
    # Into bytes that the application has made itself nothing can be put.
    open=lambda options: isinstance(options.json_data, Mapping),
)
