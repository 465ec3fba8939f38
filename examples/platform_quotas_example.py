"""Quotas of organisations, tenants, users and models over the budgets of runs, and why each call was refused.

Runs without a key or a network: the calls are reserved and committed by hand, as a client without a guard would.
"""

from __future__ import annotations

from pathlib import Path

import otelbudget
from otelbudget import BudgetExceeded, BudgetRun, Usage

CONFIG = Path(__file__).with_name("platform.yaml")


def call(run: BudgetRun, model: str, tokens: int) -> bool:
    """One model call of *tokens* tokens at most, which then uses nine tenths of them."""
    try:
        with run.reserve(tokens=tokens, model=model) as held:
            held.commit(Usage(tokens * 8 // 10, tokens // 10, model=model))
    except BudgetExceeded as refused:
        print(f"  refused: {refused}")
        run.acknowledge()
        return False
    return True


def main() -> None:
    manager = otelbudget.setup(CONFIG, metrics_port=None, exporter="none", instrument=False)

    print("a run's own budget")
    with otelbudget.run(tenant="initech") as run:
        while call(run, "demo-small", 600):
            pass

    print("\na user's share, over all runs of the last 24 hours")
    for _ in range(2):
        with otelbudget.run("research", tenant="acme", user="ann") as run:
            while call(run, "demo-small", 700):
                pass

    print("\na batch job stops where the tenant keeps the rest for others")
    for user in ("ben", "cleo"):
        with otelbudget.run("research", tenant="acme", user=user, priority="low") as run:
            while call(run, "demo-small", 500):
                pass

    print("\nsub-agents get a part of the run and can't take more")
    with otelbudget.run("research", tenant="initech") as run:
        with run.child(mode="carve", carve=0.25) as helper:
            while call(helper, "demo-small", 400):
                pass
        print(f"  the helper used {helper.usage.tokens} tokens, {run.remaining()['tokens']} are left for the run")

    print("\na dear model has a quota of its own")
    with otelbudget.run("research", tenant="hooli") as run:
        while call(run, "demo-large", 900):
            pass

    print("\nwhat is left")
    for tenant in ("acme", "initech", "hooli"):
        with manager.run(tenant=tenant, user="dan") as run:
            left = run.remaining()
            print(f"  {tenant}: {left['tokens']} tokens, ${left['cost_usd']} in this run")
    otelbudget.shutdown()


if __name__ == "__main__":
    main()
