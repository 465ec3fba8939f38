"""What holds whatever happens in whatever order, over a tree of runs."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from world import World

from otelbudget import BudgetExceeded, RunBudget, Usage
from otelbudget.amounts import RESOURCES, UNLIMITED
from otelbudget.runs.lifecycle import RunScope
from otelbudget.runs.reservation import Reservation
from otelbudget.runs.run import BudgetRun

LIMITS = {"max_tokens": 500, "max_steps": 40, "max_cost_usd": 1}


def entered(scope: RunScope) -> BudgetRun:
    """A run outside the context, so that several can be open side by side."""
    run, _ = scope.open()
    return run


def tree(world: World) -> list[BudgetRun]:
    """A root, two children, a grandchild."""
    root = entered(world.run(RunBudget(**LIMITS), tenant="a"))  # type: ignore[arg-type]
    left = entered(root.child(RunBudget(max_tokens=300)))
    right = entered(root.child(RunBudget(max_cost_usd=0.4)))
    return [root, left, right, entered(left.child(RunBudget(max_steps=20)))]


def parts_of(parent: BudgetRun, runs: list[BudgetRun]) -> list[int]:
    children = [run for run in runs if run.parent is parent]
    return [sum(run.account.used[i] for run in children) for i in range(len(RESOURCES))]


def check_tree(world: World, runs: list[BudgetRun], *, bounded: bool) -> None:
    """What is true between any two operations."""
    for run in runs:
        account = run.account
        assert list(account.below or [0] * len(RESOURCES)) == parts_of(run, runs)
        for i, limit in enumerate(account.limits):
            assert account.reserved[i] >= 0
            if bounded and limit < UNLIMITED:
                assert account.used[i] + account.reserved[i] <= limit
    root = runs[0].account
    assert world.spent() == (root.used[2], root.used[3], root.used[4], root.used[5])


class Interleavings(RuleBasedStateMachine):
    """Estimates are upper bounds here, so the limits are never passed."""

    @initialize()
    def begin(self) -> None:
        self.world = World(ttl_s=60)
        self.runs = tree(self.world)
        self.open: list[Reservation] = []
        self.ended: list[tuple[Reservation, tuple[Any, ...]]] = []

    def picked(self, number: int) -> Reservation | None:
        return self.open[number % len(self.open)] if self.open else None

    @rule(run=st.integers(0, 3), given=st.integers(0, 200), made=st.integers(0, 200), cents=st.integers(0, 30))
    def reserve(self, run: int, given: int, made: int, cents: int) -> None:
        try:
            self.open.append(
                self.runs[run].reserve(input_tokens=given, output_tokens=made, cost_usd=cents / 100, on_unknown="input")
            )
        except BudgetExceeded as denied:
            assert denied.reason in ("limit", "busy", "latched")  # noqa: PT017 - the loop goes on

    @rule(number=st.integers(0, 99), share=st.integers(0, 100))
    def commit(self, number: int, share: int) -> None:
        if (hold := self.picked(number)) is not None:
            amounts = hold._hold.amounts
            self.open.remove(hold)
            hold.commit(
                Usage(
                    amounts.input_tokens * share // 100,
                    amounts.output_tokens * share // 100,
                    cost_usd=amounts.cost_nanousd * share // 100 / 10**9,
                )
            )
            assert hold.settled

    @rule(number=st.integers(0, 99))
    def release(self, number: int) -> None:
        if (hold := self.picked(number)) is not None:
            self.open.remove(hold)
            assert hold.release()
            assert not hold.release()

    @rule(number=st.integers(0, 99), more=st.integers(0, 100))
    def grow(self, number: int, more: int) -> None:
        if (hold := self.picked(number)) is not None:
            try:
                hold.extend(output_tokens=more)
            except BudgetExceeded as denied:
                assert denied.reason in ("limit", "busy")  # noqa: PT017 - the loop goes on

    @rule(number=st.integers(0, 99))
    def fail(self, number: int) -> None:
        if (hold := self.picked(number)) is not None:
            self.open.remove(hold)
            hold.__exit__(ValueError, ValueError(), None)
            assert hold.settled

    @rule(number=st.integers(0, 99))
    def lose(self, number: int) -> None:
        if (hold := self.picked(number)) is not None:
            self.open.remove(hold)
            del hold
            gc.collect(0)

    @rule(seconds=st.integers(0, 80))
    def wait(self, seconds: int) -> None:
        self.world.advance(seconds)

    @rule(run=st.integers(0, 3), steps=st.integers(0, 3))
    def extend(self, run: int, steps: int) -> None:
        if self.runs[run].account.limits[0] < UNLIMITED:
            self.runs[run].extend(steps=steps)

    @rule(run=st.integers(0, 3))
    def acknowledge(self, run: int) -> None:
        self.runs[run].acknowledge()

    @rule(run=st.integers(0, 3))
    def probe(self, run: int) -> None:
        self.runs[run].can_proceed(tokens=5)

    @invariant()
    def is_consistent(self) -> None:
        if hasattr(self, "runs"):
            check_tree(self.world, self.runs, bounded=True)

    def teardown(self) -> None:
        if not hasattr(self, "runs"):
            return
        self.open.clear()
        for run in self.runs:
            run.acknowledge()  # a pending denial keeps the frames that it was raised through, and their reservations
        gc.collect()
        self.world.advance(200)
        for run in self.runs:
            run.can_proceed()
            assert not any(run.account.reserved)
            assert run.open_holds == 0
        check_tree(self.world, self.runs, bounded=True)
        self.world.provider.shutdown()


Interleavings.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestInterleavings = Interleavings.TestCase


@pytest.mark.parametrize("workers", [2, 8])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_threads_keep_every_invariant(workers: int, seed: int) -> None:
    world = World()
    runs = tree(world)
    ends: list[str] = []

    def work(number: int) -> None:
        dice = random.Random(seed * 100 + number)
        for _ in range(60):
            run = dice.choice(runs)
            try:
                hold = run.reserve(input_tokens=dice.randint(0, 40), output_tokens=dice.randint(0, 40), cost_usd=0.01)
            except BudgetExceeded:
                run.extend(**{RESOURCES[dice.choice(run.account.limited)]: 0})
                continue
            step = dice.randrange(4)
            if step == 0:
                hold.release()
                ends.append("released")
                continue
            if step == 1:
                with contextlib.suppress(BudgetExceeded):
                    hold.extend(output_tokens=dice.randint(0, 20))
            hold.commit(Usage(*hold._hold.amounts[2:4], cost_usd=dice.choice([0.01, 0.002])))
            ends.append("committed")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_tree(world, runs, bounded=True)
    assert not any(amount for run in runs for amount in run.account.reserved)
    assert world.records() == ends.count("committed") == runs[0].usage.steps
    world.provider.shutdown()
