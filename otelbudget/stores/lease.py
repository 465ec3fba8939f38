"""Leases: a process holds a block of some accounts in the store, and spends it without asking again.

A lease is a hold of the store under this, and an account here whose limits are what the block has; a crash charges the
whole block. What doesn't fit in goes to the store by itself: requests that are large beside a block, records, and the
last of a limit; a hold that grows beyond its block enlarges that. So nothing is admitted that the store has no room
for. A block lives `BLOCK_S` at most; then what was spent is settled, and what no open hold needs is given back.

What others have not settled yet counts as held, for that time and a second, so a request that is refused for it is
``busy``. Each process tells for itself which thresholds it sees passed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from operator import add, sub
from typing import Final

from otelbudget import forking
from otelbudget.errors import StoreError
from otelbudget.model.amounts import NOTHING
from otelbudget.model.vector import unpack
from otelbudget.stores.base import Answer, Line, Override, Reserve, Reset, Settle, Settled, Store, Stored, judge
from otelbudget.stores.block import Held, Key, Lease, is_worth, least, left, places_of
from otelbudget.stores.blocks import Blocks
from otelbudget.stores.errands import Trips, at_once, made, waited
from otelbudget.stores.owed import Unsent
from otelbudget.stores.records import RunRecord

_log = logging.getLogger("otelbudget")
#: How long a block lives, and how many there are at a time at most.
BLOCK_S: Final = 3.0
MOST: Final = 200


class Leased(Store):
    """*store*, with leases.

    Args:
        store: Where accounts are kept.
        share: What part of the least limit of its accounts a block is.
        clock_s: Wall clock in Unix seconds; of a server, as it is known here.
    """

    def __init__(self, store: Store, share: float, clock_s: Callable[[], float] = time.time) -> None:
        self.name = store.name
        self.health = getattr(store, "health", None)
        self.ttl_s: float = getattr(store, "ttl_s", 60.0)
        self._store, self._share, self._clock_s = store, Decimal(str(share)), clock_s
        self.forked()
        forking.tell(self)

    def forked(self) -> None:
        """In a child leases and holds are the parent's."""
        self._blocks = Blocks(self._clock_s)
        self._taking: dict[Key | str, object] = {}  # accounts of which a block is taken, leases that change
        self._tight: dict[Key, float] = {}  # until when no block is asked for, since there was no room for one

    @property
    def answers(self) -> int:
        """Changes with every answer of the store itself."""
        return self._blocks.answers

    def reserve(self, asked: Reserve) -> Answer:
        waits = asyncio._get_running_loop() is None
        return self._blocks.hold(asked) or at_once(made(self._store, self._reserve(asked, waits=waits)))

    async def areserve(self, asked: Reserve) -> Answer:
        answer = self._blocks.hold(asked)
        return await waited(made(self._store, self._reserve(asked), "a")) if answer is None else answer

    def settle(self, ended: Settle) -> Settled:
        """One trip at most: what a block doesn't need any more is given back with the next request, or by `tend`."""
        return self._blocks.settle(ended) or at_once(made(self._store, self._settle(ended)))

    async def asettle(self, ended: Settle) -> Settled:
        settled = self._blocks.settle(ended)
        return await waited(made(self._store, self._settle(ended), "a")) if settled is None else settled

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return at_once(made(self._store, self._read((shard, lines))))

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return await waited(made(self._store, self._read((shard, lines)), "a"))

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        """Leases on which something is held are renewed with it."""
        mine = {id: held for id in ids if (held := self._blocks.held.get(id)) is not None}
        for held in mine.values():
            held.renew(self._clock_s(), ttl_s)
        self._store.renew(shard, [*{one.lease.id for one in mine.values()}, *(set(ids) - set(mine))], ttl_s)

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        """What was spent of leases goes there before."""
        self._settle_all(shard)
        self._store.configure(shard, key, change)
        if isinstance(change, Reset):
            self._blocks.forget(shard, key)

    def overrides(self, shard: str) -> Mapping[str, Override]:
        return self._store.overrides(shard)

    def accounts(self, shard: str, after: str = "") -> Sequence[Stored]:
        """What was spent of leases goes there before."""
        self._settle_all(shard)
        return self._store.accounts(shard, after)

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        return self._store.run(shard, run_id, record)

    def tend(self) -> None:
        """End what is old; whoever has this store calls it about every second."""
        self._tidy()
        try:
            at_once(made(self._store, self._give_back()))
        except Unsent:  # once more then
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, who calls goes on
            _log.warning("leases of the %s store were not settled yet: %r", self.name, error)

    def close(self) -> None:
        """Settle what was spent of leases, if the store can be reached, and close it."""
        for held in list(self._blocks.held.values()):
            self._blocks.expire(held)
        try:
            self._settle_all()
        except Unsent as error:
            told = "%d leases were not given back to the %s store, which will charge them in full: %s"
            _log.warning(told, len(self._blocks.all), self.name, error)
        self._store.close()

    def let_go(self, shard: str, account: str) -> None:
        """Spend no more of blocks of *account*; the next request, or `tend`, settles them."""
        self._blocks.close_all(shard, account)

    def _settle_all(self, shard: str | None = None) -> None:
        self._blocks.close_all(shard)
        at_once(made(self._store, self._give_back()))

    # --- trips, as generators that know nothing of waiting; first how blocks are spent

    def _reserve(self, asked: Reserve, *, waits: bool = True) -> Trips[Answer]:
        self._tidy()
        held = self._blocks.held.get(asked.id)
        answer = None if held is None else self._blocks.resize(held, asked)
        if answer is not None:
            return answer
        yield from self._give_back()
        if held is not None:
            return (yield from self._grow(held, asked, waits=waits))
        if self._blocks.has_ended(asked.id):
            seen = yield from self._read((asked.shard, asked.lines))
            return seen._replace(gone=True)
        if not asked.digest and not any(asked.held):
            yield from self._lease(asked)
        more = tuple(map(sub, asked.amounts, asked.held))
        return self._blocks.hold(asked) or (yield from self._ask(asked, more, asked.held))

    def _grow(self, held: Held, asked: Reserve, *, waits: bool) -> Trips[Answer]:
        """Have the block of a hold hold what it needs, one after the other."""
        lease, mine = held.lease, object()
        if lease.is_open:  # so nobody else takes what this one is given
            self._blocks.close_live(lease.key)
        while self._taking.setdefault(lease.id, mine) is not mine:
            if not waits:  # the other one may be a task of the loop that this one stops
                return (yield from self._apart(held, asked))
            yield "read", lease.shard, ()  # as long as the trip of the other one takes
        try:
            own = held.hold.amounts
            more = tuple(map(sub, asked.amounts, own))
            block = tuple(map(max, lease.block, map(add, unpack(lease.account.taken), more)))
            answer = yield from self._ask(lease.asks(block, self.ttl_s), more, own)
            if answer.refused is None and not answer.gone:
                lease.block = block
                self._blocks.resize(held, asked, force=True)
            return answer
        finally:
            self._taking.pop(lease.id, None)
            self._blocks.ready.append(lease)  # as nobody could look at it meanwhile

    def _apart(self, held: Held, asked: Reserve) -> Trips[Answer]:
        """Have the store hold by itself what a block holds."""
        answer = yield from self._ask(asked._replace(held=tuple(NOTHING)), asked.amounts, NOTHING)
        if answer.refused is None and not answer.gone:
            self._blocks.leave(asked.id, held)
        return answer

    def _ask(self, asked: Reserve, more: Sequence[int], own: Sequence[int]) -> Trips[Answer]:
        """Ask the store; blocks of here that nobody needs are in nobody's way."""
        while True:
            answer = self._blocks.seen((asked.shard, asked.lines), (yield "reserve", asked))
            if answer.refused is None:
                return answer
            refusal = judge(answer.states, asked.lines, more, own)
            if refusal is not None:
                return answer._replace(refused=refusal.line, resource=refusal.resource, busy=refusal.busy)
            if not (self._blocks.close_all(asked.shard) or self._blocks.spare(asked.shard, self._taking)):
                return answer
            yield from self._give_back()

    def _read(self, key: Key) -> Trips[Answer]:
        self._tidy()
        yield from self._give_back()
        return self._blocks.seen(key, (yield "read", *key))

    def _settle(self, ended: Settle) -> Trips[Settled]:
        """Settle what the store holds, and let go of what is held of it here."""
        blocks, key = self._blocks, (ended.shard, ended.lines)
        held = blocks.held.get(ended.id)
        if held is not None and held.hold.state == "committed":  # it was interrupted right after that
            blocks.end(ended.id)
            held = None
        if held is None and blocks.has_ended(ended.id) and not ended.digest:
            seen = yield from self._read(key)
            return Settled("settled", tuple([used for used, _ in seen.states]), seen.now_s)
        paid = held.hold.on_expiry if held is not None and held.hold.state == "expired" else None
        actual = tuple([max(0, a - b) for a, b in zip(ended.actual, paid or NOTHING, strict=True)])
        settled: Settled = yield "settle", ended._replace(actual=actual)
        if held is not None or not (any(actual) or ended.digest):
            blocks.end(ended.id)
        used = [one for one, _ in blocks.mine_too(key, [(one, one) for one in settled.used])]
        was = settled.was if paid is None else "expired"
        return blocks.told(places_of(*key), ended, used)._replace(was=was, replayed=settled.replayed)

    # --- and how they are taken and given back

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
        try:
            answer: Answer = yield "reserve", lease.asks(block, self.ttl_s)
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
        self._blocks.tidy()
        now_s, tight = self._clock_s(), self._tight
        self._tight = {key: tight[key] for key in list(tight) if tight[key] > now_s}
