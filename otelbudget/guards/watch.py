"""Following the body of an answer on its way to whoever reads it. For SDKs on httpx2 or httpx.

At the HTTP response, where every way of reading ends, rather than at the SDK's stream object, which stays untouched.
"""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from otelbudget.guards.boundary import contained

if TYPE_CHECKING:
    from otelbudget.guards.charge import Charge

_ATTRIBUTE: Final = "_otelbudget_watch"


class Watch(ABC):
    """Follows the body of one answer and settles at its end or an error, or when it is closed or dropped.

    Whoever reads on after that has it settled once more, for what was read since.
    """

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.settled = False
        #: Whether something is being read now.
        self.reading = False
        self._read_on = False
        self._cut = False

    # --- for subclasses

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """Cut what arrived into the pieces that `see` wants, keeping back what is not complete."""
        return (chunk,)

    def rest(self) -> Iterable[bytes]:
        """What was kept back when the body ended."""
        return ()

    @abstractmethod
    def see(self, piece: bytes) -> bool:
        """Read a piece before the application does; False hides it."""

    def pay(self) -> None:  # noqa: B027 - most pay at the end
        """Pay for what was seen so far. What it raises cuts the stream: it has settled it, and `_cut`."""

    @abstractmethod
    def complete(self) -> None:
        """The body has been read to its end."""

    @abstractmethod
    def lost(self, error: BaseException | None) -> None:
        """It has not, and never will be: the connection broke, or nobody reads on."""

    # --- for `attach`

    def read(self, chunks: Iterable[bytes], close: Callable[[], None]) -> Iterator[bytes]:
        """*chunks* on their way; *close* ends the response of a stream that is cut."""
        self.reading = True
        try:
            for chunk in chunks:
                yield from self._shown(self.pieces(chunk))
            yield from self._shown(self.rest())
        except BaseException as error:
            self._broke(error)
            if self._cut:
                close()
            raise
        self._settle(self.complete)

    async def aread(self, chunks: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
        """`read` for asynchronous clients."""
        self.reading = True
        try:
            async for chunk in chunks:
                for piece in self._shown(self.pieces(chunk)):
                    yield piece
            for piece in self._shown(self.rest()):
                yield piece
        except BaseException as error:
            self._broke(error)
            if self._cut:
                await close()
            raise
        self._settle(self.complete)

    def take(self, following: Callable[[], Any]) -> Any:
        """The next part that is shown, of an iterator that is asked for one at a time; none once it has been cut."""
        while not self._cut:
            self.reading = True
            try:
                part = following()
            except BaseException as error:
                self._stopped(error)
                raise
            for shown in self._taken(part):
                return shown
        raise StopIteration

    async def atake(self, following: Callable[[], Awaitable[Any]]) -> Any:
        """`take` for asynchronous iterators."""
        while not self._cut:
            self.reading = True
            try:
                part = await following()
            except BaseException as error:
                self._stopped(error)
                raise
            for shown in self._taken(part):
                return shown
        raise StopAsyncIteration

    def _stopped(self, error: BaseException) -> None:
        if isinstance(error, StopIteration | StopAsyncIteration):
            self._settle(self.complete)
        else:
            self._broke(error)

    def _taken(self, part: Any) -> list[Any]:
        pieces = self.pieces(part)  # what is given is whole, unless there is nothing in it to be shown
        try:
            return [part] if list(self._shown(pieces)) or not pieces else []
        finally:
            self.reading = False

    def dropped(self) -> None:
        """Nobody reads on. While something is being read, the reader settles: the client closes at the end as well."""
        if self.reading or (self.settled and not self._read_on):
            return
        if _collecting == threading.get_ident():
            # The collector can interrupt this thread anywhere, also where it holds a lock that settling needs.
            _dropped.append(self)
        else:
            self._settle(self.lost, None)

    def _shown(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces that the application is to see; while it has one, it is the one who reads."""
        for piece in pieces:
            shown, self._read_on = True, self.settled
            with contained("reading a streamed answer"):
                shown = self.see(piece)
            self.pay()
            if shown:
                self.reading = False
                yield piece
                self.reading = True

    def _broke(self, error: BaseException) -> None:
        if isinstance(error, GeneratorExit):
            self.reading = False
            self.dropped()
        else:
            self._settle(self.lost, error)
            if (denial := self.charge.timed_out(error)) is not None:
                raise denial from error

    def _settle(self, settle: Callable[..., None], *args: Any) -> None:
        self.reading = False
        if not self.settled or self._read_on:
            self.settled, self._read_on = True, False
            with contained("settling a streamed answer"):
                settle(*args)


def attach(response: Any, watch: Watch) -> None:
    """Let *watch* follow the body of *response*, which nobody has read yet, however it will be read."""
    _Shadows(response, watch)
    follow(response, watch)


def follow(response: Any, watch: Watch) -> None:
    """Let *watch* be the one of *response*, which settles when that is gone, in place of one of a call inside."""
    vars(response).get(_ATTRIBUTE, watch).settled, watch.settled = True, False
    vars(response)[_ATTRIBUTE] = watch
    weakref.finalize(response, watch.dropped).atexit = False


def watch_of(stream: Any) -> Watch | None:
    """What follows *stream* or the response that it has, if anything does."""
    places = (getattr(one, "__dict__", {}) for one in (stream, getattr(stream, "response", None)))
    return next((place[_ATTRIBUTE] for place in places if _ATTRIBUTE in place), None)


class _Shadows:
    """Stands before the methods in which every way of reading *response* ends, until it is closed."""

    _NAMES = ("iter_bytes", "aiter_bytes", "iter_raw", "aiter_raw", "close", "aclose")

    def __init__(self, response: Any, watch: Watch) -> None:
        self._response = response
        self._watch = watch
        self._plain = {name: getattr(response, name) for name in self._NAMES}
        self._ours = {name: getattr(self, name) for name in self._NAMES}
        #: Whether the raw bytes are followed elsewhere, or can't be.
        self._passing = response.headers.get("content-encoding", "identity") != "identity"
        vars(response).update(self._ours)

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        self._passing = True
        chunks: Iterator[bytes] = self._plain["iter_bytes"](chunk_size)
        return self._watch.read(chunks, self._plain["close"])

    def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        self._passing = True
        chunks: AsyncIterator[bytes] = self._plain["aiter_bytes"](chunk_size)
        return self._watch.aread(chunks, self._plain["aclose"])

    def iter_raw(self, chunk_size: int | None = None) -> Iterator[bytes]:
        chunks: Iterator[bytes] = self._plain["iter_raw"](chunk_size)
        return chunks if self._passing else self._watch.read(chunks, self._plain["close"])

    def aiter_raw(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        chunks: AsyncIterator[bytes] = self._plain["aiter_raw"](chunk_size)
        return chunks if self._passing else self._watch.aread(chunks, self._plain["aclose"])

    def close(self) -> None:
        try:
            self._plain["close"]()
        finally:
            self._closed()

    async def aclose(self) -> None:
        try:
            await self._plain["aclose"]()
        finally:
            self._closed()

    def _closed(self) -> None:
        self._watch.dropped()
        if self._watch.settled:
            for name, ours in self._ours.items():
                if vars(self._response).get(name) is ours:
                    delattr(self._response, name)


def attach_segments(response: Any, watch: Watch) -> None:
    """Let *watch* follow the ``segments`` of google-genai's ``HttpResponse``, or the ``async_segments``."""
    # Of a copy, so that what reads it and the response are not in a circle.
    plain, below = copy.copy(response), response.response_stream

    async def aclose() -> None:
        if (closing := getattr(below, "aclose", below.close)()) is not None:
            await closing

    vars(response).update(
        segments=lambda: watch.read(plain.segments(), below.close),
        async_segments=lambda: watch.aread(plain.async_segments(), aclose),
    )
    follow(response, watch)


# --- answers dropped by the garbage collector

_dropped: deque[Watch] = deque()
_collecting: int | None = None
_owners: set[object] = set()


def _note_collection(phase: str, _info: dict[str, int]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else None


def notice_collections(owner: object) -> None:
    """Know from now on whether an answer is dropped by the collector, until each *owner* has had enough."""
    _owners.add(owner)
    if _note_collection not in gc.callbacks:
        gc.callbacks.append(_note_collection)


def forget_collections(owner: object) -> None:
    """Undo `notice_collections`."""
    _owners.discard(owner)
    if not _owners and _note_collection in gc.callbacks:
        gc.callbacks.remove(_note_collection)
    settle_dropped()


def settle_dropped() -> bool:
    """Settle what the collector has dropped since the last time, unless inside it; gives whether there was anything."""
    if not _dropped or _collecting == threading.get_ident():
        return False
    while _dropped:
        try:
            watch = _dropped.popleft()
        except IndexError:  # another thread was faster
            break
        watch.dropped()
    return True
