"""What a user sees by completion, and what the obvious wrong thing says: nothing internal, and how to write it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from world import World

import otelbudget
from otelbudget import BudgetManager, BudgetRun, ConfigError, Quota, Quotas, QuotaService, RunBudget, Usage

NO_LIMIT = "run() has no 'max_steps', a budget has: run(RunBudget(max_steps=...))"
THREE = RunBudget(max_steps=3, max_tokens=2000, name="three")


def test_completion_on_a_run_shows_what_may_be_called_and_nothing_else(world: World) -> None:
    with world.run(THREE) as run:
        names = [name for name in dir(run) if not name.startswith("_")]
        assert len(names) <= 40
        for name in names:
            assert (getattr(BudgetRun, name).__doc__ or "").strip(), f"BudgetRun.{name} has no docstring"


def test_completion_on_the_package_shows_its_public_names() -> None:
    assert {"setup", "run", "RunBudget", "BudgetExceeded", "QuotaService"} <= set(dir(otelbudget))
    assert set(dir(otelbudget)) == set(otelbudget.__all__)


def test_handles_of_one_run_are_equal_and_of_two_are_not(world: World) -> None:
    with world.run() as run, run.child() as child:
        assert child.parent == run
        assert {child.parent, run} == {run}
        assert child != run


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda _: RunBudget(max_stesp=3), "RunBudget() has no 'max_stesp': did you mean 'max_steps'?"),
        (lambda _: Usage(input_token=3), "Usage() has no 'input_token': did you mean 'input_tokens'?"),
        (lambda _: Quotas(tenant={}), "Quotas() has no 'tenant': did you mean 'tenants'?"),
        (lambda _: Quota(token=3), "Quota() has no 'token': did you mean 'tokens'?"),
        (lambda _: otelbudget.setup(metric_port=1), "setup() has no 'metric_port': did you mean 'metrics_port'?"),
        (lambda _: BudgetManager(tenat="a"), "BudgetManager() has no 'tenat': did you mean 'tenant'?"),
        (lambda _: QuotaService(timezon="UTC"), "QuotaService() has no 'timezon': did you mean 'timezone'?"),
        (lambda run: run.check(tokns=5), "unknown resource 'tokns': did you mean 'tokens'?"),
        (lambda run: run.can_proceed(tokns=5), "unknown resource 'tokns': did you mean 'tokens'?"),
        (lambda run: run.reserve(tokns=5), "reserve() has no 'tokns': did you mean 'tokens'?"),
        (lambda run: run.reserve(wait=5), "reserve() has no 'wait': did you mean 'wait_s'?"),
        (lambda run: run.extend(stepps=5), "unknown resource 'stepps': did you mean 'steps'?"),
        (lambda run: run.child(tenat="x"), "run() has no 'tenat': did you mean 'tenant'?"),
        (lambda run: run.child(max_steps=1), NO_LIMIT),
        (
            lambda _: otelbudget.run(max_steps=3),
            "run() has no 'max_steps', a budget has: run(RunBudget(max_steps=...))",
        ),
        (lambda _: otelbudget.run(max_stesp=3), "run() has no 'max_stesp': did you mean 'max_steps'?"),
        (lambda _: QuotaService().check_quota("a", 3, stesp=4), "unknown resource 'stesp': did you mean 'steps'?"),
        (lambda _: QuotaService().reserve("a", 3, stesp=4), "reserve() has no 'stesp': did you mean 'steps'?"),
    ],
)
def test_a_misspelt_keyword_is_told_what_was_meant(world: World, wrong: Callable[[Any], Any], said: str) -> None:
    with world.run(THREE) as run:
        with pytest.raises(TypeError) as error:
            wrong(run)
        assert said in str(error.value)
        assert (run.usage.steps, run.remaining()["steps"]) == (0, 3)


def test_a_decorator_without_parentheses_says_to_write_them() -> None:
    with pytest.raises(TypeError, match=r"write `@otelbudget\.run\(\)`"):

        @otelbudget.run
        def work() -> None: ...


def test_a_run_used_without_with_says_to_write_it(world: World) -> None:
    scope: Any = world.run(THREE)
    with pytest.raises(AttributeError, match=r"has no 'check' before it is entered: write `with otelbudget\.run"):
        scope.check()
    with scope:
        pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda run: run.child(), r"write `with otelbudget\.run"),
        (lambda run: run.tool_call("search"), r"write `with run\.tool_call"),
        (lambda run: run.wrap_up(), r"write `with run\.wrap_up"),
        (lambda run: run.timeout(), r"write `async with run\.timeout"),
    ],
)
def test_a_block_that_is_never_entered_warns_where_it_is_dropped(
    world: World, make: Callable[[BudgetRun], object], said: str
) -> None:
    with world.run(THREE) as run:
        with pytest.warns(RuntimeWarning, match=f"nothing was done: {said}") as told:
            make(run)
        assert told[0].filename == __file__
        assert run.usage.tool_calls == 0


def test_a_reservation_that_is_never_awaited_is_told_as_of_any_coroutine(world: World) -> None:
    with world.run(THREE) as run, pytest.warns(RuntimeWarning, match="coroutine 'areserve' was never awaited"):
        run.areserve(tokens=1)


async def test_blocks_that_are_entered_awaited_or_wrap_a_function_warn_of_nothing(world: World) -> None:
    @world.run(THREE)
    def work() -> None: ...

    work()
    with world.run(THREE) as run, run.tool_call("search"):
        (await run.areserve(tokens=1)).release()
        async with run.timeout(), await run.areserve(tokens=1) as held:
            held.release()


async def test_areserve_is_a_coroutine_that_tasks_take(world: World) -> None:
    with world.run(THREE) as run:
        asked = run.areserve(tokens=1)
        held = await asyncio.create_task(asked)
        held.release()
        with pytest.raises(RuntimeError, match="already awaited"):
            await asked
        late = asyncio.ensure_future(run.areserve(tokens=1))
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert run.remaining()["tokens"] == 2000


def test_a_timeout_in_a_plain_with_says_that_it_is_async(world: World) -> None:
    with (
        world.run(THREE) as run,
        pytest.raises(TypeError, match=r"write `async with run\.timeout\(\):`"),
        run.timeout(),
    ):
        pass


def test_reprs_show_numbers_and_no_addresses(world: World) -> None:
    with world.run(THREE, tenant="acme") as run:
        held = run.reserve(tokens=1200, steps=1)
        assert repr(held) == "<Reservation of steps 1, tokens 1,200, input_tokens 1,200, open>"
        held.commit(Usage(350, 0))
        assert repr(run).startswith(
            f"<BudgetRun 'three' {run.run_id[:8]} of 'acme': active, steps 1 of 3, tokens 350 of 2,000"
        )
        assert "steps 1 of 3, tokens 350 of 2,000" in repr(run.receipt())
    assert repr(THREE) == "RunBudget(max_steps=3, max_tokens=2000, name='three')"
    assert repr(RunBudget(max_steps=2, wrap_up={"steps": 1})) == "RunBudget(max_steps=2, wrap_up={'steps': 1})"
    assert repr(Usage(80, 20)) == "Usage(input_tokens=80, output_tokens=20, tokens=100)"
    assert repr(Quotas(default=[Quota(tokens=10)])) == "Quotas(default=(Quota(tokens=10, name='tokens per day'),))"
    assert repr(Quota(tokens=10)) == "Quota(tokens=10, name='tokens per day')"
    for value in (BudgetManager(THREE), QuotaService(50), held):
        assert " at 0x" not in repr(value)


def test_amounts_are_read_as_people_write_them() -> None:
    written = RunBudget(
        max_steps="5",
        max_tokens="2k",
        max_cost_usd="$0.05",
        max_seconds="1h30m",
        wrap_up={"tokens": "0.5k"},
        thresholds=["80%"],
    )
    numbers = RunBudget(
        max_steps=5, max_tokens=2000, max_cost_usd=0.05, max_seconds=5400, wrap_up={"tokens": 500}, thresholds=(0.8,)
    )
    assert (written, written.limits, written.max_tokens) == (numbers, numbers.limits, 2000)
    assert RunBudget(max_seconds=timedelta(minutes=1, milliseconds=500)).max_seconds == 60.5
    assert Quota(cost_usd="$2.50", reserve_for={"high": "20%"}) == Quota(cost_usd=2.5, reserve_for={"high": 0.2})
    assert repr(written) == repr(copy.deepcopy(written)) == repr(pickle.loads(pickle.dumps(written)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RunBudget(max_tokens="2x"), "max_tokens must be a whole number such as 5, 50k or 1.5M, got '2x'"),
        (lambda: RunBudget(max_tokens="2m"), "a million is written with a capital M: 2M"),
        (lambda: RunBudget(max_seconds="5:00"), "5m is five minutes"),
        (lambda: RunBudget(max_seconds=timedelta(-1)), "max_seconds must be a finite number of seconds of at least 0"),
        (lambda: RunBudget(max_steps=timedelta(1)), "max_steps must be a whole number of at least 0"),
        (lambda: RunBudget(max_cost_usd="5 EUR"), "max_cost_usd must be an amount of money such as $2.50"),
        (lambda: RunBudget(max_tokens=5, wrap_up={"tokens": "a few"}), "wrap_up.tokens must be a whole number"),
        (lambda: RunBudget(wrap_up=5), "wrap_up must map resources to amounts"),
        (lambda: RunBudget(name=5), "name must be text, got 5"),
        (lambda: RunBudget(thresholds="80%"), "thresholds must be a list of ratios"),
        (lambda: RunBudget(thresholds=["80"]), "write a share of a hundred with a %"),
        (lambda: Quota(tokens=5, reserve_for={"high": "lots"}), "reserve_for['high'] must be a ratio from 0 to 1"),
    ],
)
def test_a_text_that_is_no_amount_says_how_to_write_one(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)


@pytest.mark.parametrize("keyword", ["tokens", "steps"])
def test_amounts_of_a_call_are_numbers_and_never_text(world: World, keyword: str) -> None:
    with world.run(THREE) as run:
        for ask in (run.check, run.reserve, run.can_proceed):
            with pytest.raises(ValueError, match=f"{keyword} must be a whole number"):
                ask(**{keyword: "2k"})


MISSPELT = """
import otelbudget
from otelbudget import Quota, QuotaService, RunBudget, Usage
with otelbudget.run() as run:
    {}
"""


def test_a_type_checker_sees_each_misspelt_keyword(tmp_path: Path) -> None:
    wrong = [
        "run.check(tokns=5)", "run.can_proceed(tokns=5)", "run.reserve(tokns=5)", "run.areserve(tokns=5)",
        "run.extend(tokns=5)", "run.child(tenat='x')", "otelbudget.run(tenat='x')", "RunBudget(max_stesp=3)",
        "Usage(input_token=3)", "Quota(token=3)", "QuotaService().reserve('a', 3, stesp=4)",
        "run.reserve().extend(tokns=5)", "otelbudget.rum()",
    ]  # fmt: skip
    file = tmp_path / "program.py"
    file.write_text(MISSPELT.format("\n    ".join(wrong)))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    lines = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if " error: " in line}
    assert lines == set(range(5, 5 + len(wrong))), checked.stdout + checked.stderr
