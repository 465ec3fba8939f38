"""Carved children: what is kept for them, what they spend of it, and what comes back."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Generator
from decimal import Decimal
from typing import Any

import pytest
from world import PRICES, World, held, opened, used

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.admission.closing import leave
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs import child as children
from otelbudget.runs.run import BudgetRun

THOUSAND = RunBudget(max_tokens=1000)
FOUR_HUNDRED = RunBudget(max_tokens=400)


def state(*runs: BudgetRun) -> list[tuple[int, int]]:
    """(used, held) tokens of each."""
    return [(used(run)[1], held(run)[1]) for run in runs]


def spend(run: BudgetRun, tokens: int) -> None:
    run.record(Usage(tokens, 0))


def refused(run: BudgetRun, **amounts: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.reserve(**amounts)
    run.acknowledge()
    return denied.value


def entering(parent: BudgetRun, budget: RunBudget | None = None, **options: Any) -> BudgetExceeded:
    """Why a child can't be opened."""
    with pytest.raises(BudgetExceeded) as denied:
        parent.child(budget, mode="carve", **options).__enter__()
    return denied.value


# --- what is kept


def test_a_refusal_says_that_the_limit_is_a_carve(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(FOUR_HUNDRED, mode="carve") as child:
        assert "That is what was carved out for it" in str(refused(child, tokens=401))
        assert "carved" not in str(refused(root, tokens=1001))


def test_each_charge_moves_from_held_to_used_and_the_rest_returns(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            assert state(root, child) == [(0, 400), (0, 0)]
            hold = child.reserve(tokens=300)
            assert state(root, child) == [(0, 400), (0, 300)]
            hold.commit(Usage(250, 0))
            assert state(root, child) == [(250, 150), (250, 0)]
            spend(child, 50)
            assert state(root, child) == [(300, 100), (300, 0)]
        assert state(root) == [(300, 0)]
        assert root.remaining()["tokens"] == 700


def test_what_others_leave_can_be_used_by_nobody_but_the_child(world: World) -> None:
    with world.run(THOUSAND, reraise=False) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            assert root.remaining()["tokens"] == 600
            busy = refused(root, tokens=601)
            assert (busy.reason, busy.reserved) == ("busy", 400)
            spend(root, 600)
            assert refused(root, tokens=1).reason == "busy"
            assert child.remaining()["tokens"] == 400
            child.reserve(tokens=400).commit()
        assert (root.remaining()["tokens"], used(root)[1]) == (0, 1000)


def test_the_carve_is_safe_from_what_the_parent_spends_over_its_limit(world: World) -> None:
    with world.run(THOUSAND, reraise=False) as root, root.child(FOUR_HUNDRED, mode="carve") as child:
        spend(root, 900)
        assert (root.remaining()["tokens"], child.remaining()["tokens"]) == (0, 400)
        child.reserve(tokens=400).commit()
        assert used(root)[1] == 1300


def test_what_its_parent_is_refused_does_not_stop_what_a_child_was_given(world: World) -> None:
    with world.run(THOUSAND, reraise=False) as root:
        with root.child(RunBudget(), mode="carve", carve={"tokens": 400}, reraise=False) as child:
            with pytest.raises(BudgetExceeded, match="exhausted"):
                root.reserve(tokens=1001)
            child.reserve(tokens=300).commit()
            spend(root, 600)
            child.extend(tokens=500)
            assert refused(child, tokens=101).reason == "limit"
            child.reserve(tokens=100).commit()
        with root.child(reraise=False) as shared:
            assert refused(shared, tokens=1).reason == "limit"


def test_a_frozen_or_ended_parent_stops_its_carved_children_too(world: World) -> None:
    with world.run(RunBudget(max_tokens=1000, max_seconds=10), reraise=False) as root:
        child = opened(root.child(FOUR_HUNDRED, mode="carve"))
        root.freeze()
        assert refused(child, tokens=1).reason == "frozen"
        assert entering(root, FOUR_HUNDRED).reason == "frozen"
        root.unfreeze()
        world.advance(10)
        assert refused(child, tokens=1).reason == "deadline"
    assert refused(child, tokens=1).reason == "closed"


# --- how much


@pytest.mark.parametrize(
    ("budget", "carve", "kept"),
    [
        (FOUR_HUNDRED, None, {"tokens": 400}),
        (RunBudget(max_tokens=400, max_cost_usd=0.5), None, {"tokens": 400, "cost_usd": 500_000_000}),
        (RunBudget(max_tokens=400), {"tokens": 100}, {"tokens": 100}),
        (RunBudget(), {"tokens": 100, "cost_usd": Decimal("0.25")}, {"tokens": 100, "cost_usd": 250_000_000}),
        (RunBudget(), 0.5, {"tokens": 500, "cost_usd": 1_000_000_000, "steps": 3}),
        (RunBudget(), 1, {"tokens": 1000, "cost_usd": 2_000_000_000, "steps": 7}),
        (RunBudget(max_tokens=50), 0.1, {"tokens": 100, "cost_usd": 200_000_000}),
    ],
)
def test_it_is_amounts_or_a_share_or_the_childs_own_limits(
    world: World, budget: RunBudget, carve: Any, kept: dict[str, int]
) -> None:
    with world.run(RunBudget(max_tokens=1000, max_cost_usd=2, max_steps=7), reraise=False) as root:
        with root.child(budget, mode="carve", carve=carve) as child:
            assert {name: n for name, n in zip(RESOURCES, held(root), strict=True) if n} == kept
            limit = min(budget.limits[1], kept["tokens"])
            assert child.remaining()["tokens"] == limit
            assert refused(child, tokens=limit + 1).budget == child.budget.name
        assert held(root) == [0] * 7


def test_a_share_is_one_of_what_all_runs_above_have_left(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(RunBudget(max_tokens=900, max_steps=10)) as middle:
        spend(root, 800)
        spend(middle, 100)
        with middle.child(mode="carve", carve=0.5) as child:
            assert child.remaining()["tokens"] == 50
            assert child.remaining()["steps"] == 4
            with middle.child(mode="carve", carve=0.5) as other:
                assert other.remaining()["tokens"] == 25


def test_a_share_of_nothing_left_opens_a_child_that_is_refused_by_those_who_have_nothing(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, name="all"), reraise=False) as root:
        spend(root, 10)
        with root.child(mode="carve", carve=0.5, reraise=False) as child:
            assert child.remaining()["tokens"] == 0
            assert refused(child, tokens=1).budget == "all"
            assert child.check(steps=1, tokens=0)


@pytest.mark.parametrize("carve", [0, 0.0, -0.5, 1.01, 2, True, "half", float("nan"), [1], {}, {"tokens": 0}, None])
def test_a_carve_that_means_nothing_is_refused_and_counts_no_run(world: World, carve: object) -> None:
    with world.run(THOUSAND) as root:
        active = world.engine.meters.tenant("default").active
        with pytest.raises(ValueError, match="carve"):
            root.child(mode="carve", carve=carve).__enter__()
        assert (world.engine.meters.tenant("default").active, held(root)) == (active, [0] * 7)


@pytest.mark.parametrize(
    ("carve", "error"),
    [
        ({"seconds": 5}, TypeError),
        ({"token": 5}, TypeError),
        ({"tokens": -1}, ValueError),
        ({"tokens": 1.5}, ValueError),
        ({"cost_usd": float("inf")}, ValueError),
        ({"tokens": 2**53}, ValueError),
    ],
)
def test_amounts_that_are_none_are_refused_and_keep_nothing(world: World, carve: object, error: type) -> None:
    with world.run(THOUSAND) as root:
        with pytest.raises(error, match="carve"):
            root.child(mode="carve", carve=carve).__enter__()
        assert held(root) == [0] * 7


def test_a_share_needs_limits_above_and_a_carve_needs_a_run_around_it(world: World) -> None:
    with world.run() as root, pytest.raises(ValueError, match="they have no limits"):
        root.child(mode="carve", carve=0.5).__enter__()
    with pytest.raises(ValueError, match="there is none here"):
        world.run(FOUR_HUNDRED, mode="carve").__enter__()
    with pytest.raises(ValueError, match="mode='carve'"):
        world.run(FOUR_HUNDRED, carve={"tokens": 5})


def test_a_refused_carve_changes_nothing_counts_no_run_and_names_who_refused(world: World) -> None:
    with (
        world.run(RunBudget(max_tokens=1000, name="outer"), reraise=False) as root,
        root.child(RunBudget(max_tokens=800, name="inner"), reraise=False) as middle,
    ):
        active = world.engine.meters.tenant("default").active
        denied = entering(middle, RunBudget(max_tokens=900))
        assert (denied.reason, denied.budget, denied.limit, denied.requested) == ("limit", "inner", 800, 900)
        assert (held(root), held(middle)) == ([0] * 7, [0] * 7)
        assert world.engine.meters.tenant("default").active == active
        middle.extend(tokens=0)
        spend(root, 500)
        hold = root.reserve(tokens=300)
        assert entering(middle, FOUR_HUNDRED).reason == "busy"
        hold.release()
        with middle.child(FOUR_HUNDRED, mode="carve"):
            assert state(root, middle) == [(500, 400), (0, 400)]
    assert [span.name for span in world.spans("otelbudget.run custom")] == ["otelbudget.run custom"]


def test_quotas_are_neither_held_for_a_child_nor_asked(make_world: Callable[..., World]) -> None:
    quotas = Quotas(default=(Quota(tokens=100), Quota(steps=5, per="run")))
    world = make_world(config=Config(quotas=quotas, prices=PRICES))
    with (
        world.run(THOUSAND, reraise=False) as root,
        root.child(RunBudget(max_tokens=400, max_steps=50), mode="carve", reraise=False) as child,
    ):
        assert [(one.scope, one.reserved(1)) for one in root._state.accounts] == [("tenant", 0), ("run", 400)]
        assert (root.remaining()["tokens"], child.remaining()["tokens"]) == (100, 100)
        child.reserve(tokens=60).commit()
        assert refused(child, tokens=41).scope == "tenant"
        assert root.remaining()["tokens"] == 40


# --- beyond it


def test_what_exceeds_the_carve_is_ordinary_use_of_the_parent(world: World) -> None:
    with world.run(THOUSAND, reraise=False) as root:
        with root.child(FOUR_HUNDRED, mode="carve", reraise=False) as child:
            child.reserve(tokens=400).commit(Usage(450, 0))
            assert state(root) == [(450, 0)]
            spend(child, 100)
            assert state(root) == [(550, 0)]
            child.extend(tokens=600)
            assert child.remaining()["tokens"] == 450
            hold = child.reserve(tokens=450)
            assert state(root) == [(550, 450)]
            assert refused(root, tokens=1).reason == "busy"
            denied = refused(child, tokens=1)
            assert (denied.reason, denied.limit) == ("busy", 1000)
            hold.release()
        assert state(root) == [(550, 0)]


def test_an_extended_child_uses_its_carve_first_and_then_what_the_parent_has(world: World) -> None:
    with world.run(THOUSAND, reraise=False) as root, root.child(FOUR_HUNDRED, mode="carve", reraise=False) as child:
        child.extend(tokens=1000)
        assert child.remaining()["tokens"] == 1000
        hold = child.reserve(tokens=700)
        assert state(root) == [(0, 700)]
        with pytest.raises(BudgetExceeded) as denied:
            hold.extend(output_tokens=301)  # no other call is in the way
        assert (denied.value.reason, denied.value.limit) == ("limit", 1000)
        child.acknowledge()
        root.extend(tokens=0)
        hold.extend(output_tokens=300)
        assert state(root) == [(0, 1000)]
        hold.commit(Usage(100, 0))
        assert state(root) == [(100, 300)]


def test_a_child_that_its_own_carve_keeps_from_more_is_at_its_limit_and_not_busy(world: World) -> None:
    with (
        world.run(RunBudget(max_tokens=500, name="outer"), reraise=False) as root,
        root.child(FOUR_HUNDRED, mode="carve", reraise=False) as child,
    ):
        child.extend(tokens=600)
        denied = refused(child, tokens=501)
        assert (denied.reason, denied.budget) == ("limit", "outer")


def test_a_lowered_childs_limit_leaves_the_carve_in_place_until_it_ends(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            child.extend(to={"tokens": 100})
            assert (child.remaining()["tokens"], state(root)) == (100, [(0, 400)])
        assert state(root) == [(0, 0)]


def test_a_reset_child_has_what_is_left_of_its_carve_and_its_limit_anew(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            spend(child, 300)
            hold = child.reserve(tokens=50)
            child.reset()
            assert state(root, child) == [(300, 100), (0, 50)]
            assert child.remaining()["tokens"] == 350
            spend(child, 200)
            assert state(root, child) == [(500, 50), (200, 50)]
            hold.commit()
            assert state(root, child) == [(550, 0), (250, 0)]
        assert state(root) == [(550, 0)]


def test_a_reset_parent_keeps_what_is_carved_out_of_it(world: World) -> None:
    with world.run(THOUSAND) as root:
        spend(root, 500)
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            spend(child, 100)
            root.reset()
            assert state(root) == [(0, 300)]
            spend(child, 300)
            assert state(root) == [(300, 0)]
        assert state(root) == [(300, 0)]


def test_a_frozen_child_keeps_its_carve_and_its_calls_settle(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(FOUR_HUNDRED, mode="carve") as child:
        hold = child.reserve(tokens=100)
        child.freeze()
        assert refused(child, tokens=1).reason == "frozen"
        assert state(root) == [(0, 400)]
        hold.commit(Usage(80, 0))
        assert state(root) == [(80, 320)]
        child.unfreeze()
        assert child.reserve(tokens=320)


# --- inside each other


def test_a_carve_of_a_carve_counts_once_on_those_above_both(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(FOUR_HUNDRED, mode="carve") as middle:
        with middle.child(RunBudget(max_tokens=300), mode="carve") as leaf:
            assert state(root, middle) == [(0, 400), (0, 300)]
            assert [run.remaining()["tokens"] for run in (root, middle, leaf)] == [600, 100, 300]
            hold = leaf.reserve(tokens=200)
            spend(middle, 50)
            assert state(root, middle, leaf) == [(50, 350), (50, 300), (0, 200)]
            hold.commit(Usage(250, 0))
            assert state(root, middle, leaf) == [(300, 100), (300, 50), (250, 0)]
            assert [run.remaining()["tokens"] for run in (root, middle, leaf)] == [600, 50, 50]
        assert state(root, middle) == [(300, 100), (300, 0)]


def test_a_shared_child_of_a_carved_one_spends_its_carve(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(FOUR_HUNDRED, mode="carve") as middle, middle.child() as leaf:
        assert leaf.remaining()["tokens"] == 400
        spend(leaf, 100)
        assert state(root, middle, leaf) == [(100, 300), (100, 0), (100, 0)]
        assert root.direct_usage.tokens == middle.direct_usage.tokens == 0
        assert leaf.direct_usage.tokens == 100


def test_a_nested_carve_that_does_not_fit_into_the_outer_one_is_refused_by_that(world: World) -> None:
    with (
        world.run(THOUSAND, reraise=False) as root,
        root.child(RunBudget(max_tokens=400, name="middle"), mode="carve", reraise=False) as middle,
    ):
        assert entering(middle, RunBudget(max_tokens=401)).budget == "middle"
        assert state(root, middle) == [(0, 400), (0, 0)]


def test_a_detached_run_inside_a_carved_one_spends_nothing_of_it(world: World) -> None:
    with world.run(THOUSAND) as root, root.child(FOUR_HUNDRED, mode="carve") as child:
        with world.run(mode="detached") as apart:
            spend(apart, 500)
        assert state(root, child) == [(0, 400), (0, 0)]


# --- its end


def test_the_rest_returns_while_calls_of_the_child_are_still_open(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            spend(child, 50)
            hold = child.reserve(tokens=100)
            with child.reserve(tokens=10):
                pass
            assert state(root) == [(60, 340)]
        assert state(root) == [(60, 100)]
        assert root.remaining()["tokens"] == 840
        with pytest.raises(BudgetExceeded, match="has ended"):
            hold.extend(output_tokens=50)
        assert state(root) == [(60, 100)]
        hold.commit(Usage(120, 0))
        assert state(root, child) == [(180, 0), (180, 0)]
        spend(child, 5)
        assert state(root, child) == [(185, 0), (185, 0)]


def test_a_lost_call_of_an_ended_child_comes_back_too(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child(FOUR_HUNDRED, mode="carve") as child:
            child.reserve(tokens=100)
        assert state(root) == [(0, 100)]
        gc.collect()
        world.advance(66)
        assert root.can_proceed(tokens=1000)
        assert state(root, child) == [(0, 0), (0, 0)]


def test_a_child_that_outlives_its_parent_gives_back_when_it_ends(world: World) -> None:
    with world.run(THOUSAND) as root:
        with root.child() as middle:
            child = opened(middle.child(FOUR_HUNDRED, mode="carve"))
            hold = child.reserve(tokens=100)
        assert state(root, middle) == [(0, 400), (0, 400)]
        hold.commit(Usage(70, 0))
        assert state(root, middle) == [(70, 330), (70, 330)]
        leave(child._state, None)
        leave(child._state, None)
        assert state(root, middle) == [(70, 0), (70, 0)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_child_that_is_left_by_an_error_gives_back(world: World, error: type[BaseException]) -> None:
    with world.run(THOUSAND) as root:
        with pytest.raises(error), root.child(FOUR_HUNDRED, mode="carve"):
            raise error
        assert state(root) == [(0, 0)]


def test_an_abandoned_generator_gives_back_what_was_carved_for_it(world: World) -> None:
    with world.run(THOUSAND) as root:

        @root.child(FOUR_HUNDRED, mode="carve")
        def answers() -> Generator[int, None, None]:
            yield 1
            yield 2

        stream = answers()
        assert next(stream) == 1
        assert state(root) == [(0, 400)]
        del stream
        gc.collect()
        assert state(root) == [(0, 0)]


async def test_an_abandoned_async_block_gives_back(world: World) -> None:
    async with world.run(THOUSAND) as root:

        async def work() -> None:
            async with root.child(FOUR_HUNDRED, mode="carve"):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        assert state(root) == [(0, 400)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert state(root) == [(0, 0)]


@pytest.mark.parametrize("breaks", ["say", "interrupt", "span"])
def test_a_child_that_could_not_be_opened_after_its_carve_gives_back(
    world: World, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.run(THOUSAND) as root:
        active = world.engine.meters.tenant("default").active

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        where = {
            "say": "otelbudget.admission.booking.events.check_event",
            "interrupt": "otelbudget.runs.scope.our_spans.start",
            "span": "otelbudget.runs.scope.closing.write_limits",
        }[breaks]
        with monkeypatch.context() as patched:
            patched.setattr(where, fail)
            with pytest.raises(KeyboardInterrupt):
                root.child(FOUR_HUNDRED, mode="carve").__enter__()
        assert (state(root), world.engine.meters.tenant("default").active) == ([(0, 0)], active)


def test_a_carve_that_returns_wakes_who_waits_for_it(world: World) -> None:
    with world.run(THOUSAND) as root:
        woken: list[int] = []
        world.engine.ledger.bells.add(lambda: woken.append(1))
        with root.child(FOUR_HUNDRED, mode="carve"):
            woken.clear()
        assert woken
        world.engine.ledger.bells.clear()


# --- at once


@pytest.mark.parametrize("carve", [None, 0.3])
def test_threads_that_carve_at_once_get_what_there_is_and_no_more(world: World, carve: float | None) -> None:
    with world.run(THOUSAND, reraise=False) as root:
        opened: list[BudgetRun] = []
        turned_away: list[str] = []
        start, done = threading.Barrier(8), threading.Barrier(8)

        def work() -> None:
            start.wait()
            scope = root.child(None if carve else RunBudget(max_tokens=300), mode="carve", carve=carve)
            try:
                child = scope.__enter__()
            except BudgetExceeded as denied:
                turned_away.append(denied.reason)
                done.wait()
                return
            opened.append(child)
            done.wait()
            while child.can_proceed(tokens=7):
                child.reserve(tokens=7).commit(Usage(5, 0))
            scope.__exit__(None, None, None)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if carve is None:
            assert (len(opened), turned_away) == (3, ["busy"] * 5)
        else:  # each gets its share of what the others before it have left
            assert (len(opened), turned_away) == (8, [])
        assert held(root) == [0] * 7
        assert used(root) == [sum(used(child)[i] for child in opened) for i in range(7)]


def test_siblings_spend_their_own_carves_in_threads_and_the_parent_adds_up(world: World) -> None:
    with world.run(THOUSAND) as root:
        children = [opened(root.child(RunBudget(max_tokens=125), mode="carve")) for _ in range(8)]
        assert root.remaining()["tokens"] == 0

        def work(child: BudgetRun) -> None:
            for _ in range(25):
                child.reserve(tokens=5).commit()

        threads = [threading.Thread(target=work, args=(child,)) for child in children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state(root, *children) == [(1000, 0)] + [(125, 0)] * 8


def test_what_a_share_comes_to_is_settled_with_the_lock_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []

    def left(*asked: Any) -> int | None:
        locked.append(world.engine.ledger.inside)
        return real(*asked)

    real = children.left
    monkeypatch.setattr(children, "left", left)
    with world.run(THOUSAND) as root, root.child(mode="carve", carve=0.5):
        assert state(root) == [(0, 500)]
    assert set(locked) == {True}
