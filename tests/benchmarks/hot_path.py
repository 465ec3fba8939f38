"""What a check and a record cost, against the least that two events and two counters cost. Run by hand:

    python tests/benchmarks/hot_path.py

Every figure is the median over many rounds of one process, in which both sides alternate, so they compare as ratios.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, Counter

from otelbudget import BudgetManager, RunBudget
from otelbudget.runs.run import BudgetRun

ROUNDS = 41
PAIRS = 400
BUDGET = RunBudget(max_steps=10**9, max_tokens=10**12, max_seconds=3600, max_nested_tool_calls=10**6, name="bench")

Body = Callable[[], None]


def timed(body: Body) -> float:
    """Seconds of one round."""
    began = time.perf_counter()
    body()
    return time.perf_counter() - began


def compare(ours: Callable[[], Body], floor: Callable[[], Body]) -> tuple[float, float, float]:
    """Median seconds per pair of *ours* and *floor*, and the median of the rounds' ratios."""
    pairs = []
    gc.disable()
    for _ in range(ROUNDS):
        gc.collect()
        pairs.append((timed(ours()), timed(floor())))
    gc.enable()
    mine, bare = (statistics.median(side) / PAIRS for side in zip(*pairs, strict=True))
    return mine, bare, statistics.median(a / b for a, b in pairs)


def with_events(manager: BudgetManager, tracer: trace.Tracer) -> tuple[float, float, float]:
    """A pair with both events and counters, on a sampled span each round, beside two bare events and increments."""
    child = Counter("bare", "bare", ["tenant", "budget"], registry=CollectorRegistry()).labels("acme", "bench")
    attributes = {"a.decision": "allow", "a.resource": "steps", "a.remaining": 5.0, "a.budget": "bench"}

    def ours() -> Body:
        scope = manager.run(BUDGET, tenant="acme")
        run = scope.__enter__()
        run.site.left = 10**9

        def body() -> None:
            for _ in range(PAIRS):
                run.check(steps=1, tokens=100)
                run.record_call(100)
            scope.__exit__(None, None, None)

        return body

    def floor() -> Body:
        span = tracer.start_span("bare")

        def body() -> None:
            for _ in range(PAIRS):
                span.add_event("check", attributes)
                child.inc()
                span.add_event("record", attributes)
                child.inc()
            span.end()

        return body

    return compare(ours, floor)


def unsampled(manager: BudgetManager) -> tuple[float, float, float]:
    """A pair on an unsampled span, beside two lock pairs and four comparisons."""
    lock = threading.Lock()
    used, limits = [1, 2, 3, 4], [10**9, 10**9, 10**9, 10**9]

    def ours() -> Body:
        scope = manager.run(BUDGET, tenant="acme")
        run = scope.__enter__()

        def body() -> None:
            check, record_call = run.check, run.record_call
            for _ in range(PAIRS):
                check(steps=1, tokens=100)
                record_call(100)

        def whole() -> None:
            body()
            scope.__exit__(None, None, None)

        return whole

    def floor() -> Body:
        def body() -> None:
            acquire, release = lock.acquire, lock.release
            a, b, c, d = used
            e, f, g, h = limits
            for _ in range(PAIRS):
                acquire()
                release()
                acquire()
                release()
                a <= e  # noqa: B015 - what is measured
                b <= f  # noqa: B015
                c <= g  # noqa: B015
                d <= h  # noqa: B015

        return body

    return compare(ours, floor)


def bytes_per_run(manager: BudgetManager) -> float:
    """Bytes that an active run needs beside OpenTelemetry's own span and context."""
    engine = manager.engine
    runs: list[BudgetRun | None] = [None] * 5000
    owner = engine.owners.owner(None, "acme", None, None)
    BudgetRun(engine, BUDGET, owner)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(len(runs)):
        run = runs[i] = BudgetRun(engine, BUDGET, owner)
        run.check(steps=1, tokens=1000)
        run.record_call(1000)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / len(runs)


def main() -> None:
    """Print the figures."""
    provider = TracerProvider(shutdown_on_exit=False)
    sampled = BudgetManager()
    sampled.engine.tracer = provider.get_tracer("otelbudget")
    mine, bare, ratio = with_events(sampled, provider.get_tracer("bare"))
    said = f"{mine * 1e6:6.2f} us, floor {bare * 1e6:6.2f} us: {ratio:.2f}x (<= 1.25x)"
    print(f"check + record, events and counters: {said}")

    off = BudgetManager()
    off.engine.tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("otelbudget")
    mine, bare, ratio = unsampled(off)
    said = f"{mine * 1e9:6.0f} ns, floor {bare * 1e9:6.0f} ns: {ratio:.2f}x (<= 6x)"
    print(f"check + record, unsampled span:      {said}")

    print(f"memory of an active run: {bytes_per_run(off):.0f} bytes (<= 1024)")


if __name__ == "__main__":
    main()
