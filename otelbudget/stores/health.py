"""How a store fares: whether it answers, and what it has lost."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from otelbudget import forking
from otelbudget.errors import StoreError

if TYPE_CHECKING:
    from otelbudget.stores.shared import Shared


_log = logging.getLogger("otelbudget")


class Health:
    """What became of the trips to a store, and of what it keeps.

    Attributes:
        up: Whether the last trip was answered; None before the first.
        errors: How many were not.
        unguarded: Requests that were admitted without the store's word.
        lost: Settlements that were given up.
        wiped: Times that data was gone which this process had seen.
        saturated: Times that a sum stopped at what a store counts at most.
        untold: What no event has told yet, ``wiped`` or ``saturated``.
    """

    def __init__(self) -> None:
        self.forked()
        # Every marker that was seen, as an answer from before may come after one that has the next.
        self._seen: dict[tuple[str, bytes], object] = {}
        self._shards: dict[str, object] = {}
        self._lock = forking.fresh_lock()  # a signal handler may come in between
        forking.tell(self)

    def forked(self) -> None:
        """A forked process counts from 0."""
        self.up: bool | None = None
        self.errors: int = 0
        self.unguarded: int = 0
        self.lost: int = 0
        self.wiped: int = 0
        self.saturated: int = 0
        self.untold: deque[str] = deque(maxlen=8)

    def is_away(self, name: str, error: Exception, means: str, *, quiet: bool) -> None:
        """The last trip was not answered, which is told once, with what it *means* for requests."""
        if self.up is not False and not quiet:
            told = "the %s store can't be reached: %s; until it can, %s, and what is spent waits"
            _log.warning(told, name, error, means)
        self.up = False

    def is_reached(self, name: str) -> None:
        """The last trip was answered."""
        if self.up is False:
            _log.info("the %s store is reached again", name)
        self.up = True

    def look(self, where: str, shard: str, marker: bytes) -> None:
        """Compare the marker that a store has with what it had before: another one began after data was lost."""
        if (shard, marker) not in self._seen:
            mine = object()
            is_new = self._seen.setdefault((shard, marker), mine) is mine
            if is_new and self._shards.setdefault(shard, mine) is not mine:
                self.is_wiped(where, f"what was counted for {shard!r}")

    def is_wiped(self, where: str, what: str) -> None:
        """Say that *what* is gone, and counted anew, for all who share the store."""
        self._happened("wiped")
        _log.error("store %s: %s is gone; windows in progress begin anew, for all who share it", where, what)

    def is_saturated(self, where: str) -> None:
        """Say that a sum stays as it is."""
        self._happened("saturated")
        _log.warning("store %s: an account has reached 2^53 - 1 and counts no further", where)

    def _happened(self, what: str) -> None:
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)
        self.untold.append(what)


class Asking:
    """A block in which the store of a `Shared` is asked; whether it was answered is told, where that has changed."""

    __slots__ = ("_answers", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._answers = getattr(shared.store, "answers", None)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        shared, health = self._shared, self._shared.health
        if isinstance(error, StoreError):
            shared.count([(health, "errors", 1)])
            health.is_away(shared.name, error, shared.failure.means, quiet=shared.ended.is_set())
        elif error is None and (self._answers is None or self._answers != getattr(shared.store, "answers", None)):
            health.is_reached(shared.name)  # else a lease has answered
