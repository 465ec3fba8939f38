from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress

import pytest
from world import PRICES, World, held, said, used

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.admission import settlement
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.ledger.ledger import Hold
from otelbudget.pricing import Price, Prices


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(100, 50, model="demo"), 200_000),
        (Usage(tokens=100, model="demo"), 200_000),
        (Usage(100, 50, model="demo", cost_usd=0.5), 500_000_000),
        (Usage(100, 50, model="demo", cost_usd=0), 0),
        (Usage(0, 0, model="mystery"), 0),
        (Usage(100, 50, model="mystery"), 0),
        (Usage(100, 50), 0),
    ],
)
def test_a_usage_costs_what_it_says_else_what_its_model_does(world: World, usage: Usage, nano: int) -> None:
    with world.run() as run:
        run.record(usage)
        assert (used(run)[4], world.spent()[2]) == (nano, nano)


@pytest.mark.parametrize("charge", ["record", "block", "expiry"])
def test_a_run_says_that_some_of_what_it_used_is_an_estimate(world: World, charge: str) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=10, max_output_tokens=50)
    with world.run() as root, root.child() as run:
        run.record(Usage(1, 2))
        assert not root.usage.estimated
        if charge == "record":
            run.record(Usage(1, 2, estimated=True))
        elif charge == "block":
            with suppress(ValueError), run.reserve(tokens=5):
                raise ValueError
        else:
            kept = begin(request)
            del kept
            gc.collect()
            world.advance(100)
            run.check()  # what has expired is settled by the next operation
        assert (root.usage.estimated, run.usage.estimated) == (True, True)
        assert (root.direct_usage.estimated, run.direct_usage.estimated) == (False, True)


def test_a_price_for_every_model_also_prices_a_call_without_one(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=Prices({"*": Price(input=1, output=1)}, listed=False)))
    with world.run(RunBudget(max_cost_usd=1)) as run:
        run.record_call(1000)
        assert used(run)[4] == 1_000_000
        assert run.check()


def test_an_estimate_of_an_unknown_price_takes_the_dearest_there_is_for_what_was_used(
    make_world: Callable[..., World],
) -> None:
    prices = Prices({"cheap": Price(input=1, output=1), "dear-*": Price(input=10, output=20)}, listed=False)
    world = make_world(config=Config(prices=prices, on_unpriced="estimate"))
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="mystery", input_tokens=100, max_output_tokens=1000)
    with world.run(RunBudget(max_cost_usd=1)) as run:
        call = begin(request)
        assert call is not None
        assert held(run)[4] == 100 * 10_000 + 1000 * 20_000
        call.commit(Usage(100, 10))
        assert used(run)[4] == 100 * 10_000 + 10 * 20_000


def test_every_charge_and_its_counters_change_together(world: World) -> None:
    with world.run(tenant="a") as root, root.child() as child:
        root.record(Usage(1, 2, tool_calls=3, cache_read_tokens=1, reasoning_tokens=2, model="demo"))
        child.record(Usage(10, 20, model="demo"))
        child.reserve(tokens=5).commit(Usage(3, 4))
        root.record_call(100)
        assert world.spent() == (114, 26, used(root)[4], 3)
        assert used(root)[:4] == [4, 140, 114, 26]
        assert world.records() == 4


def test_a_commit_after_an_expiry_charges_what_exceeds_its_charge_once(world: World) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=10, max_output_tokens=50)
    with world.run() as run:
        call = begin(request)
        assert call is not None
        hold: Hold = call._hold
        del call
        gc.collect()
        world.advance(70)
        assert run.can_proceed()
        assert (hold.state, used(run)[:5]) == ("expired", [1, 10, 10, 0, 10_000])
        assert settlement.settle(run._state, hold, Usage(4, 30, model="demo"), run._state.site)
        assert not settlement.settle(run._state, hold, Usage(4, 30, model="demo"), run._state.site)
        # The input was overestimated; what is charged is never taken back, and tokens stay the sum of their parts.
        assert used(run)[:4] == [1, 40, 10, 30]
        assert world.spent()[:2] == (10, 30)


def test_thresholds_that_an_expiry_reached_are_told_with_the_next_charge(world: World) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=9, max_output_tokens=0)
    with world.run(RunBudget(max_tokens=10, thresholds=(0.5,))) as run:
        begin(request)
        gc.collect()
        world.advance(70)
        run.can_proceed()
        run.record_call(0)
    assert [n for n, _ in said(world.span("otelbudget.run"))] == ["otelbudget.record", "otelbudget.threshold"]


def test_nested_tool_calls_are_charged_with_their_hold(world: World) -> None:
    with world.run(RunBudget(max_nested_tool_calls=1), reraise=False) as run:
        run.reserve(tool_calls=1, nested_tool_calls=1).commit(Usage(tool_calls=1, steps=0))
        assert used(run)[5:] == [1, 1]
        with pytest.raises(BudgetExceeded):
            run.reserve(nested_tool_calls=1)


def test_the_prices_of_these_tests_are_what_they_say() -> None:
    assert PRICES.table()["demo"].cost(Usage(1, 1)) == 3_000
