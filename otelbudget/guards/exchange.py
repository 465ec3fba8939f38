"""How a guarded call travels: its attempts to send, the SDK's own retries included.

Noted where all clients of a generator pass. Those of Stainless build a request for each attempt, process the response
that goes to the caller, and sleep between the two when an attempt has failed; others have a function for an attempt.
None is sent after the run's deadline, and none waits longer for an answer, where its timeout can be told.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget.runs import blocks

if TYPE_CHECKING:
    from otelbudget.calls.model_call import ModelCall
    from otelbudget.guards.charge import Part

#: Errors of httpx, httpx2, aiohttp and botocore that come before the first byte of a request has left; and litellm's of
#: its own ``max_budget``.
_BEFORE_SENDING: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError", "ClientConnectorError"}
    | {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "BudgetExceededError"}
)
#: By how much a timeout ends later than the time of the run, so that it is over by then.
_LATER_S: Final = 0.01


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and what it came of, the nearest first."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def http_error(error: BaseException | None) -> BaseException | None:
    """The error of httpx that *error* is or came of, the nearest; None without one."""
    return next((one for one in behind(error) if "HTTPError" in {cls.__name__ for cls in type(one).__mro__}), None)


def never_sent(error: BaseException | None) -> bool:
    """Whether an error of the HTTP client, or one of the SDK caused by it, means that nothing was sent."""
    error = http_error(error) or error
    below = getattr(error, "__cause__", None) or getattr(error, "__context__", None)
    names = {cls.__name__ for one in (error, below) for cls in type(one).__mro__}
    return not _BEFORE_SENDING.isdisjoint(names)


def _from_transport(error: BaseException) -> bool:
    """Whether it was raised where httpx has handed a request to what sends it, or in a hook that has the answer."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name in ("handle_request", "handle_async_request"):
            return True
        if frame.f_code.co_name == "_send_handling_redirects" and "response" in frame.f_locals:
            return True
    return False


class Answer(NamedTuple):
    """What an SDK has read of an answer itself, as a response of an HTTP client looks; *unread* is what it has not."""

    status_code: int
    content: bytes = b""
    unread: Any = None
    headers: Mapping[str, str] = {}

    @property
    def is_closed(self) -> bool:
        """Whether all of it is here."""
        return self.unread is None


class Exchange:
    """The attempts of one call, retries inside the SDK included. As a context manager: the one that is noted in.

    *call* is told of each attempt after the first, in how many seconds it follows, and may raise: then it is not sent.
    One that follows a good answer is another call, which *another* admits, and settles the one before.
    """

    __slots__ = ("_another", "_begun", "_call", "_token", "_under_way", "bounded", "earlier", "heard", "response")

    def __init__(self, call: ModelCall | Part, another: Callable[[], ModelCall | Part]) -> None:
        self._call, self._another = call, another
        #: How many attempts are known to have ended without an answer after something may have been sent.
        self.earlier = 0
        #: The answer to the last one, until it is left to whoever reads it.
        self.response: Any = None
        #: Whether the server has answered an attempt.
        self.heard = False
        #: Whether an attempt was given less time than it would have.
        self.bounded = False
        self._begun = self._under_way = False
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    @property
    def nothing_sent(self) -> bool:
        """Whether no attempt was ever made: somebody between us and the SDK had an answer already."""
        return not self._begun and self.response is None

    def begins(self) -> None:
        """An attempt is about to be sent."""
        self.earlier += self._under_way  # somebody between us and the SDK has tried again without telling
        if self.response is not None and self.response.status_code < 400:
            self._call, self.earlier = self._another(), 0
            self.heard = self.bounded = False
        self._under_way, self.response = False, None
        if self._begun:
            self._call.again()
        self._begun = self._under_way = True

    def pauses(self, seconds: float) -> None:
        """The SDK waits so long before the next attempt."""
        self._call.again(seconds)

    def within(self, own: Any) -> Any:
        """*own* timeout of an attempt, or what its run has left, if less: in seconds, by name, or as httpx has it.

        Nothing is done to it where the run has no end, nor to one that can't be told.
        """
        left_s = blocks.left_s(self._call.run)
        if left_s is None:
            return own
        named = own if isinstance(own, dict) else own.as_dict() if hasattr(own, "as_dict") else {"": own}
        least = {}
        try:
            for name, seconds in named.items():
                enough = seconds is not None and float(seconds) <= left_s
                least[name] = seconds if enough else left_s + _LATER_S
        except (TypeError, ValueError):
            return own
        if least == named:
            return own
        self.bounded = True
        return least if isinstance(own, dict) else type(own)(**least) if hasattr(own, "as_dict") else least[""]

    def spared(self) -> None:
        """The last attempt was not sent: there was an answer already."""
        self._begun, self.response = self.earlier > 0, None

    def answered(self, response: Any) -> None:
        """The last attempt got an answer, good or bad."""
        self._under_way, self.heard = False, True
        self.response = response

    def lost(self, error: BaseException | None) -> None:
        """The last attempt got none, if it was sent."""
        self.earlier += self._under_way and not never_sent(error)
        self._under_way = False

    def may_have_been_sent(self, error: BaseException) -> bool:
        """Whether the last attempt may have been worked on, though the call ended in *error* without an answer."""
        if not self._under_way or not isinstance(error, Exception):
            return self._under_way
        # The SDKs wrap most of what comes from the HTTP client; other errors come from before or are their own.
        return (isinstance(error.__cause__, Exception) or _from_transport(error)) and not never_sent(error)


_current: ContextVar[Exchange | None] = ContextVar("otelbudget_exchange", default=None)


@contextmanager
def unnoted() -> Iterator[None]:
    """What is sent inside is no attempt of the call that is being sent here, such as a list of models in a hook of its
    HTTP client."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


# --- guards of the SDKs' own functions, plain or async, that say how an attempt goes


def building(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Of what prepares a request: once it is there, it is sent."""
    request = original(*args, **kwargs)
    exchange = _current.get()
    if exchange is not None:
        exchange.begins()
        if "timeout" in getattr(request, "extensions", ()):
            request.extensions["timeout"] = exchange.within(request.extensions["timeout"])
    return request


def processing(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Of ``_process_response``, for what goes to the caller."""
    answered(kwargs.get("response"))
    return original(*args, **kwargs)


def sleeping(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Of what is called before the next attempt, where the error of the last one is handled, or with its response."""
    if exchange := _current.get():
        response = kwargs.get("response")
        exchange.lost(sys.exc_info()[1]) if response is None else exchange.answered(None)
    return original(*args, **kwargs)


def pausing(original: Callable[..., float], *args: Any, **kwargs: Any) -> float:
    """Of ``_calculate_retry_timeout``, which says for how long that sleeps."""
    seconds = original(*args, **kwargs)
    if exchange := _current.get():
        exchange.pauses(seconds)
    return seconds


def failing(original: Callable[..., Any], hooks: Any, context: Any, response: Any, error: Any) -> Any:
    """Of the hooks after an error: the error of an attempt, or a response that the caller is to take for one."""
    if (exchange := _current.get()) and response is None:
        exchange.lost(error)
    return original(hooks, context, response, error)


def retrying(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Of what gets an answer that may not be given to the caller, since there may be another attempt."""
    answered(None)
    return original(*args, **kwargs)


class Attempts(NamedTuple):
    """Guards of the function that makes one attempt: *status* is what its error says that the server has answered, if
    it has, False where nothing was sent; *answer* makes a response of what it gives."""

    status: Callable[[Exception], object]
    answer: Callable[[Any], Any] = lambda result: result

    def one(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """An attempt of a plain function."""
        begins()
        try:
            result = original(*args, **kwargs)
        except Exception as error:
            self._failed(error)
            raise
        answered(self.answer(result))
        return result

    async def aone(self, original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """An attempt of a coroutine function."""
        begins()
        try:
            result = await original(*args, **kwargs)
        except Exception as error:
            self._failed(error)
            raise
        answered(self.answer(result))
        return result

    def _failed(self, error: Exception) -> None:
        status, exchange = self.status(error), _current.get()
        if status is False and exchange:
            exchange._under_way = False
        elif isinstance(status, int):
            answered(Answer(status))
        else:
            lost(error)


def begins() -> None:
    """Note that an attempt is about to be sent."""
    if exchange := _current.get():
        exchange.begins()


def within(own: Any) -> Any:
    """The timeout of an attempt that is about to be sent: its own, or what its run has left, if that is less."""
    exchange = _current.get()
    return own if exchange is None else exchange.within(own)


def spared() -> None:
    """Note that the attempt under way was answered without being sent."""
    if exchange := _current.get():
        exchange.spared()


def lost(error: BaseException) -> None:
    """Note that the attempt under way got no answer."""
    if exchange := _current.get():
        exchange.lost(error)


def answered(response: Any) -> Any:
    """Note an answer to the attempt under way; gives it."""
    if exchange := _current.get():
        exchange.answered(response)
    return response
