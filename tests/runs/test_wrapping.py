from __future__ import annotations

from typing import Any

import pytest
from world import World, said

from otelbudget import BudgetError, BudgetExceeded, RunBudget, Usage
from otelbudget.runs.run import BudgetRun

BUDGET = RunBudget(max_steps=5, max_tokens=1000, wrap_up={"tokens": 500}, max_tool_calls=9)


def spent(run: BudgetRun) -> None:
    """Use up what ordinary calls have, and be refused."""
    run.record(Usage(500, 0, steps=4))
    with pytest.raises(BudgetExceeded):
        run.check()


def refused(run: BudgetRun, **asked: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(**asked)
    return denied.value


def is_another(denied: BudgetExceeded) -> bool:
    """Whether a call was refused since it is not the one that `wrap_up` admits."""
    return denied.reason == "limit" and "admits one model call" in str(denied)


def test_ordinary_calls_and_remaining_see_the_limit_without_what_is_set_aside(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        assert (run.remaining()["steps"], run.remaining()["tokens"]) == (4, 500)
        assert refused(run, tokens=501).limit == 500


def test_after_a_denial_one_call_reaches_into_it_and_the_second_is_denied(world: World) -> None:
    with world.run(BUDGET) as run:
        spent(run)
        with run.wrap_up():
            assert run.check(tokens=500)
            run.reserve(tokens=500).commit(Usage(400, 60))
            denied = refused(run)
            assert (is_another(denied), denied.resource) == (True, "steps")
        run.acknowledge()
        assert (run.usage.steps, run.usage.tokens) == (5, 960)
    records = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.record"]
    assert [attributes.get("otelbudget.wrap_up") for attributes in records] == [None, True]


def test_it_reaches_to_the_full_limit_and_not_further(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up():
            assert refused(run, tokens=501).limit == 1000
            assert run.reserve(tokens=500)


def test_a_call_of_several_steps_is_not_one_call(world: World) -> None:
    with world.run(RunBudget(max_steps=5, wrap_up={"steps": 3}), reraise=False) as run:
        run.record(Usage(steps=2))
        refused(run)
        with run.wrap_up():
            assert is_another(refused(run, steps=2))
            run.reserve().commit()


def test_it_works_once_and_only_after_a_limit_or_deadline_denial(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        with pytest.raises(BudgetError, match=r"no limit and no deadline"):
            run.wrap_up().__enter__()
        run.freeze()
        refused(run)
        run.unfreeze()
        with pytest.raises(BudgetError, match="only after a denial"):
            run.wrap_up().__enter__()
        spent(run)
        with run.wrap_up():
            pass
        with pytest.raises(BudgetError, match="used before"):
            run.wrap_up().__enter__()


def test_entering_it_deals_with_what_is_pending(world: World) -> None:
    with world.run(BUDGET) as run:
        spent(run)
        with run.wrap_up():
            run.reserve(tokens=10).commit(Usage(5, 5))


def test_no_tools_inside_not_even_in_a_child(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up():
            with pytest.raises(BudgetExceeded, match="no tool call"):
                run.tool_call("t").__enter__()
            with run.child(reraise=False) as child, pytest.raises(BudgetExceeded, match="no tool call"):
                child.tool_call("t").__enter__()
            run.reserve(tokens=5).release()
        assert run.usage.tool_calls == 0


def test_the_one_call_may_be_made_by_a_run_inside_under_that_one_s_own_limits(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up(), run.child(RunBudget(max_tokens=5), reraise=False) as child:
            assert refused(child, tokens=6).limit == 5
            child.acknowledge()
            child.extend(tokens=20)
            child.reserve(tokens=10).commit(Usage(5, 5))
            assert is_another(refused(child))
            assert is_another(refused(run))


def test_a_call_that_is_only_checked_and_recorded_is_the_one_call_too(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1, wrap_up={"cost_usd": 0.2}), reraise=False) as run:
        run.record(Usage(cost_usd=0.8))
        refused(run, cost_usd=0.1)
        with run.wrap_up():
            run.check(cost_usd=0.01)
            run.record(Usage(cost_usd=0.01))
            assert is_another(refused(run, cost_usd=0.01))


def test_a_recorded_call_without_money_is_the_one_call_too(world: World) -> None:
    with world.run(RunBudget(max_tokens=100, wrap_up={"tokens": 30}), reraise=False) as run:
        run.record_call(70)
        refused(run, tokens=10)
        with run.wrap_up():
            run.check(tokens=10)
            run.record_call(10)
            assert is_another(refused(run, tokens=10))


def test_a_call_that_never_left_is_not_the_one_call(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up():
            run.reserve(tokens=5).release()
            run.reserve(tokens=5).commit(Usage(1, 1))
            assert is_another(refused(run))


def test_limits_of_ancestors_and_a_freeze_hold_as_ever(world: World) -> None:
    with world.run(RunBudget(max_tokens=600), reraise=False) as root, root.child(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up():
            assert refused(run, tokens=200).limit == 600
            root.freeze()
            assert refused(run, tokens=1).reason == "frozen"


def test_a_run_whose_limit_refused_its_child_may_wrap_up(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        run.record(Usage(0, 0, steps=4))
        with run.child(reraise=False) as child:
            refused(child)
        with run.wrap_up():
            run.reserve(tokens=5).commit(Usage(1, 1))


def test_a_deadline_is_passed_by_the_seconds_set_aside(world: World) -> None:
    with world.run(RunBudget(max_seconds=10, wrap_up={"seconds": 5}), reraise=False) as run:
        world.advance(10)
        assert refused(run).reason == "deadline"
        with run.wrap_up():
            world.advance(4.9)
            assert run.check()
            run.reserve().commit()
            assert is_another(refused(run))
    with world.run(RunBudget(max_seconds=10), reraise=False) as run:
        world.advance(10)
        refused(run)
        with run.wrap_up():
            assert refused(run).reason == "deadline"


def test_the_hold_of_the_last_call_may_grow_into_what_is_set_aside_after_the_block_too(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        spent(run)
        with run.wrap_up():
            hold = run.reserve(tokens=100)
        hold.extend(tokens=400)
        with pytest.raises(BudgetExceeded):
            hold.extend(tokens=1)
        hold.commit(Usage(100, 400))


async def test_it_serves_async_blocks_too(world: World) -> None:
    async with world.run(BUDGET) as run:
        spent(run)
        async with run.wrap_up(), await run.areserve(tokens=10) as hold:
            hold.commit(Usage(5, 5))


def test_a_reset_run_may_wrap_up_again(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        for _ in range(2):
            spent(run)
            with run.wrap_up():
                run.reserve(tokens=5).commit(Usage(1, 1))
            run.reset()
