from __future__ import annotations

import copy
import dataclasses
import pickle
from decimal import Decimal
from typing import Any

import pytest

from otelbudget import ConfigError, RunBudget, Usage
from otelbudget.model.amounts import COST


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(RunBudget) if f.name.startswith("max_") and f.init]
)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "five", 2**53])
def test_every_limit_refuses_what_is_no_amount_and_names_itself(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        RunBudget(**{name: value})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"on_exhausted": "stop"}, "on_exhausted must be 'raise', 'warn' or a callable"),
        ({"on_unpriced": "guess"}, "on_unpriced must be"),
        ({"thresholds": (0,)}, "above 0 and at most 1"),
        ({"thresholds": (1.5,)}, "above 0 and at most 1"),
        ({"thresholds": (True,)}, "above 0 and at most 1"),
        ({"wrap_up": {"tokens": 5}}, "max_tokens is not limited"),
        ({"wrap_up": {"tokens": 5}, "max_tokens": 4}, "more than max_tokens allows"),
        ({"wrap_up": {"token": 5}, "max_tokens": 9}, "unknown resource 'token'"),
        ({"wrap_up": {"tokens": -5}, "max_tokens": 9}, "wrap_up.tokens must be"),
        ({"wrap_up": {"seconds": -5}, "max_seconds": 9}, "wrap_up.seconds must be"),
    ],
)
def test_a_budget_that_contradicts_itself_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RunBudget(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"max_cost_usd": 1e-10},
        {"max_cost_usd": Decimal("5e-10")},
        {"max_seconds": 1e-12},
        {"max_cost_usd": 1, "wrap_up": {"cost_usd": 1e-10}},
        {"wrap_up": {"seconds": 1e-10}},
    ],
)
def test_a_limit_above_0_is_never_taken_for_0(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is less than a nano.* and would be a limit of 0; write 0 for none"):
        RunBudget(**given)


def test_the_smallest_limits_are_a_nano_usd_and_a_nanosecond_and_0_is_0() -> None:
    smallest = RunBudget(max_cost_usd=Decimal("6e-10"), max_seconds=1e-9)
    assert (smallest.limits[COST], smallest.max_ns) == (1, 1)
    nothing = RunBudget(max_cost_usd=0.0, max_seconds=0)
    assert (nothing.limits[COST], nothing.max_ns) == (0, 0)


def test_wrapping_up_lies_inside_the_limit_and_implies_a_step() -> None:
    budget = RunBudget(max_steps=5, max_tokens=100, wrap_up={"tokens": 30})
    assert (budget.limits[0], budget.ordinary_limits[0]) == (5, 4)
    assert (budget.limits[1], budget.ordinary_limits[1]) == (100, 70)


def test_a_threshold_named_twice_counts_once() -> None:
    assert RunBudget(thresholds=(1, 0.8, 0.8, 1.0)).thresholds == (0.8, 1.0)


def test_a_budget_survives_pickling_copying_and_replacing() -> None:
    budget = RunBudget(max_steps=5, max_cost_usd=0.05, wrap_up={"steps": 2}, name="x")
    assert pickle.loads(pickle.dumps(budget)) == copy.deepcopy(budget) == budget
    assert dataclasses.replace(budget, max_steps=9).ordinary_limits[0] == 7


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ({"tokens": 9}, (9, 0, 9)),
        ({"input_tokens": 4, "output_tokens": 5}, (4, 5, 9)),
        ({"input_tokens": 4, "tokens": 9}, (4, 5, 9)),
        ({"output_tokens": 4, "tokens": 9}, (5, 4, 9)),
        ({"input_tokens": 4}, (4, None, None)),
        ({"output_tokens": 4}, (None, 4, None)),
        ({}, (None, None, None)),
        ({"tokens": 0}, (0, 0, 0)),
    ],
)
def test_usage_completes_what_follows_and_leaves_the_unknown_unknown(given: dict[str, Any], whole: Any) -> None:
    usage = Usage(**given)
    assert (usage.input_tokens, usage.output_tokens, usage.tokens) == whole


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": 3, "input_tokens": 2, "output_tokens": 2},
        {"tokens": 1, "input_tokens": 2},
        {"input_tokens": -1},
        {"input_tokens": 2.0},
        {"input_tokens": True},
        {"cost_usd": float("nan")},
        {"steps": -1},
        {"input_tokens": 2**53 - 1, "output_tokens": 2**53 - 1},
    ],
)
def test_usage_refuses_numbers_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tokens|steps|cost_usd"):
        Usage(**given)


def test_an_unknown_part_stays_unknown_when_something_else_is_replaced() -> None:
    assert dataclasses.replace(Usage(input_tokens=4), model="m").output_tokens is None
    assert dataclasses.replace(Usage(tokens=4), model="m") == Usage(tokens=4, model="m")


def test_the_cost_of_a_usage_is_exact_money() -> None:
    usage = Usage(cost_usd=0.1)
    assert (usage.cost_usd, usage.cost_nanousd) == (Decimal("0.1"), 100_000_000)
    assert (Usage().cost_usd, Usage().cost_nanousd) == (None, None)
