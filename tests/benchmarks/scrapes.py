"""A page of 15,000 series beside as many children of prometheus_client, in both formats.

    python tests/benchmarks/scrapes.py

Ends with 1 if ours takes more than 0.40 of the time of theirs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from otelbudget.ledger.ledger import Ledger
from otelbudget.telemetry.cells import Meters
from otelbudget.telemetry.page import Page

TENANTS, MODELS = 500, 8
GATE = 0.40


def ours() -> Page:
    """A page of so many tenants that each spend on all models."""
    meters = Meters(Ledger(), list, clock_ns=time.monotonic_ns)
    for i in range(TENANTS * MODELS):
        tenant = f"tenant-{i % TENANTS}"
        meters.budget(tenant, "default", (5, 5)).call += 1
        meters.spend(tenant, f"model-{i // TENANTS}").input += i
    return Page(meters)


def theirs(series: int) -> CollectorRegistry:
    """A counter with so many children."""
    disable_created_metrics()
    registry = CollectorRegistry()
    counter = Counter("otelbudget_tokens", "Tokens.", ("tenant", "model", "token_type"), registry=registry)
    for i in range(series):
        counter.labels(f"tenant-{i % TENANTS}", f"model-{i // TENANTS}", "input").inc(i)
    return registry


def best_s(act: Callable[[], object], times: int = 7) -> float:
    """Processor time of the quickest of some times."""
    found = []
    for _ in range(times):
        began = time.process_time()
        act()
        found.append(time.process_time() - began)
    return min(found)


def main() -> int:
    """Compare, tell, and judge."""
    page = ours()
    series = sum(not line.startswith(b"#") for line in page.text(False).splitlines())
    registry = theirs(series)
    worst = 0.0
    for name, mine, their in (
        ("classic", lambda: page.text(False), lambda: generate_latest(registry)),
        ("OpenMetrics", lambda: page.text(True), lambda: generate_openmetrics(registry)),
    ):
        took, took_theirs = best_s(mine), best_s(their)
        worst = max(worst, took / took_theirs)
        print(f"{series} series, {name}: {took * 1e3:.1f} ms, children {took_theirs * 1e3:.1f} ms")
    print(f"{worst:.2f} of the children's time, at most {GATE}")
    return int(worst > GATE)


if __name__ == "__main__":
    sys.exit(main())
