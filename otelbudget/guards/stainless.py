"""The guard of every SDK made by the Stainless generator: one mechanism for all rows of `sdks`.

It sits in the method of ``_base_client.{SyncAPIClient,AsyncAPIClient}`` that every client class (Azure, Bedrock,
Vertex, subclasses) and every way of calling passes once per logical call: plain, streamed, ``parse``, ``stream()``, raw
and streaming responses. Retries of the SDK happen inside, so they are one call. Other endpoints pass untouched.

With ``estimates.clamp`` a lowered maximum is sent under the names that the request uses for it; where it has none,
under the one that its endpoint knows, for each answer. The application's own options stay as they are. A body that the
application has made into bytes itself is refused instead, as is one whose maximum must cover a budget for thinking.
``trust_reported_cost`` believes ``usage.cost`` of an answer, else its header ``x-litellm-response-cost``.

A response made with ``background=true`` is charged at its hold, since it answers before it has worked; fetching a
response is free. Assistants, agent sessions, batches, realtime and websockets are not seen: they answer elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import FunctionType
from typing import Any

from otelbudget import forking
from otelbudget.calls import model_call as calls
from otelbudget.guards import exchange, patching, watch
from otelbudget.guards.call import Way, plan
from otelbudget.guards.patching import Takeover
from otelbudget.guards.sdks import Sdk

_lock = forking.fresh(threading.Lock())


class StainlessGuard:
    """The guard of one SDK."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._calls: list[Takeover] = []
        self._notes: list[Takeover] = []

    @property
    def module(self) -> str:
        """The module whose import means that the SDK is used."""
        return self._sdk.module

    def install(self) -> None:
        """Put the guard in, unless it is; an ImportError if the SDK is not installed."""
        with _lock:
            if not self._calls:
                self._take_over()

    def _take_over(self) -> None:
        sync, asynchronous = self._base_clients()
        function = self._function()
        for base, guard in ((sync, self._request), (asynchronous, self._arequest)):
            self._calls.extend(patching.take_over(vars(base).get(function), guard))
            self._notes.extend(patching.take_over(vars(base).get("_process_response"), exchange.processing))
            self._notes.extend(patching.take_over(vars(base).get("_sleep_for_retry"), exchange.sleeping))
        # Both inherit it.
        self._notes.extend(patching.take_over(sync._build_request, exchange.building))
        watch.notice_collections(self)

    def unreached(self) -> list[str]:
        """Names of client classes whose calls do not pass the guard; empty if all do. Sends nothing."""
        bases, function = self._base_clients(), self._function()
        entries = [patching.innermost(base.request) for base in bases]
        return [
            f"{cls.__module__}.{cls.__qualname__}"
            for cls in patching.subclasses(*bases)
            if not (
                patching.reaches(cls, "request", entries.__contains__) and patching.reaches(cls, function, self._takes)
            )
        ]

    def _takes(self, function: FunctionType | None) -> bool:
        return any(takeover.takes(function) for takeover in self._calls)

    def uninstall(self) -> None:
        """Take the guard out: the SDK's functions have their own bodies again, and whoever holds the guard passes."""
        with _lock:
            self._undo()

    def _undo(self) -> None:
        for takeover in (*self._calls, *self._notes):
            takeover.undo()
        self._calls.clear()
        self._notes.clear()
        watch.forget_collections(self)

    def _function(self) -> str:
        # Older releases have no other than this.
        return self._sdk.function if all(hasattr(b, self._sdk.function) for b in self._base_clients()) else "request"

    def _base_clients(self) -> tuple[Any, Any]:
        module = import_module(f"{self._sdk.module}._base_client")
        return module.SyncAPIClient, module.AsyncAPIClient

    def _request(self, original: Callable[..., Any], client: Any, cast_to: Any, options: Any, **how: Any) -> Any:
        planned = plan(self._sdk, client, options, stream=how.get("stream") is True)
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
        self, original: Callable[..., Awaitable[Any]], client: Any, cast_to: Any, options: Any, **how: Any
    ) -> Any:
        planned = plan(self._sdk, client, options, stream=how.get("stream") is True)
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
