"""What five levels cost in a shared store against one, and a settle against a reserve. Run by hand:

    python tests/benchmarks/stores.py

Every ratio is the median over rounds of one process, in which both sides alternate; trips per second are only to know
the order of size, since they depend on the disk.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from otelbudget.stores.base import FOREVER_S, Line, Reserve, Settle, Store
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


def measure(store: Store, accounts: tuple[Line, ...], round: int) -> tuple[float, float, float]:
    """Seconds of a round of reserves, of their settles, and of reads."""
    ids = [f"{accounts[0].key} {len(accounts)} {round} {i}" for i in range(TRIPS)]
    reserve = Reserve("", "org", accounts, AMOUNTS, NOTHING, NOTHING, 60.0)
    settle = Settle("", "org", accounts, AMOUNTS, AMOUNTS, NOTHING)
    reserves_s = timed(lambda id: store.reserve(reserve._replace(id=id)), ids)
    settles_s = timed(lambda id: store.settle(settle._replace(id=id)), ids)
    return reserves_s, settles_s, timed(lambda _: store.read("org", accounts), ids)


def main() -> None:
    """Print the ratios of SQLite."""
    sides = {"1": lines(1), "5": lines(5), "rolling": lines(5, 3_600)}
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "bench.db")
        for round in range(ROUNDS):
            for name, accounts in sides.items():
                gc.collect()
                seen[name].append(measure(store, accounts, round))
        store.close()

    def ratio(side: str, way: int, other: str, other_way: int) -> float:
        return statistics.median(a[way] / b[other_way] for a, b in zip(seen[side], seen[other], strict=True))

    print(f"reserve, 5 levels : 1 (goal <= 3)    {ratio('5', 0, '1', 0):.2f}")
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
