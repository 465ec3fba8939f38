"""The holds that are open, in the order in which they expire: every hold lives equally long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final
from weakref import ref

from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import NANOS, UNLIMITED

TTL_S: Final = 60
GRACE_S: Final = 5


class OpenHolds:
    """What is open, and when the first of it may be reclaimed. Changed with the ledger's lock held.

    Args:
        ttl_s: How long an abandoned hold lives, seconds; a grace of 5 s is added.

    Attributes:
        ttl_ns: With the grace.
        due_ns: When there is something to do; perhaps too early, never too late.
    """

    def __init__(self, ttl_s: float) -> None:
        self.ttl_ns = int((ttl_s + GRACE_S) * NANOS)
        self.due_ns = UNLIMITED
        self._kept: OrderedDict[Hold, None] = OrderedDict()

    def __iter__(self) -> Iterator[Hold]:
        return iter([one for one in list(self._kept) if one.state == "open"])

    def add(self, held: Hold, owner: object, now_ns: int) -> None:
        """Keep a hold that is about to open; it lives as long as *owner*, or until its time is up."""
        held.opened_ns = now_ns
        held.expires_ns = now_ns + self.ttl_ns
        held.owner = ref(owner)
        self._kept[held] = None
        if self.due_ns == UNLIMITED:
            self.due_ns = held.expires_ns

    def drop(self, held: Hold) -> None:
        """Forget one that has ended; if that is interrupted, `sweep` does it."""
        self._kept.pop(held, None)

    def sweep(self, now_ns: int, reclaim: Callable[[Hold], None]) -> None:
        """Let *reclaim* end the holds that nobody holds on to any more; renew the others."""
        while self._kept:
            oldest = next(iter(self._kept))
            if oldest.state == "open":
                if oldest.expires_ns > now_ns:
                    break
                if oldest.owner() is not None:
                    # In this order: what is interrupted in between is only looked at once more.
                    self._kept.move_to_end(oldest)
                    oldest.expires_ns = now_ns + self.ttl_ns
                    continue
                reclaim(oldest)
            self._kept.pop(oldest, None)
        self.due_ns = next(iter(self._kept)).expires_ns if self._kept else UNLIMITED

    def trips(self) -> list[tuple[str, str]]:
        """(shard, id) of what a shared store holds for calls that are alive."""
        return [(one.trip.shard, one.trip.id) for one in self if one.trip is not None and one.owner() is not None]

    def age(self, now_ns: int) -> tuple[int, float]:
        """How many there are, and the age of the oldest in seconds."""
        opened_ns = [one.opened_ns for one in self]
        return (len(opened_ns), (now_ns - min(opened_ns)) / NANOS) if opened_ns else (0, 0.0)
