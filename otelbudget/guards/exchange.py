"""How a guarded call travels: its attempts to send, the SDK's own retries included. For SDKs on httpx2 or httpx."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

#: Errors of httpx and httpx2 that come before the first byte of a request has left.
_BEFORE_SENDING: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}
)


def never_sent(error: BaseException | None) -> bool:
    """Whether an error of the HTTP client means that nothing of the request was sent."""
    return not _BEFORE_SENDING.isdisjoint(cls.__name__ for cls in type(error).__mro__)


class Exchange:
    """The attempts of one call, retries inside the SDK included. As a context manager: the one that `send` notes."""

    __slots__ = ("_sending", "_token", "answered", "response", "started", "unknown")

    def __init__(self) -> None:
        self.started = 0
        #: How many attempts ended without an answer after something may have been sent.
        self.unknown = 0
        #: Whether the last one got an answer, good or bad, and that answer, until it is left to whoever reads it.
        self.answered = False
        self.response: Any = None
        self._sending = False
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Note what the block sends; an attempt inside another one is the same."""
        if self._sending:
            yield
            return
        self._sending = True
        self.started += 1
        self.answered = False
        self.response = None
        try:
            yield
        except BaseException as error:
            self.unknown += not never_sent(error)
            raise
        finally:
            self._sending = False


_current: ContextVar[Exchange | None] = ContextVar("otelbudget_exchange", default=None)


def send(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Guard of an SDK's function that sends one HTTP request: notes the attempt in the current `Exchange`."""
    exchange = _current.get() or Exchange()
    with exchange.attempt():
        exchange.response = original(*args, **kwargs)
        exchange.answered = True
        return exchange.response


async def asend(original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """`send` for coroutine functions."""
    exchange = _current.get() or Exchange()
    with exchange.attempt():
        exchange.response = await original(*args, **kwargs)
        exchange.answered = True
        return exchange.response
