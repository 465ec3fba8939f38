from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from world import World, held, said, used

from otelbudget import BudgetExceeded, IdempotencyError, RunBudget, Usage
from otelbudget.runs import reserving
from otelbudget.runs.reservation import Reservation


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What *work* gives or raises in each of *number* threads that start together."""
    found: list[Any] = [None] * number
    barrier = threading.Barrier(number)

    def body(i: int) -> None:
        barrier.wait()
        try:
            found[i] = work(i)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[i] = error

    threads = [threading.Thread(target=body, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# --- reserve


def test_the_same_key_and_amounts_give_the_same_reservation_settled_or_not(world: World) -> None:
    with world.run() as run:
        first = run.reserve(tokens=50, idempotency_key="k")
        assert not first.replayed
        assert run.reserve(tokens=50, idempotency_key="k") is first
        assert first.replayed
        assert held(run)[:2] == [1, 50]
        first.commit(Usage(20, 10))
        again = run.reserve(tokens=50, idempotency_key="k")
        assert (again is first, again.settled) == (True, True)
        again.commit(Usage(20, 10))
        assert (used(run)[:2], held(run)[:2]) == ([1, 30], [0, 0])
    assert world.counted() == {("reserve", "allow", ""): 1}
    assert [name for name, _ in said(world.span("otelbudget.run"))] == ["otelbudget.check", "otelbudget.record"]


@pytest.mark.parametrize("other", [{"tokens": 51}, {}, {"tokens": 50, "steps": 0}, {"tokens": 50, "cost_usd": 0.01}])
def test_other_amounts_under_a_key_are_an_error_and_change_nothing(world: World, other: dict[str, Any]) -> None:
    with world.run() as run:
        run.reserve(tokens=50, idempotency_key="k")
        with pytest.raises(IdempotencyError, match="'k' was used before for"):
            run.reserve(**other, idempotency_key="k")
        with pytest.raises(IdempotencyError, match="'k' was used before for something else"):
            run.record(Usage(50, 0), idempotency_key="k")
        assert (used(run)[:2], held(run)[:2]) == ([0, 0], [1, 50])
        run.record(Usage(50, 0), idempotency_key="r")
        with pytest.raises(IdempotencyError, match="'r' was used before for something else"):
            run.reserve(tokens=50, idempotency_key="r")
        assert (used(run)[:2], held(run)[:2]) == ([1, 50], [1, 50])


def test_a_cost_that_follows_from_a_price_is_not_part_of_what_is_compared(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1)) as run:
        first = run.reserve(tokens=50, model="demo", idempotency_key="k")
        assert held(run)[4] == 100_000
        world.engine.prices = type(world.engine.prices)({}, listed=False)
        assert run.reserve(tokens=50, model="demo", idempotency_key="k") is first


@pytest.mark.parametrize(("key", "kind"), [("", ValueError), (5, TypeError), (b"k", TypeError)])
def test_a_key_is_a_text(world: World, key: Any, kind: type[Exception]) -> None:
    with world.run() as run:
        with pytest.raises(kind, match="idempotency_key must be a text that is not empty"):
            run.reserve(idempotency_key=key)
        with pytest.raises(kind, match="idempotency_key must be a text"):
            run.record(Usage(), idempotency_key=key)
        assert (held(run), used(run)) == ([0] * 7, [0] * 7)


def test_a_refused_reserve_leaves_no_key_behind(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=101, idempotency_key="k")
        hold = run.reserve(tokens=40, idempotency_key="k")
        assert not hold.replayed
        run.acknowledge()


def test_keys_belong_to_one_run(world: World) -> None:
    with world.run() as root, root.child() as child:
        first = root.reserve(tokens=5, idempotency_key="k")
        assert child.reserve(tokens=7, idempotency_key="k") is not first


def test_a_key_does_not_keep_an_abandoned_hold_alive_and_its_next_use_does(world: World) -> None:
    with world.run() as run:
        run.reserve(tokens=50, idempotency_key="lost")
        world.advance(30)
        again = run.reserve(tokens=50, idempotency_key="lost")
        assert (again.replayed, again.settled, held(run)[1]) == (True, False, 50)
        world.advance(66)
        run.can_proceed()
        assert (again.settled, held(run)[1]) == (False, 50)
        del again
        gc.collect()
        world.advance(66)
        run.can_proceed()
        assert held(run)[1] == 0
        expired = run.reserve(tokens=50, idempotency_key="lost")
        assert (expired.settled, held(run)[1]) == (True, 0)
        expired.commit(Usage(20, 0))
        assert used(run)[:2] == [1, 20]


def test_a_replayed_reservation_that_took_anothers_place_does_as_that_was_asked_to(world: World) -> None:
    with world.run() as run:
        run.reserve(input_tokens=60, output_tokens=40, on_unknown="input", idempotency_key="k")
        with pytest.raises(ZeroDivisionError), run.reserve(input_tokens=60, output_tokens=40, idempotency_key="k"):
            raise ZeroDivisionError
        assert used(run)[:4] == [1, 60, 60, 0]


@pytest.mark.parametrize("_", range(20))
def test_of_many_threads_with_one_key_one_holds_and_all_get_it(world: World, _: int) -> None:
    with world.run(RunBudget(max_tokens=100)) as run:
        found = in_threads(8, lambda _: run.reserve(tokens=60, idempotency_key="k"))
        assert len({id(one) for one in found}) == 1
        assert (held(run)[:2], world.counted()) == ([1, 60], {("reserve", "allow", ""): 1})
        found = in_threads(8, lambda i: found[i].commit(Usage(50, 0)).replayed)
        assert sorted(found) == [False] + [True] * 7
        assert used(run)[:2] == [1, 50]


@pytest.mark.parametrize("_", range(20))
def test_of_two_threads_with_one_key_and_other_amounts_one_hears_of_it(world: World, _: int) -> None:
    with world.run() as run:
        found = in_threads(2, lambda i: run.reserve(tokens=60 + i, idempotency_key="k"))
        assert {type(one) for one in found} == {Reservation, IdempotencyError}
        assert held(run)[0] == 1


def test_the_same_key_asked_while_the_first_is_being_decided_gets_the_same_reservation(world: World) -> None:
    asked, answer = threading.Event(), threading.Event()

    def more(_: Any, run: Any) -> bool:
        asked.set()
        answer.wait(5)
        run.extend(tokens=100)
        return True

    with world.run(RunBudget(max_tokens=10, on_exhausted=more)) as run:
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(run.reserve(tokens=60, idempotency_key="k"))) for _ in range(2)
        ]
        threads[0].start()
        asked.wait(5)
        threads[1].start()
        answer.set()
        for thread in threads:
            thread.join()
        assert found[0] is found[1]
        assert held(run)[:2] == [1, 60]


def test_something_else_under_a_key_that_is_being_decided_is_an_error(world: World) -> None:
    wrong = 0

    def more(_: Any, run: Any) -> bool:
        nonlocal wrong
        for ask in (
            lambda: run.reserve(tokens=5, idempotency_key="k"),
            lambda: run.record(Usage(), idempotency_key="k"),
        ):
            with pytest.raises(IdempotencyError, match="the key 'k'"):
                ask()
            wrong += 1
        return False

    with world.run(RunBudget(max_tokens=10, on_exhausted=more), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            run.reserve(tokens=60, idempotency_key="k")
        assert (wrong, held(run)[0]) == (2, 0)
        assert not run.reserve(tokens=5, idempotency_key="k").replayed  # a refusal leaves no key


async def test_tasks_share_a_key_too(world: World) -> None:
    async def more(_: Any, run: Any) -> bool:
        await asyncio.sleep(0.01)
        run.extend(tokens=100)
        return True

    async with world.run(RunBudget(max_tokens=10, on_exhausted=more)) as run:

        async def one() -> Reservation:
            return await run.areserve(tokens=60, idempotency_key="k")

        found = await asyncio.gather(*(one() for _ in range(5)))
        assert len({id(hold) for hold in found}) == 1
        async with await run.areserve(tokens=60, idempotency_key="k") as hold:
            await hold.acommit(Usage(5, 5))
        assert used(run)[:2] == [1, 10]


def test_a_run_that_has_ended_refuses_its_keys_as_anything_else(world: World) -> None:
    with world.run(reraise=False) as run:
        hold = run.reserve(tokens=5, idempotency_key="k")
        settled = run.reserve(tokens=5, idempotency_key="s")
        settled.release()
        run.record(Usage(10, 0), idempotency_key="r")
    for key in ("k", "s"):
        with pytest.raises(BudgetExceeded, match="has ended"):
            run.reserve(tokens=5, idempotency_key=key)
    hold.commit(Usage(3, 0))
    settled.commit(Usage(3, 0))
    assert run.record(Usage(10, 0), idempotency_key="r").replayed
    assert used(run)[:2] == [3, 16]


def test_beyond_a_bound_the_oldest_settled_keys_are_forgotten_with_one_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reserving, "KEPT", 3)
    with world.run() as run:
        kept = run.reserve(tokens=1, idempotency_key="open")
        for i in range(5):
            run.record(Usage(1, 0), idempotency_key=f"r{i}")
        assert run.reserve(tokens=1, idempotency_key="open") is kept
        assert run.record(Usage(1, 0), idempotency_key="r4").replayed
        assert not run.record(Usage(1, 0), idempotency_key="r0").replayed
    assert caplog.text.count("idempotency keys beyond") == 1


# --- record


def test_a_usage_is_recorded_once_per_key(world: World) -> None:
    with world.run() as run:
        usage = Usage(30, 12, model="demo", cost_usd=0.5)
        assert not run.record(usage, idempotency_key="k").replayed
        assert run.record(Usage(30, 12, model="demo", cost_usd=0.5), idempotency_key="k").replayed
        assert not run.record(usage).replayed
        with pytest.raises(IdempotencyError):
            run.record(Usage(30, 13, model="demo", cost_usd=0.5), idempotency_key="k")
        assert (run.usage.tokens, run.usage.steps) == (84, 2)
    assert world.spent() == (60, 24, 10**9, 0)
    assert world.records() == 2


async def test_arecord_takes_a_key(world: World) -> None:
    async with world.run() as run:
        assert not (await run.arecord(Usage(1, 1), idempotency_key="k")).replayed
        assert (await run.arecord(Usage(1, 1), idempotency_key="k")).replayed
        assert run.usage.steps == 1


@pytest.mark.parametrize("_", range(20))
def test_of_many_threads_that_record_under_one_key_one_charges(world: World, _: int) -> None:
    with world.run() as run:
        found = in_threads(8, lambda _: run.record(Usage(5, 5), idempotency_key="k").replayed)
        assert sorted(found) == [False] + [True] * 7
        assert used(run)[:2] == [1, 10]


# --- retries


def test_a_retry_of_one_logical_call_reserves_no_step_of_its_own(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.reserve(tokens=50).commit(Usage(30, 0))
        for _ in range(2):
            hold = run.reserve(steps=0, tokens=50)
            assert held(run)[:2] == [0, 50]
            hold.commit(Usage(30, 0))
        run.reserve(steps=0, tokens=5).commit()
        assert used(run)[:2] == [1, 95]
        assert run.remaining()["steps"] == 0
