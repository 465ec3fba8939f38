"""One of several processes that spend a dollar of a file: ``python shared_worker.py CONFIG HOW``.

It prints how many calls it has made, each for five cents or, where it reserves tokens, one to three.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import otelbudget
from otelbudget import BudgetExceeded, Usage


def cents() -> int:
    """Spend five cents at a time until nothing is left."""
    made = 0
    with otelbudget.run(reraise=False) as run:
        while True:
            try:
                run.reserve(cost_usd=0.05).commit(Usage(cost_usd=0.05))
            except BudgetExceeded as stopped:
                if stopped.reason == "limit":
                    return made
                if stopped.reason != "busy":
                    raise
                time.sleep(0.005)
            else:
                made += 1


async def acents() -> int:
    """The same in eight tasks."""

    async def one() -> int:
        made = 0
        async with otelbudget.run(reraise=False) as run:
            while True:
                try:
                    async with await run.areserve(cost_usd=0.05) as held:
                        await asyncio.sleep(0)
                        await held.acommit(Usage(cost_usd=0.05))
                except BudgetExceeded as stopped:
                    if stopped.reason == "limit":
                        return made
                    if stopped.reason != "busy":
                        raise
                    await asyncio.sleep(0.005)
                else:
                    made += 1

    return sum(await asyncio.gather(*(one() for _ in range(8))))


def tokens() -> int:
    """Spend tokens until not one is left, whoever is killed meanwhile."""
    spent = 0
    while True:
        amount = random.choice((1, 1, 1, 3))
        with otelbudget.run(reraise=False) as run:
            try:
                with run.reserve(tokens=amount, steps=0) as held:
                    held.commit(Usage(tokens=amount, steps=0))
            except BudgetExceeded as stopped:
                if amount == 1 and stopped.reason == "limit":
                    return spent
                time.sleep(0.005)
                continue
        spent += amount


def threads() -> int:
    """The same in sixteen threads."""
    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(lambda _: tokens(), range(16)))


def is_no_refusal(record: logging.LogRecord) -> bool:
    """Refusals by the hundred would fill the pipe that nobody reads until the end."""
    return not record.getMessage().startswith("refused (limit) to run ")


if __name__ == "__main__":
    logging.getLogger("otelbudget").addFilter(is_no_refusal)
    otelbudget.setup(sys.argv[1], instrument=False, exporter="none", metrics_port=None)
    how = sys.argv[2]
    ways = {"cents": cents, "tokens": tokens, "threads": threads, "acents": lambda: asyncio.run(acents())}
    print(ways[how]())
    otelbudget.shutdown()
