"""One quota, four processes, as four machines would have it: together they never spend more than there is.

    python examples/distributed_quota_example.py redis://localhost:6379/0

Without an address they share a file.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
import time

from otelbudget import BudgetExceeded, QuotaService

DAILY = 10_000


def spend(store: str, tenant: str) -> int:
    """What one process has spent until nothing is left for anybody."""
    quotas, spent = QuotaService(default_daily_quota=DAILY, store=store), 0
    while True:
        try:
            with quotas.reserve(tenant, 100) as held:  # held for this call, whoever else asks
                time.sleep(0.01)  # the call
                took = random.randint(40, 100)
                held.commit(took)
                spent += took
        except BudgetExceeded as stopped:
            if stopped.reason == "limit":
                return spent
            time.sleep(0.005)  # others hold the rest, and may give some of it back


def main(store: str) -> None:
    tenant = f"acme-{os.getpid()}"  # a new one each time, since the quota is for the whole day
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        spent = pool.starmap(spend, [(store, tenant)] * 4)
    left = QuotaService(default_daily_quota=DAILY, store=store).remaining(tenant)
    for number, tokens in enumerate(spent, 1):
        print(f"process {number}: {tokens:>6} tokens")
    print(f"together:  {sum(spent):>6} of {DAILY}, {left} left")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:///{folder}/quotas.db")
