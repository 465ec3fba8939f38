"""A program of its own: a bare loop of client calls, no run, then a pool inside a run; prints what came of it.

python bare_loop.py INSTRUMENTOR SAMPLER
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

instrumentor, sampler = sys.argv[1:3]
os.environ["OTEL_TRACES_SAMPLER"] = sampler

import openai  # noqa: E402 - after the environment

import otelbudget  # noqa: E402
from otelbudget import BudgetExceeded, RunBudget  # noqa: E402
from otelbudget.demo import DemoServer  # noqa: E402


def main() -> None:
    """Make the calls and print the outcome as JSON."""
    outcome: dict[str, Any] = {"message": None}
    with DemoServer() as server:
        wanted = False if instrumentor == "none" else [instrumentor]
        otelbudget.setup(RunBudget(max_steps=5), exporter="none", metrics_port=None, instrument=wanted, strict=True)
        client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)

        def ask(_: int = 0) -> bool:
            try:
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Is it?"}])
            except BudgetExceeded:
                return False
            return True

        try:
            for _ in range(10):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Is it?"}])
        except BudgetExceeded as error:
            outcome["message"] = str(error)
        outcome["bare_requests"] = server.requests
        with ThreadPoolExecutor(4) as pool:
            with otelbudget.run(RunBudget(max_steps=3), tenant="acme", reraise=False) as run:
                outcome["in_pool"] = sum(pool.map(ask, range(8)))
                outcome["run_steps"] = run.usage.steps
            outcome["after_run"] = sum(pool.map(ask, range(2)))
        outcome["pool_requests"] = server.requests - outcome["bare_requests"]
        otelbudget.shutdown()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
