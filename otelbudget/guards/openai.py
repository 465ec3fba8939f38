"""The guard of the ``openai`` SDK: chat completions, completions, responses and embeddings.

It sits in ``openai._base_client.{SyncAPIClient,AsyncAPIClient}.request``, which every client class (Azure, Bedrock,
subclasses) and every way of calling passes once per logical call: plain, streamed, ``parse``, ``stream()``, raw and
streaming responses. Retries of the SDK happen inside, so they are one call. Other endpoints pass untouched.

With ``estimates.clamp`` a lowered maximum is sent under the names that the request uses for it; where it has none, as
``max_completion_tokens`` (chat; ``max_tokens`` to the providers that only know that, and in completions) or
``max_output_tokens`` (responses), for each answer. The application's own options stay as they are. A body that the
application has made into bytes itself is refused instead. ``trust_reported_cost`` believes ``usage.cost`` of an answer,
else its header ``x-litellm-response-cost``.

A response made with ``background=true`` is charged at its hold, since it answers before it has worked; fetching a
response is free. Assistants, agent sessions, realtime and websockets are not seen: they answer elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from otelbudget import forking
from otelbudget.calls import model_call as calls
from otelbudget.guards import exchange, patching, watch
from otelbudget.guards.openai_call import Way, plan
from otelbudget.guards.patching import Takeover

_lock = forking.fresh(threading.Lock())
_requests: list[Takeover] = []
_sends: list[Takeover] = []


def install() -> None:
    """Put the guard in, unless it is; an ImportError if openai is not installed."""
    with _lock:
        if not _requests:
            _take_over()


def _take_over() -> None:
    from openai import AsyncOpenAI, OpenAI
    from openai._base_client import AsyncAPIClient, SyncAPIClient

    for base, cls, guard, send in (
        (SyncAPIClient, OpenAI, _request, exchange.send),
        (AsyncAPIClient, AsyncOpenAI, _arequest, exchange.asend),
    ):
        _requests.extend(patching.take_over(vars(base).get("request"), guard))
        # Both levels, since a client with a certificate for its workload sends without the base class.
        for sender in (base, cls):
            _sends.extend(patching.take_over(vars(sender).get("_send_request"), send))
    watch.notice_collections()


def unreached() -> list[str]:
    """Names of client classes whose calls do not pass the guard; empty if all do. Sends nothing."""
    from openai import AsyncOpenAI, OpenAI

    return [
        f"{cls.__module__}.{cls.__qualname__}"
        for cls in patching.subclasses(OpenAI, AsyncOpenAI)
        if not patching.reaches(cls, "request", _requests)
    ]


def uninstall() -> None:
    """Take the guard out: the SDK's functions have their own bodies again, and whoever holds the guard passes it."""
    with _lock:
        for takeover in (*_requests, *_sends):
            takeover.undo()
        _requests.clear()
        _sends.clear()
        watch.forget_collections()


def _request(original: Callable[..., Any], client: Any, cast_to: Any, options: Any, **how: Any) -> Any:
    planned = plan(client, options, stream=how.get("stream") is True)
    call = None if planned is None else calls.begin(planned.request)
    if planned is None or call is None:
        return original(client, cast_to, options, **how)
    way = Way(planned, call, options)
    while True:
        try:
            with way.exchange, call.active():
                result = original(client, cast_to, way.options, **how)
        except BaseException as error:
            if way.goes_on_without_usage(error):
                continue
            way.failed(error)
            raise
        way.arrived(result)
        return result


async def _arequest(
    original: Callable[..., Awaitable[Any]], client: Any, cast_to: Any, options: Any, **how: Any
) -> Any:
    planned = plan(client, options, stream=how.get("stream") is True)
    call = None if planned is None else await calls.abegin(planned.request)
    if planned is None or call is None:
        return await original(client, cast_to, options, **how)
    way = Way(planned, call, options)
    while True:
        try:
            with way.exchange, call.active():
                result = await original(client, cast_to, way.options, **how)
        except BaseException as error:
            if way.goes_on_without_usage(error):
                continue
            way.failed(error)
            raise
        way.arrived(result)
        return result
