"""The guard of SDKs made by the Fern generator.

It sits in ``core.http_client``: ``request`` calls itself for each retry, ``stream`` is a generator under a context
manager and makes one attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

from otelbudget.guards import exchange, patching
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.guard import SdkGuard


class FernGuard(SdkGuard):
    """The guard of one SDK."""

    def _take_over(self) -> None:
        module = self._inside("core.http_client")
        self._take(module.HttpClient, "request", partial(self._call, carried))
        self._take(module.HttpClient, "stream", self._stream)
        self._take(module.AsyncHttpClient, "request", partial(self._call, acarried))
        self._take(module.AsyncHttpClient, "stream", self._astream)
        self._notes.extend(patching.take_over(module._should_retry, exchange.retrying))
        self._notes.extend(patching.take_over(module._retry_timeout_from_retries, exchange.sleeping))

    def _call(self, carry: Carry, original: Callable[..., Any], client: Any, path: Any = None, **how: Any) -> Any:
        how["path"] = path

        def send(sent: Mapping[str, Any]) -> Any:
            return original(client, **_attempt(client, sent))

        return send(how) if how.get("retries") else carry(self._plan(client, how), how, send)

    def _stream(self, original: Callable[..., Any], client: Any, path: Any = None, **how: Any) -> Iterator[Any]:
        how["path"] = path
        with ExitStack() as stack:

            def send(sent: Mapping[str, Any]) -> Any:
                return stack.enter_context(contextmanager(original)(client, **_attempt(client, sent)))

            yield carried(self._plan(client, how), how, send)

    async def _astream(
        self, original: Callable[..., Any], client: Any, path: Any = None, **how: Any
    ) -> AsyncIterator[Any]:
        how["path"] = path
        async with AsyncExitStack() as stack:

            async def send(sent: Mapping[str, Any]) -> Any:
                return await stack.enter_async_context(asynccontextmanager(original)(client, **_attempt(client, sent)))

            yield await acarried(self._plan(client, how), how, send)

    def _plan(self, client: Any, how: Mapping[str, Any]) -> Any:
        return plan(self._sdk, _WIRE, client, how, stream=False)


# --- the keyword arguments of a request


def _attempt(client: Any, how: Mapping[str, Any]) -> Mapping[str, Any]:
    """An attempt begins: with no more time than its run has."""
    exchange.begins()
    options = how.get("request_options") or {}
    name = "timeout" if options.get("timeout") is not None else "timeout_in_seconds"
    given = (options.get(name), client.base_timeout(), client.httpx_client.timeout)
    own = next(one for one in given if one is not None)
    return {**how, "request_options": {**options, name: exchange.within(own)}}


def _body(how: Mapping[str, Any]) -> Mapping[str, Any]:
    given, unset = how.get("json") or how.get("data"), how.get("omit")
    body = {name: value for name, value in given.items() if value is not unset} if isinstance(given, Mapping) else {}
    return {**body, **_more(how)}


def _more(how: Mapping[str, Any]) -> Mapping[str, Any]:
    return (how.get("request_options") or {}).get("additional_body_parameters") or {}


def _changed(how: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    changed = {**how, "json": {**how["json"], **values}}
    if more := _more(how):
        changed["request_options"] = {**how["request_options"], "additional_body_parameters": {**more, **values}}
    return changed


_WIRE: Final = Wire(
    endpoint=lambda how: (how["method"], str(how["path"] or how.get("base_url"))),
    body=_body,
    changed=_changed,
    open=lambda how: isinstance(how.get("json"), Mapping),
    answer=lambda response: response,
)
