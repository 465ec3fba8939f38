from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from world import World, opened, said

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.runs import asking, blocks
from otelbudget.runs.run import BudgetRun

TEN = RunBudget(max_seconds=10, name="ten")
FOREVER_S = 60


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "POLL_S", 0.005)


@pytest.fixture
def real(world: World) -> World:
    """A world with a real clock, for deadlines of some milliseconds."""
    world.engine.clock_ns = time.monotonic_ns
    return world


@pytest.fixture
async def unheard() -> list[Any]:
    """What the loop is told that nobody has caught."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
    return told


async def look(run: BudgetRun) -> None:
    """Let every block of *run* look at the test's clock, which its timers don't follow."""
    for _ in range(5):
        await asyncio.sleep(asking.POLL_S)


async def blocked(run: BudgetRun, began: asyncio.Event) -> None:
    async with run.timeout():
        began.set()
        await asyncio.sleep(FOREVER_S)


async def working(run: BudgetRun) -> asyncio.Task[None]:
    """A task at work in a block of *run*."""
    began = asyncio.Event()
    task = asyncio.create_task(blocked(run, began))
    await began.wait()
    return task


async def stopped(task: asyncio.Task[Any]) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        await task
    assert denied.value.reason == "deadline"
    return denied.value


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_work_is_cancelled_at_the_deadline_and_that_is_a_denial_like_any_other(real: World) -> None:
    cleaned = False
    async with real.run(RunBudget(max_seconds=0.02, name="b"), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as denied:  # noqa: PT012 - the block inside raises
            async with run.timeout():
                try:
                    await asyncio.sleep(FOREVER_S)
                finally:
                    cleaned = True
        assert cancelling() == 0
    error = denied.value
    assert (error.reason, error.resource, error.budget, error.scope) == ("deadline", "seconds", "b", "run")
    assert error.used is not None
    assert error.limit == 0.02 <= error.used < FOREVER_S
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert (cleaned, run.receipt().denials, run.receipt().reason) == (True, 1, "deadline")
    assert real.counted() == {("check", "deny", "deadline"): 1}
    span = real.span("otelbudget.run")
    assert [a["otelbudget.reason"] for n, a in said(span) if n == "otelbudget.check"] == ["deadline"]
    assert (span.attributes or {})["otelbudget.outcome"] == "exhausted"


async def test_the_denial_is_pending_until_somebody_deals_with_it(world: World) -> None:
    with pytest.raises(BudgetExceeded) as again:  # noqa: PT012 - what is left at the end of the block raises
        async with world.run(TEN) as run:
            task = await working(run)
            world.advance(10)
            await look(run)
            first = await stopped(task)
    assert again.value is first
    async with world.run(TEN) as run:
        task = await working(run)
        world.advance(10)
        await look(run)
        await stopped(task)
        run.extend(seconds=10)


@pytest.mark.parametrize(("own", "above", "blames"), [(20, 10, "above"), (10, 20, "own"), (None, 10, "above")])
async def test_the_first_deadline_of_the_run_and_those_above_it_counts(
    world: World, own: int | None, above: int, blames: str
) -> None:
    root, leaf = RunBudget(max_seconds=above, name="above"), RunBudget(max_seconds=own, name="own")
    async with world.run(root, reraise=False) as run, run.child(leaf, reraise=False) as child:
        task = await working(child)
        world.advance(9)
        await look(child)
        assert not task.done()
        world.advance(1)
        await look(child)
        assert (await stopped(task)).budget == blames
        assert bool(run._state.refused.pending) is (blames == "above")


async def test_a_deadline_that_is_over_is_refused_before_the_work_begins(world: World) -> None:
    began = False
    async with world.run(TEN, reraise=False) as run:
        world.advance(10)
        with pytest.raises(BudgetExceeded) as denied:
            async with run.timeout():
                began = True
        assert (denied.value.reason, began, run.receipt().denials) == ("deadline", False, 1)


@pytest.mark.parametrize("budget", [RunBudget(), RunBudget(max_seconds=1, on_exhausted="warn")])
async def test_without_a_deadline_that_refuses_nothing_happens(world: World, budget: RunBudget) -> None:
    async with world.run(budget) as run:
        task = await working(run)
        world.advance(100)
        await look(run)
        assert not task.done()
        task.cancel()


async def test_a_manager_that_refuses_nothing_cancels_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(enforce=False)
    async with world.run(TEN) as run:
        world.advance(11)
        async with run.timeout():
            await look(run)


async def test_work_that_ends_in_time_leaves_no_trace(world: World) -> None:
    async with world.run(TEN) as run, run.child() as child:
        async with child.timeout():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.advance(11)
        await look(child)
    assert world.counted() == {}


async def test_a_timer_that_fires_before_the_clock_says_so_is_set_anew(world: World) -> None:
    async with world.run(RunBudget(max_seconds=0.001)) as run, run.timeout():
        await asyncio.sleep(0.01)  # the clock of the world stands still


# --- others who cancel


@pytest.mark.parametrize("first", ["the other", "both at once"])
async def test_a_cancellation_from_outside_passes_also_when_the_deadline_comes_at_the_same_time(
    world: World, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    def judge(*asked: Any) -> Any:
        judged = real(*asked)
        if not judged.decision.allowed:  # the moment in which the block decides to cancel
            task.cancel() if first == "the other" else asyncio.get_running_loop().call_soon(task.cancel)
        return judged

    real = blocks.judge_time
    async with world.run(TEN, reraise=False) as run:
        task = await working(run)
        monkeypatch.setattr(blocks, "judge_time", judge)
        world.advance(10)
        await look(run)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1
        assert run.receipt().denials == (0 if first == "the other" else 1)


async def test_nested_blocks_that_end_together_raise_one_denial_and_leave_no_cancellation(world: World) -> None:
    reached: list[str] = []

    async def work(run: BudgetRun, child: BudgetRun, began: asyncio.Event) -> int:
        with pytest.raises(BudgetExceeded):  # noqa: PT012 - the block inside raises
            async with run.timeout():
                async with run.timeout(), child.timeout():
                    began.set()
                    await asyncio.sleep(FOREVER_S)
                reached.append("after the inner one")
        await asyncio.sleep(0)
        return cancelling()

    async with world.run(TEN, reraise=False) as run, run.child(reraise=False) as child:
        began = asyncio.Event()
        task = asyncio.create_task(work(run, child, began))
        await began.wait()
        world.advance(10)
        await look(child)
        await look(run)
        assert await task == 0
    assert reached == []


async def test_an_inner_block_of_a_child_ends_alone(world: World) -> None:
    async with world.run(RunBudget(max_seconds=20)) as run, run.timeout():
        async with run.child(TEN, reraise=False) as child:
            task = await working(child)
            world.advance(10)
            await look(child)
            await stopped(task)
        assert run.check()


async def test_a_timeout_of_asyncio_inside_or_outside_is_its_own(world: World) -> None:
    async with world.run(TEN) as run:
        with pytest.raises(TimeoutError):
            async with run.timeout(), asyncio.timeout(0):
                await asyncio.sleep(FOREVER_S)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), run.timeout():
                await asyncio.sleep(FOREVER_S)
    assert (cancelling(), world.counted()) == (0, {})


async def test_the_tasks_of_a_group_are_cancelled_with_it(world: World) -> None:
    ended: list[int] = []

    async def part(number: int) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            ended.append(number)

    async def work(run: BudgetRun, began: asyncio.Event) -> None:
        async with run.timeout(), asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(part(number))
            await asyncio.sleep(0)
            began.set()

    async with world.run(TEN, reraise=False) as run:
        began = asyncio.Event()
        task = asyncio.create_task(work(run, began))
        await began.wait()
        world.advance(10)
        await look(run)
        await stopped(task)
    assert sorted(ended) == [0, 1, 2]


async def test_a_body_that_swallows_the_cancellation_goes_on_and_leaving_the_run_raises(world: World) -> None:
    went_on: list[int] = []

    async def work(run: BudgetRun, began: asyncio.Event) -> None:
        async with run.timeout():
            began.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(FOREVER_S)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        went_on.append(cancelling())

    with pytest.raises(BudgetExceeded) as denied:  # noqa: PT012 - what is left at the end of the block raises
        async with world.run(TEN) as run:
            began = asyncio.Event()
            task = asyncio.create_task(work(run, began))
            await began.wait()
            world.advance(10)
            await look(run)
            await task
    assert (denied.value.reason, went_on) == ("deadline", [0])


async def test_another_exception_of_the_cancelled_body_passes_with_a_note(world: World) -> None:
    async def work(run: BudgetRun, began: asyncio.Event) -> None:
        async with run.timeout():
            began.set()
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                raise LookupError("while cleaning up")

    with pytest.raises(LookupError) as passed:  # noqa: PT012 - what is left at the end of the block raises
        async with world.run(TEN) as run:
            began = asyncio.Event()
            task = asyncio.create_task(work(run, began))
            await began.wait()
            world.advance(10)
            await look(run)
            await task
    assert ["In this run a call was refused before" in note for note in passed.value.__notes__] == [True]


# --- a deadline that moves


def in_a_thread(change: Callable[[], None]) -> None:
    thread = threading.Thread(target=change)
    thread.start()
    thread.join()


async def test_an_extension_from_another_thread_lets_the_work_go_on(real: World) -> None:
    async with real.run(RunBudget(max_seconds=0.5)) as run, run.timeout():
        in_a_thread(lambda: run.extend(seconds=FOREVER_S, actor="ops"))
        await asyncio.sleep(0.6)
        assert run.remaining()["seconds"] > 1


async def test_a_deadline_brought_forward_from_another_thread_ends_the_work_then(real: World) -> None:
    async with real.run(RunBudget(max_seconds=FOREVER_S), reraise=False) as run, run.child(reraise=False) as child:
        task = await working(child)
        sooner = threading.Timer(0.01, lambda: run.extend(to={"seconds": 0.001}, actor="ops"))
        sooner.start()  # while the loop sleeps
        await stopped(task)
        sooner.join()


async def test_a_reset_begins_the_time_anew(world: World) -> None:
    async with world.run(TEN, reraise=False) as run, run.child(reraise=False) as child:
        task = await working(child)
        world.advance(9)
        in_a_thread(run.reset)
        world.advance(9)
        await look(run)
        assert not task.done()
        world.advance(1)
        await look(run)
        await stopped(task)


async def test_an_extension_after_the_work_was_cancelled_comes_too_late_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*asked: Any) -> Any:
        judged = real(*asked)
        asyncio.get_running_loop().call_soon(lambda: run.extend(seconds=10))
        return judged

    real = blocks.judge_time
    async with world.run(TEN) as run:
        task = await working(run)
        monkeypatch.setattr(blocks, "judge_time", judge)
        world.advance(10)
        await look(run)
        assert (await stopped(task)).limit == 10
        run.acknowledge()
        assert run.check()


def test_moving_a_deadline_whose_loop_was_closed_harms_nobody(world: World) -> None:
    run = opened(world.run(TEN))
    loop = asyncio.new_event_loop()
    task = loop.create_task(blocked(run, asyncio.Event()))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    run.extend(seconds=5)
    assert run.remaining()["seconds"] == 15
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_block_leaves_no_task_behind(world: World) -> None:
    before = asyncio.all_tasks()
    async with world.run(TEN) as run:
        async with run.timeout():
            run.extend(seconds=5)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def test_a_block_is_entered_once(world: World) -> None:
    async with world.run(TEN) as run:
        block = run.timeout()
        async with block:
            pass
        with pytest.raises(RuntimeError, match=r"make a new one with run\.timeout"):
            await block.__aenter__()


# --- on_exhausted


def answers(how: str, asked: list[str]) -> Any:
    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.reason)
        if how.endswith("extends"):
            run.extend(seconds=10)
        return how.endswith("extends")

    async def amore(denial: Any, run: BudgetRun) -> bool:
        await asyncio.sleep(0)
        return more(denial, run)

    return amore if how.startswith("async") else more


@pytest.mark.parametrize("how", ["extends", "async extends", "declines", "async declines"])
async def test_on_exhausted_is_asked_once_while_the_work_goes_on(world: World, how: str) -> None:
    asked: list[str] = []
    budget = RunBudget(max_seconds=10, on_exhausted=answers(how, asked))
    async with world.run(budget, reraise=False) as run:
        task = await working(run)
        world.advance(10)
        await look(run)
        if how.endswith("extends"):
            assert (task.done(), run.receipt().denials) == (False, 0)
            world.advance(5)
            await look(run)
            assert not task.done()
            task.cancel()
        else:
            await stopped(task)
            assert run.receipt().denials == 1
    assert asked == ["deadline"]


@pytest.mark.parametrize("how", ["extends", "async extends", "declines", "async declines"])
async def test_on_exhausted_is_asked_at_the_entry_too(world: World, how: str) -> None:
    asked: list[str] = []
    async with world.run(RunBudget(max_seconds=10, on_exhausted=answers(how, asked)), reraise=False) as run:
        world.advance(10)
        with contextlib.nullcontext() if how.endswith("extends") else pytest.raises(BudgetExceeded):
            async with run.timeout():
                await asyncio.sleep(0)
        assert (asked, run.receipt().denials) == (["deadline"], 0 if how.endswith("extends") else 1)


async def test_what_on_exhausted_raises_ends_the_work_and_the_denial_is_pending(world: World) -> None:
    def broken(denial: Any, run: BudgetRun) -> bool:
        raise LookupError("who?")

    with pytest.raises(BudgetExceeded):  # noqa: PT012 - what is left at the end of the block raises
        async with world.run(RunBudget(max_seconds=10, on_exhausted=broken)) as run:
            task = await working(run)
            world.advance(10)
            await look(run)
            with pytest.raises(LookupError, match=r"who\?"):
                await task
            assert run.receipt().denials == 1


@pytest.mark.parametrize("swallows", [(), asyncio.CancelledError])
async def test_work_that_ends_while_the_question_is_open_was_in_time(
    world: World, swallows: Any, unheard: list[Any]
) -> None:
    asking = asyncio.Event()
    ended: list[str] = []

    async def slow(denial: Any, run: BudgetRun) -> bool:
        asking.set()
        with contextlib.suppress(swallows):
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                ended.append("the question")
        return False

    async with world.run(RunBudget(max_seconds=10, on_exhausted=slow)) as run:
        async with run.timeout():
            world.advance(10)
            await look(run)
            await asking.wait()
            await look(run)  # a timer that fires meanwhile does not ask once more
        await asyncio.sleep(0)
        assert (ended, run.receipt().denials) == (["the question"], 0)
        run.extend(seconds=10)
        assert run.check()
    gc.collect()
    assert unheard == []


async def test_a_deadline_moved_by_a_callback_that_goes_on_is_asked_about_too(real: World) -> None:
    asked: list[str] = []
    go_on = asyncio.Event()

    async def more(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.reason)
        if denial.reason == "limit":
            run.extend(to={"seconds": 0.001})
            await go_on.wait()
        return False

    budget = RunBudget(max_seconds=FOREVER_S, max_steps=0, on_exhausted=more)
    async with real.run(budget, reraise=False) as run:
        task, check = await working(run), asyncio.create_task(run.acheck())
        await stopped(task)
        assert asked == ["limit", "deadline"]
        go_on.set()
        with pytest.raises(BudgetExceeded):
            await check


# --- wrapping up


async def test_the_last_call_is_cancelled_when_the_seconds_set_aside_are_over_too(world: World) -> None:
    budget = RunBudget(max_seconds=10, wrap_up={"seconds": 5})
    async with world.run(budget, reraise=False) as run:
        task = await working(run)
        world.advance(10)
        await look(run)
        await stopped(task)
        async with run.wrap_up():
            task = await working(run)
            run.reserve().commit()
            world.advance(4.9)
            await look(run)
            assert not task.done()
            world.advance(0.1)
            await look(run)
            assert (await stopped(task)).used == 15


async def test_a_block_around_the_wrap_up_leaves_it_its_time_but_none_above_it_does(world: World) -> None:
    budget = RunBudget(max_seconds=10, max_steps=1, wrap_up={"seconds": 5})
    async with world.run(RunBudget(max_seconds=12), reraise=False) as root, root.child(budget, reraise=False) as run:
        task = await working(run)
        with pytest.raises(BudgetExceeded):
            run.check(steps=2)
        async with run.wrap_up():
            world.advance(11)
            await look(run)
            assert not task.done()
            world.advance(1)
            await look(run)
            assert (await stopped(task)).limit == 12


@pytest.mark.parametrize("wrap_up", [{"seconds": 0}, {"tokens": 5}])
async def test_nothing_set_aside_is_no_time_after_the_deadline(world: World, wrap_up: dict[str, int]) -> None:
    async with world.run(RunBudget(max_seconds=10, max_tokens=9, wrap_up=wrap_up), reraise=False) as run:
        world.advance(10)
        with pytest.raises(BudgetExceeded):
            run.check()
        async with run.wrap_up():
            with pytest.raises(BudgetExceeded) as denied:
                await blocked(run, asyncio.Event())
        assert denied.value.reason == "deadline"


async def test_the_wrap_up_of_a_run_gives_its_children_no_time(world: World) -> None:
    budget = RunBudget(max_seconds=10, wrap_up={"seconds": 5})
    async with world.run(budget, reraise=False) as run:
        world.advance(10)
        with pytest.raises(BudgetExceeded):
            run.check()
        async with run.wrap_up(), run.child(reraise=False) as child:
            with pytest.raises(BudgetExceeded) as denied:
                await blocked(child, asyncio.Event())
        assert denied.value.reason == "deadline"
