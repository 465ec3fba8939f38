"""Runs inside a run that many threads open and control at the same moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from world import World, opened

from otelbudget import RunBudget
from otelbudget.runs.run import BudgetRun
from otelbudget.runs.scope import RunScope

MUCH = RunBudget(max_tokens=1_000_000)


@pytest.fixture(autouse=True)
def switched_within() -> Iterator[None]:
    """Threads are switched within what they do, and not only where they wait."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


def together(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_freeze_stops_every_child_however_many_were_opened_at_once(world: World) -> None:
    runs = [opened(world.run(MUCH)) for _ in range(300)]
    scopes = [[run.child() for run in runs] for _ in range(4)]
    ready, children = threading.Barrier(4), list[BudgetRun]()

    def work(mine: list[RunScope]) -> None:
        for scope in mine:
            ready.wait()
            children.append(opened(scope))

    together(*(partial(work, mine) for mine in scopes))
    for run in runs:
        run.freeze()
    assert sum(child.can_proceed() for child in children) == 0


def test_a_run_is_extended_while_threads_open_children(world: World) -> None:
    run, ends, failed = opened(world.run(MUCH)), threading.Event(), list[Exception]()

    def children() -> None:
        for _ in range(1_000):
            opened(run.child())
        ends.set()

    def controls() -> None:
        try:
            while not ends.is_set():
                run.extend(tokens=1)
        except Exception as error:  # noqa: BLE001 - none is expected, of whatever kind
            failed.append(error)

    together(children, controls)
    assert failed == []
