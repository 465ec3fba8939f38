"""What a process knows of the blocks that it has leased, see `lease`: what is held and spent on them. No trips here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from otelbudget.errors import StoreError
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.amounts import Amounts
from otelbudget.model.vector import pack, positive
from otelbudget.stores.base import MARK_S, Answer, Reserve, Settle, Settled, State
from otelbudget.stores.block import CLOSED, Held, Key, Lease, Place, rules_of

#: For how long an id that has ended is known at least, seconds: longer than anybody sends it again.
KNOWN_S: Final = 10.0
#: How often what holds on closed blocks don't need any more is given back.
SPARE_S: Final = 1.0


class Blocks:
    """All leases of one store.

    Args:
        clock_s: The store's clock, as it is known here.

    Attributes:
        live: Those that are spent from.
        all: Those that may hold something in the store.
        ready: Closed ones, whose holds have ended, or of which nobody needs the rest.
        held: The holds on them, by id.
        revisions: Of the shards, as the store has told last.
        answers: Changes with every answer of the store.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self.clock_s = clock_s
        self.live: dict[Key, Lease] = {}
        self.all: dict[str, Lease] = {}
        self.ready: deque[Lease] = deque()
        self.held: dict[str, Held] = {}
        self.revisions: dict[str, int] = {}
        self._ledger = Ledger(clock_s=clock_s)
        self._ended: set[str] = set()
        self._ended_before: set[str] = set()
        self._due_s = self._turned_s = 0.0
        self._told: dict[Place, int] = {}
        self.answers = 0

    # --- leases

    def open(self, lease: Lease, answer: Answer, block: Sequence[int], limits: Sequence[int], until_s: float) -> None:
        """Spend from *lease*, to which the store has given *block*, until then or until it is closed."""
        lease.is_open = True  # first, or whoever tidies up gives it back
        lease.block = tuple(block)
        bounds = [b if limit >= 0 else -1 for b, limit in zip(block, limits, strict=True)]
        lease.states = self.seen(lease.key, answer).states
        lease.until_s = min([until_s, *(line.end_s for line in lease.lines if not line.rolling)])
        self._due_s = min(self._due_s, lease.until_s)
        self._ledger.limit(lease.account, rules_of(bounds))
        self.live[lease.key] = lease

    def close(self, lease: Lease) -> None:
        """Admit nothing more on *lease*."""
        self._ledger.limit(lease.account, CLOSED)
        lease.is_open = False  # only now may it be settled: nothing more is held on it
        self.ready.append(lease)

    def close_all(self, shard: str | None = None, account: str | None = None) -> bool:
        """Close those of *shard*, or all, or only those that *account* is one of; gives whether there were any."""
        found = [key for key in list(self.live) if shard in (None, key[0])]
        if account is not None:
            found = [key for key in found if any(line.key == account for line in key[1])]
        for key in found:
            self.close_live(key)
        return bool(found)

    def close_live(self, key: Key) -> None:
        """Close the one that is spent from, if there is one."""
        lease = self.live.pop(key, None)
        if lease is not None:
            self.close(lease)

    def spare(self, shard: str | None = None, but: Iterable[object] = ()) -> bool:
        """Make those closed ones ready, all *but* these, whose holds have ended or need less by now, also where an
        interruption came before that; gives whether there were any."""
        # One that has no block yet is about to be taken.
        closed = [lease for lease in list(self.all.values()) if not lease.is_open and any(lease.block)]
        ready = {lease.id for lease in list(self.ready)}.union(list(but))
        found = [
            lease
            for lease in closed
            if shard in (None, lease.shard) and lease.id not in ready
            if not lease.account.holds or lease.needed() != lease.block
        ]
        self.ready.extend(found)
        return bool(found)

    def next_ready(self) -> Lease | None:
        """The next that is ready, if it still holds something in the store."""
        try:
            lease = self.ready.popleft()
        except IndexError:  # another thread has it
            return None
        return lease if lease.id in self.all else None

    def keep(self, lease: Lease) -> None:
        """*lease* could not be settled, and is ready for another try."""
        self.all[lease.id] = lease
        self.ready.append(lease)

    def seen(self, key: Key, answer: Answer) -> Answer:
        """An *answer* of the store, with `mine_too`."""
        self.revisions[key[0]] = answer.revision
        return answer._replace(states=self.mine_too(key, answer.states))

    def mine_too(self, key: Key, states: Sequence[State]) -> tuple[State, ...]:
        """*states* of the store, in which what was spent of blocks is used, and what is left of them is not taken."""
        self.answers += 1
        shard, lines = key
        found = list(states)
        places = {line[:4]: n for n, line in enumerate(lines)}
        for lease in list(self.all.values()):
            if lease.shard == shard and any(lease.block):
                spent, unspent = lease.account.used, pack(lease.block) - lease.account.taken
                for n in [places[line[:4]] for line in lease.lines if line[:4] in places]:
                    used, taken = found[n][0] + spent, found[n][1] - unspent
                    # At least what is used, where the store has lost the block.
                    found[n] = used, used + positive(taken - used)
        return tuple(found)

    def _view(self, lease: Lease, now_s: float) -> Answer:
        return Answer(None, -1, False, False, lease.seen(), self.revisions[lease.shard], now_s)

    # --- holds

    def hold(self, asked: Reserve) -> Answer | None:
        """Hold what is asked on a lease of its accounts; None if none has so much, or it is nothing new."""
        lease = self.live.get((asked.shard, asked.lines))
        if lease is None or asked.digest or any(asked.held) or not any(asked.amounts) or self.knows(asked.id):
            return None
        now_s = self.clock_s()
        if now_s >= lease.until_s:
            self.close_live(lease.key)
            return None
        held = self.held[asked.id] = Held(asked, lease, now_s)  # first: what is interrupted expires
        self._due_s = min(self._due_s, held.until_s)
        if self._ledger.hold(held.hold, self, (), 0, []) is not None:
            self.held.pop(asked.id, None)
            return None
        return self._view(lease, now_s)

    def knows(self, id: str) -> bool:
        """Whether it is or was that of a hold here."""
        return id in self.held or self.has_ended(id)

    def has_ended(self, id: str) -> bool:
        """Whether it has ended here."""
        return id in self._ended or id in self._ended_before

    def end(self, id: str) -> None:
        """Note that it has ended."""
        self._ended.add(id)
        self.held.pop(id, None)

    def leave(self, id: str, held: Held) -> None:
        """Hold it no more: the store does."""
        self.held.pop(id, None)
        self._ledger.settle(held.hold, 0, "released")
        self.let_go(held.lease)

    def resize(self, held: Held, asked: Reserve, *, force: bool = False) -> Answer | None:
        """Make a hold as large as is asked; None if its block has not so much."""
        now_s, hold = self.clock_s(), held.hold
        refused = self._ledger.resize(hold, Amounts(*asked.amounts), force=force)
        if hold.state != "open":
            return self._view(held.lease, now_s)._replace(gone=True)
        if refused is not None:
            return None
        hold.on_expiry = Amounts(*asked.on_expiry)
        held.renew(now_s, asked.ttl_s)
        return self._view(held.lease, now_s)

    def settle(self, ended: Settle) -> Settled | None:
        """End a hold by charging its lease; None if that is not the whole of it."""
        held = self.held.get(ended.id)
        if held is None:
            return None
        if self._ledger.inside:
            raise StoreError("this thread is in the middle of a trip, which a finalizer or signal handler interrupts")
        if self._ledger.settle(held.hold, pack(ended.actual), "committed") is None:
            return None
        self.end(ended.id)
        self.let_go(held.lease)
        return self.told(held.lease.places, ended, [used for used, _ in held.lease.seen()])

    def let_go(self, lease: Lease) -> None:
        """A hold on *lease* has ended."""
        if not lease.is_open and not lease.account.holds:
            self.ready.append(lease)

    def told(self, places: Sequence[Place], ended: Settle, used: Sequence[int]) -> Settled:
        """The answer that *used* is charged by now, of which this process knows a part already."""
        actual = pack(ended.actual)
        since = [self._told.get(place, now - actual) for place, now in zip(places, used, strict=True)]
        self._told.update(zip(places, used, strict=True))
        return Settled("open", tuple(used), self.clock_s(), tuple(since))

    def forget(self, shard: str, account: str) -> None:
        """*account* begins anew, and so do its thresholds."""
        told = self._told
        self._told = {place: told[place] for place in list(told) if place[:2] != (shard, account)}

    def expire(self, held: Held) -> None:
        """Charge what expiry charges, and give back the rest."""
        if self._ledger.settle(held.hold, pack(held.hold.on_expiry), "expired") is not None:
            held.until_s = self.clock_s() + MARK_S
            self.let_go(held.lease)

    def tidy(self) -> None:
        """End what is old."""
        now_s = self.clock_s()
        if now_s < self._due_s:
            return
        for key in list(self.live):
            if (lease := self.live.get(key)) is not None and lease.until_s <= now_s:
                self.close_live(key)
        for id in list(self.held):
            if (held := self.held.get(id)) is None or held.until_s > now_s:
                continue
            if held.hold.state == "open":
                self.expire(held)
            else:
                self.held.pop(id, None)
        self.spare()
        untils_s = [lease.until_s if lease.is_open else now_s + SPARE_S for lease in list(self.all.values())]
        untils_s += [held.until_s for held in list(self.held.values())]
        self._due_s = min(untils_s, default=now_s + KNOWN_S)
        if now_s - self._turned_s > KNOWN_S:
            self._turned_s, self._ended, self._ended_before = now_s, set(), self._ended
            told = self._told
            self._told = {place: told[place] for place in list(told) if place[4] or place[3] > now_s}
