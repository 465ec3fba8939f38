from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from world import World, said, used

from otelbudget import BudgetExceeded, RunBudget, Usage
from otelbudget.model.decision import ALLOWED

LIMITS = RunBudget(max_steps=5, max_tokens=2000, max_seconds=10, max_nested_tool_calls=2, max_cost_usd=1, name="b")


def test_a_check_asks_for_one_model_call_and_holds_nothing(world: World) -> None:
    with world.run(LIMITS) as run:
        assert run.check() is ALLOWED
        assert run.check(steps=1, tokens=2000) is ALLOWED
        assert (run.usage.steps, run.remaining()["steps"]) == (0, 5)


@pytest.mark.parametrize(
    ("budget", "asked", "resource"),
    [
        (RunBudget(max_steps=0), {}, "steps"),
        (RunBudget(max_tokens=0), {}, "tokens"),
        (RunBudget(max_input_tokens=0), {}, "input_tokens"),
        (RunBudget(max_output_tokens=0), {}, "output_tokens"),
        (RunBudget(max_cost_usd=0), {}, "cost_usd"),
        (RunBudget(max_seconds=0), {}, "seconds"),
        (RunBudget(max_tokens=9), {"tokens": 10}, "tokens"),
        (RunBudget(max_tokens=9), {"steps": 1, "tokens": 10}, "tokens"),
        (RunBudget(max_input_tokens=9), {"steps": 1, "tokens": 10}, "input_tokens"),
        (RunBudget(max_steps=1), {"steps": 2, "tokens": 0}, "steps"),
        (RunBudget(max_cost_usd=0.05), {"cost_usd": 0.050000001}, "cost_usd"),
        (RunBudget(max_tool_calls=0), {"tool_calls": 1}, "tool_calls"),
        (RunBudget(max_nested_tool_calls=0), {"nested_tool_calls": 1}, "nested_tool_calls"),
    ],
)
def test_every_limit_refuses_what_exceeds_it_and_only_that(
    world: World, budget: RunBudget, asked: dict[str, Any], resource: str
) -> None:
    with world.run(budget, reraise=False) as run:
        assert not run.can_proceed(**asked)
        with pytest.raises(BudgetExceeded) as denied:
            run.check(**asked)
        assert denied.value.resource == resource
        assert denied.value.receipt.resource == resource
        assert run.can_proceed(tool_calls=0, steps=0) is (resource != "seconds")


def test_a_limit_of_tools_stops_tools_only(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=0)) as run:
        assert run.check(tokens=5)


@pytest.mark.parametrize("asked", [{"steps": -1}, {"tokens": 2**53}, {"steps": 1, "tokens": -5}, {"cost_usd": -1}])
def test_a_check_of_what_is_no_amount_is_an_error_that_changes_nothing(world: World, asked: dict[str, Any]) -> None:
    with world.run(LIMITS) as run:
        for refused in (run.check, run.can_proceed, run.reserve):
            with pytest.raises(ValueError, match="must be"):
                refused(**asked)
        assert (used(run), run.receipt().denials) == ([0] * 7, 0)


def test_seconds_ask_whether_so_much_time_is_left_and_nothing_else(world: World) -> None:
    with world.run(RunBudget(max_seconds=10, max_steps=0), reraise=False) as run:
        assert run.check(seconds=10)
        assert run.can_proceed(seconds=Decimal("9.999999999"))
        assert not run.can_proceed(seconds=10.000000001)
        world.advance(4)
        assert run.can_proceed(seconds=6)
        assert not run.can_proceed(seconds=6.1)
        world.advance(6)
        assert not run.can_proceed(seconds=0)
        with pytest.raises(ValueError, match="seconds"):
            run.check(seconds=-1)


def test_the_deadline_is_reached_when_the_time_is(world: World) -> None:
    with world.run(LIMITS, reraise=False) as run:
        world.advance(9.999999999)
        assert run.check(steps=1, tokens=1)
        assert run.state == "active"
        world.advance(0.000000001)
        for asked in ({}, {"steps": 1, "tokens": 1}):
            with pytest.raises(BudgetExceeded) as denied:
                run.check(**asked)
            assert (denied.value.reason, denied.value.resource) == ("deadline", "seconds")
            assert (denied.value.used, denied.value.limit) == (10.0, 10.0)
        assert run.state == "exhausted"


def test_the_deadline_is_a_moment_of_the_monotonic_clock_and_the_earliest_of_the_lineage(world: World) -> None:
    with (
        world.run() as free,
        free.child(RunBudget(max_seconds=10)) as run,
        run.child(RunBudget(max_seconds=20)) as leaf,
    ):
        assert (free.deadline, run.deadline, leaf.deadline) == (None, 11.0, 11.0)
        run.extend(seconds=50)
        assert leaf.deadline == 21.0


def test_remaining_shows_what_ordinary_calls_have_left(world: World) -> None:
    with world.run(LIMITS) as run:
        world.advance(2.5)
        run.record(Usage(300, 50, cost_usd=0.25))
        hold = run.reserve(tokens=100, cost_usd=0.05)
        assert run.remaining() == {
            "steps": 3,
            "tokens": 1550,
            "input_tokens": None,
            "output_tokens": None,
            "cost_usd": Decimal("0.7"),
            "tool_calls": None,
            "nested_tool_calls": 2,
            "seconds": 7.5,
        }
        hold.release()


def test_record_charges_over_the_limit_and_never_refuses(world: World) -> None:
    with world.run(RunBudget(max_steps=1, max_tokens=10)) as run:
        run.record(Usage(100, 100, tool_calls=2, steps=3))
        run.record_call(7)
        assert used(run) == [4, 207, 107, 100, 0, 2, 0]


def test_record_call_counts_a_step_and_its_tokens_as_input(world: World) -> None:
    with world.run(LIMITS) as run:
        run.record_call(350)
        run.record_call()
        assert (run.usage.steps, run.usage.input_tokens, run.usage.output_tokens) == (2, 350, 0)
        assert world.spent() == (350, 0, 0, 0)
        assert world.records() == 2


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "3", 2**53])
def test_record_call_refuses_what_is_no_count(world: World, tokens: Any) -> None:
    with world.run(LIMITS) as run, pytest.raises(ValueError, match="tokens"):
        run.record_call(tokens)


def test_record_takes_a_usage_and_says_so(world: World) -> None:
    with world.run() as run, pytest.raises(TypeError, match=r"record_call\(tokens\)"):
        run.record(350)  # type: ignore[arg-type]


def test_a_probe_counts_as_one_and_says_nothing(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        assert run.can_proceed()
        run.record_call()
        assert not run.can_proceed()
        assert run.receipt().denials == 0
    assert world.counted() == {("probe", "allow", ""): 1, ("probe", "deny", "limit"): 1}
    names = [name for name, _ in said(world.span("otelbudget.run"))]
    assert "otelbudget.check" not in names


async def test_the_async_twins_do_the_same(world: World) -> None:
    async with world.run(RunBudget(max_steps=2, max_tokens=100)) as run:
        assert await run.acheck() is not None
        assert await run.acan_proceed(tokens=100)
        await run.arecord(Usage(5, 5))
        await run.arecord_call(10)
        assert (await run.aremaining())["tokens"] == 80
        with pytest.raises(BudgetExceeded):
            await run.acheck()
        await run.aextend(steps=1)
        assert await run.acheck()


def test_the_state_says_what_became_of_the_run(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        states = [run.state]
        run.record_call()
        states.append(run.state)
        run.freeze()
        states.append(run.state)
    assert [*states, run.state] == ["active", "exhausted", "frozen", "closed"]
    assert repr(run).startswith("<BudgetRun ")


# --- what is said


def test_checks_and_records_are_events_with_exactly_these_attributes(world: World) -> None:
    with world.run(LIMITS, tenant="acme", user="u1") as run:
        run.check(steps=1, tokens=100)
        run.record(Usage(60, 40, cost_usd=0.5, estimated=True))
        run.check()
        run.record(Usage(1, 1, cost_usd=0))
    assert said(world.span("otelbudget.run b")) == [
        (
            "otelbudget.check",
            {"otelbudget.decision": "allow", "otelbudget.resource": "steps", "otelbudget.remaining": 5.0},
        ),
        (
            "otelbudget.record",
            {
                "otelbudget.tokens.input": 60,
                "otelbudget.tokens.output": 40,
                "otelbudget.cost.usd": 0.5,
                "otelbudget.cost.source": "caller",
                "otelbudget.estimated": True,
            },
        ),
        (
            "otelbudget.check",
            {"otelbudget.decision": "allow", "otelbudget.resource": "cost_usd", "otelbudget.remaining": 0.5},
        ),
        (
            "otelbudget.record",
            {
                "otelbudget.tokens.input": 1,
                "otelbudget.tokens.output": 1,
                "otelbudget.cost.usd": 0.0,
                "otelbudget.cost.source": "caller",
            },
        ),
    ]


def test_a_check_without_limits_says_only_its_decision(world: World) -> None:
    with world.run() as run:
        run.check(steps=1, tokens=100)
        run.check()
    assert [attributes for _, attributes in said(world.span("otelbudget.run"))] == [
        {"otelbudget.decision": "allow"}
    ] * 2


def test_tokens_alone_say_and_count_the_same_as_a_usage_of_them(make_world: Callable[..., World]) -> None:
    seen = []
    for alone in (True, False):
        world = make_world()
        with world.run(RunBudget(max_steps=9, max_tokens=900, name="b")) as run:
            if alone:
                run.check(steps=1, tokens=50)
                run.record_call(50)
            else:
                run.check(steps=1, input_tokens=50)
                run.record(Usage(tokens=50))
            seen.append((used(run), world.spent(), world.records(), world.counted()))
        seen.append(said(world.span("otelbudget.run")))  # type: ignore[arg-type]
    assert seen[:2] == seen[2:]


def test_thresholds_are_always_events_and_attributes_of_the_run_span(world: World) -> None:
    with world.run(RunBudget(max_steps=10, name="b")) as run:
        for _ in range(10):
            run.record_call(1)
    span = world.span("otelbudget.run")
    assert [a for n, a in said(span) if n == "otelbudget.threshold"] == [
        {"otelbudget.resource": "steps", "otelbudget.ratio": ratio, "otelbudget.budget": "b"}
        for ratio in (0.8, 0.95, 1.0)
    ]
    assert (span.attributes or {})["otelbudget.threshold.steps"] == 1.0


@pytest.mark.parametrize(("limit", "room"), [(None, 96), (64, 48)])
def test_ordinary_events_stop_at_three_quarters_of_the_spans_bound_and_are_counted(
    make_world: Callable[..., World], limit: int | None, room: int
) -> None:
    from opentelemetry.sdk.trace import SpanLimits

    world = make_world(limits=None if limit is None else SpanLimits(max_events=limit))
    with world.run(RunBudget(max_steps=150), reraise=False) as run:
        for _ in range(100):
            run.check(steps=1, tokens=1)
            run.record_call(1)
        run.record(Usage(1, 1, steps=50))
        for _ in range(20):
            with pytest.raises(BudgetExceeded):
                run.check()
    span = world.span("otelbudget.run")
    events = said(span)
    ordinary = [a for n, a in events if n == "otelbudget.record" or a.get("otelbudget.decision") == "allow"]
    assert len(ordinary) == room
    suppressed = 201 - room
    denials = [a["otelbudget.reason"] for n, a in events if a.get("otelbudget.decision") == "deny"]
    assert denials == ["limit"]
    assert span.dropped_events == (0 if limit is None else max(0, len(events) + span.dropped_events - limit))
    attributes = dict(span.attributes or {})
    assert attributes["otelbudget.events.suppressed"] == suppressed + 19
    assert world.engine.meters.snapshot().events_suppressed == suppressed + 19
    assert attributes["otelbudget.denied.steps.limit"] is True
    assert sum(n == "otelbudget.threshold" for n, _ in events) == 3


def test_a_denial_says_where_and_how_much(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=0.05, name="b"), reraise=False) as run:
        run.record(Usage(1, 1, cost_usd=0.02))
        hold = run.reserve(cost_usd=0.01)
        with pytest.raises(BudgetExceeded):
            run.check(cost_usd=0.04)
        hold.release()
    denials = [a for n, a in said(world.span("otelbudget.run")) if a.get("otelbudget.decision") == "deny"]
    assert denials == [
        {
            "otelbudget.decision": "deny",
            "otelbudget.reason": "limit",
            "otelbudget.resource": "cost_usd",
            "otelbudget.scope": "run",
            "otelbudget.budget": "b",
            "otelbudget.used": 0.02,
            "otelbudget.limit": 0.05,
            "otelbudget.remaining": 0.02,
        }
    ]


def test_the_run_span_carries_limits_at_its_start_and_totals_at_its_end_and_nothing_invented(world: World) -> None:
    with world.run(RunBudget(max_steps=5, max_cost_usd=1, max_seconds=9, name="b"), tenant="acme", user="u") as run:
        world.advance(2)
        run.record(Usage(60, 40, cost_usd=0.5, tool_calls=1))
    span = world.span("otelbudget.run b")
    assert dict(span.attributes or {}) == {
        "otelbudget.run.id": run.run_id,
        "otelbudget.budget": "b",
        "otelbudget.tenant": "acme",
        "otelbudget.user": "u",
        "otelbudget.limit.steps": 5,
        "otelbudget.limit.cost_usd": 1.0,
        "otelbudget.limit.seconds": 9.0,
        **{
            f"otelbudget.used.{direct}{name}": amount
            for direct in ("", "direct.")
            for name, amount in {
                "steps": 1,
                "tokens": 100,
                "input_tokens": 60,
                "output_tokens": 40,
                "cost_usd": 0.5,
                "tool_calls": 1,
                "nested_tool_calls": 0,
            }.items()
        },
        "otelbudget.used.seconds": 2.0,
        "otelbudget.outcome": "completed",
    }
    assert {type((span.attributes or {})[k]) for k in ("otelbudget.used.cost_usd", "otelbudget.limit.cost_usd")} == {
        float
    }
    assert type((span.attributes or {})["otelbudget.used.tokens"]) is int


def test_one_in_64_checks_is_timed(world: World) -> None:
    with world.run() as run:
        for _ in range(130):
            run.check(steps=1, tokens=1)
    (histogram,) = world.engine.meters.snapshot().check_seconds.values()
    assert sum(histogram.counts) == 3


def test_what_comes_inside_another_operation_of_its_thread_looks_charges_later_and_is_refused_as_busy(
    world: World,
) -> None:
    """As from the garbage collector and signal handlers, which run at any moment on the thread that has the lock."""
    with world.run(RunBudget(max_steps=5)) as run:
        with world.engine.ledger.lock:
            assert (run.remaining()["steps"], run.can_proceed()) == (5, True)
            run.record_call(1)
            carve = run.child(mode="carve", carve={"steps": 1})
            for ask in (run.reserve, run.tool_call("t").__enter__, carve.__enter__):
                with pytest.raises(BudgetExceeded, match="in the middle of another budget operation") as denied:
                    ask()
                assert (denied.value.reason, denied.value.retry_after_s) == ("busy", 0)
            assert (run.usage.steps, run._state.account.holds) == (0, 0)
        run.check()
        assert (run.usage.steps, run.usage.tool_calls) == (1, 0)
