"""Accounts in the memory of this process, behind the same protocol as the others: the ledger, asked trip by trip.

It is what the others are measured against, and what stands in for one that can't be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final

from otelbudget import forking
from otelbudget.errors import StoreError
from otelbudget.ledger.account import Hold, HoldState, QuotaAccount
from otelbudget.ledger.accounts import Accounts
from otelbudget.ledger.change import Changes
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.amounts import NOTHING, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.vector import pack, unpack
from otelbudget.model.windows import Window, WindowSpec
from otelbudget.stores import keyed
from otelbudget.stores.base import (
    GRACE_S,
    KEYED_MARK_S,
    MARK_S,
    PAGE,
    RECLAIMED,
    Answer,
    Line,
    Override,
    Reserve,
    Reset,
    Settle,
    Settled,
    Store,
    Stored,
    WrongWindow,
)
from otelbudget.stores.block import rules_of
from otelbudget.stores.records import RUN_S, RunRecord, written

_MANY: Final = 1_000  # runs of a shard
_LIFETIME: Final = WindowSpec("lifetime")
_WAS: Final[dict[str, Any]] = {"new": "unknown", "open": "open", "expired": "expired"}


@dataclass(slots=True, eq=False)
class _Kept:
    """A hold, or the mark of one that has ended, and until when it is kept."""

    lines: tuple[Line, ...]
    digest: str
    until_s: float = 0.0
    hold: Hold = field(default_factory=Hold)


@dataclass(slots=True)
class _Shard:
    """What is kept together; *due* has (until_s, id), also of times that were put off, *runs* the oldest first."""

    kept: dict[str, _Kept] = field(default_factory=dict)
    due: list[tuple[float, str]] = field(default_factory=list)
    overrides: dict[str, Override] = field(default_factory=dict)
    revision: int = 0
    runs: dict[str, RunRecord] = field(default_factory=dict)

    def keep(self, id: str, one: _Kept, until_s: float) -> None:
        """Keep *one* until then; whoever looks at `due` finds what is over."""
        self.kept[id], one.until_s = one, until_s
        heappush(self.due, (until_s, id))

    def mark(self, id: str, one: _Kept, now_s: float) -> None:
        self.keep(id, one, now_s + (KEYED_MARK_S if one.digest else MARK_S))


class MemoryStore(Store):
    """A store of this process alone, for its threads and tasks.

    Windows that have ended are kept for a day, short ones only as long as there are few accounts.

    Args:
        ttl_s: How long holds shall live that are not renewed; whoever reserves puts it into the request.
        clock_s: Wall clock in Unix seconds.
    """

    name = "memory"

    def __init__(self, *, ttl_s: float = 60.0, clock_s: Callable[[], float] = time.time) -> None:
        self.ttl_s = ttl_s
        self._clock_s = clock_s
        self._ledger = Ledger(clock_s=lambda: self._now_s)  # one moment for a whole trip
        self._accounts = Accounts(self._ledger)
        self._shards: dict[str, _Shard] = {}
        self._now_s, self._closed = 0.0, False
        self._lock = forking.held_lock()  # re-entrant only because it knows its owner
        forking.tell(self)

    def reserve(self, asked: Reserve) -> Answer:
        with self._trip(asked.shard) as shard:
            one = self._find(shard, asked.id, asked.digest)
            again = one is not None and keyed.is_again(one.digest, asked)
            if again and one is not None and one.hold.state == "expired":
                one = None
            if one is None and not any(asked.held):
                self._check_windows(asked.lines)
            self._reclaim(asked.shard, but=asked.id)
            if again and one is not None and one.hold.state == "open":
                shard.keep(asked.id, one, self._now_s + asked.ttl_s + GRACE_S)
                replayed = keyed.is_of_another(one.digest, asked.digest)
                return self._seen(asked.shard, asked.lines)._replace(replayed=replayed)
            if (one is None and any(asked.held)) or (one is not None and one.hold.state != "open"):
                return self._seen(asked.shard, asked.lines)._replace(gone=True)
            if one is not None and [line[:4] for line in one.lines] != [line[:4] for line in asked.lines]:
                raise keyed.on_other_lines(asked, self._now_s)
            return self._held(shard, asked, one)

    def _held(self, shard: _Shard, asked: Reserve, one: _Kept | None) -> Answer:
        accounts = self._of(asked.shard, asked.lines)
        for account, line in zip(accounts, asked.lines, strict=True):
            rules = rules_of(line.limits)
            if account.rules is not rules:
                self._ledger.limit(account, rules)
        until_s, amounts = self._now_s + asked.ttl_s + GRACE_S, Amounts(*asked.amounts)
        before, kept = shard.kept.get(asked.id), one or _Kept(asked.lines, asked.digest)
        hold = kept.hold
        if one is not None:
            refused = self._ledger.resize(hold, amounts)
        else:  # kept first: whatever interrupts this, what is held is found when its time is up
            hold.accounts, hold.amounts, hold.vector = accounts, amounts, pack(amounts)
            shard.keep(asked.id, kept, until_s)
            refused = self._ledger.hold(hold, self, (), 0, [])
        seen = self._seen(asked.shard, asked.lines)
        if refused is not None:
            shard.kept[asked.id] = before or kept
            at = next(n for n, account in enumerate(accounts) if account is refused.account)
            return seen._replace(refused=at, resource=refused.resource, busy=refused.busy)
        hold.on_expiry = Amounts(*asked.on_expiry)
        shard.keep(asked.id, kept, until_s)
        return seen

    def settle(self, ended: Settle) -> Settled:
        with self._trip(ended.shard) as shard:
            one = self._find(shard, ended.id, ended.digest)
            kept = one or _Kept(ended.lines, ended.digest)
            hold, actual = kept.hold, pack(ended.actual)
            was = _WAS.get(hold.state, "settled")
            ends_as: HoldState = "expired" if kept.digest and not actual else "committed"
            accounts = self._of(ended.shard, kept.lines if was == "open" else ended.lines)
            if one is None:
                if actual and not any(ended.held):
                    self._check_windows(ended.lines)
                shard.kept[ended.id] = kept
                self._ledger.charge(accounts, actual, (), [(hold, "state", ends_as)])
            elif was == "open":
                writes: Changes = [] if actual else [(hold, "on_expiry", NOTHING)]
                self._ledger.settle(hold, actual, ends_as, (), writes)
            elif was == "expired":
                hold.accounts = accounts
                more = [max(0, a - b) for a, b in zip(ended.actual, hold.on_expiry, strict=True)]
                self._ledger.settle(hold, pack(more), ends_as, was="expired")
            replayed = was == "settled" and keyed.is_of_another(kept.digest, ended.digest)
            if was not in ("settled", ends_as):
                kept.digest = kept.digest and (ended.digest or kept.digest)
                shard.mark(ended.id, kept, self._now_s)
            used = tuple([one.used for one in self._of(ended.shard, ended.lines)])
            return Settled(was, used, self._now_s, replayed=replayed)

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        with self._trip(shard):
            self._reclaim(shard)
            return self._seen(shard, lines)

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        with self._trip(shard) as found:
            for id in ids:
                one = self._find(found, id)
                if one is not None and one.hold.state == "open":
                    found.keep(id, one, self._now_s + ttl_s + GRACE_S)

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        with self._trip(shard) as found:
            if isinstance(change, Reset):
                for account in self._current(shard):
                    if account.where.names == (key,):
                        self._ledger.forget(account)
                return
            found.overrides.pop(key, None)
            if change is not None:
                found.overrides[key] = change
            found.revision += 1

    def overrides(self, shard: str) -> Mapping[str, Override]:
        with self._trip(shard) as found:
            return dict(found.overrides)

    def accounts(self, shard: str, after: str = "") -> Sequence[Stored]:
        with self._trip(shard):
            found = [stored for one in self._current(shard) if (stored := _stored(one)).key > after]
            return sorted(found)[:PAGE]

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        with self._trip(shard) as found:
            runs = found.runs
            over_s = self._now_s - RUN_S  # not given, but kept while they are few: the clock may be set back
            while len(runs) >= _MANY and next(iter(runs.values())).opened_s <= over_s:
                del runs[next(iter(runs))]
            one = runs.get(run_id)
            one = None if one is None or one.opened_s <= over_s else one
            if record is not None and (one := written(one, record, self._now_s)) is not None:
                runs[run_id] = one
            return None if one is None else one._replace(now_s=self._now_s)

    def close(self) -> None:
        self._closed = True

    async def areserve(self, asked: Reserve) -> Answer:
        return self.reserve(asked)

    async def asettle(self, ended: Settle) -> Settled:
        return self.settle(ended)

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return self.read(shard, lines)

    def forked(self) -> None:
        self._ledger.forked()

    # --- inside a trip

    @contextmanager
    def _trip(self, shard: str) -> Iterator[_Shard]:
        if self._lock._is_owned():  # what threading.Condition asks of a lock
            raise StoreError("this thread is in the middle of a trip, which a finalizer or signal handler interrupts")
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            self._now_s = self._clock_s()
            yield self._shards.setdefault(shard, _Shard())

    def _find(self, shard: _Shard, id: str, digest: str = "") -> _Kept | None:
        one = shard.kept.get(id)
        if one is None or one.hold.state == "new":  # it was refused
            return None
        keyed.check(id, one.digest, digest)
        return one

    def _check_windows(self, lines: tuple[Line, ...]) -> None:
        if not all(line.rolling or line.start_s <= self._now_s < line.end_s for line in lines):
            raise WrongWindow(self._now_s)

    def _reclaim(self, name: str, but: str = "") -> None:
        """End expired holds, the longest overdue first, other than *but*, and forget marks whose time is over."""
        shard, spared, ended = self._shards[name], 0.0, 0
        while shard.due and shard.due[0][0] <= self._now_s and ended < RECLAIMED:
            until_s, id = heappop(shard.due)
            one = shard.kept.get(id)
            if one is None or one.until_s != until_s:  # it was put off
                continue
            if id == but:
                spared = until_s
            elif one.hold.state == "open":
                ended += 1
                self._of(name, one.lines)
                self._ledger.settle(one.hold, pack(one.hold.on_expiry), "expired")
                shard.mark(id, one, self._now_s)
            else:
                del shard.kept[id]
        if spared:
            heappush(shard.due, (spared, but))

    def _of(self, shard: str, lines: tuple[Line, ...]) -> tuple[QuotaAccount, ...]:
        """The accounts of *lines*, as they are now."""
        return tuple(self._account(shard, line) for line in lines)

    def _account(self, shard: str, line: Line) -> QuotaAccount:
        length_s = line.end_s - line.start_s
        start_s, end_s = (0, length_s) if line.rolling else (line.start_s, line.end_s)
        spec = WindowSpec(f"rolling {length_s}s") if line.rolling else _LIFETIME
        return self._accounts.at(Where(shard, (line.key,)), spec, Window(line.key, start_s, end_s), self._now_s)

    def _current(self, shard: str) -> list[QuotaAccount]:
        """All accounts of *shard* in the windows of now."""
        return [
            self._accounts.at(one.where, one.spec, Window("", one.start_s, one.end_s), self._now_s)
            for one in self._accounts
            if one.where.scope == shard and (one.buckets is not None or one.start_s <= self._now_s < one.end_s)
        ]

    def _seen(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        states = tuple([(one.used, one.taken) for one in self._of(shard, lines)])
        return Answer(None, -1, False, False, states, self._shards[shard].revision, self._now_s)


def _stored(one: QuotaAccount) -> Stored:
    used, taken = tuple(unpack(one.used)), tuple(unpack(one.taken))
    return Stored(one.where.names[0], int(one.start_s), int(one.end_s), one.buckets is not None, used, taken)
