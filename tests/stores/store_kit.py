"""What the tests of stores share: the stores, a clock, and short words for lines, amounts and trips."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from redis_server import empty_server
from store_model import ModelStore

from otelbudget.model.vector import lane, pack
from otelbudget.stores.base import FOREVER_S, Answer, Line, Reserve, Settle, Settled, Store
from otelbudget.stores.lease import Leased
from otelbudget.stores.memory import MemoryStore
from otelbudget.stores.redis import RedisStore
from otelbudget.stores.sqlite import SqliteStore

NOTHING = (0,) * 7
NO_LIMITS = (-1,) * 7
DAY_S = 86_400
#: Noon of a day.
NOON_S = 20_000 * DAY_S + DAY_S // 2


class ClockedRedis(RedisStore):
    """A server that takes the clock of the tests for its own."""

    def __init__(self, url: str, clock_s: Callable[[], float]) -> None:
        super().__init__(url, timeout_s=5)
        self._clock_s = clock_s

    def _now(self) -> str | int:
        return round(self._clock_s() * 1000)


#: Every store that the suite is run for: made from a clock and an empty directory.
STORES: dict[str, Callable[[Callable[[], float], Path], Store]] = {
    "model": lambda clock_s, _: ModelStore(clock_s),
    "memory": lambda clock_s, _: MemoryStore(clock_s=clock_s),
    "sqlite": lambda clock_s, folder: SqliteStore(folder / "store.db", clock_s=clock_s),
    "redis": lambda clock_s, _: ClockedRedis(empty_server().url, clock_s),
    "lease": lambda clock_s, _: Leased(ModelStore(clock_s), 1.0, clock_s),
    "valkey": lambda clock_s, _: ClockedRedis(empty_server("valkey-server").url, clock_s),
}


class Clock:
    """A wall clock that tests set, in whole milliseconds."""

    def __init__(self, now_s: float = NOON_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, by_s: float) -> None:
        self.now_s = round(self.now_s + by_s, 3)


def tokens(amount: int, *, steps: int = 0) -> tuple[int, ...]:
    return (steps, amount, 0, 0, 0, 0, 0)


def vector(amount: int, *, steps: int = 0) -> int:
    """The same as an answer has it."""
    return pack(tokens(amount, steps=steps))


def limit(amount: int) -> tuple[int, ...]:
    """A limit of tokens, and of nothing else."""
    return (-1, amount, -1, -1, -1, -1, -1)


def lifetime(key: str = "life", limits: tuple[int, ...] = NO_LIMITS) -> Line:
    return Line(key, 0, FOREVER_S, False, limits)


def day(now_s: float = NOON_S, key: str = "day", limits: tuple[int, ...] = NO_LIMITS) -> Line:
    start_s = int(now_s // DAY_S) * DAY_S
    return Line(key, start_s, start_s + DAY_S, False, limits)


def rolling(length_s: int = 3600, key: str = "rolling", limits: tuple[int, ...] = NO_LIMITS) -> Line:
    return Line(key, 0, length_s, True, limits)


class Caller:
    """Short ways to ask *store*, of the shard ``acme`` and one lifetime unless told otherwise; amounts are tokens."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def reserve(self, id: str, amount: int, *lines: Line, held: int = 0, **more: Any) -> Answer:
        asked = Reserve(id, "acme", lines or (lifetime(),), tokens(amount), tokens(held), NOTHING, 60.0)
        return self.store.reserve(asked._replace(**more))

    def settle(self, id: str, amount: int, *lines: Line, held: int = 1, **more: Any) -> Settled:
        ended = Settle(id, "acme", lines or (lifetime(),), tokens(held), tokens(amount), NOTHING)
        return self.store.settle(ended._replace(**more))

    def record(self, id: str, amount: int, *lines: Line, **more: Any) -> Settled:
        return self.settle(id, amount, *lines, held=0, **more)

    def state(self, *lines: Line, shard: str = "acme") -> tuple[int, int]:
        """Tokens that the first line has used, and has taken."""
        used, taken = self.store.read(shard, lines or (lifetime(),)).states[0]
        return lane(used, 1), lane(taken, 1)


def dump(path: Path) -> list[tuple[object, ...]]:
    """Every row of every table but the notes of the tidier."""
    with closing(sqlite3.connect(path)) as reader:
        tables = [name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [(name, *row) for name in tables if name != "meta" for row in reader.execute(f"SELECT * FROM {name}")]


def count(path: Path, table: str) -> int:
    return sum(row[0] == table for row in dump(path))
