from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from world import World, opened, said

from otelbudget import BudgetExceeded, RunBudget, Usage


def denied(run: Any, **asked: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as raised:
        run.check(**asked)
    return raised.value


def test_the_exception_carries_what_where_how_much_and_the_receipt(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, name="b"), tenant="acme", reraise=False) as run:
        run.record_call(4)
        hold = run.reserve(tokens=3)
        error = denied(run, tokens=7)
        hold.release()
    assert (error.reason, error.resource, error.budget, error.scope) == ("limit", "tokens", "b", "run")
    assert (error.used, error.reserved, error.limit, error.requested) == (4, 3, 10, 7)
    assert error.receipt is not None
    assert (error.receipt.outcome, error.receipt.resource, error.receipt.denials) == ("exhausted", "tokens", 1)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (twin.reason, str(twin), twin.receipt.used) == (error.reason, str(error), error.receipt.used)


def test_the_first_denial_that_says_something_about_the_budget_is_the_runs_reason(world: World) -> None:
    with world.run(RunBudget(max_steps=1), reraise=False) as run:
        hold = run.reserve()
        denied(run)
        assert (run.receipt().reason, run.receipt().outcome) == ("busy", "active")
        hold.commit()
        denied(run)
        denied(run)
        assert (run.receipt().reason, run.receipt().outcome, run.receipt().denials) == ("limit", "exhausted", 3)


def test_denials_are_counted_by_operation_and_reason_under_the_budget_that_denied(world: World) -> None:
    with (
        world.run(RunBudget(max_steps=0, name="root"), reraise=False) as root,
        root.child(RunBudget(name="leaf"), reraise=False) as leaf,
    ):
        denied(leaf)
        with pytest.raises(BudgetExceeded):
            leaf.reserve()
    cells = {cell.budget: cell for cell in world.engine.meters.snapshot().budgets}
    counted = {key: tally.n for key, tally in cells["root"].rare.items() if tally.n}
    assert counted == {("check", "deny", "limit", "steps"): 1, ("reserve", "deny", "limit", "steps"): 1}
    assert (cells["root"].repeated, cells["leaf"].repeated, cells["leaf"].rare) == (1, 0, {})


def test_the_denied_call_says_so_on_its_own_span_and_the_run_span_remembers_the_first(world: World) -> None:
    attributes = {"gen_ai.operation.name": "execute_tool"}
    with world.run(RunBudget(max_tool_calls=0), reraise=False) as run, pytest.raises(BudgetExceeded):
        world.tracer.start_span("execute_tool t", attributes=attributes)
    (run_span,) = world.spans("otelbudget.run")
    assert (run_span.attributes or {})["otelbudget.denied.tool_calls.limit"] is True
    assert said(run_span) == []
    assert run_span.status.status_code is StatusCode.UNSET
    assert run.receipt().resource == "tool_calls"


def test_denials_of_one_kind_are_events_eight_times_and_then_counted(world: World) -> None:
    with world.run(RunBudget(max_steps=0, max_tool_calls=0), reraise=False) as run:
        for _ in range(20):
            denied(run)
        denied(run, tool_calls=1)
    span = world.span("otelbudget.run")
    assert [a["otelbudget.resource"] for _, a in said(span)] == ["steps"] * 8 + ["tool_calls"]
    assert (span.attributes or {})["otelbudget.events.suppressed"] == 12
    (cell,) = world.engine.meters.snapshot().budgets
    assert (cell.rare["check", "deny", "limit", "steps"].n, cell.repeated) == (20, 19)


def test_a_run_that_never_raises_again_keeps_no_exception_and_so_no_frames(world: World) -> None:
    class Big:
        pass

    def work() -> weakref.ref[Big]:
        big = Big()
        with pytest.raises(BudgetExceeded):
            world.manager.check(steps=1)
        return weakref.ref(big)

    with world.run(RunBudget(max_steps=0), reraise=False):
        ghost = work()
    gc.collect()
    assert ghost() is None


def test_letting_go_of_a_denial_may_settle_what_its_frames_held(world: World) -> None:
    class Stream:
        """Settles when dropped, as abandoned streams do."""

        def __init__(self, run: Any) -> None:
            weakref.finalize(self, run.record_call, 5).atexit = False

    def call(run: Any) -> None:
        stream = Stream(run)
        run.check(steps=5)
        del stream

    for way in ("acknowledge", "extend", "reset", "wrap_up"):
        run = opened(world.run(RunBudget(max_steps=1)))
        with contextlib.suppress(BudgetExceeded):
            call(run)
        before = run.usage.steps
        if way == "wrap_up":
            with run.wrap_up():
                pass
        else:
            getattr(run, way)(**({"steps": 1} if way == "extend" else {}))
        gc.collect()
        assert run.usage.steps == before + 1


@pytest.mark.slow
def test_a_refusal_is_a_denial_also_where_what_was_in_its_way_is_given_back_meanwhile(world: World) -> None:
    until_s, switched_s = time.monotonic() + 5, sys.getswitchinterval()
    budget = RunBudget(max_tokens=100, max_tool_calls=2)

    def work(amounts: dict[str, int]) -> int:
        refused = 0
        while time.monotonic() < until_s:
            try:
                run.reserve(steps=0, tool_calls=1, **amounts).release()
            except BudgetExceeded:
                refused += 1
        return refused

    sys.setswitchinterval(1e-6)
    try:
        with world.run(budget, reraise=False) as run, ThreadPoolExecutor(8) as pool:
            run.record(Usage(50, 50))
            assert all(pool.map(work, [{}, {"tokens": 10}] * 4))
    finally:
        sys.setswitchinterval(switched_s)
