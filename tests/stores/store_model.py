"""What every store has to do, in the plainest words: lists of what was charged and held, added up whenever asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from otelbudget.errors import IdempotencyError, StoreError
from otelbudget.model.vector import lane, pack
from otelbudget.stores.base import (
    GRACE_S,
    PAGE,
    RECLAIMED,
    Answer,
    Line,
    Override,
    Reserve,
    Reset,
    Settle,
    Settled,
    Stored,
    WrongWindow,
)
from otelbudget.stores.records import RunRecord

Amounts = tuple[int, ...]


@dataclass
class Hold:
    shard: str
    id: str
    lines: tuple[Line, ...]
    amounts: Amounts
    on_expiry: Amounts
    expires_s: float
    digest: str
    state: str = "open"


@dataclass
class Charge:
    shard: str
    key: str
    start_s: int
    end_s: int
    rolling: bool
    at_s: float
    actual: Amounts

    def is_on(self, shard: str, line: Line) -> bool:
        same = (self.shard, self.key, self.rolling) == (shard, line.key, line.rolling)
        return same and (line.rolling or self.start_s == line.start_s)

    def number(self) -> int:
        return number(self.at_s, self.end_s - self.start_s)

    def counts(self, now_s: float) -> bool:
        return not self.rolling or self.number() >= number(now_s, self.end_s - self.start_s) - 60


def number(at_s: float, length_s: int) -> int:
    """Which sixtieth of a rolling window it is; tests use clocks of whole milliseconds."""
    return round(at_s * 1000) * 60 // (length_s * 1000)


def total(amounts: Sequence[Amounts]) -> Amounts:
    return tuple(sum(one[i] for one in amounts) for i in range(7))


class ModelStore:
    """A store that keeps everything for ever and looks through all of it each time."""

    name = "model"

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self.clock_s = clock_s
        self.holds: list[Hold] = []
        self.charges: list[Charge] = []
        self.rules: dict[tuple[str, str], Override] = {}
        self.revisions: dict[str, int] = {}
        self.runs: dict[tuple[str, str], RunRecord] = {}
        self.closed = False

    def reserve(self, asked: Reserve) -> Answer:
        now_s = self.now_s()
        hold, before = self.find(asked.shard, asked.id), None
        if hold is None and not any(asked.held):
            self.check_windows(asked.lines, now_s)
        if hold is not None and asked.digest and hold.digest:
            if asked.digest.split()[0] != hold.digest.split()[0]:
                raise IdempotencyError(asked.id)
            if not any(asked.held) and hold.state == "open":
                self.reclaim(asked.shard, now_s, but=asked.id)
                hold.expires_s = now_s + asked.ttl_s + GRACE_S
                seen = self.seen(asked.shard, asked.lines, now_s)
                return seen._replace(replayed=hold.digest != asked.digest)
            if not any(asked.held) and hold.state == "expired":
                before, hold = hold, None
                self.check_windows(asked.lines, now_s)
        self.reclaim(asked.shard, now_s, but=asked.id)
        if (hold is None and any(asked.held)) or (hold is not None and hold.state != "open"):
            return self.seen(asked.shard, asked.lines, now_s)._replace(gone=True)
        if hold is not None and [line[:4] for line in hold.lines] != [line[:4] for line in asked.lines]:
            raise WrongWindow(now_s) if asked.digest else ValueError("other lines")
        own = (0,) * 7 if hold is None else hold.amounts
        refusals = []
        seen = self.seen(asked.shard, asked.lines, now_s)
        for at, (line, (used, taken)) in enumerate(zip(asked.lines, seen.states, strict=True)):
            for i in range(7):
                limit, more = line.limits[i], asked.amounts[i] - own[i]
                if more > 0 and limit >= 0 and lane(taken, i) + more > limit:
                    refusals.append((lane(used, i) + asked.amounts[i] <= limit, at, i))
        if refusals:
            busy, at, i = min(refusals)  # limits before busy ones
            return seen._replace(refused=at, resource=i, busy=busy)
        if before is not None:
            self.holds.remove(before)
        if hold is None:
            hold = Hold(asked.shard, asked.id, asked.lines, asked.amounts, asked.on_expiry, 0, asked.digest)
            self.holds.append(hold)
        hold.amounts, hold.on_expiry = asked.amounts, asked.on_expiry
        hold.expires_s = now_s + asked.ttl_s + GRACE_S
        return self.seen(asked.shard, asked.lines, now_s)

    def settle(self, ended: Settle) -> Settled:
        now_s = self.now_s()
        hold = self.find(ended.shard, ended.id)
        keyed = hold is not None and ended.digest and hold.digest
        if hold is not None and keyed and ended.digest.split()[0] != hold.digest.split()[0]:
            raise IdempotencyError(ended.id)
        was = "unknown" if hold is None else hold.state
        if hold is None:
            if any(ended.actual) and not any(ended.held):
                self.check_windows(ended.lines, now_s)
            hold = Hold(ended.shard, ended.id, ended.lines, (0,) * 7, (0,) * 7, 0, ended.digest)
            self.holds.append(hold)
        replayed = bool(was == "settled" and keyed and ended.digest != hold.digest)
        if hold.digest and (was in ("open", "unknown") or (was == "expired" and any(ended.actual))):
            hold.digest = ended.digest or hold.digest
        if not hold.digest or any(ended.actual):
            hold.state = "settled"
        elif was in ("open", "unknown"):
            hold.state, hold.on_expiry = "expired", (0,) * 7
        if was in ("open", "unknown"):
            self.charge(ended.shard, hold.lines, ended.actual, now_s)
        elif was == "expired":
            more = tuple(max(0, a - b) for a, b in zip(ended.actual, hold.on_expiry, strict=True))
            self.charge(ended.shard, ended.lines, more, now_s)
        used = tuple(used for used, _ in self.seen(ended.shard, ended.lines, now_s).states)
        return Settled(was, used, now_s, replayed=replayed)  # type: ignore[arg-type]

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        now_s = self.now_s()
        self.reclaim(shard, now_s)
        return self.seen(shard, lines, now_s)

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        for id in ids:
            hold = self.find(shard, id)
            if hold is not None and hold.state == "open":
                hold.expires_s = self.now_s() + ttl_s + GRACE_S

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        now_s = self.now_s()
        if isinstance(change, Reset):
            self.charges = [
                one
                for one in self.charges
                if (one.shard, one.key) != (shard, key) or not (one.rolling or one.start_s <= now_s < one.end_s)
            ]
            return
        self.rules.pop((shard, key), None)
        if change is not None:
            self.rules[shard, key] = change
        self.revisions[shard] = self.revisions.get(shard, 0) + 1

    def overrides(self, shard: str) -> dict[str, Override]:
        return {key: rules for (owner, key), rules in self.rules.items() if owner == shard}

    def accounts(self, shard: str, after: str = "") -> list[Stored]:
        now_s = self.now_s()
        lines = [Line(c.key, c.start_s, c.end_s, c.rolling, ()) for c in self.charges if c.shard == shard]
        lines += [line for hold in self.holds if hold.shard == shard for line in hold.lines]
        found = {}
        for line in lines:
            if line.key > after and (line.rolling or line.start_s <= now_s < line.end_s):
                start_s, end_s = (0, line.end_s - line.start_s) if line.rolling else (line.start_s, line.end_s)
                found[line.key] = Stored(line.key, start_s, end_s, line.rolling, *self.amounts(shard, line, now_s))
        return [found[key] for key in sorted(found)][:PAGE]

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        now_s = self.now_s()
        found = self.runs.get((shard, run_id))
        if found is not None and now_s >= found.opened_s + 7 * 24 * 3600:
            found = None
        if record is not None and found is None and record.changes == 0:
            found = RunRecord(record.opened, record.state, 0, now_s)
        if record is not None and found is not None and record.changes == found.changes + 1:
            found = RunRecord(found.opened, record.state, record.changes, found.opened_s)
        if found is None:
            return None
        self.runs[shard, run_id] = found
        return found._replace(now_s=now_s)

    def close(self) -> None:
        self.closed = True

    async def areserve(self, asked: Reserve) -> Answer:
        return self.reserve(asked)

    async def asettle(self, ended: Settle) -> Settled:
        return self.settle(ended)

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return self.read(shard, lines)

    def now_s(self) -> float:
        if self.closed:
            raise StoreError("closed")
        return self.clock_s()

    def find(self, shard: str, id: str) -> Hold | None:
        return next((hold for hold in self.holds if (hold.shard, hold.id) == (shard, id)), None)

    def charge(self, shard: str, lines: tuple[Line, ...], actual: Amounts, now_s: float) -> None:
        for line in lines:
            self.charges.append(Charge(shard, *line[:4], now_s, actual))

    def reclaim(self, shard: str, now_s: float, but: str = "") -> None:
        due = [h for h in self.holds if h.shard == shard and h.state == "open" and h.expires_s <= now_s and h.id != but]
        for hold in sorted(due, key=lambda h: (h.expires_s, h.id))[:RECLAIMED]:
            hold.state = "expired"
            self.charge(shard, hold.lines, hold.on_expiry, now_s)

    def amounts(self, shard: str, line: Line, now_s: float) -> tuple[Amounts, Amounts]:
        used = total([one.actual for one in self.charges if one.is_on(shard, line) and one.counts(now_s)])
        open_holds = [one for one in self.holds if one.shard == shard and one.state == "open"]
        held = total([one.amounts for one in open_holds if line[:4] in [other[:4] for other in one.lines]])
        return used, total([used, held])

    def seen(self, shard: str, lines: tuple[Line, ...], now_s: float) -> Answer:
        found = [self.amounts(shard, line, now_s) for line in lines]
        states = tuple((pack(used), pack(taken)) for used, taken in found)
        return Answer(None, -1, False, False, states, self.revisions.get(shard, 0), now_s)

    @staticmethod
    def check_windows(lines: tuple[Line, ...], now_s: float) -> None:
        if not all(line.rolling or line.start_s <= now_s < line.end_s for line in lines):
            raise WrongWindow(now_s)
