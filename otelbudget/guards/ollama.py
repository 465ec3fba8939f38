"""The guard of ``ollama``, in ``_client.{Client,AsyncClient}._request``; there are no retries.

A stream is a generator that sends its request when its first part is asked for, so that is when it is admitted.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from otelbudget.guards import exchange
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import PARSED
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.parts import AsyncParts, Parts
from otelbudget.guards.readers import let_go


class OllamaGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        sync, asynchronous = self._classes()
        self._take(sync, "_request", self._request)
        self._take(asynchronous, "_request", self._arequest)
        self._note(sync, "_request_raw", _ATTEMPTS.one)
        self._note(asynchronous, "_request_raw", _ATTEMPTS.aone)

    def _classes(self) -> tuple[Any, ...]:
        module = self._inside("_client")
        return module.Client, module.AsyncClient

    def _taken(self) -> tuple[str, ...]:
        return ("_request",)

    def _request(self, original: Callable[..., Any], client: Any, cls: Any, *args: Any, **how: Any) -> Any:
        asked = _Asked(args, how)
        if how.get("stream"):
            return self._stream(original, client, cls, asked)
        return carried(
            self._plan(client, asked), asked, lambda sent: original(client, cls, *sent.args, **_in_time(client, sent))
        )

    async def _arequest(
        self, original: Callable[..., Awaitable[Any]], client: Any, cls: Any, *args: Any, **how: Any
    ) -> Any:
        asked = _Asked(args, how)
        if how.get("stream"):
            opened: list[AsyncParts] = []
            stream = self._astream(original, client, cls, asked, opened)
            # The loop closes it later than its reader lets it go.
            weakref.finalize(stream, _let_go, opened).atexit = False
            return stream
        planned = self._plan(client, asked)
        return await acarried(planned, asked, lambda sent: original(client, cls, *sent.args, **_in_time(client, sent)))

    def _stream(self, original: Callable[..., Any], client: Any, cls: Any, asked: _Asked) -> Iterator[Any]:
        def send(sent: _Asked) -> Parts:
            parts = original(client, cls, *sent.args, **_in_time(client, sent))
            return Parts(tuple(part for part in [next(parts, None)] if part is not None), parts)

        parts = carried(self._plan(client, asked), asked, lambda sent: _ATTEMPTS.one(send, sent))
        yield from parts.left

    async def _astream(
        self, original: Callable[..., Awaitable[Any]], client: Any, cls: Any, asked: _Asked, opened: list[AsyncParts]
    ) -> AsyncIterator[Any]:
        async def send(sent: _Asked) -> AsyncParts:
            parts = await original(client, cls, *sent.args, **_in_time(client, sent))
            return AsyncParts(tuple(part for part in [await anext(parts, None)] if part is not None), parts)

        parts = await acarried(self._plan(client, asked), asked, lambda sent: _ATTEMPTS.aone(send, sent))
        opened.append(parts)
        async for part in parts.left:
            yield part

    def _plan(self, client: Any, asked: _Asked) -> Any:
        return plan(self._sdk, _WIRE, client, asked, stream=False)


def _let_go(opened: list[AsyncParts]) -> None:
    for parts in opened:
        let_go(parts)


class _Asked(NamedTuple):
    """Method and path, and what else a request is made of."""

    args: tuple[Any, ...]
    how: Mapping[str, Any]


def _answer(result: Any) -> Any:
    return Answer(200, unread=result) if isinstance(result, Parts | AsyncParts) else result


def _in_time(client: Any, asked: _Asked) -> Mapping[str, Any]:
    return {"timeout": exchange.within(client._client.timeout), **asked.how}


_ATTEMPTS: Final = Attempts(lambda error: getattr(error, "status_code", None), _answer)
_WIRE: Final = Wire(
    endpoint=lambda asked: asked.args[:2],
    body=lambda asked: asked.how.get("json") or {},
    changed=lambda asked, values: asked._replace(how={**asked.how, "json": {**asked.how["json"], **values}}),
    open=lambda asked: isinstance(asked.how.get("json"), Mapping),
    framing=lambda _: PARSED,
    attach=lambda answer, follower: answer.unread.follow(follower),
)
