"""Who reads a stream, so that a call is settled as soon as its reader lets go, not when the collector comes.

A ``for`` loop that is left lets go of what it got from ``__iter__``; whoever asks for one event only, of the stream. An
SDK's stream keeps its class: `reading` and `areading` are guards of its ``__iter__`` and ``__aiter__``, `opening` of
its ``__init__``.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from otelbudget.guards.watch import Watch, watch_of


class _Reader:
    """What reads a stream; once it has begun, dropping it says that nobody reads on."""

    __slots__ = ("_begun", "_iterator", "_watch")

    def __init__(self, iterator: Any, watch: Watch) -> None:
        self._iterator = iterator
        self._watch = watch
        self._begun = False

    def __del__(self) -> None:
        # Some ask for a new reader for each event: the first that goes lets go, the rest is settled with the stream.
        if self._begun and not self._watch.settled:
            self._watch.dropped()


class Reader(_Reader):
    """That of plain streams."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._begun = True
        return next(self._iterator)

    def close(self) -> None:
        """As generators have it."""
        getattr(self._iterator, "close", lambda: None)()


class AsyncReader(_Reader):
    """That of asynchronous streams."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        self._begun = True
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """As generators have it."""
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


def reading(original: Callable[..., Any], stream: Any) -> Any:
    """Of ``__iter__``."""
    watch = watch_of(stream)
    return original(stream) if watch is None else Reader(original(stream), watch)


def areading(original: Callable[..., Any], stream: Any) -> Any:
    """Of ``__aiter__``."""
    watch = watch_of(stream)
    return original(stream) if watch is None else AsyncReader(original(stream), watch)


def opening(original: Callable[..., Any], stream: Any, *args: Any, **kwargs: Any) -> None:
    """Of ``__init__``, for streams that have a ``response``."""
    original(stream, *args, **kwargs)
    if "_iterator" in vars(stream):
        stream._iterator = type(stream).__stream__(twin(stream, "_iterator"))
    weakref.finalize(stream, let_go, stream.response).atexit = False


def twin(stream: Any, iterator: str) -> Any:
    """A copy of an SDK's *stream* to be read in its place, so that what reads it and the stream are not in a circle,
    which would last until it is collected; *iterator* is the attribute that has what reads it."""
    other = copy.copy(stream)
    delattr(other, iterator)
    return other


def let_go(response: Any) -> None:
    """Nobody has the stream of *response* any more."""
    if watch := watch_of(response):
        watch.dropped()
