"""One of several processes that use up a quota in a SQLite file: ``python store_worker.py PATH NAME LIMIT SPEED``."""

from __future__ import annotations

import random
import sys
import time

from store_kit import Caller, lifetime, limit, tokens

from otelbudget.stores.sqlite import SqliteStore

TTL_S = 5.0


def fast(speed: int) -> float:
    """A clock on which *speed* seconds pass in each; the same in all processes."""
    return time.time() * speed


def main(path: str, name: str, most: int, speed: int) -> None:
    """Reserve and commit a token or three at a time until nothing is left, whatever others do."""
    store, line = SqliteStore(path, timeout_s=60, clock_s=lambda: fast(speed)), lifetime(limits=limit(most))
    caller, rng, i = Caller(store), random.Random(name), 0
    while True:
        i += 1
        amount = rng.choice((1, 1, 1, 3))
        answer = caller.reserve(f"{name} {i}", amount, line, on_expiry=tokens(1), ttl_s=TTL_S)
        if answer.refused is None:
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.004)
            caller.settle(f"{name} {i}", amount, line, held=amount)
        elif answer.busy:
            time.sleep(0.002)
        elif amount == 1:
            break
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
