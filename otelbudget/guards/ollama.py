"""The guard of ``ollama``, in ``_client.{Client,AsyncClient}._request``; there are no retries.

A stream is a generator that sends its request when its first part is asked for, so that is when it is admitted.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

from otelbudget.guards import exchange
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts
from otelbudget.guards.framing import PARSED
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.readers import let_go
from otelbudget.guards.watch import Watch, follow


class OllamaGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        module = self._inside("_client")
        self._take(module.Client, "_request", self._request)
        self._take(module.AsyncClient, "_request", self._arequest)
        self._note(module.Client, "_request_raw", _ATTEMPTS.one)
        self._note(module.AsyncClient, "_request_raw", _ATTEMPTS.aone)

    def _request(self, original: Callable[..., Any], client: Any, cls: Any, *args: Any, **how: Any) -> Any:
        asked, send = _Asked(args, how), partial(_send, original, client, cls)
        if how.get("stream"):
            return self._stream(send, client, asked)
        return carried(self._plan(client, asked), asked, send)

    async def _arequest(self, original: Callable[..., Any], client: Any, cls: Any, *args: Any, **how: Any) -> Any:
        asked, send = _Asked(args, how), partial(_send, original, client, cls)
        if how.get("stream"):
            opened: list[AsyncParts] = []
            stream = self._astream(send, client, asked, opened)
            # The loop closes it later than its reader lets it go.
            weakref.finalize(stream, _let_go, opened).atexit = False
            return stream
        return await acarried(self._plan(client, asked), asked, send)

    def _stream(self, send: Callable[[_Asked], Any], client: Any, asked: _Asked) -> Iterator[Any]:
        def begin(sent: _Asked) -> Parts:
            parts = send(sent)
            return Parts(tuple(part for part in [next(parts, None)] if part is not None), parts)

        parts = carried(self._plan(client, asked), asked, lambda sent: _ATTEMPTS.one(begin, sent))
        yield from parts.left

    async def _astream(
        self, send: Callable[[_Asked], Any], client: Any, asked: _Asked, opened: list[AsyncParts]
    ) -> AsyncIterator[Any]:
        async def begin(sent: _Asked) -> AsyncParts:
            parts = await send(sent)
            return AsyncParts(tuple(part for part in [await anext(parts, None)] if part is not None), parts)

        parts = await acarried(self._plan(client, asked), asked, lambda sent: _ATTEMPTS.aone(begin, sent))
        opened.append(parts)
        try:
            async for part in parts.left:
                yield part
        finally:
            await parts.aclose()

    def _plan(self, client: Any, asked: _Asked) -> Any:
        return plan(self._sdk, _WIRE, client, asked, stream=False)


def _let_go(opened: list[AsyncParts]) -> None:
    for parts in opened:
        let_go(parts)


class _Asked(NamedTuple):
    """Method and path, and what else a request is made of."""

    args: tuple[Any, ...]
    how: Mapping[str, Any]


def _send(original: Callable[..., Any], client: Any, cls: Any, asked: _Asked) -> Any:
    return original(client, cls, *asked.args, **{"timeout": exchange.within(client._client.timeout), **asked.how})


class Parts:
    """An answer in parts that the SDK has read itself, of which the first is here."""

    def __init__(self, first: tuple[Any, ...], rest: Iterator[Any]) -> None:
        self.left: Iterator[Any] = chain(first, rest)
        self._rest: Any = rest

    def follow(self, watch: Watch) -> None:
        """Let *watch* follow them."""
        follow(self, watch)
        self.left = watch.read(self.left, self._rest.close)


class AsyncParts:
    """`Parts` of asynchronous clients."""

    def __init__(self, first: tuple[Any, ...], rest: AsyncIterator[Any]) -> None:
        self.left: Any = self._chained(first, rest)
        self._rest: Any = rest

    @staticmethod
    async def _chained(first: tuple[Any, ...], rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for part in first:
            yield part
        async for part in rest:
            yield part

    def follow(self, watch: Watch) -> None:
        """Let *watch* follow them."""
        follow(self, watch)
        self.left = watch.aread(self.left, self._rest.aclose)

    async def aclose(self) -> None:
        """Nobody reads on."""
        await self.left.aclose()
        await self._rest.aclose()


def _answer(result: Any) -> Any:
    return Answer(200, unread=result) if isinstance(result, Parts | AsyncParts) else result


_ATTEMPTS: Final = Attempts(lambda error: getattr(error, "status_code", None), _answer)
_WIRE: Final = Wire(
    endpoint=lambda asked: asked.args[:2],
    body=lambda asked: asked.how.get("json") or {},
    changed=lambda asked, values: asked._replace(how={**asked.how, "json": {**asked.how["json"], **values}}),
    open=lambda asked: isinstance(asked.how.get("json"), Mapping),
    framing=lambda _: PARSED,
    attach=lambda answer, follower: answer.unread.follow(follower),
)
