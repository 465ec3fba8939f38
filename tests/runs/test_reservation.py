from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from world import World, held, said, used

from otelbudget import BudgetExceeded, BudgetManager, Config, IdempotencyError, RunBudget, Usage
from otelbudget.pricing import Price


def test_a_reservation_holds_at_every_level_or_nowhere(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as root, root.child(RunBudget(max_tokens=50)) as child:
        hold = child.reserve(tokens=40)
        assert (held(root)[1], held(child)[1]) == (40, 40)
        with pytest.raises(BudgetExceeded, match="busy"):
            child.reserve(tokens=20)
        assert (held(root)[1], held(child)[1]) == (40, 40)
        hold.release()
        assert (held(root)[1], held(child)[1]) == (0, 0)
        child.acknowledge()


@pytest.mark.parametrize(
    ("held_amounts", "usage", "charged"),
    [
        ({"tokens": 9}, None, [1, 9, 9, 0, 0, 0, 0]),
        ({"tokens": 9, "input_tokens": 4}, None, [1, 9, 4, 5, 0, 0, 0]),
        ({"input_tokens": 4, "output_tokens": 5}, Usage(input_tokens=1), [1, 6, 1, 5, 0, 0, 0]),
        ({"input_tokens": 4, "output_tokens": 5}, Usage(output_tokens=1), [1, 5, 4, 1, 0, 0, 0]),
        ({"input_tokens": 4, "output_tokens": 5}, Usage(tokens=2), [1, 2, 2, 0, 0, 0, 0]),
        ({"input_tokens": 4, "output_tokens": 5}, Usage(0, 0), [1, 0, 0, 0, 0, 0, 0]),
        ({"input_tokens": 4, "output_tokens": 5}, Usage(), [1, 9, 4, 5, 0, 0, 0]),
        ({"cost_usd": 0.05}, Usage(), [1, 0, 0, 0, 50_000_000, 0, 0]),
        ({"cost_usd": 0.05}, Usage(steps=2), [2, 0, 0, 0, 50_000_000, 0, 0]),
        ({"cost_usd": 0.05}, Usage(0, 0), [1, 0, 0, 0, 50_000_000, 0, 0]),
        ({"cost_usd": 0.05}, Usage(cost_usd=0), [1, 0, 0, 0, 0, 0, 0]),
        ({"cost_usd": 0.05}, Usage(cost_usd=0.07), [1, 0, 0, 0, 70_000_000, 0, 0]),
        ({"cost_usd": 0.05}, Usage(80, 20), [1, 100, 80, 20, 50_000_000, 0, 0]),
        ({"cost_usd": 0.05}, Usage(80, 20, model="demo"), [1, 100, 80, 20, 120_000, 0, 0]),
        ({"tokens": 5}, Usage(80, 20, cost_usd=0.01), [1, 100, 80, 20, 10_000_000, 0, 0]),
        ({"steps": 3}, None, [3, 0, 0, 0, 0, 0, 0]),
        ({"tool_calls": 2, "nested_tool_calls": 1}, None, [0, 0, 0, 0, 0, 2, 1]),
        ({"nested_tool_calls": 1}, None, [0, 0, 0, 0, 0, 0, 1]),
        ({"steps": 0, "tokens": 5}, None, [0, 5, 5, 0, 0, 0, 0]),
    ],
)
def test_what_a_usage_leaves_open_is_charged_at_the_hold_and_zero_has_to_be_said(
    world: World, held_amounts: dict[str, Any], usage: Usage | None, charged: list[int]
) -> None:
    with world.run() as run:
        run.reserve(**held_amounts).commit(usage)
        assert (used(run), held(run)) == (charged, [0] * 7)
        assert world.spent() == (charged[2], charged[3], charged[4], charged[5])


def test_only_what_was_filled_in_from_the_hold_is_flagged_estimated(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1)) as run:
        run.reserve(cost_usd=0.2).commit(Usage(cost_usd=0.02))
        run.reserve(tokens=10, cost_usd=0.2).commit(Usage(output_tokens=3, cost_usd=0.02))
    records = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.record"]
    assert ["otelbudget.estimated" in attributes for attributes in records] == [False, True]


@pytest.mark.parametrize(
    ("on_unknown", "error", "charged"),
    [
        ("full", False, [1, 100, 60, 40, 100_000, 0, 0]),
        ("input", False, [1, 100, 60, 40, 100_000, 0, 0]),
        ("open", False, [1, 100, 60, 40, 100_000, 0, 0]),
        ("full", True, [1, 100, 60, 40, 100_000, 0, 0]),
        ("input", True, [1, 60, 60, 0, 60_000, 0, 0]),
        ("open", True, [0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_block_left_unsettled_charges_what_on_unknown_says(
    world: World, on_unknown: str, error: bool, charged: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with world.run() as run:
        for _ in range(2):
            try:
                with run.reserve(input_tokens=60, output_tokens=40, cost_usd=0.0001, on_unknown=on_unknown):
                    if error:
                        raise ValueError
            except ValueError:
                pass
        assert used(run) == [2 * amount for amount in charged]
        world.advance(66)
        run.can_proceed()
        assert held(run) == [0] * 7
    assert caplog.text.count("was never committed") == (0 if error else 1)
    assert (__file__ in caplog.text) is not error
    records = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.record"]
    assert all(attributes["otelbudget.estimated"] for attributes in records)


async def test_the_settle_survives_cancellation(world: World) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with await run.areserve(tokens=50) as hold:
            assert not hold.settled
            inside.set()
            await asyncio.sleep(60)

    async with world.run() as run:
        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (used(run)[:2], held(run)[1]) == ([1, 50], 0)


async def test_areserve_is_awaitable_and_an_async_block(world: World) -> None:
    async with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        hold = await run.areserve(tokens=60)
        await hold.aextend(tokens=40)
        with pytest.raises(BudgetExceeded):
            await hold.aextend(tokens=1)
        await hold.acommit(Usage(10, 0))
        run.acknowledge()
        async with await run.areserve(tokens=5) as hold:
            assert await hold.arelease()
        async with await run.areserve(tokens=5) as hold:
            pass
        assert run.usage.tokens == 15


def test_a_refused_extension_leaves_the_hold_as_it_was(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        run.record_call(50)
        hold = run.reserve(tokens=40)
        hold.extend(output_tokens=10)
        with pytest.raises(BudgetExceeded) as denied:
            hold.extend(tokens=60)
        assert (denied.value.reason, hold.held["tokens"], held(run)[1]) == ("limit", 50, 50)
        assert run.state == "active"
        hold.commit(Usage(5, 5))
        with pytest.raises(ValueError, match="settled"):
            hold.extend(tokens=1)
        assert held(run)[1] == 0
        with pytest.raises(TypeError, match="unknown resource"):
            hold.extend(seconds=1)


def test_a_freeze_refuses_holds_and_extensions_and_lets_calls_settle(world: World) -> None:
    with world.run(reraise=False) as run:
        hold = run.reserve(tokens=5)
        run.freeze(actor="ops", reason="stop")
        for refused in (run.reserve, lambda: hold.extend(tokens=1)):
            with pytest.raises(BudgetExceeded, match=r"frozen \(stop\)"):
                refused()
        hold.commit(Usage(3, 1))
        assert run.usage.tokens == 4
        run.unfreeze()
        run.reserve().release()


def test_a_commit_after_a_release_charges_in_full_once_and_is_late(world: World) -> None:
    with world.run() as run:
        hold = run.reserve(tokens=50)
        hold.release()
        for _ in range(2):
            hold.commit(Usage(30, 5))
        with pytest.raises(IdempotencyError):
            hold.commit(Usage(30, 6))
        assert (used(run)[:2], held(run)[1], world.records()) == ([1, 35], 0, 1)
    (record,) = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.record"]
    assert record["otelbudget.late"] is True


def test_two_threads_that_commit_different_usages_charge_once_and_one_of_them_hears_of_it(world: World) -> None:
    with world.run() as run:
        for _ in range(50):
            hold = run.reserve(tokens=50)
            errors: list[Exception] = []
            both = threading.Barrier(2)

            def commit(tokens: int, hold: Any = hold, both: Any = both, errors: Any = errors) -> None:
                both.wait()
                try:
                    hold.commit(Usage(tokens, 0))
                except IdempotencyError as error:
                    errors.append(error)

            threads = [threading.Thread(target=commit, args=(tokens,)) for tokens in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(errors) == 1
        assert run.usage.steps == 50


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        ({"seconds": 5}, ValueError, "seconds can't be reserved"),
        ({"on_unknown": "maybe"}, ValueError, "on_unknown must be"),
        ({"token": 5}, TypeError, "has no"),
        ({"tokens": -5}, ValueError, "tokens must be"),
    ],
)
def test_what_cannot_be_reserved_is_an_error_that_holds_nothing(
    world: World, asked: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with world.run() as run:
        with pytest.raises(kind, match=says):
            run.reserve(**asked)
        assert held(run) == [0] * 7


def test_settling_twice_changes_nothing_and_says_so(world: World) -> None:
    with world.run() as run:
        hold = run.reserve(tokens=50)
        assert not hold.commit(Usage(30, 5)).replayed
        assert hold.commit(Usage(30, 5)).replayed
        assert (hold.release(), hold.already_settled) == (False, True)
        first, second = run.reserve(tokens=50), run.reserve(tokens=50)
        assert (first.release(), first.already_settled) == (True, False)
        assert (first.release(), first.already_settled) == (False, True)
        assert not second.commit().replayed
        assert second.commit().replayed
        assert used(run)[:2] == [2, 85]


def test_a_hold_that_has_grown_past_what_one_call_may_use_still_settles(world: World) -> None:
    with world.run() as run:
        for settle in (lambda hold: hold.commit(), lambda hold: hold.__exit__(ValueError, ValueError(), None)):
            hold = run.reserve(tokens=2**52)
            for _ in range(3):
                hold.extend(tokens=2**52, cost_usd=2**20)
            settle(hold)
            assert held(run) == [0] * 7
        assert run.usage.tokens == 8 * 2**52
        assert run.receipt().used["cost_usd"] == 6 * 2**20


def test_commit_takes_a_usage_or_tokens_of_the_model_reserved_for(world: World) -> None:
    with world.run() as run:
        hold = run.reserve(tokens=10, steps=2, model="demo")
        for wrong in ("5", 1.5, {"words": 5}):
            with pytest.raises(TypeError, match="takes a Usage, or tokens"):
                hold.commit(wrong)
        with pytest.raises(ValueError, match="tokens must be"):
            hold.commit(-5)
        assert not hold.settled
        hold.commit(5)
    assert (run.usage.tokens, run.usage.steps, run.usage.cost_usd) == (5, 2, Decimal("0.00001"))


def test_releases_are_said_and_bounded_like_checks(make_world: Callable[..., World]) -> None:
    world = make_world()
    with world.run(RunBudget(max_tokens=100)) as run:
        for _ in range(200):
            run.reserve(tokens=5).release()
        with pytest.raises(BudgetExceeded):
            run.check(tokens=101)
        run.acknowledge()
    span = world.span("otelbudget.run")
    assert span.dropped_events == 0
    assert said(span)[1] == ("otelbudget.release", {"otelbudget.resource": "steps,tokens,input_tokens"})
    assert said(span)[-1][1]["otelbudget.decision"] == "deny"


def test_a_child_commit_is_its_parents_spend_too_and_money_is_exact(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1)) as root, root.child() as child:
        for _ in range(10):
            child.reserve(cost_usd=0.1).commit(Usage(cost_usd=0.1))
        assert (root.usage.cost_usd, child.usage.cost_usd) == (Decimal(1), Decimal(1))


def test_logging_names_the_call_site_of_an_async_block(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with world.run() as run, await run.areserve():
            pass

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert __file__ in caplog.text


def test_tool_calls_that_were_held_are_charged_unless_another_number_is_said(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=9)) as run:
        with run.reserve(tokens=5, tool_calls=2) as held:
            held.commit(Usage(2, 3))
        assert (run.usage.tool_calls, run.remaining()["tool_calls"]) == (2, 7)
        with run.reserve(tokens=5, tool_calls=2) as held:
            held.commit(Usage(2, 3, tool_calls=0))
        assert run.usage.tool_calls == 2
        assert Usage(2, 3) == Usage(2, 3, tool_calls=0)


def test_an_open_reservation_may_hold_more_after_another_request_was_refused(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        held = run.reserve(tokens=10)
        with pytest.raises(BudgetExceeded):
            run.check(tokens=200)
        held.extend(tokens=50)
        held.commit(Usage(5, 5))


@pytest.mark.parametrize(("steps", "said", "charged"), [(0, None, 0), (2, None, 2), (2, 1, 1), (0, 1, 1)])
def test_a_commit_that_says_no_steps_charges_those_that_are_held(
    world: World, steps: int, said: int | None, charged: int
) -> None:
    with world.run() as run:
        usage = Usage(30, 12) if said is None else Usage(30, 12, steps=said)
        run.reserve(tokens=50, steps=steps).commit(usage)
        assert (run.usage.steps, run.usage.tokens) == (charged, 42)


def test_tools_that_are_held_alone_charge_no_step(world: World) -> None:
    with world.run() as run:
        run.reserve(tool_calls=2).commit(Usage())
        assert (run.usage.steps, run.usage.tool_calls) == (0, 2)


def test_tokens_that_nobody_split_are_held_at_the_dearer_price_so_that_threads_never_pass_the_limit() -> None:
    manager = BudgetManager(Config(prices={"m": Price(input=0.15, output=0.60)}))
    with manager.run(RunBudget(max_cost_usd=0.005), reraise=False) as run, ThreadPoolExecutor(64) as pool:

        def call(_: int) -> None:
            with suppress(BudgetExceeded), run.reserve(tokens=1_000, model="m") as held:
                held.commit(Usage(0, 1_000))

        list(pool.map(call, range(200)))
    assert run.usage.cost_usd == Decimal("0.0048")
