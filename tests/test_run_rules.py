"""Denials that are repeated, pending and raised again, and whose run a call is: rule by rule."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
from world import PRICES, World, opened

import otelbudget
from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.calls.model_call import ModelCall, ModelRequest, begin
from otelbudget.runs.run import BudgetRun

REQUEST = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)


def made() -> ModelCall:
    call = begin(REQUEST)
    assert call is not None
    return call


# --- denials: arithmetic, pending, re-raise


def swallowed(run: BudgetRun, **asked: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(**asked)
    return denied.value


def test_what_was_refused_is_refused_again_a_smaller_request_fits_and_the_deadline_comes_first(world: World) -> None:
    with world.run(RunBudget(max_steps=5, max_seconds=10), reraise=False) as run:
        run.record(Usage(1, 1, steps=4))
        assert [swallowed(run, steps=2).reason for _ in range(2)] == ["limit"] * 2
        assert run.check(steps=1)
        world.advance(11)
        assert [swallowed(run, steps=n).reason for n in (1, 2)] == ["deadline"] * 2


@pytest.mark.parametrize(("refused", "allowed"), [("tool_calls", "steps"), ("steps", "tool_calls")])
def test_a_refusal_says_nothing_of_other_resources(world: World, refused: str, allowed: str) -> None:
    with world.run(RunBudget(**{f"max_{refused}": 0}), reraise=False) as run:
        swallowed(run, **{refused: 1})
        assert swallowed(run, **{refused: 1}).reason == "limit"
        assert run.check(**{allowed: 1})
        assert run.check(**{refused: 0, allowed: 1})


def test_a_siblings_call_is_refused_by_their_parent_too(world: World) -> None:
    with world.run(RunBudget(max_steps=0, name="root"), reraise=False) as root:
        for _ in range(2):
            with root.child(reraise=False) as child:
                assert (swallowed(child).reason, swallowed(child).budget) == ("limit", "root")


def test_what_an_extension_has_dealt_with_is_not_raised_because_a_sibling_is_refused_later(world: World) -> None:
    with world.run(RunBudget(max_steps=1), reraise=False) as root, root.child() as first:
        swallowed(first, steps=2)
        root.extend(steps=1)
        with root.child(reraise=False) as second:
            swallowed(second, steps=3)
    assert first.receipt().outcome == "exhausted"


def test_a_denial_that_is_met_again_after_an_extension_is_pending_anew(world: World) -> None:
    root = opened(world.run(RunBudget(max_steps=1), reraise=False))
    with pytest.raises(BudgetExceeded, match="requested 3"), root.child() as child:  # noqa: PT012 - leaving raises
        swallowed(child, steps=2)
        root.extend(steps=1)
        swallowed(child, steps=3)


def test_a_childs_own_denial_is_raised_although_its_parent_deals_with_one_of_the_same_resource(world: World) -> None:
    outer = opened(world.run(RunBudget(max_tokens=9), reraise=False))
    with pytest.raises(BudgetExceeded, match="requested 6"), outer.child(RunBudget(max_tokens=5)) as child:  # noqa: PT012 - leaving raises
        for tokens in (10, 6):
            swallowed(child, tokens=tokens)
        outer.extend(tokens=20)


def test_a_denial_is_pending_also_after_a_smaller_request_was_admitted(world: World) -> None:
    with pytest.raises(BudgetExceeded, match="requested 11"), world.run(RunBudget(max_tokens=10)) as run:  # noqa: PT012 - leaving raises
        swallowed(run, tokens=11)
        run.reserve(tokens=10).commit()


@pytest.mark.parametrize("way", ["acknowledge", "wrap_up", "extend", "on_exhausted", "nothing"])
def test_what_deals_with_a_pending_denial(world: World, way: str) -> None:
    def more(_: Any, run: BudgetRun) -> bool:
        run.extend(steps=1)
        return True

    asking = {"on_exhausted": more} if way == "on_exhausted" else {}
    scope_ = world.run(RunBudget(max_steps=0, **asking))  # type: ignore[arg-type]
    run = scope_.__enter__()
    if way == "on_exhausted":
        assert run.check()
    else:
        swallowed(run)
    if way == "acknowledge":
        run.acknowledge()
    elif way == "wrap_up":
        with run.wrap_up():
            pass
    elif way == "extend":
        run.extend(steps=1)
    with pytest.raises(BudgetExceeded) if way == "nothing" else contextlib.nullcontext():
        scope_.__exit__(None, None, None)


def test_extending_another_resource_leaves_the_denial_pending(world: World) -> None:
    with pytest.raises(BudgetExceeded), world.run(RunBudget(max_steps=0, max_tokens=0)) as run:  # noqa: PT012 - leaving raises
        swallowed(run, steps=1)
        run.extend(tokens=5)


def test_a_pending_busy_ends_with_the_next_admitted_call_and_a_pending_limit_does_not(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        hold = run.reserve()
        assert swallowed(run).reason == "busy"
        hold.release()
        assert run.check()
    with pytest.raises(BudgetExceeded, match="tool_calls"), world.run(RunBudget(max_tool_calls=0)) as run:  # noqa: PT012 - leaving raises
        swallowed(run, tool_calls=1)
        assert run.check()


@pytest.mark.parametrize("reason", ["frozen", "deadline", "no_tenant", "unpriced"])
def test_every_raised_denial_is_pending_whatever_its_reason(make_world: Callable[..., World], reason: str) -> None:
    world = make_world(config=Config(require_tenant=reason == "no_tenant"))
    denied: list[BudgetExceeded] = []

    def work() -> None:
        with world.run(RunBudget(max_seconds=5, max_cost_usd=1)) as run:
            if reason == "frozen":
                run.freeze()
            elif reason == "deadline":
                world.advance(6)
            elif reason == "unpriced":
                run.record_call(5)
            denied.append(swallowed(run))
            if reason == "frozen":
                run.unfreeze()

    with pytest.raises(BudgetExceeded) as raised:
        work()
    assert raised.value is denied[0]
    assert raised.value.reason == reason


def leave(world: World, error: Callable[[BudgetExceeded], BaseException] | None) -> BaseException | None:
    """What leaves a run in which a denial was swallowed and then *error* was raised."""
    try:
        with world.run(RunBudget(max_steps=0)) as run:
            denied = swallowed(run)
            if error is not None:
                raise error(denied)
    except BaseException as left:  # noqa: BLE001 - it is looked at
        return left
    return None


def test_leaving_a_run_raises_what_the_rules_say(world: World) -> None:
    plain = leave(world, None)
    assert isinstance(plain, BudgetExceeded)
    mine = BudgetExceeded("mine")
    assert leave(world, lambda _: mine) is mine

    def caused(denied: BudgetExceeded) -> BaseException:
        error = ValueError("wrapped")
        error.__cause__ = denied
        return error

    wrapped = leave(world, caused)
    assert isinstance(wrapped, BudgetExceeded)
    assert isinstance(wrapped.__cause__, ValueError)
    other = leave(world, lambda _: KeyError("other"))
    assert isinstance(other, KeyError)
    assert [note.startswith("In this run a call was refused before") for note in other.__notes__] == [True]
    for steering in (asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()):
        assert leave(world, lambda _, it=steering: it) is steering  # type: ignore[misc]
        assert not hasattr(steering, "__notes__")


# --- whose run: the unit of work

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
MODEL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo"}


def charged_run(world: World) -> BudgetRun:
    """Whose run a guard's call made here is."""
    call = made()
    call.commit(Usage(35, 20))
    return BudgetRun(call.run)


def test_rule_1_an_explicit_run_comes_first(world: World) -> None:
    world.activate()
    with world.tracer.start_as_current_span("request"), world.run() as run:
        assert charged_run(world) == run
        with world.tracer.start_as_current_span("invoke_agent planner", attributes=AGENT):
            assert charged_run(world) == run
        assert otelbudget.current_run() == run


@pytest.mark.parametrize("around", [False, True])
def test_rule_2_else_the_agents_span_under_that_agents_budget(make_world: Callable[..., World], around: bool) -> None:
    config = Config({"small": RunBudget(max_steps=1)}, agents={"planner": "small"}, prices=PRICES)
    world = make_world(config=config)
    world.activate()
    with (
        world.tracer.start_as_current_span("POST /") if around else contextlib.nullcontext(),
        world.tracer.start_as_current_span("invoke_agent planner", attributes=AGENT),
    ):
        run = charged_run(world)
        assert (run._state.kind, run.budget.name, run.state) == ("implicit", "small", "exhausted")
        with pytest.raises(BudgetExceeded, match="small"):
            made()
    assert run.state == "closed"


def test_rule_3_else_the_local_root_span_unless_it_is_a_model_or_tool_call(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=1))
    world.activate()
    with world.tracer.start_as_current_span("job"), world.tracer.start_as_current_span("step"):
        first = charged_run(world)
    with world.tracer.start_as_current_span("job"):
        second = charged_run(world)
    assert first != second
    assert (first._state.kind, second._state.kind, first.state) == ("implicit", "implicit", "closed")
    world.tracer.start_span("chat", attributes=MODEL).end()
    assert world.manager.remaining()["steps"] == 0  # that one was in the ambient run


def test_rule_4_else_the_ambient_run_until_reset(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=2))
    world.activate()
    assert otelbudget.current_run() is None
    first = charged_run(world)
    world.manager.record_call(1)
    assert (first._state.kind, world.manager.remaining()["steps"]) == ("ambient", 0)
    with pytest.raises(BudgetExceeded, match=r"Calls outside otelbudget.run\(\) share one process-wide run"):
        made()
    world.manager.reset()
    assert charged_run(world) is not first
    assert world.manager.remaining()["steps"] == 1


def test_rule_4_a_bare_loop_stops_at_five(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=5))
    for _ in range(5):
        world.manager.check()
        world.manager.record_call(1)
    with pytest.raises(BudgetExceeded):
        world.manager.check()


def test_without_any_budget_the_ambient_run_is_unlimited(world: World) -> None:
    for _ in range(50):
        world.manager.check(tokens=10**9)
        world.manager.record_call(10**6)
    assert set(world.manager.remaining().values()) == {None}


def test_implicit_and_ambient_runs_never_raise_at_their_end(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    world = make_world(RunBudget(max_steps=0))
    world.activate()
    with world.tracer.start_as_current_span("invoke_agent planner", attributes=AGENT), pytest.raises(BudgetExceeded):
        made()
    with pytest.raises(BudgetExceeded):
        world.manager.check()
    world.manager.reset()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["refused (limit)"] * 2


def test_the_states_of_a_run(world: World) -> None:
    scope_ = world.run(RunBudget(max_steps=1, max_seconds=10), reraise=False)
    run = scope_.__enter__()
    assert run.state == "active"
    run.record_call(1)
    assert run.state == "exhausted"  # though nothing was refused
    run.freeze()
    assert run.state == "frozen"
    run.unfreeze()
    run.extend(steps=1)
    assert run.state == "active"
    world.advance(10)
    assert run.state == "exhausted"
    scope_.__exit__(None, None, None)
    assert run.state == "closed"


async def test_after_its_end_a_run_refuses_and_charges_and_a_task_left_behind_stays_in_it(world: World) -> None:
    world.activate()
    go = asyncio.Event()
    reasons: list[str] = []

    async def left_behind() -> None:
        await go.wait()
        with pytest.raises(BudgetExceeded) as denied:
            made()
        reasons.append(denied.value.reason)

    async with world.run(RunBudget(max_steps=5)) as run:
        hold = run.reserve(tokens=10)
        task = asyncio.create_task(left_behind())
        await asyncio.sleep(0)
    assert swallowed(run).reason == "closed"
    hold.commit(Usage(5, 5))
    run.record(Usage(3, 0))
    go.set()
    await task
    assert (reasons, run.usage.tokens, run.usage.steps) == (["closed"], 13, 2)
    assert world.manager.remaining()["steps"] is None  # nothing went to the ambient run


@pytest.mark.parametrize("who", [{"tenant": "other"}, {"user": "bob"}, {"org": "elsewhere"}])
def test_a_run_inside_a_run_is_a_shared_child_and_somebody_elses_needs_to_be_detached(
    world: World, who: dict[str, str]
) -> None:
    with world.run(tenant="acme", user="ann", org="o") as outer:
        with world.run() as inner:
            inner.record_call(5)
        assert (inner.parent, inner.tenant, inner.user, outer.usage.tokens) == (outer, "acme", "ann", 5)
        with pytest.raises(ValueError, match="detached"), world.run(**who):
            pytest.fail("it was entered")
        with world.run(mode="detached", **who) as other:
            other.record_call(7)
        assert (other.parent, outer.usage.tokens) == (None, 5)


def test_a_run_object_is_entered_once_and_a_decorated_function_has_one_per_call(world: World) -> None:
    scope_ = world.run()
    with scope_:
        pass
    with pytest.raises(RuntimeError, match="entered before"), scope_:
        pass
    seen = []

    @world.run(RunBudget(max_steps=1))
    def work() -> None:
        run = otelbudget.current_run()
        assert run is not None
        run.check()
        run.record_call(1)
        seen.append(run.run_id)

    work()
    work()
    assert len(set(seen)) == 2
