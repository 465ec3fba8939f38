from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from world import World, held, said, used

from otelbudget import BudgetExceeded, RunBudget, Usage

BUDGET = RunBudget(max_steps=2, max_cost_usd=1, max_seconds=10, name="b")


def refused(run: Any, **asked: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(**asked)
    return denied.value


def test_extending_adds_and_to_sets(world: World) -> None:
    with world.run(BUDGET) as run:
        run.extend(steps=3, cost_usd=0.5, seconds=5)
        left = run.remaining()
        assert (left["steps"], left["cost_usd"], left["seconds"]) == (5, Decimal("1.5"), 15)
        run.extend(to={"steps": 4, "seconds": 2.5})
        assert (run.remaining()["steps"], run.remaining()["seconds"]) == (4, 2.5)


def test_extending_one_resource_deals_with_its_pending_denial_only(world: World) -> None:
    with pytest.raises(BudgetExceeded) as pending, world.run(BUDGET) as run:  # noqa: PT012 - what is left at the end of the block raises
        refused(run, steps=3)
        refused(run, cost_usd=2, steps=0)
        run.extend(steps=1)
        assert run.check(steps=3)
    assert pending.value.resource == "cost_usd"


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"tokens": 5}, ValueError, "max_tokens is not limited"),
        ({"steps": 5, "tokens": 5}, ValueError, "max_tokens is not limited"),
        ({"to": {"tool_calls": 5}}, ValueError, "max_tool_calls is not limited"),
        ({"steps": -1}, ValueError, "steps must be"),
        ({"depth": 1}, TypeError, "unknown resource 'depth'"),
        ({}, TypeError, "needs what to extend"),
        ({"to": {}}, TypeError, "needs what to extend"),
        ({"to": 4}, TypeError, "to= takes the new limits by resource"),
        ({"steps": 1, "to": {"steps": 4}}, TypeError, "steps both as what to add and in to="),
        ({"steps": 1, "actor": 7}, TypeError, "actor must be text"),
        ({"steps": 1, "reason": b"vip"}, TypeError, "reason must be text"),
    ],
)
def test_what_cannot_be_extended_is_an_error_and_nothing_has_changed(
    world: World, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with world.run(BUDGET) as run:
        with pytest.raises(kind, match=says):
            run.extend(**options)
        assert run.remaining()["steps"] == 2


def test_lowering_below_what_is_used_leaves_nothing_and_an_overage(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        run.record_call(80)
        run.extend(to={"tokens": 50})
        assert (run.remaining()["tokens"], run.receipt().overage) == (0, {"tokens": 30})
        assert refused(run).used == 80
        run.extend(to={"tokens": 200})
        assert run.remaining()["tokens"] == 120


def test_lowering_below_what_is_held_lets_the_holds_settle(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        hold = run.reserve(tokens=80)
        run.extend(to={"tokens": 10})
        assert refused(run, tokens=1).reason == "busy"
        hold.commit(Usage(80, 0))
        assert refused(run, tokens=1).reason == "limit"


def test_what_is_set_aside_for_wrapping_up_stays_set_aside(world: World) -> None:
    with world.run(RunBudget(max_steps=5, wrap_up={"steps": 2})) as run:
        run.extend(to={"steps": 1})
        assert run.remaining()["steps"] == 0
        run.extend(to={"steps": 6})
        assert run.remaining()["steps"] == 4


def test_an_extended_deadline_of_a_parent_holds_for_its_child(world: World) -> None:
    with world.run(RunBudget(max_seconds=10), reraise=False) as run, run.child(reraise=False) as child:
        world.advance(11)
        assert refused(child).reason == "deadline"
        run.extend(seconds=5)
        assert child.check()
        run.extend(to={"seconds": 11})
        assert refused(child).reason == "deadline"


def test_every_change_is_an_event_with_old_new_actor_and_reason(world: World) -> None:
    with world.run(BUDGET) as run:
        run.extend(cost_usd=0.5, actor="ops", reason="vip")
        run.freeze(actor="ops", reason="look")
        run.unfreeze(actor="ops")
        run.record(Usage(5, 5, cost_usd=0.25))
        run.reset(actor="ops", reason="again")
    span = world.span("otelbudget.run")
    changes = [(n, a) for n, a in said(span) if n != "otelbudget.record"]
    assert changes == [
        (
            "otelbudget.extend",
            {
                "otelbudget.resource": "cost_usd",
                "otelbudget.old": 1.0,
                "otelbudget.new": 1.5,
                "otelbudget.actor": "ops",
                "otelbudget.reason": "vip",
            },
        ),
        (
            "otelbudget.freeze",
            {
                "otelbudget.old": False,
                "otelbudget.new": True,
                "otelbudget.actor": "ops",
                "otelbudget.reason": "look",
            },
        ),
        ("otelbudget.freeze", {"otelbudget.old": True, "otelbudget.new": False, "otelbudget.actor": "ops"}),
        *(
            (
                "otelbudget.reset",
                {
                    "otelbudget.resource": resource,
                    "otelbudget.old": old,
                    "otelbudget.new": 0.0,
                    "otelbudget.actor": "ops",
                    "otelbudget.reason": "again",
                },
            )
            for resource, old in [
                ("steps", 1.0),
                ("tokens", 10.0),
                ("input_tokens", 5.0),
                ("output_tokens", 5.0),
                ("cost_usd", 0.25),
            ]
        ),
    ]
    assert (span.attributes or {})["otelbudget.limit.cost_usd"] == 1.5


def test_a_reset_zeroes_what_was_used_and_keeps_what_is_held(world: World) -> None:
    with world.run(RunBudget(max_tokens=100, max_seconds=10)) as run:
        hold = run.reserve(tokens=30)
        run.record_call(80)
        refused(run)
        world.advance(9)
        run.reset()
        assert (used(run), held(run)[1], run.state) == ([0] * 7, 30, "active")
        assert (run.remaining()["tokens"], run.remaining()["seconds"]) == (70, 10)
        hold.commit(Usage(20, 5))
        assert (run.usage.tokens, held(run)[1]) == (25, 0)
    assert [a["otelbudget.ratio"] for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.threshold"] == [
        0.8
    ]


def test_a_reset_rearms_the_thresholds(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, thresholds=(0.5,))) as run:
        run.record_call(5)
        run.reset()
        run.record_call(5)
    thresholds = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.threshold"]
    assert len(thresholds) == 2


def test_a_frozen_parent_freezes_its_children(world: World) -> None:
    with world.run(reraise=False) as run, run.child(reraise=False) as child:
        run.freeze()
        assert refused(child).reason == "frozen"
        run.unfreeze()
        assert child.check()


@pytest.mark.parametrize("control", ["freeze", "unfreeze", "reset"])
def test_an_actor_that_is_no_text_is_an_error_and_nothing_has_changed(world: World, control: str) -> None:
    with world.run(BUDGET) as run:
        run.record_call()
        with pytest.raises(TypeError, match="actor must be text"):
            getattr(run, control)(actor=object())
        assert (run.state, run.usage.steps) == ("active", 1)
    assert [n for n, _ in said(world.span("otelbudget.run"))] == ["otelbudget.record"]


async def test_a_coroutine_may_extend(world: World) -> None:
    async with world.run(BUDGET) as run:
        await run.aextend(steps=1, actor="ops")
        await run.aextend(to={"cost_usd": 2})
        assert (run.remaining()["steps"], run.remaining()["cost_usd"]) == (3, 2)
        with pytest.raises(ValueError, match="max_tokens is not limited"):
            await run.aextend(tokens=1)


def test_extending_works_also_where_nothing_was_refused_yet_and_up_to_the_greatest_number(world: World) -> None:
    with world.run(BUDGET) as run:
        for _ in range(3):
            run.extend(steps=2**53 - 1, seconds=9_000_000)
        assert run.check(steps=2**53 - 1)


def test_extending_rearms_the_thresholds_for_what_is_not_reached_yet(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, thresholds=(0.5, 1.0))) as run:
        run.record_call(10)
        run.extend(tokens=10)
        run.record_call(9)
        run.record_call(1)
    reached = [a["otelbudget.ratio"] for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.threshold"]
    assert reached == [0.5, 1.0, 1.0]


def test_extending_a_run_admits_what_a_child_of_it_was_refused_and_deals_with_both_denials(world: World) -> None:
    with world.run(BUDGET) as run, run.child() as child:
        refused(child, steps=3)
        run.extend(steps=1)
        assert child.check(steps=3)


def test_lowering_is_an_event_too(world: World) -> None:
    with world.run(BUDGET) as run:
        run.record_call()
        run.extend(to={"steps": 0}, actor="ops")
        assert (run.remaining()["steps"], run.receipt().overage) == (0, {"steps": 1})
    ((_, change),) = [one for one in said(world.span("otelbudget.run")) if one[0] == "otelbudget.extend"]
    assert (change["otelbudget.old"], change["otelbudget.new"], change["otelbudget.actor"]) == (2, 0, "ops")


def test_a_freeze_refuses_new_holds_and_growing_ones_and_lets_the_open_ones_settle(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        hold, other = run.reserve(cost_usd=0.1), run.reserve(cost_usd=0.1)
        run.freeze(reason="look")
        with pytest.raises(BudgetExceeded, match=r"frozen \(look\)"):
            run.reserve()
        with pytest.raises(BudgetExceeded, match="frozen"):
            hold.extend(cost_usd=0.1)
        hold.commit(Usage(5, 5, cost_usd=0.2))
        other.release()
        run.record(Usage(1, 1, cost_usd=0))
        assert (run.usage.tokens, run.usage.cost_usd, held(run)) == (12, Decimal("0.2"), [0] * 7)


def test_freezing_what_is_frozen_says_so(world: World) -> None:
    with world.run(BUDGET, reraise=False) as run:
        run.freeze(reason="one")
        run.freeze(reason="two")
        assert "frozen (two)" in str(refused(run))
        run.unfreeze()
        run.unfreeze()
    freezes = [a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.freeze"]
    assert [(a["otelbudget.old"], a["otelbudget.new"]) for a in freezes] == [
        (False, True),
        (True, True),
        (True, False),
        (False, False),
    ]


def test_a_reset_ends_denials_and_the_deadline_and_keeps_extended_limits(world: World) -> None:
    with world.run(BUDGET) as run:
        run.extend(steps=3)
        run.record(Usage(steps=5))
        refused(run)
        world.advance(11)
        refused(run, steps=0, tool_calls=1)
        run.reset()
        left = run.remaining()
        assert (run.state, left["steps"], left["seconds"]) == ("active", 5, 10)
        assert (run.receipt().denials, run.receipt().reason) == (0, None)
        assert run.check()


def test_a_reset_sets_aside_again_what_an_extension_had_made_ordinary_after_the_wrap_up(world: World) -> None:
    with world.run(RunBudget(max_steps=5, wrap_up={"steps": 2})) as run:
        run.record(Usage(steps=3))
        refused(run)
        with run.wrap_up():
            run.record_call()
        run.extend(to={"steps": 6})
        assert run.remaining()["steps"] == 2
        run.reset()
        assert run.remaining()["steps"] == 4


def test_a_reset_of_a_carved_child_gives_it_nothing_more_of_its_parent(world: World) -> None:
    with world.run(RunBudget(max_steps=10)) as run:
        with run.child(mode="carve", carve={"steps": 4}) as child:
            child.record(Usage(steps=3))
            child.reset()
            assert (used(run)[0], held(run)[0], run.remaining()["steps"]) == (3, 1, 6)
            child.record(Usage(steps=2))
            assert (used(run)[0], held(run)[0], child.usage.steps) == (5, 0, 2)
        assert (used(run)[0], held(run)[0]) == (5, 0)


def test_a_reset_of_an_ended_run_takes_no_time_back(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        world.advance(5)
    world.advance(5)
    run.reset()
    assert run.receipt().used["seconds"] == 0
