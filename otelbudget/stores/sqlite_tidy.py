"""Deleting what nobody needs any more from a SQLite store: a little in each trip, as long as there is something."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from otelbudget.stores.base import KEPT_S
from otelbudget.stores.records import RUN_S
from otelbudget.stores.sqlite_schema import HELD

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


@dataclass(slots=True)
class Tidier:
    """When this process looks again for what it can delete."""

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
