"""How a guarded call travels: its attempts to send, the SDK's own retries included. For SDKs on httpx2 or httpx."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

__all__ = ["Exchange", "asend", "never_sent", "send"]

#: Errors of httpx and httpx2 that come before the first byte of a request has left.
_BEFORE_SENDING: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}
)


def never_sent(error: BaseException | None) -> bool:
    """Whether an error of the HTTP client means that nothing of the request was sent."""
    return not _BEFORE_SENDING.isdisjoint(cls.__name__ for cls in type(error).__mro__)


class Exchange:
    """The attempts of one call, retries inside the SDK included. As a context manager: the one that `send` notes.

    Attributes:
        started: How many attempts were begun.
        unknown: How many of them ended without an answer after something may have been sent.
        answered: Whether the last one got an answer, good or bad.
        response: That answer, until it is left to whoever reads it.
    """

    __slots__ = ("_sending", "_token", "answered", "response", "started", "unknown")

    def __init__(self) -> None:
        self.started = 0
        self.unknown = 0
        self.answered = False
        self.response: Any = None
        self._sending = False
        self._token: Any = None

    def __enter__(self) -> Exchange:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


_current: ContextVar[Exchange | None] = ContextVar("otelbudget_exchange", default=None)


class _Attempt:
    """One attempt of *exchange*; one inside another is the same."""

    __slots__ = ("_exchange", "_outermost")

    def __init__(self, exchange: Exchange | None) -> None:
        self._outermost = exchange is not None and not exchange._sending
        self._exchange = exchange

    def __enter__(self) -> _Attempt:
        if self._exchange is not None and self._outermost:
            self._exchange._sending = True
            self._exchange.started += 1
            self._exchange.answered = False
            self._exchange.response = None
        return self

    def answered(self, response: Any) -> Any:
        if self._exchange is not None:
            self._exchange.answered = True
            self._exchange.response = response
        return response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange is not None and self._outermost:
            self._exchange._sending = False
            if error is not None and not never_sent(error):
                self._exchange.unknown += 1


def send(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Guard of an SDK's function that sends one HTTP request: notes the attempt in the current `Exchange`."""
    with _Attempt(_current.get()) as attempt:
        return attempt.answered(original(*args, **kwargs))


async def asend(original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """`send` for coroutine functions."""
    with _Attempt(_current.get()) as attempt:
        return attempt.answered(await original(*args, **kwargs))
