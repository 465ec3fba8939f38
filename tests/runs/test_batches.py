from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from opentelemetry.trace import use_span
from world import World, held, said, used

from otelbudget import BudgetExceeded, Config, Quota, RunBudget
from otelbudget.model.quota import Quotas
from otelbudget.runs.batches import BatchCall
from otelbudget.runs.run import BudgetRun


def counts(run: BudgetRun) -> tuple[int, int]:
    return run.account.used[5], run.account.used[6]


def holds(run: BudgetRun) -> tuple[int, int]:
    return run.account.reserved[5], run.account.reserved[6]


# --- S4: three tools in one response


def test_s4_all_or_nothing_of_three_on_two_runs_none(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as denied, run.tool_calls("a", "b", "c"):
            pytest.fail("the block must not run")
        assert (denied.value.reason, denied.value.resource, denied.value.requested) == ("limit", "tool_calls", 3)
        assert (counts(run), holds(run), run.state) == ((0, 0), (0, 0), "exhausted")
        run.check(steps=1)  # a refused tool never blocks a model call
        with pytest.raises(BudgetExceeded, match="stays exhausted"):
            run.tool_call("a").__enter__()
        run.acknowledge()
    assert world.counted()["tool", "deny", "limit"] == 1


def test_s4_partial_of_three_on_two_runs_two_and_the_third_is_a_denial(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2)) as run:
        with run.tool_calls("a", "b", ("c", "call_3"), partial=True) as batch:
            assert [(call.name, call.call_id) for call in batch] == [("a", None), ("b", None)]
            (denial,) = batch.refused
            assert (denial.reason, denial.resource, denial.used, denial.reserved, denial.limit, denial.requested) == (
                "limit", "tool_calls", 0, 2, 2, 1,
            )  # fmt: skip
            assert batch.refused_calls == (("c", "call_3"),)
            for call in batch:
                with call:
                    pass
        assert (counts(run), holds(run)) == ((2, 0), (0, 0))
        assert (run.state, run.latched, run.pending) == ("active", 0, None)
        receipt = run.receipt()
        assert (receipt.denials, receipt.reason, receipt.outcome) == (1, "limit", "active")
    assert world.counted() == {("tool", "allow", ""): 1, ("tool", "deny", "limit"): 1}
    checks = [a["otelbudget.decision"] for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.check"]
    assert checks == ["allow", "deny"]
    assert (world.span("otelbudget.run").attributes or {})["otelbudget.outcome"] == "completed"


def test_s4_one_by_one_of_three_on_two_runs_two(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2), reraise=False) as run:
        for name in ("a", "b"):
            with run.tool_call(name):
                pass
        with pytest.raises(BudgetExceeded):
            run.tool_call("c").__enter__()
        assert counts(run) == (2, 0)


@pytest.mark.parametrize("partial", [True, False])
def test_s4_three_on_three_runs_all(world: World, partial: bool) -> None:
    with world.run(RunBudget(max_tool_calls=3)) as run:
        with run.tool_calls("a", "b", "c", partial=partial) as batch:
            assert (len(batch), batch.refused, batch.refused_calls) == (3, (), ())
            for call in batch:
                with call:
                    pass
        assert counts(run) == (3, 0)
    assert world.spent()[3] == 3


# --- holding, charging, giving back


def test_a_batch_holds_its_calls_charges_each_on_entering_and_gives_the_rest_back(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=3), reraise=False) as run:
        with run.tool_calls("a", "b", "c") as batch:
            assert (counts(run), holds(run)) == ((0, 0), (3, 0))
            first, second, _ = batch
            with first:
                assert (counts(run), holds(run)) == ((1, 0), (2, 0))
            with pytest.raises(ZeroDivisionError), second:
                raise ZeroDivisionError
            assert (counts(run), holds(run)) == ((2, 0), (1, 0))
            with pytest.raises(BudgetExceeded, match="busy"):
                run.tool_call("d").__enter__()
        assert (counts(run), holds(run)) == ((2, 0), (0, 0))
        with run.tool_call("d"):
            assert counts(run) == (3, 0)
    assert world.spent()[3] == 3
    assert [n for n, _ in said(world.span("otelbudget.run")) if n == "otelbudget.release"] == ["otelbudget.release"]


def test_a_block_that_is_left_by_an_exception_gives_back_what_was_not_entered(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=3)) as run:
        with pytest.raises(ZeroDivisionError), run.tool_calls("a", "b") as batch:  # noqa: PT012 - what is left raises
            with batch.calls[0]:
                pass
            raise ZeroDivisionError
        assert (counts(run), holds(run), run.open_holds) == ((1, 0), (0, 0), 0)


def test_a_call_entered_twice_or_after_the_block_is_judged_like_any_other(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=3, latch=False), reraise=False) as run:
        with run.tool_calls("a", "b") as batch:
            for _ in range(2):
                with batch.calls[0]:
                    pass
            assert (counts(run), holds(run)) == ((2, 0), (1, 0))
        assert (counts(run), holds(run)) == ((2, 0), (0, 0))
        with batch.calls[1]:
            assert counts(run) == (3, 0)
        for call in batch:
            with pytest.raises(BudgetExceeded):
                call.__enter__()
        run.acknowledge()


def test_an_empty_batch_asks_nothing(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=0)) as run:
        for partial in (True, False):
            with run.tool_calls(partial=partial) as batch:
                assert (len(batch), batch.refused, batch.refused_calls) == (0, (), ())
    assert world.counted() == {}


def test_a_batch_and_each_of_its_calls_are_entered_once_at_a_time(world: World) -> None:
    with world.run() as run:
        batch = run.tool_calls("a", "b")
        with batch:
            call = batch.calls[0]
            with call, pytest.raises(RuntimeError, match="entered before"):
                call.__enter__()
            with pytest.raises(RuntimeError, match="batch was entered before"):
                batch.__enter__()
        assert (counts(run), holds(run)) == ((1, 0), (0, 0))


@pytest.mark.parametrize("wrong", ["", 5, None, ("a",), ("a", 5), ("", "id"), ["a", "b"]])
def test_what_is_no_call_is_an_error_that_says_which(world: World, wrong: Any) -> None:
    with world.run() as run, pytest.raises(TypeError, match="tool call 1 must be a name or"):
        run.tool_calls("a", wrong)


# --- nesting


@pytest.mark.parametrize("partial", [True, False])
def test_a_batch_inside_a_tool_call_is_nested(world: World, partial: bool) -> None:
    with world.run(RunBudget(max_nested_tool_calls=2), reraise=False) as run, run.tool_call("outer"):
        with run.tool_calls("a", "b", partial=partial) as batch:
            assert holds(run) == (2, 2)
            for call in batch:
                with call:
                    pass
        assert (counts(run), holds(run)) == ((3, 2), (0, 0))
        if partial:
            with run.tool_calls("c", partial=True) as batch:
                assert [denial.resource for denial in batch.refused] == ["nested_tool_calls"]
        else:
            with pytest.raises(BudgetExceeded, match="nested_tool_calls"):
                run.tool_calls("c").__enter__()


def test_a_call_entered_inside_another_one_of_its_batch_is_nested_and_asks_for_that(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2, max_nested_tool_calls=0, latch=False), reraise=False) as run:
        with run.tool_calls("a", "b") as batch:
            first, second = batch
            with first, pytest.raises(BudgetExceeded, match="nested_tool_calls"):
                second.__enter__()
            assert (counts(run), holds(run)) == ((1, 0), (0, 0))
        run.acknowledge()
    with world.run(RunBudget(max_tool_calls=2)) as run:
        batch = run.tool_calls("a", "b")
        with batch, batch.calls[0], batch.calls[1]:
            assert (counts(run), holds(run)) == ((2, 1), (0, 0))


@pytest.mark.parametrize("inside", [True, False])
def test_the_span_of_a_call_is_the_same_call(world: World, inside: bool) -> None:
    with world.run(RunBudget(max_tool_calls=2)) as run:
        with run.tool_calls("a") as batch:
            span = world.tracer.start_span if inside else None
            attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "a"}
            if span is not None:
                with batch.calls[0], use_span(span("execute_tool a", attributes=attributes), end_on_exit=True):
                    assert (counts(run), holds(run)) == ((1, 0), (0, 0))
            else:
                outer = world.tracer.start_span("execute_tool a", attributes=attributes)
                with use_span(outer, end_on_exit=True), batch.calls[0]:
                    assert (counts(run), holds(run)) == ((1, 0), (0, 0))
        assert counts(run) == (1, 0)


# --- in parallel


async def test_the_calls_of_a_batch_run_as_parallel_tasks(world: World) -> None:
    async with world.run(RunBudget(max_tool_calls=5, max_nested_tool_calls=0)) as run:

        async def work(call: BatchCall) -> str:
            async with call:
                await asyncio.sleep(0)
                return call.name

        async with run.tool_calls("a", "b", "c", "d", "e") as batch:
            assert await asyncio.gather(*map(work, batch)) == list("abcde")
        assert (counts(run), holds(run)) == ((5, 0), (0, 0))


@pytest.mark.parametrize("partial", [True, False])
def test_parallel_batches_never_overspend_and_lose_nothing(world: World, partial: bool) -> None:
    limit = 50
    with world.run(RunBudget(max_tool_calls=limit, latch=False), reraise=False) as run:
        barrier = threading.Barrier(8)
        entered: list[str] = []

        def work() -> None:
            barrier.wait()
            for _ in range(10):
                try:
                    with run.tool_calls("a", "b", "c", partial=partial) as batch:
                        assert counts(run)[0] + holds(run)[0] <= limit
                        for call in batch.calls[:2]:
                            with call:
                                entered.append(call.name)
                except BudgetExceeded:
                    pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts(run) == (len(entered), 0)
        assert (holds(run), run.open_holds) == ((0, 0), 0)
        assert limit - 2 <= len(entered) <= limit
        run.acknowledge()
    assert world.spent()[3] == len(entered)


async def test_a_cancelled_batch_gives_back_what_was_not_entered(world: World) -> None:
    inside = asyncio.Event()

    async def work(run: BudgetRun) -> None:
        async with run.tool_calls("a", "b") as batch, batch.calls[0]:
            inside.set()
            await asyncio.sleep(60)

    async with world.run() as run:
        task = asyncio.create_task(work(run))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (counts(run), holds(run)) == ((1, 0), (0, 0))


# --- what refuses


@pytest.mark.parametrize("reason", ["closed", "frozen", "deadline", "latched"])
def test_a_partial_batch_raises_nothing_whatever_refuses(world: World, reason: str) -> None:
    scope = world.run(RunBudget(max_tool_calls=1, max_seconds=5), reraise=False)
    run = scope.__enter__()
    if reason == "frozen":
        run.freeze()
    elif reason == "deadline":
        world.advance(5)
    elif reason == "latched":
        with pytest.raises(BudgetExceeded):
            run.check(tool_calls=2)
        run.acknowledge()
    else:
        scope.__exit__(None, None, None)
    with run.tool_calls("a", "b", partial=True) as batch:
        assert (len(batch), [denial.reason for denial in batch.refused]) == (0, [reason] * 2)
    assert (counts(run), holds(run), run.pending) == ((0, 0), (0, 0), None)
    scope.__exit__(None, None, None)


def test_calls_that_were_held_may_run_after_a_freeze_and_after_the_run(world: World) -> None:
    with world.run() as run:
        batch = run.tool_calls("a", "b").__enter__()
        run.freeze()
        with batch.calls[0]:
            pass
    with batch.calls[1]:
        pass
    assert counts(run) == (2, 0)
    assert world.spans("otelbudget.run") == []
    batch.__exit__(None, None, None)
    assert (world.span("otelbudget.run").attributes or {})["otelbudget.used.tool_calls"] == 2


def test_on_exhausted_is_asked_for_all_or_nothing_and_not_for_a_partial_batch(world: World) -> None:
    asked: list[str] = []

    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.reason)
        run.extend(tool_calls=1)
        return True

    with world.run(RunBudget(max_tool_calls=1, on_exhausted=more)) as run:
        with run.tool_calls("a", "b", partial=True) as batch:
            assert (len(batch), asked) == (1, [])
        with run.tool_calls("a", "b") as batch:
            assert (len(batch), asked) == (2, ["limit"])


def test_what_other_calls_hold_makes_the_rest_of_a_partial_batch_busy(world: World) -> None:
    with (
        world.run(RunBudget(max_tool_calls=4)) as run,
        run.tool_calls("x", "y"),
        run.tool_calls("a", "b", "c", partial=True) as batch,
    ):
        assert (len(batch), [denial.reason for denial in batch.refused]) == (2, ["busy"])


def test_a_budget_that_only_warns_admits_the_whole_batch(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=1, on_exhausted="warn")) as run:
        for partial in (True, False):
            with run.tool_calls("a", "b", partial=partial) as batch:
                for call in batch:
                    with call:
                        pass
                assert (len(batch), batch.refused) == (2, ())
        assert counts(run) == (4, 0)


def test_a_child_batch_counts_on_the_run_above_and_on_quotas_all_or_nothing(world: World) -> None:
    world = World(config=Config(quotas=Quotas(default=[Quota(tool_calls=2)])))
    with world.run(reraise=False) as root, root.child(reraise=False) as child:
        with pytest.raises(BudgetExceeded) as denied:
            child.tool_calls("a", "b", "c").__enter__()
        assert (denied.value.scope, held(root), held(child)) == ("tenant", [0] * 7, [0] * 7)
        with child.tool_calls("a", "b", "c", partial=True) as batch:
            assert len(batch) == 2
            with batch.calls[0]:
                assert used(root)[5] == used(child)[5] == 1
                assert held(root)[5] == held(child)[5] == 1
        quota = world.engine.owners.owner(None, None, None, None).books[0].current(world.engine.store.clock_s())
        assert (quota.used[5], quota.reserved[5]) == (1, 0)
        child.acknowledge()


def test_thresholds_are_said_when_a_call_of_a_batch_reaches_them(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2, thresholds=(0.5, 1.0))) as run, run.tool_calls("a", "b") as batch:
        for call in batch:
            with call:
                pass
    ratios = [a["otelbudget.ratio"] for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.threshold"]
    assert ratios == [0.5, 1.0]
