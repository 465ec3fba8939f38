"""One transaction of a SQLite store: accounts are read once, changed in memory, and written together at its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Final, NamedTuple

from otelbudget.model.amounts import NOTHING
from otelbudget.model.vector import pack
from otelbudget.model.windows import BUCKETS, bucket
from otelbudget.stores.base import GRACE_S, KEYED_MARK_S, MARK_S, RECLAIMED, Line, State
from otelbudget.stores.sqlite_schema import HELD, USED

#: Where a sum stops: above every limit, and low enough for SQLite to add those of all buckets in 64 bits.
TOP: Final = 2**56

_SET: Final = ", ".join(f"{name} = excluded.{name}" for name in ("end_s", *USED, *HELD))
_READ: Final = f"SELECT {', '.join((*USED, *HELD))} FROM account WHERE shard = ? AND key = ? AND start_s = ?"
_WRITE: Final = f"""INSERT INTO account VALUES (?, ?, ?, ?, ?{", ?" * len((*USED, *HELD))})
    ON CONFLICT (shard, key, start_s) DO UPDATE SET {_SET}"""
_SUM: Final = f"""SELECT {", ".join(f"coalesce(sum({u}), 0)" for u in USED)} FROM bucket
    WHERE shard = ? AND key = ? AND number >= ?"""
_ADD: Final = f"""INSERT INTO bucket VALUES (?, ?, ?, ?{", ?" * len(USED)})
    ON CONFLICT (shard, key, number) DO UPDATE SET {", ".join(f"{u} = min({u} + excluded.{u}, {TOP})" for u in USED)}"""
_EXPIRED: Final = """SELECT id, state, digest, lines, amounts, on_expiry FROM hold
    WHERE shard = ? AND state = 'open' AND expires_s <= ? AND id <> ? ORDER BY expires_s, id LIMIT ?"""
_FIND: Final = "SELECT id, state, digest, lines, amounts, on_expiry FROM hold WHERE shard = ? AND id = ?"
_PUT: Final = "INSERT OR REPLACE INTO hold VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Account:
    """What one account will have; *charged* is what this trip adds to the bucket of now."""

    start_s: int
    end_s: int
    length_s: int
    used: Sequence[int]
    held: Sequence[int]
    charged: Sequence[int] = NOTHING
    changed: bool = False


class Hold(NamedTuple):
    """A row of ``hold``."""

    id: str
    state: str
    digest: str
    lines: str
    amounts: str
    on_expiry: str


@dataclass(slots=True)
class Trip:
    """The accounts and holds of *shard* within one transaction, at the time *now_s*."""

    connection: sqlite3.Connection
    shard: str
    now_s: float
    _accounts: dict[tuple[str, int], _Account] = field(default_factory=dict)

    def revision(self) -> int:
        """Of the shard's overrides."""
        row = self.connection.execute("SELECT revision FROM shard WHERE shard = ?", (self.shard,)).fetchone()
        return row[0] if row else 0

    def states(self, lines: Iterable[Line]) -> tuple[State, ...]:
        """(used, taken) of each line, as changed so far."""
        return tuple([(pack(one.used), pack(one.used) + pack(one.held)) for one in map(self._account, lines)])

    def hold(self, lines: Iterable[Line], more: Sequence[int]) -> None:
        """Hold *more* on every line; less where it is below 0."""
        for one in map(self._account, lines):
            one.held = tuple(map(add, one.held, more))
            one.changed = True

    def charge(self, lines: Iterable[Line], actual: Sequence[int]) -> None:
        """Charge *actual* to every line."""
        for one in map(self._account, lines) if any(actual) else ():
            one.used = _sum(one.used, actual)
            one.charged = _sum(one.charged, actual)
            one.changed = True

    def end(self, ended: Hold, charged: Sequence[int]) -> None:
        """Give back what an open hold holds, and charge *charged*."""
        lines = _lines(ended.lines)
        self.hold(lines, [-amount for amount in json.loads(ended.amounts)])
        self.charge(lines, charged)

    def find(self, id: str) -> Hold | None:
        """The hold or mark *id*."""
        row = self.connection.execute(_FIND, (self.shard, id)).fetchone()
        return None if row is None else Hold(*row)

    def put(self, hold: Hold, expires_s: float) -> None:
        """Write a hold that lives, or a mark that stays, until *expires_s*."""
        id, state, digest, *rest = hold
        self.connection.execute(_PUT, (self.shard, id, state, expires_s, digest, *rest))

    def mark(self, hold: Hold) -> None:
        """Write the mark of an ended hold."""
        self.put(hold, self.now_s + (KEYED_MARK_S if hold.digest else MARK_S))

    def renew(self, ids: Iterable[str], ttl_s: float) -> None:
        """Let those of *ids* that are open live *ttl_s* from now."""
        until_s = self.now_s + ttl_s + GRACE_S
        rows = [(until_s, self.shard, one) for one in ids]
        self.connection.executemany("UPDATE hold SET expires_s = ? WHERE shard = ? AND id = ? AND state = 'open'", rows)

    def reclaim(self, but: str = "") -> None:
        """End expired holds, the longest overdue first, other than *but*."""
        for row in self.connection.execute(_EXPIRED, (self.shard, self.now_s, but, RECLAIMED)).fetchall():
            found = Hold(*row)
            self.end(found, json.loads(found.on_expiry))
            self.mark(found._replace(state="expired"))

    def rolled(self, key: str, length_s: int) -> tuple[int, ...]:
        """What a rolling window has used."""
        first = bucket(length_s, self.now_s) - BUCKETS
        used: tuple[int, ...] = self.connection.execute(_SUM, (self.shard, key, first)).fetchone()
        return used

    def write(self) -> None:
        """Write all accounts that have changed."""
        changed = [(key, one) for (key, _), one in self._accounts.items() if one.changed]
        self.connection.executemany(_WRITE, [self._row(key, one) for key, one in changed])
        for key, one in changed:
            if one.length_s and any(one.charged):
                self._add(key, one.length_s, one.charged)

    def _account(self, line: Line) -> _Account:
        key = (line.key, 0 if line.rolling else line.start_s)
        return self._accounts.get(key) or self._accounts.setdefault(key, self._load(line, key))

    def _load(self, line: Line, key: tuple[str, int]) -> _Account:
        row = self.connection.execute(_READ, (self.shard, *key)).fetchone() or (*NOTHING, *NOTHING)
        used, held = row[: len(USED)], row[len(USED) :]
        if not line.rolling:
            return _Account(line.start_s, line.end_s, 0, used, held)
        length_s = line.end_s - line.start_s
        return _Account(0, self._leaves_s(length_s), length_s, self.rolled(line.key, length_s), held)

    def _row(self, key: str, one: _Account) -> tuple[object, ...]:
        used = NOTHING if one.length_s else one.used
        return (self.shard, key, one.start_s, one.end_s, one.length_s, *used, *one.held)

    def _add(self, key: str, length_s: int, amounts: Sequence[int]) -> None:
        place = (self.shard, key, bucket(length_s, self.now_s), self._leaves_s(length_s))
        self.connection.execute(_ADD, (*place, *amounts))

    def _leaves_s(self, length_s: int) -> int:
        """When the bucket of now has left the window."""
        return -(-(bucket(length_s, self.now_s) + 1 + BUCKETS) * length_s // BUCKETS)


def _sum(before: Sequence[int], more: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(a + b, TOP) for a, b in zip(before, more, strict=True))


def _lines(text: str) -> list[Line]:
    return [Line(key, start_s, end_s, rolling, ()) for key, start_s, end_s, rolling in json.loads(text)]
