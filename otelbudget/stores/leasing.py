"""How a process takes blocks and gives them back, as generators that know nothing of waiting. See `lease`."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from otelbudget.errors import StoreError
from otelbudget.stores.base import Answer, Reserve, Store
from otelbudget.stores.block import Key, Lease, is_worth, least, left
from otelbudget.stores.blocks import Blocks
from otelbudget.stores.errands import Trips
from otelbudget.stores.owed import Unsent

#: How long a block lives, and how many there are at a time at most.
BLOCK_S: Final = 3.0
MOST: Final = 200


class Leasing:
    """A part of `Leased`; arguments are its."""

    def __init__(self, store: Store, share: float, clock_s: Callable[[], float] = time.time) -> None:
        self.ttl_s: float = getattr(store, "ttl_s", 60.0)
        self._store = store
        self._share = Decimal(str(share))
        self._clock_s = clock_s
        self.forked()

    def forked(self) -> None:
        """In a child leases and holds are the parent's."""
        self._blocks = Blocks(self._clock_s)
        self._taking: dict[Key | str, object] = {}  # accounts of which a block is taken, leases that change
        self._tight: dict[Key, float] = {}  # until when no block is asked for, since there was no room for one

    def _lease(self, asked: Reserve) -> Trips[None]:
        """Take the next block of its accounts, if there is room for one that is worth it and nobody else does."""
        key, mine = (asked.shard, asked.lines), object()
        if len(self._blocks.all) >= MOST or key in self._tight or self._taking.setdefault(key, mine) is not mine:
            return
        try:
            limits = least([line.limits for line in asked.lines])
            block = tuple(int(max(0, limit) * self._share) for limit in limits)
            while is_worth(block, asked.amounts, limits):
                answer = yield from self._take(key, block, limits)
                if answer.refused is None:
                    return
                self._tight[key] = self._clock_s() + BLOCK_S
                block = tuple([min(b, room) // 2 for b, room in zip(block, left(asked.lines, answer), strict=True)])
        finally:
            self._taking.pop(key, None)

    def _take(self, key: Key, block: tuple[int, ...], limits: tuple[int, ...]) -> Trips[Answer]:
        """Ask for a block, in place of the one before."""
        before = self._blocks.live.pop(key, None)
        if before is not None:
            self._blocks.close(before)
            yield from self._give_back()
        lease = Lease(key)
        self._blocks.all[lease.id] = lease
        answer: Answer
        try:
            answer = yield "reserve", lease.asks(block, self.ttl_s)
        except BaseException:
            self._blocks.ready.append(lease)  # the store may have it
            raise
        if answer.refused is None and not answer.gone:
            self._blocks.open(lease, answer, block, limits, self._clock_s() + BLOCK_S)
        else:
            self._blocks.all.pop(lease.id, None)
        return answer

    def _give_back(self) -> Trips[None]:
        """Settle closed leases, or give back what nobody needs of them; Unsent with the first trip that fails."""
        blocks = self._blocks
        while blocks.ready:
            lease = blocks.next_ready()
            if lease is None or lease.id in self._taking:
                continue
            try:
                yield from self._give_back_one(lease)
            except BaseException as error:
                blocks.keep(lease)
                if isinstance(error, StoreError):
                    raise Unsent(str(error)) from error
                raise

    def _give_back_one(self, lease: Lease) -> Trips[None]:
        if not lease.account.holds:
            self._blocks.all.pop(lease.id, None)  # before, or what it has spent would be counted twice meanwhile
            yield "settle", lease.ends()
        elif self._taking.setdefault(lease.id, lease) is lease:
            try:
                needed = lease.needed()
                if needed != lease.block:
                    yield "reserve", lease.asks(needed, self.ttl_s)
                    lease.block = needed
            finally:
                self._taking.pop(lease.id, None)
                self._blocks.let_go(lease)  # as nobody could look at it meanwhile

    def _tidy(self) -> None:
        """Close what is old."""
        self._blocks.tidy()
        now_s = self._clock_s()
        tight = self._tight
        self._tight = {key: tight[key] for key in list(tight) if tight[key] > now_s}
