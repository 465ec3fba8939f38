"""A page of 15,000 series beside as many children of prometheus_client, in both formats; checks beside its scrapers.

    python tests/benchmarks/scrapes.py

Ends with 1 if ours takes more than 0.40 of the time of theirs, or if one in a hundred checks beside eight scrapers that
never pause takes more than a quarter of the time of one scrape.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from otelbudget import BudgetManager, RunBudget
from otelbudget.telemetry.page import Page
from otelbudget.telemetry.server import MetricsServer

TENANTS, MODELS = 500, 8
GATE, WAIT_GATE = 0.40, 0.25
#: Reads the page at an address without a pause, by so many threads, until it is killed.
SCRAPERS = """
import sys, threading, urllib.request
accept = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
def scrape():
    while True:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=accept)).read()
for _ in range(int(sys.argv[2])):
    threading.Thread(target=scrape).start()
"""


def ours(manager: BudgetManager) -> Page:
    """The page of so many tenants that each spend on all models."""
    meters = manager.engine.meters
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


def checks_s(manager: BudgetManager, lasts_s: float) -> list[float]:
    """How long each check of a thread takes that does one every millisecond."""
    took = []
    with manager.run(tenant="tenant-1") as run:
        ends = time.perf_counter() + lasts_s
        while (began := time.perf_counter()) < ends:
            run.check()
            took.append(time.perf_counter() - began)
            time.sleep(0.001)
    return took


def p99_s(manager: BudgetManager, url: str, scrapers: int) -> float:
    """What 99 of 100 checks of eight threads take at most beside so many scrapers."""
    process = subprocess.Popen([sys.executable, "-c", SCRAPERS, url, str(scrapers)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        with ThreadPoolExecutor(8) as threads:
            took = sorted(s for found in threads.map(checks_s, [manager] * 8, [3.0] * 8) for s in found)
    finally:
        process.kill()
        process.wait()
    return took[len(took) * 99 // 100]


def waits_s(manager: BudgetManager, page: Page) -> float:
    """Tell how long checks take beside no, one and eight scrapers, each the middle of three; how long beside eight."""
    with closing(MetricsServer.start(page, "127.0.0.1", 0)) as server:
        times = [[p99_s(manager, server.url, scrapers) for scrapers in (0, 1, 8)] for _ in range(3)]
    none, one, eight = (sorted(found)[1] for found in zip(*times, strict=True))
    print(f"p99 of a check beside 0, 1, 8 scrapers: {none * 1e3:.2f}, {one * 1e3:.2f}, {eight * 1e3:.2f} ms")
    return eight


def main() -> int:
    """Compare, tell, and judge."""
    manager = BudgetManager(RunBudget(max_steps=10**9))
    page = ours(manager)
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
    wait = waits_s(manager, page) / took
    print(f"beside eight {wait:.3f} of the time of a scrape, at most {WAIT_GATE}")
    return int(worst > GATE or wait > WAIT_GATE)


if __name__ == "__main__":
    sys.exit(main())
