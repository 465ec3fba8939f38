"""What five levels cost in a shared store against one, and a settle against a reserve. Run by hand:

    python tests/benchmarks/stores.py [redis://localhost:6379/9]

That measures SQLite, or the server at the address, beside the barest script there: a counter with a limit; the same
with leases, beside the memory of the process; and, where `limits` is installed, its fixed windows. Every ratio is the
median over rounds of one process, in which both sides alternate; trips per second are only to know the order of size,
since they depend on the disk and the way.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from operator import truediv
from pathlib import Path

from otelbudget.stores.base import FOREVER_S, Line, Reserve, Settle, Store
from otelbudget.stores.lease import Leased
from otelbudget.stores.memory import MemoryStore
from otelbudget.stores.redis import RedisStore
from otelbudget.stores.sqlite import SqliteStore

ROUNDS = 31
TRIPS = 100
NOTHING = (0,) * 7
AMOUNTS = (1, 500, 400, 100, 2_000_000, 0, 0)
LIMITS = (10**9, 10**12, -1, -1, 10**15, -1, -1)


def lines(levels: int, length_s: int | None = None) -> tuple[Line, ...]:
    """Accounts of a lifetime, or of a rolling window of *length_s*."""
    rolling = length_s is not None
    return tuple(Line(f"{levels} {length_s} {i}", 0, length_s or FOREVER_S, rolling, LIMITS) for i in range(levels))


def timed(trip: Callable[[str], object], ids: list[str]) -> float:
    """Seconds of one trip for each of *ids*."""
    began_s = time.perf_counter()
    for id in ids:
        trip(id)
    return time.perf_counter() - began_s


def measure(store: Store, accounts: tuple[Line, ...], round: object) -> tuple[float, float, float]:
    """Seconds of a round of reserves, of their settles, and of reads."""
    ids = [f"{accounts[0].key} {len(accounts)} {round} {i}" for i in range(TRIPS)]
    reserve = Reserve("", "org", accounts, AMOUNTS, NOTHING, NOTHING, 60.0)
    settle = Settle("", "org", accounts, AMOUNTS, AMOUNTS, NOTHING)
    reserves_s = timed(lambda id: store.reserve(reserve._replace(id=id)), ids)
    settles_s = timed(lambda id: store.settle(settle._replace(id=id)), ids)
    return reserves_s, settles_s, timed(lambda _: store.read("org", accounts), ids)


BARE = """local used = tonumber(redis.call('GET', KEYS[1]) or 0)
if used + ARGV[1] > tonumber(ARGV[2]) then return 0 end
redis.call('INCRBY', KEYS[1], ARGV[1])
return 1"""


def bare(store: RedisStore) -> Callable[[str], object]:
    """A trip with the barest script, over the same connections."""
    sha = store._wire.send(("SCRIPT", "LOAD", BARE), b"{}")
    return lambda _: store._wire.send(("EVALSHA", sha, 1, b"ob:bare", 1, 10**12), b"{}")


def of_limits(url: str) -> Callable[[str], object] | None:
    """Five fixed windows of the package `limits`, hit one after the other as it has it; None without it."""
    try:
        from limits import RateLimitItemPerDay
        from limits.storage import RedisStorage
        from limits.strategies import FixedWindowRateLimiter
    except ImportError:
        return None
    limiter, item = FixedWindowRateLimiter(RedisStorage(url)), RateLimitItemPerDay(10**12)
    return lambda _: [limiter.hit(item, f"{n}", cost=500) for n in range(5)]


def beside_memory(store: RedisStore) -> None:
    """Print what leases come to, a reserve and a settle of each level."""
    stores: dict[str, Store] = {"trips": store, "leases": Leased(store, 0.01), "memory": MemoryStore()}
    for levels in (1, 5):
        seen: dict[str, list[float]] = {name: [] for name in stores}
        for round in range(ROUNDS):
            for name, one in stores.items():
                gc.collect()
                seen[name].append(sum(measure(one, lines(levels), f"{name} {round}")[:2]))
        for name, goal in (("memory", 0.7), ("trips", 15)):
            faster = statistics.median(map(truediv, seen[name], seen["leases"]))
            print(f"speed of leases : {name}, {levels} level(s) (goal >= {goal:g})    {faster:.1f}")


def main() -> None:
    """Print the ratios of SQLite, or of a server."""
    sides = {"1": lines(1), "5": lines(5), "rolling": lines(5, 3_600)}
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    counter: list[float] = []
    hits: list[float] = []
    hit = of_limits(sys.argv[1]) if sys.argv[1:] else None
    with tempfile.TemporaryDirectory() as folder:
        store = RedisStore(sys.argv[1], timeout_s=5) if sys.argv[1:] else SqliteStore(Path(folder) / "bench.db")
        for round in range(ROUNDS):
            for name, accounts in sides.items():
                gc.collect()
                seen[name].append(measure(store, accounts, round))
            if isinstance(store, RedisStore):
                counter.append(timed(bare(store), [""] * TRIPS))
                hits += [timed(hit, [""] * TRIPS)] if hit else []
        if isinstance(store, RedisStore):
            beside_memory(store)
        store.close()

    def ratio(side: str, way: int, other: str, other_way: int) -> float:
        return statistics.median(a[way] / b[other_way] for a, b in zip(seen[side], seen[other], strict=True))

    print(f"reserve, 5 levels : 1 (goal <= {'1.5' if counter else '3'})    {ratio('5', 0, '1', 0):.2f}")
    for way, (trip, goal) in enumerate((("reserve", 2.5), ("settle", 2.0))) if counter else ():
        beside = statistics.median(row[way] / bare_s for row, bare_s in zip(seen["5"], counter, strict=True))
        print(f"{trip}, 5 levels : bare counter (goal <= {goal})    {beside:.2f}")
    if hits:
        against = statistics.median(row[0] / hit_s for row, hit_s in zip(seen["5"], hits, strict=True))
        print(f"reserve, 5 levels : five of `limits`    {against:.2f}")
    print(f"settle, 5 levels : 1                 {ratio('5', 1, '1', 1):.2f}")
    print(f"settle : reserve, 1 level            {ratio('1', 1, '1', 0):.2f}")
    print(f"settle : reserve, 5 levels           {ratio('5', 1, '5', 0):.2f}")
    print(f"read : reserve, 5 levels             {ratio('5', 2, '5', 0):.2f}")
    print(f"reserve, 5 rolling : 5 levels        {ratio('rolling', 0, '5', 0):.2f}")
    print(f"settle, 5 rolling : 5 levels         {ratio('rolling', 1, '5', 1):.2f}")
    for name in ("1", "5"):
        rate = 2 * TRIPS / statistics.median(reserve + settle for reserve, settle, _ in seen[name])
        print(f"trips per second, {name} level(s)        {rate:,.0f}")


if __name__ == "__main__":
    main()
