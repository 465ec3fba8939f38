"""What the package costs a call: its own Python functions, time beside bare telemetry, threads, bytes. Run by hand:

    python tests/benchmarks/calls.py            # ends with 1 if a gate is missed
    python tests/benchmarks/calls.py --report   # ends with 0 in any case

Only the public API is used. Each column is a process of its own, set up from a YAML file: one level is a run alone,
five are a run below quotas of its organisation, its tenant (two windows) and its user. Calls are counted, so they are
the same on every machine; times are ratios of what alternates within one process, each the least of many short rounds,
which whatever else the machine does can only make longer.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client import CollectorRegistry, Counter

import otelbudget
from otelbudget import BudgetRun, Usage

OWN: Final = os.path.join(os.path.dirname(os.path.abspath(otelbudget.__file__)), "")
ONE: Final = """
default_budget: {max_steps: 1B, max_tokens: 1000B, max_seconds: 1h, max_nested_tool_calls: 1M}
prices: {demo-small: {input: $0.15, output: $0.60}}
"""
FIVE: Final = f"""{ONE}
quotas:
  org: [{{tokens: 1000B, per: month}}]
  default: [{{tokens: 1000B, per: day}}, {{tokens: 1000B, per: month}}]
  users: {{"*": [{{tokens: 1000B, per: day}}]}}
"""
LEVELS: Final = {"one": ONE, "five": FIVE}
SAMPLERS: Final = {"sampled": "always_on", "unsampled": "always_off"}
COLUMNS: Final = tuple((levels, sampler) for levels in LEVELS for sampler in SAMPLERS)

#: Own functions at most, in every column; a check on a sampled span also writes its event, and has no gate. A guarded
#: call is what it costs whoever reads the request and its answer; what that reading costs has a line of its own.
CALLS: Final = {"check": 14, "record": 30, "reserve + commit": 50, "guarded call": 100, "  and reading it": None}
READING: Final = (
    *(os.path.join(OWN, folder, "") for folder in ("guards", "estimate")),
    os.path.join(OWN, "model", "reported.py"),
)
MORE_AT_FIVE: Final = 5
#: (what, column) -> times the sampled floor at most.
TIMES: Final = {
    ("check + record", "sampled"): 3.0,
    ("reserve + commit", "sampled"): 4.0,
    ("reserve + commit", "unsampled"): 2.0,
}
THREADS_RATIO: Final = 0.85
BYTES: Final = 900

PAIRS: Final = 300
ROUNDS: Final = 100
THREADS: Final = 16
OPERATIONS: Final = 4_800
THREAD_ROUNDS: Final = 9
RUNS: Final = 10_000

USAGE: Final = Usage(80, 20)
Body = Callable[[], object]


# --- one column, in a process of its own


def opened() -> BudgetRun:
    """A run like all others here; whoever opens it need not leave it."""
    scope = otelbudget.run(tenant="acme", user="ann", mode="detached")
    return contextvars.copy_context().run(scope.__enter__)


def calls_of(body: Body) -> tuple[int, int]:
    """How many of the package's own functions *body* calls, once every cache is filled; and how many that only read."""
    for _ in range(100):
        body()
    return statistics.median_low(_calls(body) for _ in range(9))  # one in 64 checks is timed and costs a few more


def _calls(body: Body) -> tuple[int, int]:
    files: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OWN):
            files.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        body()
    finally:
        sys.setprofile(None)
    read = sum(file.startswith(READING) for file in files)
    return len(files) - read, read


def counted(run: BudgetRun) -> dict[str, int]:
    """Own functions per operation."""
    found = {
        "check": sum(calls_of(lambda: run.check(tokens=100))),
        "record": sum(calls_of(lambda: run.record(USAGE))),
        "reserve + commit": sum(calls_of(lambda: run.reserve(tokens=100).commit(USAGE))),
    }
    with contextlib.suppress(ImportError):
        found["guarded call"], found["  and reading it"] = guarded()
    return found


def guarded() -> tuple[int, int]:
    """Own functions of a call that the SDK of openai makes inside a run."""
    from openai import OpenAI

    from otelbudget.demo.server import DemoServer

    asked: Any = [{"role": "user", "content": "What does a budget limit?"}]
    with DemoServer() as server, OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        with otelbudget.run(tenant="acme", user="ann", mode="detached") as run:
            found = calls_of(lambda: create(model="demo-small", messages=asked, max_tokens=20))
        assert run.usage.steps == server.requests, "the guard is not reached"
    return found


def times() -> dict[str, float]:
    """Seconds of an operation with all it says, as a multiple of two events and two increments."""
    return {
        "check + record": ratio(lambda run: (run.check(tokens=100), run.record(USAGE))),
        "reserve + commit": ratio(lambda run: run.reserve(tokens=100).commit(USAGE)),
    }


def ratio(operation: Callable[[BudgetRun], object]) -> float:
    """Time of *operation* to that of the floor."""
    floor = Floor()
    took, least = [], []
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        with otelbudget.run(tenant="acme", user="ann", mode="detached") as run:  # whose span takes a round's events
            took.append(_timed(lambda run=run: operation(run)))  # type: ignore[misc]
        least.append(floor.timed())
    gc.enable()
    return min(took) / min(least)


def _timed(body: Body) -> float:
    began = time.perf_counter()
    for _ in range(PAIRS):
        body()
    return time.perf_counter() - began


class Floor:
    """The least that two events of four attributes on a sampled span and two counters cost."""

    def __init__(self) -> None:
        self._tracer = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False).get_tracer("bare")
        self._child = Counter("bare", "bare", ["tenant", "budget"], registry=CollectorRegistry()).labels("acme", "b")
        self._says: dict[str, str | float] = {
            "a.decision": "allow",
            "a.resource": "steps",
            "a.remaining": 5.0,
            "a.budget": "bench",
        }

    def timed(self) -> float:
        """Seconds of as many as there are operations in a round."""
        child, says = self._child, self._says
        span = self._tracer.start_span("bare")
        began = time.perf_counter()
        for _ in range(PAIRS):
            span.add_event("check", says)
            child.inc()
            span.add_event("record", says)
            child.inc()
        took = time.perf_counter() - began
        span.end()
        return took


def threads_ratio() -> float:
    """Throughput of many threads, each with a run of the same tenant, to that of one thread."""
    rounds = [(_operations(1), _operations(THREADS)) for _ in range(THREAD_ROUNDS)]
    return min(one for one, _ in rounds) / min(many for _, many in rounds)


def _operations(threads: int) -> float:
    """Seconds that all operations take when they are shared out among *threads*."""
    ready = threading.Barrier(threads + 1)

    def work(run: BudgetRun) -> None:
        ready.wait()
        for _ in range(OPERATIONS // threads):
            run.reserve(tokens=100).commit(USAGE)

    workers = [threading.Thread(target=work, args=(opened(),)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gc.collect()
    ready.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def bytes_per_run() -> float:
    """Bytes of an open run that has checked and recorded, beside those of its span."""

    def works() -> BudgetRun:
        run = opened()
        run.check(tokens=1000)
        run.record(USAGE)
        return run

    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("bare")
    return _bytes(works) - _bytes(lambda: tracer.start_span("bare"))


def _bytes(make: Callable[[], object]) -> float:
    kept: list[object] = [None] * RUNS
    make()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(RUNS):
        kept[i] = make()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / RUNS


def measure(levels: str, sampler: str) -> dict[str, Any]:
    """All figures of one column; to be called in a process whose environment says the sampler."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "budgets.yaml")
        file.write_text(LEVELS[levels], encoding="utf-8")
        otelbudget.setup(file, metrics_port=None, exporter="none", instrument=False)
    found: dict[str, Any] = {"calls": counted(opened()), "times": times()}
    if sampler == "unsampled":
        found["threads"] = threads_ratio()
        found["bytes"] = bytes_per_run()
    otelbudget.shutdown()
    return found


# --- the table of all


class Table:
    """Prints figures beside their gates, and remembers which were missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def row(self, what: str, figures: list[float], gate: str, over: list[bool], form: str = "9.0f") -> None:
        """A line: figures in the order of the columns, then what is demanded of them."""
        self.missed += [f"{what.strip()} {gate}"] if any(over) else []
        shown = "".join(format(figure, form) for figure in figures)
        print(f"{what:<26}{shown}   {gate:<18}{'MISSED' if any(over) else 'ok' if over else ''}")


def show(columns: dict[tuple[str, str], dict[str, Any]]) -> bool:
    """Print everything; gives whether a gate was missed."""
    table = Table()
    heads = "".join(f"{levels + ' ' + sampler[:3]:>9}" for levels, sampler in COLUMNS)
    print(f"{'own Python calls':<26}{heads}   (levels; sampled, unsampled)")
    for what, gate in CALLS.items():
        found = [columns[column]["calls"].get(what) for column in COLUMNS]
        if None in found:
            print(f"{what:<26}not measured: openai is not installed")
            continue
        if gate is None:
            table.row(what, found, "", [])
            continue
        judged = [n for n, (_, sampler) in zip(found, COLUMNS, strict=True) if what != "check" or sampler != "sampled"]
        where = ", unsampled" if what == "check" else ""
        table.row(what, found, f"<= {gate}{where}", [n > gate for n in judged])
        more = [
            columns["five", sampler]["calls"][what] - columns["one", sampler]["calls"][what] for sampler in SAMPLERS
        ]
        table.row("  five more than one", more, f"<= {MORE_AT_FIVE}", [n > MORE_AT_FIVE for n in more], "18.0f")
    print(f"\n{'times the sampled floor':<26}{heads}   (two events, two counters)")
    for what in ("check + record", "reserve + commit"):
        found = [columns[column]["times"][what] for column in COLUMNS]
        gates = {sampler: TIMES[what, sampler] for sampler in SAMPLERS if (what, sampler) in TIMES}
        # Only a run alone: the floor has no quotas either.
        over = [columns["one", sampler]["times"][what] > gate for sampler, gate in gates.items()]
        table.row(what, found, "one <= " + ", ".join(f"{gate:g}" for gate in gates.values()), over, "9.2f")
    print()
    ratios = [columns[levels, "unsampled"]["threads"] for levels in LEVELS]
    table.row(f"{THREADS} threads : 1", ratios, f">= {THREADS_RATIO}", [r < THREADS_RATIO for r in ratios], "18.2f")
    sizes = [columns[levels, "unsampled"]["bytes"] for levels in LEVELS]
    table.row("bytes of an open run", sizes, f"<= {BYTES}", [size > BYTES for size in sizes], "18.0f")
    print(f"\nmissed: {'; '.join(table.missed)}" if table.missed else "\nall gates are met")
    return bool(table.missed)


def in_process(levels: str, sampler: str) -> dict[str, Any]:
    """The figures of one column, measured by this program in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment.update(OTEL_TRACES_SAMPLER=SAMPLERS[sampler], OTEL_SPAN_EVENT_COUNT_LIMIT="1000000")
    command = [sys.executable, __file__, "--measure", levels, sampler]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print the table; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="end with 0 although a gate is missed")
    parser.add_argument("--measure", nargs=2, metavar=("LEVELS", "SAMPLER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(*given.measure)))
        return 0
    missed = show({column: in_process(*column) for column in COLUMNS})
    return int(missed and not given.report)


if __name__ == "__main__":
    sys.exit(main())
