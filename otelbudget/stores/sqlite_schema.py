"""The tables of a SQLite store, whether a file has them, and what nobody needs of them any more.

``account`` has a row per account and window, with what was used (u) and what is held (h) of each resource. That of a
rolling window has its length, and only what is held; what was used is in ``bucket``. ``hold`` has the open holds and
the marks of those that have ended, ``run`` the records of shared runs.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from otelbudget.model.amounts import RESOURCES
from otelbudget.stores.base import KEPT_S
from otelbudget.stores.records import RUN_S

VERSION: Final = 1

_EACH: Final = range(len(RESOURCES))
#: The columns of what was used and of what is held, in the order of `RESOURCES`.
USED: Final = tuple(f"u{i}" for i in _EACH)
HELD: Final = tuple(f"h{i}" for i in _EACH)

_COUNTS: Final = " INTEGER NOT NULL DEFAULT 0, "
_TABLES: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE shard (shard TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE override (shard TEXT, key TEXT, rules TEXT NOT NULL, PRIMARY KEY (shard, key)) WITHOUT ROWID",
    f"""CREATE TABLE account (shard TEXT, key TEXT, start_s INTEGER, end_s INTEGER NOT NULL, length_s INTEGER NOT NULL,
        {_COUNTS.join((*USED, *HELD))}{_COUNTS} PRIMARY KEY (shard, key, start_s)) WITHOUT ROWID""",
    "CREATE INDEX account_end ON account (end_s)",
    f"""CREATE TABLE bucket (shard TEXT, key TEXT, number INTEGER, end_s INTEGER NOT NULL,
        {_COUNTS.join(USED)}{_COUNTS} PRIMARY KEY (shard, key, number)) WITHOUT ROWID""",
    "CREATE INDEX bucket_end ON bucket (end_s)",
    """CREATE TABLE hold (shard TEXT, id TEXT, state TEXT NOT NULL, expires_s REAL NOT NULL, digest TEXT NOT NULL,
        lines TEXT NOT NULL, amounts TEXT NOT NULL, on_expiry TEXT NOT NULL, PRIMARY KEY (shard, id)) WITHOUT ROWID""",
    "CREATE INDEX hold_open ON hold (shard, expires_s, id) WHERE state = 'open'",
    "CREATE INDEX hold_ended ON hold (expires_s) WHERE state <> 'open'",
    """CREATE TABLE run (shard TEXT, id TEXT, opened TEXT NOT NULL, state TEXT NOT NULL,
        changes INTEGER NOT NULL, opened_s REAL NOT NULL, PRIMARY KEY (shard, id)) WITHOUT ROWID""",
    "CREATE INDEX run_opened ON run (opened_s)",
)

#: How many rows of each table one trip deletes at most: more than it adds.
_ROWS: Final = 50
#: Seconds until the next look, when there was nothing left.
_REST_S: Final = 60.0
#: A clock that went further than this since the last look may have jumped, and may be set right again. A smaller jump
#: does no harm, since windows are kept for longer.
_JUMP_S: Final = 72_000.0
_IDLE: Final = " AND ".join(f"{held} = 0" for held in HELD)
_DELETE: Final = (
    "DELETE FROM hold WHERE (shard, id) IN"
    " (SELECT shard, id FROM hold WHERE state <> 'open' AND expires_s <= :now_s LIMIT :rows)",
    "DELETE FROM account WHERE (shard, key, start_s) IN"
    f" (SELECT shard, key, start_s FROM account WHERE end_s <= :past_s AND {_IDLE} LIMIT :rows)",
    "DELETE FROM bucket WHERE (shard, key, number) IN"
    " (SELECT shard, key, number FROM bucket WHERE end_s <= :past_s LIMIT :rows)",
    f"DELETE FROM run WHERE (shard, id) IN (SELECT shard, id FROM run WHERE opened_s <= :past_s - {RUN_S} LIMIT :rows)",
)


def prepare(connection: sqlite3.Connection) -> None:
    """Make a new file ours, and see that any other is.

    Raises:
        ValueError: It is somebody else's, or of a later version; it is left as it was.
    """
    empty = _empty(connection)
    if not empty:
        _check(connection)
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise ValueError(f"no write-ahead log is possible where the file is, only {mode}; use a local disk")
    connection.execute("PRAGMA synchronous=NORMAL")
    if empty:
        _create(connection)
        _check(connection)


def _empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if _empty(connection):  # nobody else was first
        for table in _TABLES:
            connection.execute(table)
        connection.execute("INSERT INTO meta VALUES ('otelbudget', ?)", (VERSION,))
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = None
    if {"meta", "account", "hold"} <= tables:
        found = connection.execute("SELECT value FROM meta WHERE name = 'otelbudget'").fetchone()
    if found is None:
        raise ValueError("the file is a database of something else; name another file for the store")
    if found[0] != VERSION:
        raise ValueError(f"the file has version {found[0]}, and this otelbudget knows {VERSION}; upgrade it everywhere")


@dataclass(slots=True)
class Tidier:
    """Deletes what is old, a little in each trip as long as there is something, and knows when to look again."""

    _next_s: float = 0.0

    def tidy(self, connection: sqlite3.Connection, now_s: float) -> None:
        """Delete marks whose time is over, and windows that ended long ago, inside the trip of *connection*."""
        if 0 < self._next_s - now_s <= _REST_S:
            return
        bounds = {"now_s": now_s, "past_s": _trusted_s(connection, now_s) - KEPT_S, "rows": _ROWS}
        most = max(connection.execute(delete, bounds).rowcount for delete in _DELETE)
        self._next_s = now_s if most == _ROWS else now_s + _REST_S


def _trusted_s(connection: sqlite3.Connection, now_s: float) -> float:
    """Until when time has passed for certain: now, or after a jump of the clock, for a day, before the jump."""
    told = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('seen_s', 'steady_s', 'trusted_s')"))
    seen_s, steady_s, trusted_s = (told.get(name, now_s) for name in ("seen_s", "steady_s", "trusted_s"))
    if abs(now_s - seen_s) > _JUMP_S:
        steady_s, trusted_s = now_s, seen_s
    elif now_s - steady_s >= KEPT_S:
        trusted_s = now_s
    trusted_s = min(trusted_s, now_s)
    rows = [("seen_s", now_s), ("steady_s", steady_s), ("trusted_s", trusted_s)]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
    return float(trusted_s)
