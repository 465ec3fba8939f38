"""The program of `test_forking`: a process whose threads are busy forks again and again; does each child go on?

    python tests/forks.py --forks 100

Each child checks, records and reserves on the run that it has inherited, while another thread of its parent wrote to
that run's span at the moment of the fork, and on one of its own. One that hangs shows its stack and is killed. Prints
one JSON object: what went wrong. Only the public API is used, and no exporter, whose locks are not ours.
"""

from __future__ import annotations

import argparse
import contextvars
import faulthandler
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import otelbudget
from otelbudget import BudgetRun, Usage

BUDGETS = """
default_budget: {max_tokens: 1000B}
quotas: {default: [{tokens: 5000B, per: lifetime}], users: {"*": [{tokens: 5000B, per: lifetime}]}}
"""
THREADS = 4
#: A child needs some ms. It shows its stack after so many seconds, and is killed one second later.
PATIENCE_S = 5.0
#: After so many that hang there is nothing more to learn.
ENOUGH = 3


def opened() -> BudgetRun:
    """A run that nobody leaves, in no context."""
    scope = otelbudget.run(tenant="acme", user="ann", mode="detached", reraise=False)
    run: BudgetRun = contextvars.Context().run(scope.__enter__)
    return run


def spend(run: BudgetRun) -> None:
    """Five steps of five tokens."""
    run.check(tokens=5)
    run.record(Usage(3, 2))
    run.reserve(tokens=5).commit(Usage(3, 2))
    run.reserve(tokens=5).release()
    with run.child() as child:
        child.record(Usage(3, 2))
    with run.tool_call("search"):
        run.record(Usage(3, 2))
    run.record(Usage(3, 2))


class Busy:
    """Threads that spend on `run`, which is exchanged now and then, so that its span is never full for long."""

    def __init__(self) -> None:
        self.run = opened()
        self.rounds = 0
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]

    def _work(self) -> None:
        while not self._ends.is_set():
            spend(self.run)
            self.rounds += 1

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(20)


def child_of(run: BudgetRun) -> str:
    """What a child finds wrong, or nothing."""
    before = run.usage
    if before.tokens != 5 * (before.steps or 0):
        return f"it inherited {before.tokens} tokens of {before.steps} steps"
    spend(run)
    after = run.usage
    if (after.tokens or 0) - (before.tokens or 0) != 25:
        return f"it charged {(after.tokens or 0) - (before.tokens or 0)} of 25 tokens"
    with otelbudget.run(tenant="acme", user="ann", mode="detached") as own:
        spend(own)
    if own.usage.tokens != 25:
        return f"a run of its own has {own.usage.tokens} of 25 tokens"
    if (left := run.remaining()["tokens"]) != 10**12 - (after.tokens or 0):
        return f"it used {after.tokens}, and {left} are left"
    return ""


def in_child(work: Callable[[], str]) -> str:
    """What *work* says in a forked process; the stacks of one that hangs."""
    with tempfile.TemporaryFile() as stacks:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                faulthandler.dump_traceback_later(PATIENCE_S, file=stacks)
                try:
                    said = work() or "ok"
                except BaseException:  # noqa: BLE001 - shown by the parent
                    said = traceback.format_exc()
                os.write(writes, said.encode()[:4000])
            finally:
                os._exit(0)
        os.close(writes)
        answers, _, _ = select.select([reads], [], [], PATIENCE_S + 1)
        if not answers:
            os.kill(child, signal.SIGKILL)
        with open(reads, "rb") as pipe:
            said = pipe.read().decode() or "it ended without a word"
        os.waitpid(child, 0)
        if not answers:
            stacks.seek(0)
            said = "it hangs:\n" + stacks.read().decode()
    return "" if said == "ok" else said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="go on after the first that hang")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork.*", DeprecationWarning)  # that is what is tested
    sys.setswitchinterval(1e-5)  # threads are switched within what they do, and not only where they wait
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "budgets.yaml")
        file.write_text(BUDGETS, encoding="utf-8")
        otelbudget.setup(file, metrics_port=None, exporter="none", instrument=False)
    failed: list[str] = []
    forks = 0
    with Busy() as busy:
        while forks < given.forks and (given.all or len(failed) < ENOUGH):
            busy.run = opened()
            rounds = busy.rounds
            while busy.rounds < rounds + THREADS * (1 + forks % 4):
                time.sleep(0.0005)
            forks += 1
            if said := in_child(lambda: child_of(busy.run)):
                failed.append(said)
    print(json.dumps({"failed": failed, "forks": forks, "rounds": busy.rounds}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
