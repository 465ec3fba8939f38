from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from world import World, opened

from otelbudget import BudgetExceeded, Config, RunBudget, Usage, wrap
from otelbudget.calls.model_call import ModelRequest, abegin, begin
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs.run import BudgetRun


def budget(callback: Any, **limits: Any) -> RunBudget:
    return RunBudget(on_exhausted=callback, **(limits or {"max_steps": 1}))


def refused(run: BudgetRun) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check()
    return denied.value


def test_true_evaluates_once_more_so_an_extension_admits_the_call(world: World) -> None:
    asked: list[tuple[str, str | None]] = []

    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append((denial.reason, denial.resource))
        run.extend(steps=1, actor="ops")
        return True

    with world.run(budget(more)) as run:
        for _ in range(3):
            run.check()
            run.record_call()
    assert asked == [("limit", "steps")] * 2
    assert world.counted() == {("check", "allow", ""): 3}
    assert run.receipt().denials == 0


@pytest.mark.parametrize("answer", [True, False, None, 0])
def test_an_answer_that_makes_no_room_leaves_the_denial(world: World, answer: Any) -> None:
    with world.run(budget(lambda *_: answer, max_steps=0), reraise=False) as run:
        for _ in range(2):
            assert refused(run).reason == "limit"


def test_only_what_more_budget_can_lift_is_asked_about(world: World) -> None:
    asked: list[str] = []

    def note(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.reason)
        return False

    with world.run(budget(note, max_steps=1, max_seconds=5), reraise=False) as run:
        hold = run.reserve()
        for state in ("busy", "frozen", "deadline"):
            if state == "frozen":
                run.freeze()
            if state == "deadline":
                run.unfreeze()
                world.advance(6)
            with pytest.raises(BudgetExceeded) as denied:
                run.check()
            assert denied.value.reason == state
        hold.release()
    with pytest.raises(BudgetExceeded):
        run.check()
    assert asked == ["deadline"]


def test_an_extended_deadline_is_no_deadline(world: World) -> None:
    def more(denial: Any, run: BudgetRun) -> bool:
        run.extend(seconds=10)
        return True

    with world.run(budget(more, max_seconds=1)) as run:
        world.advance(2)
        assert run.check(steps=1, tokens=5)
        assert run.remaining()["seconds"] == 9


def test_what_the_callback_raises_is_raised_and_the_denial_is_pending(world: World) -> None:
    def broken(denial: Any, run: BudgetRun) -> bool:
        raise LookupError("who?")

    with pytest.raises(BudgetExceeded), world.run(budget(broken, max_steps=0)) as run:  # noqa: PT012 - what is left at the end of the block raises
        with pytest.raises(LookupError):
            run.check()
        assert run.receipt().denials == 1


def test_a_callback_that_asks_its_own_run_is_refused_and_not_asked_again(world: World) -> None:
    asked = 0

    def checks(denial: Any, run: BudgetRun) -> bool:
        nonlocal asked
        asked += 1
        with pytest.raises(BudgetExceeded):
            run.check()
        thread = threading.Thread(target=wrap(lambda: refused(run)))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        return False

    with world.run(budget(checks, max_steps=0), reraise=False) as run, pytest.raises(BudgetExceeded):
        run.check()
    assert asked == 1


async def test_a_callback_may_await_tasks_that_ask_its_own_run(world: World) -> None:
    async def checks(denial: Any, run: BudgetRun) -> bool:
        async def inner() -> str:
            try:
                await run.acheck()
            except BudgetExceeded as denied:
                return denied.reason
            return "allowed"

        reasons = await asyncio.gather(inner(), asyncio.create_task(inner()))
        assert reasons == ["limit"] * 2
        run.extend(steps=1)
        return True

    async with world.run(budget(checks, max_steps=0)) as run:
        assert await run.acheck()


def test_the_run_that_is_in_the_way_is_asked_and_then_the_next_one(world: World) -> None:
    asked: list[str | None] = []

    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append(run.budget.name)
        run.extend(steps=1)
        return True

    root, leaf = (RunBudget(max_steps=0, on_exhausted=more, name=name) for name in ("root", "leaf"))
    with world.run(root) as run, run.child(leaf) as child:
        assert child.check()
    assert asked == ["root", "leaf"]


def test_each_denied_caller_asks_for_itself_also_several_at_once(world: World) -> None:
    all_inside = threading.Barrier(8)

    def more(denial: Any, run: BudgetRun) -> bool:
        all_inside.wait(10)
        run.extend(steps=1)
        return True

    with world.run(budget(more, max_steps=0)) as run:
        threads = [threading.Thread(target=lambda: run.reserve(wait_s=10).commit()) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (run.usage.steps, run.receipt().denials) == (8, 0)


async def test_an_async_callback_is_awaited_by_each_task_for_itself(world: World) -> None:
    asked = 0

    async def more(denial: Any, run: BudgetRun) -> bool:
        nonlocal asked
        asked += 1
        while asked < 4:
            await asyncio.sleep(0)
        run.extend(steps=1)
        return True

    async with world.run(budget(more, max_steps=0)) as run:

        async def work() -> None:
            async with await run.areserve(wait_s=10) as hold:
                hold.commit()

        async with asyncio.timeout(10):
            await asyncio.gather(*(work() for _ in range(4)))
        assert (asked, run.usage.steps) == (4, 4)


def test_nobody_waits_for_anothers_answer(world: World) -> None:
    inside, answer = threading.Event(), threading.Event()

    def more(denial: Any, run: BudgetRun) -> bool:
        if not inside.is_set():
            inside.set()
            answer.wait(20)
        return False

    with world.run(budget(more, max_steps=0), reraise=False) as run:
        first = threading.Thread(target=refused, args=(run,))
        first.start()
        assert inside.wait(10)
        assert refused(run).resource == "steps"
        assert not answer.is_set()
        answer.set()
        first.join(10)


async def test_a_plain_check_beside_an_async_question_on_the_same_loop_is_refused_and_does_not_hang(
    world: World,
) -> None:
    asking, answered = asyncio.Event(), asyncio.Event()

    async def slow(denial: Any, run: BudgetRun) -> bool:
        asking.set()
        await answered.wait()
        return False

    async with world.run(budget(slow, max_steps=0), reraise=False) as run:
        task = asyncio.create_task(run.acheck())
        await asking.wait()
        with pytest.raises(BudgetExceeded):
            run.check()
        answered.set()
        with pytest.raises(BudgetExceeded):
            await task


async def test_cancelling_the_question_holds_nothing_and_refuses_nothing(world: World) -> None:
    asking = asyncio.Event()

    async def slow(denial: Any, run: BudgetRun) -> bool:
        asking.set()
        await asyncio.sleep(60)
        return True

    async with world.run(budget(slow, max_steps=1)) as run:
        run.record_call()
        task = asyncio.ensure_future(run.areserve(tokens=5))
        await asking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (run.remaining()["steps"], run._state.account.holds, run.receipt().denials) == (0, 0, 0)
        run.extend(steps=1)
        assert await run.acheck()


def test_an_async_callback_cannot_answer_a_plain_call_so_the_denial_stands(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def more(denial: Any, run: BudgetRun) -> bool:
        return True

    with caplog.at_level(logging.WARNING), world.run(budget(more, max_steps=0), reraise=False) as run:
        for _ in range(2):
            with pytest.raises(BudgetExceeded):
                run.check()
    assert caplog.text.count("is async, but a call that is not async was refused") == 1


def test_two_runs_whose_callbacks_ask_each_other_come_to_an_end(world: World) -> None:
    runs: list[BudgetRun] = []
    asked: list[BudgetRun] = []

    def cross(denial: Any, run: BudgetRun) -> bool:
        asked.append(run)
        refused(runs[1 - runs.index(run)])
        return False

    runs.extend(opened(world.run(budget(cross, max_steps=0))) for _ in range(2))
    refused(runs[0])
    assert asked == runs


async def test_model_calls_and_growing_streams_ask_too(world: World) -> None:
    world.activate()

    def more(denial: Any, run: BudgetRun) -> bool:
        run.extend(tokens=1000)
        return True

    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)
    with world.run(budget(more, max_tokens=50)) as run:
        call = begin(request)
        assert call is not None
        call.grow(1500)
        call.commit(Usage(40, 1500))
        acall = await abegin(request)
        assert acall is not None
        acall.release()
        with run.reserve(tokens=5) as hold:
            hold.extend(tokens=5000) if run.can_proceed(tokens=5000) else None
            hold.release()
        assert (run.usage.tokens, run.receipt().denials) == (1540, 0)


@pytest.mark.parametrize("lifts", [True, False])
def test_about_a_quota_the_run_that_was_refused_is_asked_and_extending_it_does_not_help(
    make_world: Callable[..., World], lifts: bool
) -> None:
    def with_quota(steps: int) -> Config:
        return Config(quotas=Quotas(default=(Quota(steps=steps, per="day"),)))

    world = make_world(config=with_quota(steps=0))
    asked: list[tuple[str | None, str | None, str]] = []

    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append((run.budget.name, denial.scope, denial.reason))
        run.extend(steps=5)
        if lifts:
            world.engine.reload(with_quota(steps=1))
        return True

    root, leaf = (RunBudget(max_steps=5, on_exhausted=more, name=name) for name in ("root", "leaf"))
    with world.run(root, reraise=False) as run, run.child(leaf, reraise=False) as child:
        if lifts:
            assert child.check()
        else:
            assert refused(child).scope == "tenant"
    assert asked == [("leaf", "tenant", "limit")]


@pytest.mark.parametrize("steers", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_steers_the_caller_away_from_its_question_refuses_nothing(
    world: World, steers: type[BaseException]
) -> None:
    def leaves(denial: Any, run: BudgetRun) -> bool:
        raise steers

    with world.run(budget(leaves, max_steps=0)) as run:
        with pytest.raises(steers):
            run.check()
        assert (run._state.refused.pending, run.receipt().denials) == (None, 0)


class Gone(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("how", ["reserve", "areserve"])
async def test_what_a_callback_raises_while_its_caller_waits_is_a_denial_too(world: World, how: str) -> None:
    def broken(denial: Any, run: BudgetRun) -> bool:
        raise Gone

    async with world.run(budget(broken), reraise=False) as run:
        hold = run.reserve()
        call = run.areserve(wait_s=10) if how == "areserve" else asyncio.to_thread(run.reserve, wait_s=10)
        task = asyncio.create_task(call)
        while not world.engine.ledger.bells:
            await asyncio.sleep(0.001)
        hold.commit()
        with pytest.raises(Gone):
            await task
        assert (run.receipt().reason, run.receipt().denials, run._state.account.holds) == ("limit", 1, 0)
    assert world.engine.ledger.bells == set()
