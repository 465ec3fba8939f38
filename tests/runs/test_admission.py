from __future__ import annotations

from collections.abc import Callable

import pytest
from world import World

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.pricing import Prices
from otelbudget.runs.run import BudgetRun


def refused(run: BudgetRun, **asked: float) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(**asked)  # type: ignore[arg-type]
    return denied.value


def test_the_reasons_are_asked_in_one_order(world: World) -> None:
    budget = RunBudget(max_steps=1, max_seconds=1, max_cost_usd=1)
    with world.run(budget, reraise=False) as run:
        run.record_call(5)
        assert refused(run).reason == "unpriced"
        run.reset()
        run.record(Usage(1, 1, cost_usd=0))
        for _ in range(2):
            assert refused(run).reason == "limit"
        world.advance(5)
        for asked in ({}, {"tool_calls": 1}):
            assert refused(run, **asked).reason == "deadline"
        run.freeze()
        for asked in ({}, {"tool_calls": 1}):
            assert refused(run, **asked).reason == "frozen"
        run.record_call(5)
        assert refused(run).reason == "unpriced"
        assert refused(run, tool_calls=1).reason == "frozen"
    assert refused(run).reason == "closed"


def test_the_widest_account_that_its_use_alone_blocks_decides(world: World) -> None:
    with (
        world.run(RunBudget(max_tokens=10, name="root"), reraise=False) as root,
        root.child(RunBudget(max_tokens=5, name="leaf"), reraise=False) as leaf,
    ):
        assert refused(leaf, tokens=11).budget == "root"
        root.reset()
        assert refused(leaf, tokens=6).budget == "leaf"


def test_held_amounts_make_busy_and_a_busy_run_is_not_exhausted(world: World) -> None:
    with world.run(RunBudget(max_steps=2), reraise=False) as run:
        holds = [run.reserve(), run.reserve()]
        for _ in range(3):
            denied = refused(run)
            assert (denied.reason, denied.reserved, denied.used) == ("busy", 2, 0)
        assert run.state == "active"
        holds[0].release()
        assert run.check()
        holds[1].release()


def test_what_was_refused_is_refused_again_and_what_fits_is_admitted(world: World) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as root, root.child(reraise=False) as child:
        for run in (child, root):
            for _ in range(2):
                assert refused(run, tokens=11).reason == "limit"
            assert run.check(tokens=10)
            assert (run.state, root.state) == ("active", "active")


def test_a_held_call_still_commits_after_another_one_was_refused(world: World) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        hold = run.reserve(tokens=5)
        run.record(Usage(6, 0))
        assert refused(run, tokens=5).reason == "limit"
        hold.commit(Usage(5, 0))
        assert run.usage.tokens == 11


def test_a_commit_over_the_limit_is_charged_and_the_next_call_refused(world: World) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        run.reserve(tokens=5).commit(Usage(50, 0))
        assert (run.usage.tokens, run.state) == (50, "exhausted")
        assert refused(run, tokens=1).reason == "limit"


def test_dead_holds_are_reclaimed_by_a_check_too(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.reserve()
        assert not run.can_proceed()
        world.advance(65)
        assert run.check(steps=1, tokens=1)


def test_a_warning_account_admits_what_another_still_refuses(world: World) -> None:
    with (
        world.run(RunBudget(max_tokens=10), reraise=False) as root,
        root.child(RunBudget(max_tokens=5, on_exhausted="warn"), reraise=False) as child,
    ):
        assert child.check(tokens=6).warned
        assert refused(child, tokens=11).reason == "limit"
        assert child.state == "active"


def test_a_warning_account_warns_of_its_deadline_too(world: World) -> None:
    with world.run(RunBudget(max_seconds=1, on_exhausted="warn")) as run:
        assert not run.check(steps=1, tokens=1).warned
        world.advance(2)
        decision = run.check(steps=1, tokens=1)
        assert decision.warned
        assert decision.denial is not None
        assert decision.denial.reason == "deadline"
    assert world.counted() == {("check", "allow", ""): 1, ("check", "warn", "deadline"): 1}


def test_a_money_limit_that_only_warns_denies_no_unpriced_call(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1, on_exhausted="warn")) as run:
        run.record_call(5)
        assert run.check()
    assert world.engine.meters.snapshot().unpriced == {"": 1}


def test_enforce_false_refuses_nothing_and_counts_what_it_would_have(make_world: Callable[..., World]) -> None:
    world = make_world(enforce=False)
    budget = RunBudget(max_steps=0, max_seconds=0, max_tool_calls=0, max_depth=0, max_cost_usd=0)
    with world.run(budget) as run:
        assert run.check(steps=1, tokens=1).warned
        assert run.can_proceed()
        hold = run.reserve(tokens=5)
        hold.extend(tokens=100)
        hold.commit(Usage(5, 5))
        with run.tool_call("t"), run.child():
            pass
        run.freeze()
        assert run.check().warned
        assert run.state == "frozen"
    assert run.check().warned
    counted = world.counted()
    assert {key[1] for key in counted} == {"warn"}
    assert counted[("tool", "warn", "deadline")] == 1
    assert run.receipt().denials == 0


def test_unpriced_spend_of_a_child_also_blinds_the_parent_whose_money_it_was(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as root:
        with root.child(reraise=False) as child:
            child.record_call(5)
        assert refused(root).reason == "unpriced"


def test_an_estimate_where_no_price_is_given_denies_and_never_allows_for_nothing(
    make_world: Callable[..., World],
) -> None:
    world = make_world(config=Config(prices=Prices(listed=False)))
    with world.run(RunBudget(max_cost_usd=1, on_unpriced="estimate"), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            run.check(tokens=5, model="mystery")
        assert caught.value.reason == "unpriced"
        run.record(Usage(10, 5, model="mystery"))
        assert refused(run).reason == "unpriced"


@pytest.mark.parametrize(
    ("budget", "next_call", "charged"),
    [
        (RunBudget(max_cost_usd=1), "unpriced", "0"),
        (RunBudget(max_cost_usd=1, on_unpriced="allow"), None, "0"),
        (RunBudget(max_cost_usd=1, on_unpriced="estimate"), None, "0.00002"),
        (RunBudget(max_steps=9), None, "0"),
        (RunBudget(max_steps=9, on_unpriced="deny"), "unpriced", "0"),
    ],
)
def test_each_policy_for_models_without_a_price(
    world: World, budget: RunBudget, next_call: str | None, charged: str
) -> None:
    with world.run(budget, reraise=False) as run:
        run.record(Usage(10, 5, model="mystery"))
        assert f"{run.usage.cost_usd:f}" == charged
        if next_call is None:
            assert run.check()
        else:
            assert refused(run).reason == next_call
    assert world.engine.meters.snapshot().unpriced == {"mystery": 1}
    assert world.spent()[2] == run.usage.cost_nanousd
