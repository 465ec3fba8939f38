from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from world import World, held, opened

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.ledger.account import Hold
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs import asking
from otelbudget.runs.reservation import Reservation
from otelbudget.runs.run import BudgetRun

ONE = RunBudget(max_steps=1)
#: Longer than any test takes: whoever waits that long has missed its wake-up.
LONG_S = 60


@pytest.fixture
def only_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by itself, so what is not woken does not wake."""
    monkeypatch.setattr(asking, "POLL_S", LONG_S)


@pytest.fixture
def fast_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "POLL_S", 0.002)


@contextlib.contextmanager
def waiter(world: World, reserve: Callable[[], Any]) -> Iterator[list[Any]]:
    """Reserve in a thread that waits; on leaving, it has ended and what came of it is in the list."""
    came: list[Any] = []

    def work() -> None:
        try:
            came.append(reserve())
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not world.engine.ledger.bells and thread.is_alive():
        time.sleep(0.001)
    yield came
    thread.join(10)
    assert not thread.is_alive()


async def waiting_task(world: World, run: BudgetRun, **asked: Any) -> asyncio.Task[Reservation]:
    """A task that waits for its reservation."""
    task = asyncio.create_task(run.areserve(**asked))
    while not world.engine.ledger.bells:
        await asyncio.sleep(0)
    return task


async def patiently(run: BudgetRun, how: str) -> Reservation:
    """Reserve one way or the other, with a little patience."""
    if how == "areserve":
        return await run.areserve(wait_s=0.03)
    return await asyncio.to_thread(run.reserve, wait_s=0.03)


def blocked(run: BudgetRun, by: str) -> Callable[[], Any]:
    """Put something in the way of *run*, and give what takes it away."""
    if by == "a hold that is released":
        return run.reserve().release
    if by == "a hold that is committed":
        hold = run.reserve()
        return lambda: hold.commit(Usage(steps=0))
    if by == "a freeze":
        run.freeze()
        return run.unfreeze
    run.record_call()
    return run.reset if by == "what was used before a reset" else lambda: run.extend(steps=1, actor="ops")


WAYS = (
    "a hold that is released",
    "a hold that is committed",
    "a freeze",
    "a limit that is raised",
    "what was used before a reset",
)


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("by", WAYS)
def test_a_thread_is_woken_by_what_takes_the_obstacle_away(world: World, by: str) -> None:
    with world.run(ONE) as run:
        clear = blocked(run, by)
        with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
            clear()
        (reservation,) = came
        assert (held(run)[0], run.receipt().denials) == (1, 0)
        reservation.release()
    assert world.engine.ledger.bells == set()


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("by", WAYS)
async def test_a_task_is_woken_by_what_takes_the_obstacle_away_also_from_another_thread(world: World, by: str) -> None:
    async with world.run(ONE) as run:
        clear = blocked(run, by)
        task = await waiting_task(world, run, wait_s=LONG_S)
        await asyncio.to_thread(clear)
        reservation = await task
        assert (held(run)[0], run.receipt().denials) == (1, 0)
        reservation.release()
    assert world.engine.ledger.bells == set()


@pytest.mark.usefixtures("only_wake_ups")
def test_a_carve_that_comes_back_wakes_the_parents_caller(world: World) -> None:
    with world.run(ONE) as run:
        scope = run.child(mode="carve", carve={"steps": 1})
        scope.__enter__()
        with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
            scope.__exit__(None, None, None)
        came[0].release()


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("kind", ["thread", "task"])
async def test_no_wake_up_is_lost_between_looking_and_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    looks = 0
    with world.run(ONE) as run:
        hold = run.reserve()

        def look(*asked: Any, **more: Any) -> Any:
            nonlocal looks
            looks += 1
            refused = real(*asked, **more)
            if looks == 2:  # the look after which it will wait
                hold.release()
            return refused

        real = world.engine.ledger.hold
        monkeypatch.setattr(world.engine.ledger, "hold", look)
        if kind == "thread":
            reservation = await asyncio.to_thread(run.reserve, wait_s=LONG_S)
        else:
            reservation = await run.areserve(wait_s=LONG_S)
        reservation.release()
        assert looks == 3


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("kind", ["thread", "task"])
async def test_it_does_not_look_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    looks = 0

    def look(held: Hold, *asked: Any, **more: Any) -> Any:
        nonlocal looks
        looks += held.payer is run._state
        return real(held, *asked, **more)

    async def looked(times: int) -> None:
        while looks < times:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert looks == times

    async def reserve() -> Reservation:
        if kind == "task":
            return await run.areserve(wait_s=LONG_S)
        return await asyncio.to_thread(run.reserve, wait_s=LONG_S)

    async with world.run(ONE) as run:
        hold = run.reserve()
        real = world.engine.ledger.hold
        monkeypatch.setattr(world.engine.ledger, "hold", look)
        task = asyncio.create_task(reserve())
        await looked(2)
        with world.run(mode="detached") as other:
            other.reserve().release()  # whatever is given back may be what it waits for
        await looked(3)
        hold.release()
        (await task).release()


@pytest.mark.usefixtures("fast_looks")
@pytest.mark.parametrize("how", ["reserve", "areserve"])
@pytest.mark.parametrize("reason", ["busy", "frozen", "limit"])
async def test_it_gives_up_with_the_last_denial_which_alone_is_counted(world: World, how: str, reason: str) -> None:
    async with world.run(ONE, reraise=False) as run:
        hold = run.reserve()
        if reason == "frozen":
            run.freeze()
        if reason == "limit":
            hold.commit()
        with pytest.raises(BudgetExceeded) as denied:
            await patiently(run, how)
        assert denied.value.reason == reason
        assert run.receipt().denials == 1
        hold.release()
    assert world.counted() == {("reserve", "allow", ""): 1, ("reserve", "deny", reason): 1}
    assert world.engine.ledger.bells == set()


@pytest.mark.usefixtures("fast_looks")
def test_what_only_time_changes_is_found_by_looking_an_abandoned_hold(world: World) -> None:
    with world.run(ONE) as run:
        run.reserve()  # dropped at once, and so never renewed
        gc.collect()
        with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
            world.advance(66)
        came[0].release()


@pytest.mark.usefixtures("fast_looks")
def test_what_only_time_changes_is_found_by_looking_a_new_window(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(Quota(steps=1, per="minute"),))))
    with world.run() as run:
        run.reserve().commit()
        with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
            world.advance(60)
        came[0].commit()
        assert run.receipt().denials == 0


@pytest.mark.usefixtures("fast_looks")
@pytest.mark.parametrize("ends", ["closed", "deadline"])
def test_waiting_ends_when_it_has_become_vain(world: World, ends: str) -> None:
    scope = world.run(RunBudget(max_steps=1, max_seconds=10), reraise=False)
    run = scope.__enter__()
    hold = run.reserve()
    with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
        if ends == "closed":
            scope.__exit__(None, None, None)
        else:
            world.advance(10)
    assert came[0].reason == ends
    hold.release()
    scope.__exit__(None, None, None)


def refuse(run: BudgetRun) -> None:
    """Refuse another caller of *run*, who asks for more than the limit."""
    with pytest.raises(BudgetExceeded):
        run.check(steps=5)
    run.acknowledge()


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("how", ["reserve", "areserve"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_what_another_caller_is_refused_changes_nothing_for_who_waits(world: World, how: str, when: str) -> None:
    async with world.run(ONE) as run:
        hold = run.reserve()
        if when == "before":
            refuse(run)
        task = asyncio.create_task(
            run.areserve(wait_s=LONG_S) if how == "areserve" else asyncio.to_thread(run.reserve, wait_s=LONG_S)
        )
        while not world.engine.ledger.bells and not task.done():
            await asyncio.sleep(0.001)
        if when == "meanwhile":
            refuse(run)
        hold.release()
        (await task).release()


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("how", ["reserve", "areserve"])
async def test_what_wrap_up_refuses_does_not_wait(world: World, how: str) -> None:
    async with world.run(RunBudget(max_steps=2, wrap_up={"steps": 1}), reraise=False) as run:
        refuse(run)
        with run.wrap_up(), pytest.raises(BudgetExceeded, match="another one"):
            await run.areserve(steps=2, wait_s=LONG_S) if how == "areserve" else run.reserve(steps=2, wait_s=LONG_S)


@pytest.mark.usefixtures("fast_looks")
@pytest.mark.parametrize("how", ["reserve", "areserve"])
async def test_on_exhausted_is_asked_once_however_long_it_waits(world: World, how: str) -> None:
    asked: list[Any] = []

    def note(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.resource)
        return False

    async with world.run(RunBudget(max_steps=0, on_exhausted=note), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            await patiently(run, how)
    assert asked == ["steps"]


@pytest.mark.usefixtures("only_wake_ups")
@pytest.mark.parametrize("how", ["reserve", "areserve"])
async def test_on_exhausted_is_asked_about_a_limit_that_is_met_while_waiting(world: World, how: str) -> None:
    asked: list[str] = []

    def more(denial: Any, run: BudgetRun) -> bool:
        asked.append(denial.reason)
        run.extend(steps=1)
        return True

    async with world.run(RunBudget(max_steps=1, on_exhausted=more)) as run:
        hold = run.reserve()
        if how == "areserve":
            task = await waiting_task(world, run, wait_s=LONG_S)
            hold.commit()
            reservation = await task
        else:
            with waiter(world, lambda: run.reserve(wait_s=LONG_S)) as came:
                hold.commit()
            (reservation,) = came
        reservation.commit()
        assert (asked, run.usage.steps, run.receipt().denials) == (["limit"], 2, 0)


@pytest.mark.parametrize("wait_s", [-1, float("nan"), float("inf"), True, "5", None])
async def test_a_time_that_is_none_is_an_error_before_anything_is_held(world: World, wait_s: Any) -> None:
    async with world.run(ONE) as run:
        with pytest.raises(ValueError, match="wait_s must be"):
            run.reserve(wait_s=wait_s)
        with pytest.raises(ValueError, match="wait_s must be"):
            await run.areserve(wait_s=wait_s)
        assert held(run)[0] == 0


@pytest.mark.usefixtures("only_wake_ups")
def test_no_time_means_not_to_wait(world: World) -> None:
    with world.run(ONE) as run:
        hold = run.reserve(wait_s=0)
        with pytest.raises(BudgetExceeded):
            run.reserve(wait_s=0)
        hold.release()
        run.acknowledge()


@pytest.mark.usefixtures("only_wake_ups")
async def test_a_cancelled_waiter_leaves_nothing_behind(world: World) -> None:
    async with world.run(ONE) as run:
        hold = run.reserve()
        task = await waiting_task(world, run, wait_s=LONG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (world.engine.ledger.bells, held(run)[0], run.receipt().denials) == (set(), 1, 0)
        hold.release()
        assert held(run)[0] == 0


@pytest.mark.usefixtures("only_wake_ups")
async def test_a_waiter_cancelled_in_the_moment_it_is_woken_holds_nothing(world: World) -> None:
    async with world.run(ONE) as run:
        hold = run.reserve()
        task = await waiting_task(world, run, wait_s=LONG_S)
        hold.release()
        await asyncio.sleep(0)  # the wake-up is on its way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (world.engine.ledger.bells, held(run)[0]) == (set(), 0)


@pytest.mark.usefixtures("only_wake_ups")
async def test_waiting_does_not_block_the_loop(world: World) -> None:
    async with world.run(ONE) as run:

        async def work() -> None:
            async with await run.areserve(wait_s=LONG_S) as hold:
                await asyncio.sleep(0)
                hold.release()

        await asyncio.gather(*(work() for _ in range(5)))


@pytest.mark.usefixtures("fast_looks")
async def test_blocking_a_loop_is_warned_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.run(ONE, reraise=False) as run:
        hold = run.reserve()
        with caplog.at_level(logging.WARNING), pytest.raises(BudgetExceeded):
            run.reserve(wait_s=0.005)
        assert "use `await run.areserve(wait_s=...)`" in caplog.text
        hold.release()


@pytest.mark.usefixtures("only_wake_ups")
def test_a_waiter_whose_loop_was_closed_harms_nobody_and_is_forgotten(world: World) -> None:
    run = opened(world.run(ONE))
    hold = run.reserve()
    loop = asyncio.new_event_loop()
    task = loop.create_task(run.areserve(wait_s=LONG_S))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert len(world.engine.ledger.bells) == 1
    hold.release()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    run.reserve().release()
    assert not world.engine.ledger.bells  # or they would keep the loop and the task


def spend_to_the_end(run: BudgetRun, reserve: Callable[..., Any]) -> None:
    """What is left once no twenty cents fit any more."""
    reserve(cost_usd=run.remaining()["cost_usd"]).commit()
    assert (run.usage.cost_usd, run.receipt().denials) == (Decimal(1), 0)
    assert held(run) == [0] * 7


@pytest.mark.usefixtures("only_wake_ups")
def test_eight_threads_spend_a_dollar_that_five_of_them_hold(world: World) -> None:
    most = 0
    with world.run(RunBudget(max_cost_usd=1)) as run:

        def work(_: int) -> None:
            nonlocal most
            for _ in range(5):  # forty calls in all, the last of which finds 0.22 left
                with run.reserve(cost_usd=0.2, wait_s=LONG_S) as hold:
                    most = max(most, run._state.account.holds)
                    time.sleep(0.0005)
                    hold.commit(Usage(cost_usd=0.02))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8), timeout=30))
        assert (run.usage.cost_usd, run.usage.steps) == (Decimal("0.8"), 40)
        spend_to_the_end(run, run.reserve)
    assert 1 < most <= 5
    assert world.span("otelbudget.run").attributes["otelbudget.outcome"] == "completed"  # type: ignore[index]


@pytest.mark.usefixtures("only_wake_ups")
async def test_eight_tasks_spend_a_dollar_that_five_of_them_hold(world: World) -> None:
    most = 0
    async with world.run(RunBudget(max_cost_usd=1)) as run:

        async def work() -> None:
            nonlocal most
            for _ in range(5):
                async with await run.areserve(cost_usd=0.2, wait_s=LONG_S) as hold:
                    most = max(most, run._state.account.holds)
                    await asyncio.sleep(0)
                    await hold.acommit(Usage(cost_usd=0.02))

        async with asyncio.timeout(30):
            await asyncio.gather(*(work() for _ in range(8)))
        assert (run.usage.cost_usd, run.usage.steps) == (Decimal("0.8"), 40)
        spend_to_the_end(run, run.reserve)
    assert most == 5


@pytest.mark.usefixtures("only_wake_ups")
async def test_threads_and_tasks_wait_for_each_other(world: World) -> None:
    async with world.run(ONE) as run:

        def in_a_thread() -> None:
            for _ in range(50):
                run.reserve(wait_s=LONG_S).release()

        async def in_a_task() -> None:
            for _ in range(50):
                async with await run.areserve(wait_s=LONG_S) as hold:
                    hold.release()

        async with asyncio.timeout(30):
            await asyncio.gather(*(asyncio.to_thread(in_a_thread) for _ in range(3)), *(in_a_task() for _ in range(3)))
    assert world.counted() == {("reserve", "allow", ""): 300}


@pytest.mark.parametrize("ask", [lambda run: run.acheck(), lambda run: run.areserve(wait_s=60)])
def test_a_coroutine_that_another_loop_than_that_of_asyncio_runs_is_refused_at_once(
    world: World, ask: Callable[[BudgetRun], Coroutine[Any, Any, object]]
) -> None:
    with world.run(RunBudget(max_steps=0), reraise=False) as run, pytest.raises(BudgetExceeded):
        ask(run).send(None)
