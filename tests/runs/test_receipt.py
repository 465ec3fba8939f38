from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from world import World

from otelbudget import BudgetExceeded, RunBudget, Usage


def test_a_receipt_sums_up_what_was_allowed_used_and_refused(world: World) -> None:
    budget = RunBudget(max_steps=2, max_cost_usd=1, max_seconds=10, name="b")
    with world.run(budget, tenant="acme", user="u", reraise=False) as run:
        assert run.receipt().outcome == "active"
        world.advance(2.5)
        run.record(Usage(60, 40, cost_usd=1.25))
        with pytest.raises(BudgetExceeded):
            run.check(steps=2)
    world.advance(100)
    receipt = run.receipt()
    assert (receipt.run_id, receipt.budget, receipt.tenant, receipt.user) == (run.run_id, "b", "acme", "u")
    assert (receipt.outcome, receipt.reason, receipt.resource, receipt.denials) == ("exhausted", "limit", "steps", 1)
    assert receipt.used == {
        "steps": 1,
        "tokens": 100,
        "input_tokens": 60,
        "output_tokens": 40,
        "cost_usd": Decimal("1.25"),
        "tool_calls": 0,
        "nested_tool_calls": 0,
        "seconds": 2.5,
    }
    assert {k: v for k, v in receipt.limits.items() if v is not None} == {"steps": 2, "cost_usd": 1, "seconds": 10}
    assert {k: v for k, v in receipt.remaining.items() if v is not None} == {"steps": 1, "cost_usd": 0, "seconds": 7.5}
    assert receipt.overage == {"cost_usd": Decimal("0.25")}
    assert receipt.message is not None
    assert pickle.loads(pickle.dumps(receipt)) == receipt


def test_a_receipt_is_a_line_per_resource_that_was_used_or_is_limited(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1, max_steps=3, name="b")) as run:
        run.record(Usage(1500, 40, cost_usd=0.000000001))
    receipt = run.receipt()
    assert str(receipt).splitlines() == [
        "b [default] completed",
        "  steps: 1 of 3",
        "  tokens: 1,540",
        "  input_tokens: 1,500",
        "  output_tokens: 40",
        "  cost_usd: $0.000000001 of $1",
        "  seconds: 0.00",
    ][:6] + ([] if not receipt.used["seconds"] else ["  seconds: 0.00"])


def test_time_over_the_limit_is_an_overage_too(world: World) -> None:
    with world.run(RunBudget(max_seconds=1)) as run:
        world.advance(1.5)
        assert run.receipt().overage == {"seconds": 0.5}
        assert "1.50 of 1.00 (0.50 over)" in str(run.receipt())


def test_sums_of_any_size_are_shown(world: World) -> None:
    with world.run() as run:
        for _ in range(3):
            run.record(Usage(2**52, 2**51, cost_usd=2**22, steps=2**52, tool_calls=2**52))
        assert run.usage.tokens == 3 * (2**52 + 2**51)
        assert run.usage.cost_usd == 3 * 2**22
        assert (run.usage.steps, run.usage.tool_calls) == (3 * 2**52, 3 * 2**52)
        assert pickle.loads(pickle.dumps(run.usage)) == run.usage
        assert run.receipt().used["cost_usd"] == 3 * 2**22
        assert "tokens: 20,266,198,323,167,232" in str(run.receipt())
        assert run.remaining()["tokens"] is None
