from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, held, said, used

from otelbudget import BudgetExceeded, IdempotencyError, RunBudget, Usage
from otelbudget.runs import idempotency
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


def test_the_error_about_a_key_says_amounts_as_users_write_them(world: World) -> None:
    with world.run() as run:
        run.reserve(tokens=50, cost_usd=0.05, idempotency_key="k")
        with pytest.raises(IdempotencyError) as refused:
            run.reserve(tokens=51, idempotency_key="k")
        assert str(refused.value) == (
            "the key 'k' was used before for {steps: 1, tokens: 50, input_tokens: 50, cost_usd: 0.05} and is used now"
            " for {steps: 1, tokens: 51, input_tokens: 51}: nothing has changed; take a key of its own for every"
            " request"
        )
        run.reserve(steps=0, idempotency_key="none")
        with pytest.raises(IdempotencyError, match=r"before for \{\} and is used now for \{steps: 1\}"):
            run.reserve(steps=1, idempotency_key="none")


@pytest.mark.parametrize("other", [{"tokens": 51}, {}, {"tokens": 50, "steps": 0}, {"tokens": 50, "cost_usd": 0.01}])
def test_other_amounts_under_a_key_are_an_error_and_change_nothing(world: World, other: dict[str, Any]) -> None:
    with world.run() as run:
        run.reserve(tokens=50, idempotency_key="k")
        with pytest.raises(IdempotencyError, match="'k' was used before for"):
            run.reserve(**other, idempotency_key="k")
        with pytest.raises(IdempotencyError, match=r"reserve\(\) before and is used for record\(\) now"):
            run.record(Usage(50, 0), idempotency_key="k")
        assert (used(run)[:2], held(run)[:2]) == ([0, 0], [1, 50])
        run.record(Usage(50, 0), idempotency_key="r")
        with pytest.raises(IdempotencyError, match=r"record\(\) before and is used for reserve\(\) now"):
            run.reserve(tokens=50, idempotency_key="r")
        assert (used(run)[:2], held(run)[:2]) == ([1, 50], [1, 50])


def test_a_cost_that_follows_from_a_price_is_not_part_of_what_is_compared(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1)) as run:
        first = run.reserve(tokens=50, model="demo", idempotency_key="k")
        assert held(run)[4] == 50_000
        world.engine.prices = type(world.engine.prices)({}, listed=False)
        assert run.reserve(tokens=50, model="demo", idempotency_key="k") is first


@pytest.mark.parametrize(("key", "kind"), [("", ValueError), (5, TypeError), (b"k", TypeError)])
@pytest.mark.parametrize("name", ["idempotency_key", "attempt_of"])
def test_a_key_is_a_text(world: World, name: str, key: Any, kind: type[Exception]) -> None:
    with world.run() as run:
        with pytest.raises(kind, match=f"{name} must be a text that is not empty"):
            run.reserve(**{name: key})
        if name == "idempotency_key":
            with pytest.raises(kind, match=f"{name} must be a text"):
                run.record(Usage(), idempotency_key=key)
        assert (held(run), used(run)) == ([0] * 7, [0] * 7)


def test_a_refused_reserve_leaves_no_key_behind(world: World) -> None:
    with world.run(RunBudget(max_tokens=100, latch=False), reraise=False) as run:
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
        async with run.areserve(tokens=60, idempotency_key="k") as hold:
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
    monkeypatch.setattr(idempotency, "KEPT", 3)
    with world.run() as run:
        kept = run.reserve(tokens=1, idempotency_key="open")
        for i in range(5):
            run.record(Usage(1, 0), idempotency_key=f"r{i}")
            run.reserve(tokens=1, attempt_of=f"a{i}").release()
        assert run.keys is not None
        assert list(run.keys.entries) == ["open", "r3", "r4"]
        assert len(run.keys.calls) == 3
        assert run.reserve(tokens=1, idempotency_key="open") is kept
        assert run.record(Usage(1, 0), idempotency_key="r4").replayed
        assert not run.record(Usage(1, 0), idempotency_key="r0").replayed
    assert caplog.text.count("idempotency keys and has forgotten older ones") == 1


def test_a_run_that_uses_no_keys_keeps_nothing(world: World) -> None:
    with world.run() as run:
        run.reserve(tokens=1).commit()
        run.record(Usage(1, 1))
        assert run.keys is None


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


# --- attempts


def test_a_retry_pays_its_tokens_and_not_the_step(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        for i in range(3):
            hold = run.reserve(tokens=50, attempt_of="answer")
            assert held(run)[0] == (1 if i == 0 else 0)
            hold.commit(Usage(30, 0))
        assert used(run)[:2] == [1, 90]
        assert run.remaining()["steps"] == 0


@pytest.mark.parametrize("name", ["first", "any name"])
def test_a_call_is_named_by_the_key_of_its_first_reserve_or_by_any_name(world: World, name: str) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.reserve(tokens=5, idempotency_key="first", attempt_of=None if name == "first" else name).commit()
        second = run.reserve(tokens=5, idempotency_key="second", attempt_of=name)
        second.commit()
        run.reserve(tokens=5, attempt_of="second").commit()  # a retry of the retry is one of the same call
        assert used(run)[:2] == [1, 15]
        assert run.reserve(tokens=5, idempotency_key="second", attempt_of=name) is second


def test_another_call_pays_its_own_step(world: World) -> None:
    with world.run(RunBudget(max_steps=1), reraise=False) as run:
        run.reserve(attempt_of="a").commit()
        with pytest.raises(BudgetExceeded, match="steps"):
            run.reserve(attempt_of="b")
        run.acknowledge()


def test_after_an_attempt_that_was_released_the_next_pays_the_step(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.reserve(tokens=5, attempt_of="k").release()
        assert held(run)[0] == 0
        hold = run.reserve(tokens=5, attempt_of="k")
        assert held(run)[0] == 1
        hold.commit(Usage(5, 0))
        assert used(run)[0] == 1


@pytest.mark.parametrize("first_ends", ["release", "commit", "expire"])
def test_attempts_that_overlap_hold_and_pay_one_step(world: World, first_ends: str) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        first: Any = run.reserve(tokens=5, attempt_of="k")
        second = run.reserve(tokens=5, attempt_of="k")
        assert held(run)[:2] == [1, 10]
        if first_ends == "expire":
            del first
            world.advance(66)
            run.can_proceed()
        elif first_ends == "release":
            first.release()
        else:
            first.commit()
        assert (used(run)[0], held(run)[0]) == ((1, 0) if first_ends == "commit" else (0, 1))
        second.commit()
        assert (used(run)[0], held(run)) == (1, [0] * 7)


def test_whichever_of_two_hedged_attempts_is_committed_first_pays(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        first = run.reserve(tokens=5, attempt_of="k")
        second = run.reserve(tokens=5, attempt_of="k")
        second.commit(Usage(5, 0))
        assert (used(run)[0], held(run)[:2]) == (1, [0, 5])
        first.release()
        assert (used(run)[0], held(run)[0]) == (1, 0)


def test_an_attempt_that_another_holds_the_step_for_pays_it_when_it_is_left_unsettled(world: World) -> None:
    with world.run() as run:
        first = run.reserve(tokens=5, attempt_of="k")
        with pytest.raises(ZeroDivisionError), run.reserve(tokens=7, attempt_of="k"):
            raise ZeroDivisionError
        first.release()
        assert used(run)[:2] == [1, 7]


def test_a_late_commit_of_an_attempt_pays_the_step_only_if_no_other_has(world: World) -> None:
    with world.run() as run:
        first = run.reserve(tokens=5, attempt_of="k")
        first.release()
        run.reserve(tokens=5, attempt_of="k").commit()
        first.commit(Usage(5, 0))
        assert used(run)[:2] == [1, 10]
        lone = run.reserve(tokens=5, attempt_of="j")
        lone.release()
        lone.commit(Usage(5, 0))
        assert used(run)[:2] == [2, 15]


def test_a_call_of_several_steps_is_charged_the_most_that_one_attempt_used(world: World) -> None:
    with world.run(RunBudget(max_steps=5)) as run:
        first = run.reserve(steps=2, attempt_of="k")
        second = run.reserve(steps=3, attempt_of="k")
        assert held(run)[0] == 3
        first.commit(Usage(steps=2))
        assert (used(run)[0], held(run)[0]) == (2, 1)
        second.extend(steps=1)
        assert held(run)[0] == 2
        second.commit(Usage(steps=4))
        assert (used(run)[0], held(run)[0]) == (4, 0)


def test_a_recorded_call_has_no_further_attempts(world: World) -> None:
    with world.run() as run:
        run.record(Usage(5, 0), idempotency_key="k")
        with pytest.raises(IdempotencyError, match="is the key of a record"):
            run.reserve(attempt_of="k")
        assert held(run) == [0] * 7


def test_attempts_of_a_child_hold_and_pay_above_too(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as root, root.child() as child:
        first, second = (child.reserve(tokens=5, attempt_of="k") for _ in range(2))
        first.release()
        assert held(root)[:2] == held(child)[:2] == [1, 5]
        second.commit(Usage(5, 0))
        assert used(root)[:2] == used(child)[:2] == [1, 5]
        assert held(root) == held(child) == [0] * 7


@given(st.lists(st.tuples(st.sampled_from(["reserve", "commit", "estimate", "release", "lose"]), st.integers(0, 3))))
def test_whatever_happens_to_its_attempts_a_call_never_holds_and_pays_more_than_one_step(
    actions: list[tuple[str, int]],
) -> None:
    world = World()
    open_: list[Reservation] = []
    charged = False
    with world.run(RunBudget(max_steps=1)) as run:
        for action, i in actions:
            if action == "reserve":
                open_.append(run.reserve(tokens=3, attempt_of="k"))
            elif open_:
                one = open_.pop(i % len(open_))
                charged |= action in ("commit", "estimate")
                if action == "commit":
                    one.commit(Usage(1, 0))
                elif action == "estimate":
                    one.commit()
                elif action == "release":
                    one.release()
                else:
                    del one
                    world.advance(100)
                    run.can_proceed()
            assert used(run)[0] == charged
            assert held(run)[0] == (bool(open_) and not charged)
        for one in open_:
            one.release()
        assert held(run) == [0] * 7
    world.provider.shutdown()
