"""100,000 tasks on one tenant's quota, which has room for 60 % of them: how far is it passed, and how fast is that?

    python tests/benchmarks/shared_tenant.py

Each task reserves, gives way to the others, as a call would, and commits. Beside it, in the same run: what most code
does instead, check the quota, call, record. Ends with 1 if the reservations passed the quota.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable

from otelbudget import BudgetExceeded, BudgetManager, Config, RunBudget, Usage
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs.run import BudgetRun

TASKS = 100_000
RUNS = 100
TOKENS = 10
LIMIT = TASKS * TOKENS * 6 // 10

Call = Callable[[BudgetRun], Awaitable[bool]]


async def reserves(run: BudgetRun) -> bool:
    """One call that is exact; gives whether it was made."""
    try:
        reservation = run.reserve(tokens=TOKENS)
    except BudgetExceeded:
        return False
    await asyncio.sleep(0)
    reservation.commit(Usage(TOKENS, 0))
    return True


async def checks(run: BudgetRun) -> bool:
    """One call that is checked and recorded."""
    try:
        run.check(steps=1, tokens=TOKENS)
    except BudgetExceeded:
        return False
    await asyncio.sleep(0)
    run.record_call(TOKENS)
    return True


async def demand(call: Call) -> tuple[float, int, int]:
    """Seconds that all tasks took, how many calls were made, and tokens charged to the tenant."""
    quotas = Quotas(default=(Quota(tokens=LIMIT, per="lifetime"),))
    manager = BudgetManager(Config(quotas=quotas))
    scopes = [manager.run(RunBudget(), tenant="acme", mode="detached", reraise=False) for _ in range(RUNS)]
    runs = [BudgetRun(scope.open()[0]) for scope in scopes]
    gc.collect()
    began = time.perf_counter()
    made = sum(await asyncio.gather(*(call(runs[i % RUNS]) for i in range(TASKS))))
    took = time.perf_counter() - began
    return took, made, sum(run.usage.tokens or 0 for run in runs)


def main() -> int:
    """Print the figures; gives the exit code."""
    exact_s, exact_made, exact_spent = asyncio.run(demand(reserves))
    bare_s, bare_made, bare_spent = asyncio.run(demand(checks))
    for name, took, made, spent in (
        ("reserve, commit", exact_s, exact_made, exact_spent),
        ("check, record", bare_s, bare_made, bare_spent),
    ):
        over = max(0, spent - LIMIT)
        print(
            f"{name + ':':17}{TASKS / took:9,.0f} tasks/s, {made:7,} of {TASKS:,} made,"
            f" {spent:9,} of {LIMIT:,} tokens: {over:,} over ({over / LIMIT:.0%})"
        )
    print(f"time of reserving to that of checking, per call made: {exact_s / exact_made * bare_made / bare_s:.2f}x")
    if exact_spent != LIMIT:
        print(f"reserving ended at {exact_spent:,} tokens and not at {LIMIT:,}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
