from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracer
from world import PRICES, World, said

import otelbudget
from otelbudget import BudgetError, BudgetExceeded, Config, ConfigError, Quota, RunBudget, Usage, semconv
from otelbudget.model.quota import Quotas
from otelbudget.runs.run import BudgetRun

BUDGET = RunBudget(
    max_steps=10,
    max_tokens=1000,
    max_cost_usd=Decimal("0.5"),
    max_seconds=60,
    max_tool_calls=5,
    wrap_up={"tokens": 100, "cost_usd": 0.1, "seconds": 2.5},
    thresholds=(0.5, 0.9),
    on_unpriced="allow",
    name="research",
)


def paused(world: World, budget: RunBudget = BUDGET, work: Any = None, **options: Any) -> dict[str, Any]:
    """The state of a run in which *work* was done, after a trip through JSON; the run is left."""
    with world.run(budget, **options) as run:
        if work is not None:
            work(run)
        state = json.loads(json.dumps(run.export_state()))
    assert isinstance(state, dict)
    return state


@pytest.fixture
def there(make_world: Callable[..., World]) -> World:
    """Another process, as far as a run can tell."""
    return make_world()


# --- what goes along


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(world: World, there: World) -> None:
    def work(run: BudgetRun) -> None:
        with run.child() as child:
            child.record(Usage(40, 10, cost_usd=0.01))
        run.record(Usage(30, 20, cost_usd=0.02))
        with run.tool_call("search"):
            pass
        world.advance(12.5)

    state = paused(world, work=work, org="acme-group", tenant="acme", user="u1", priority="high")
    there.advance(5000)
    with there.manager.resume(state) as run:
        assert (run.run_id, run.budget, run.parent, run.state) == (state["run_id"], BUDGET, None, "active")
        assert (run.org, run.tenant, run.user, run.priority) == ("acme-group", "acme", "u1", "high")
        assert run.usage == Usage(70, 30, cost_usd=Decimal("0.03"), steps=2, tool_calls=1)
        left = run.remaining()
        assert (left["steps"], left["tokens"], left["cost_usd"]) == (7, 800, Decimal("0.37"))
        assert (left["seconds"], left["tool_calls"]) == (47.5, 4)
        there.advance(47.5)
        with pytest.raises(BudgetExceeded, match="out of time"):
            run.check()
        run.acknowledge()


def test_whose_it_is_goes_along_with_what_only_spans_and_tags_say(world: World, there: World) -> None:
    names = {"conversation": "c1", "tags": {"team": "search", "stage": "beta"}}
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
    with world.tracer.start_as_current_span("invoke_agent planner", attributes=attributes):
        state = paused(world, mode="detached", **names)
    with there.manager.resume(state) as run:
        assert (run._state.owner.conversation, dict(run._state.owner.tags)) == (names["conversation"], names["tags"])
        assert run._state.owner.agent == "planner"


def test_changed_limits_go_along_and_what_was_set_aside(world: World, there: World) -> None:
    state = paused(world, work=lambda run: run.extend(steps=5, seconds=30, to={"tokens": 500, "cost_usd": 2}))
    with there.manager.resume(state) as run:
        left = run.remaining()
        assert (left["steps"], left["tokens"], left["cost_usd"], left["seconds"]) == (14, 400, Decimal("1.9"), 90)
        run.extend(tokens=100)
        assert run.remaining()["tokens"] == 500
    span = there.span("otelbudget.run")
    assert (span.attributes or {})["otelbudget.limit.steps"] == 15


def test_a_wrap_up_that_was_used_is_used_and_what_it_had_stays_set_aside(world: World, there: World) -> None:
    def work(run: BudgetRun) -> None:
        run.record_call(850)
        with pytest.raises(BudgetExceeded):
            run.check(tokens=100)
        with run.wrap_up():
            run.check(tokens=120)
            run.record_call(120)

    with there.manager.resume(paused(world, work=work), reraise=False) as run:
        assert run.remaining()["tokens"] == 0
        with pytest.raises(BudgetExceeded):
            run.check(tokens=1)
        with pytest.raises(BudgetError, match="once per run"), run.wrap_up():
            pass
        run.extend(tokens=500)
        run.check(tokens=1)


def test_a_wrap_up_that_was_not_used_is_possible_after_a_denial_there(world: World, there: World) -> None:
    with there.manager.resume(paused(world, work=lambda run: run.record_call(850))) as run:
        with pytest.raises(BudgetExceeded):
            run.check(tokens=100)
        with run.wrap_up():
            run.check(tokens=120)
            run.record_call(120)
        assert run.usage.tokens == 970


def test_more_is_never_set_aside_than_the_limits_allow_by_then(world: World, there: World) -> None:
    state = paused(world, work=lambda run: run.extend(to={"tokens": 50, "steps": 0}))
    with there.manager.resume(state) as run:
        assert (run.remaining()["tokens"], run.remaining()["steps"]) == (0, 0)
        assert (run.receipt().limits["tokens"], run.receipt().limits["steps"]) == (50, 0)


def test_thresholds_that_were_told_are_not_told_again(world: World, there: World) -> None:
    def told(world: World) -> list[tuple[str, float]]:
        events = said(world.span("otelbudget.run"))
        return [
            (str(a["otelbudget.resource"]), a["otelbudget.ratio"]) for n, a in events if n == "otelbudget.threshold"
        ]

    state = paused(world, work=lambda run: run.record(Usage(600, 0, cost_usd=0)))
    assert told(world) == [("tokens", 0.5)]
    with there.manager.resume(state) as run:
        run.record(Usage(10, 0, cost_usd=0))
        run.record(Usage(290, 0, cost_usd=0))
    assert told(there) == [("tokens", 0.9)]


def test_denials_stay_with_the_run_that_met_them(world: World, there: World) -> None:
    states: list[dict[str, Any]] = []
    with pytest.raises(BudgetExceeded) as raised, world.run(BUDGET) as run:  # noqa: PT012 - what is left at the end of the block raises
        with pytest.raises(BudgetExceeded):
            run.check(steps=20)
        states.append(run.export_state())
    assert (raised.value.resource, run._state.outcome) == ("steps", "paused")
    with there.manager.resume(states[0]) as again:
        assert (again.state, again.receipt().denials) == ("active", 0)


def test_an_unpriced_model_blocks_after_the_pause_too(world: World, there: World) -> None:
    state = paused(world, RunBudget(max_cost_usd=1), lambda run: run.record(Usage(5, 5, model="mystery")))
    with there.manager.resume(state, reraise=False) as run, pytest.raises(BudgetExceeded, match="'mystery'"):
        run.check()


@pytest.mark.parametrize("reason", [None, "", "by ops"])
def test_a_freeze_goes_along_but_not_that_of_the_export_itself(world: World, there: World, reason: str | None) -> None:
    state = paused(world, work=None if reason is None else lambda run: run.freeze(reason=reason))
    with there.manager.resume(state) as run:
        assert run.state == ("active" if reason is None else "frozen")


def test_sums_of_any_size_go_along(world: World, there: World) -> None:
    def work(run: BudgetRun) -> None:
        for _ in range(4):
            run.record(Usage(2**52, 2**51, cost_usd=2**22))

    with there.manager.resume(paused(world, RunBudget(), work)) as run:
        usage = run.usage
        assert (usage.tokens, usage.cost_usd) == (3 * 2**53, 2**24)
        assert run.receipt().used["tokens"] == 3 * 2**53
        assert run.export_state()["used"]["tokens"] == 3 * 2**53


def test_quotas_that_each_run_has_on_its_own_go_along(make_world: Callable[..., World]) -> None:
    quota = Quota(tokens=100, per="run")
    here, there = (make_world(config=Config(quotas=Quotas(default=[quota]), prices=PRICES)) for _ in range(2))
    with there.manager.resume(paused(here, RunBudget(), lambda run: run.record_call(60)), reraise=False) as run:
        assert run.remaining()["tokens"] == 40
        with pytest.raises(BudgetExceeded):
            run.check(tokens=41)
    with make_world().manager.resume(paused(here, RunBudget(), lambda run: run.record_call(60))) as run:
        assert run.remaining()["tokens"] is None  # that process has no such quota


def test_what_windows_have_counted_stays_with_their_store(make_world: Callable[..., World]) -> None:
    config = Config(quotas=Quotas(default=[Quota(tokens=100)]), prices=PRICES)
    here, there = make_world(config=config), make_world(config=config)
    with there.manager.resume(paused(here, RunBudget(), lambda run: run.record_call(60))) as run:
        assert (run.usage.tokens, run.remaining()["tokens"]) == (60, 100)


def test_idempotency_keys_stay_with_the_run_that_was_left(world: World, there: World) -> None:
    state = paused(world, work=lambda run: run.record(Usage(7, 3, cost_usd=0), idempotency_key="told"))
    with there.manager.resume(state) as run:
        assert not run.record(Usage(1, 0, cost_usd=0), idempotency_key="told").replayed
        assert run.usage.tokens == 11


# --- the run that was exported


def test_an_exported_run_refuses_here_and_its_end_is_no_end(world: World) -> None:
    with world.run(BUDGET) as run:
        run.record_call(100)
        run.export_state()
        with pytest.raises(BudgetExceeded, match="its state was exported") as denied:
            run.check()
        assert denied.value.reason == "frozen"
        run.acknowledge()
    assert (run._state.outcome, run.receipt().outcome) == ("paused", "paused")
    assert (world.span("otelbudget.run").attributes or {})["otelbudget.outcome"] == "paused"
    (cell,) = world.engine.meters.snapshot().tenants
    assert (cell.active, cell.runs) == (0, {})
    freeze = next(a for n, a in said(world.span("otelbudget.run")) if n == "otelbudget.freeze")
    assert freeze == {"otelbudget.old": False, "otelbudget.new": True, "otelbudget.reason": "export_state"}


def test_the_whole_run_is_counted_once_where_it_ends(world: World, there: World) -> None:
    state = paused(world, work=lambda run: run.record(Usage(100, 0, cost_usd=0.01)))
    with there.manager.resume(state) as run:
        run.record(Usage(50, 0, cost_usd=0.02))
    snapshots = [one.engine.meters.snapshot() for one in (world, there)]
    outcomes = [{outcome for _, outcome in cell.runs} for snapshot in snapshots for cell in snapshot.tenants]
    assert outcomes == [set(), {"completed"}]
    (cell,) = snapshots[1].tenants
    assert (cell.runs[semconv.M_RUN_TOKENS, "completed"].total, cell.active) == (150, 0)
    assert [one.spent()[0] for one in (world, there)] == [100, 50]


def test_unfreezing_takes_the_export_back(world: World) -> None:
    with world.run(BUDGET) as run:
        run.export_state()
        with pytest.raises(BudgetError, match=r"exported before.*unfreeze"):
            run.export_state(freeze=False)
        run.freeze(reason="ops")  # another freeze changes nothing about that
        with pytest.raises(BudgetError, match="exported before"):
            run.export_state()
        run.unfreeze()
        run.check()
        run.record_call(5)
    assert run._state.outcome == "completed"
    (cell,) = world.engine.meters.snapshot().tenants
    assert {outcome for _, outcome in cell.runs} == {"completed"}


def test_a_checkpoint_changes_nothing(world: World, there: World) -> None:
    scope = world.run(BUDGET)
    run = scope.__enter__()
    run.record_call(10)
    with pytest.raises(BudgetExceeded):
        run.check(steps=20)
    state = run.export_state(freeze=False)
    assert (run.state, run._state.frozen) == ("active", None)
    run.record_call(10)
    with pytest.raises(BudgetExceeded):
        scope.__exit__(None, None, None)
    assert (run._state.outcome, state["used"]["tokens"]) == ("exhausted", 10)
    with there.manager.resume(state, reraise=False) as again:
        assert again.usage.tokens == 10


def test_the_spans_of_a_run_are_linked(world: World, there: World) -> None:
    state = paused(world)
    with there.manager.resume(state):
        pass
    before, after = world.span("otelbudget.run"), there.span("otelbudget.run research")
    (link,) = after.links
    assert link.context.trace_id == before.context.trace_id
    assert link.context.span_id == before.context.span_id
    assert (after.attributes or {})["otelbudget.run.id"] == (before.attributes or {})["otelbudget.run.id"]


def test_a_run_without_a_span_can_be_paused_too(make_world: Callable[..., World]) -> None:
    manager = otelbudget.BudgetManager(BUDGET)
    manager.engine.tracer = NoOpTracer()
    with manager.run() as run:
        run.record_call(10)
        state = json.loads(json.dumps(run.export_state()))
    assert state["traceparent"] is None
    world = make_world()
    with world.manager.resume(state) as again:
        assert again.usage.tokens == 10
    assert not world.span("otelbudget.run").links


# --- what can't be paused


def test_calls_in_flight_cannot_be_paused(world: World) -> None:
    with world.run(BUDGET) as run:
        hold = run.reserve(tokens=5)
        with pytest.raises(BudgetError, match="1 calls of this run are in flight"):
            run.export_state()
        assert run.state == "active"
        hold.commit(Usage(1, 1))
        with run.tool_call("t"):
            run.export_state()


def test_an_abandoned_hold_is_given_back_first(world: World) -> None:
    with world.run(BUDGET) as run:
        run.reserve(tokens=5)
        world.advance(66)
        assert run.export_state()["used"]["tokens"] == 0


def test_a_child_and_a_run_with_children_cannot_be_paused(world: World) -> None:
    with world.run(BUDGET) as run:
        with run.child() as child, child.child() as grandchild:
            for one, says in ((grandchild, "outermost"), (child, "outermost"), (run, "2 runs inside this one")):
                with pytest.raises(BudgetError, match=says):
                    one.export_state()
        scope = run.child()
        with scope as child, child.child() as grandchild:
            scope.__exit__(None, None, None)  # as a task that goes on in a run inside does
            assert (child.state, grandchild.state) == ("closed", "active")
            with pytest.raises(BudgetError, match="1 runs inside this one"):
                run.export_state()
        with world.run(mode="detached"):
            run.export_state()


def test_a_child_that_was_refused_is_in_no_pauses_way(world: World) -> None:
    with world.run(BUDGET) as run:
        with pytest.raises(BudgetExceeded) as denied, run.child(mode="carve", carve={"steps": 1_000}):
            pass
        assert run.export_state(freeze=False)["run_id"] == run.run_id
        assert denied.value.resource == "steps"  # whoever keeps the refusal keeps the frames that it came through
        run.acknowledge()


def test_a_run_that_has_ended_cannot_be_paused(world: World) -> None:
    with world.run(BUDGET) as run:
        pass
    with pytest.raises(BudgetError, match="has ended"):
        run.export_state()


def test_the_process_wide_run_can_be_carried_over(world: World, there: World) -> None:
    world.manager.record_call(5)
    state = world.manager.current().export_state()
    with there.manager.resume(state) as run:
        assert (run.usage.tokens, run._state.kind) == (5, "explicit")


# --- resuming


def test_a_run_that_is_open_here_cannot_be_resumed_here(world: World) -> None:
    with world.run(BUDGET) as run:
        state = run.export_state()
        with pytest.raises(BudgetError, match="is open in this process"):
            world.manager.resume(state).__enter__()
    resumed = world.manager.resume(state)
    with resumed as again:
        with pytest.raises(BudgetError, match="is open in this process"):
            world.manager.resume(state).__enter__()
        assert again.usage.steps == 0
    with pytest.raises(RuntimeError, match="entered before"):
        resumed.__enter__()
    (cell,) = world.engine.meters.snapshot().tenants
    assert (cell.active, world.engine.explicit_runs) == (0, 0)


def test_a_resumed_run_is_a_run_of_its_own_wherever_it_is_opened(world: World, there: World) -> None:
    state = paused(world, tenant="acme")
    with there.run(RunBudget(max_steps=0), tenant="other") as outer, there.manager.resume(state) as run:
        assert (run.parent, run.tenant) == (None, "acme")
        run.record_call(5)
        assert outer.usage.steps == 0


async def test_a_resumed_run_is_an_async_block_and_a_decorator(world: World, there: World) -> None:
    state = paused(world, work=lambda run: run.record_call(5))
    async with there.manager.resume(state) as run:
        assert run.usage.tokens == 5

    @there.manager.resume(state)
    async def work() -> int | None:
        inside = otelbudget.current_run()
        return None if inside is None else inside.usage.tokens

    assert await work() == 5
    assert await work() == 5


def test_a_function_as_on_exhausted_has_to_be_given_again(world: World, there: World) -> None:
    def more(_: Any, run: BudgetRun) -> bool:
        run.extend(steps=1)
        return True

    state = paused(world, RunBudget(max_steps=1, on_exhausted=more), lambda run: run.record_call())
    with pytest.raises(ConfigError, match="on_exhausted of this run was a function"):
        there.manager.resume(state)
    with there.manager.resume(state, on_exhausted=more) as run:
        run.check()
        assert run.receipt().limits["steps"] == 2
    with there.manager.resume(state, on_exhausted="warn") as run:
        run.check()
    with pytest.raises(ConfigError, match="on_exhausted must be"):
        there.manager.resume(state, on_exhausted="maybe")  # type: ignore[arg-type]


def test_a_run_goes_on_in_another_process(world: World) -> None:
    def work(run: BudgetRun) -> None:
        run.record(Usage(600, 0, cost_usd=0.05))

    state = paused(world, work=work, tenant="acme")
    program = """
import json, sys, otelbudget
state = json.load(sys.stdin)
try:
    with otelbudget.resume(state) as run:
        said = [run.run_id, run.tenant, run.usage.tokens, str(run.usage.cost_usd), run.state]
        said.append(run.remaining()["tokens"])
        run.check(tool_calls=9)
except otelbudget.BudgetExceeded as error:
    said.append([error.reason, error.resource])
    json.dump(said, sys.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], input=json.dumps(state), capture_output=True, text=True
    )
    assert done.stderr.startswith("refused (limit): budget 'research' of run ")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout) == [
        state["run_id"], "acme", 600, "0.05", "active", 300, ["limit", "tool_calls"],
    ]  # fmt: skip


# --- garbage


def full_state() -> dict[str, Any]:
    """A state that has something in every field."""
    world = World(config=Config(quotas=Quotas(default=[Quota(tokens=10**6, per="run")]), prices=PRICES))

    def work(run: BudgetRun) -> None:
        with run.child() as child:
            child.record(Usage(40, 10, cost_usd=0.01))
        run.record(Usage(1, 2, model="mystery"))
        run.freeze(reason="ops")

    state = paused(world, work=work, tenant="acme", user="u1")
    world.provider.shutdown()
    return state


STATE = full_state()


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside *value*."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, item in inside for one in paths(item, (*path, key)))]


def changed(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    state: Any = copy.deepcopy(STATE)
    place = state
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    assert isinstance(state, dict)
    return state


@pytest.mark.parametrize("given", [None, 5, "", "{}", b"{}", [], {}, {"format": "otelbudget.run"}, {"format": "x"}])
def test_what_is_no_state_is_said_to_be_none(world: World, given: Any) -> None:
    with pytest.raises(ConfigError, match="state"):
        world.manager.resume(given)


def test_another_version_is_said_to_be_one(world: World) -> None:
    with pytest.raises(ConfigError, match=r"state\.version must be 1, the only one .* got 2"):
        world.manager.resume({**STATE, "version": 2})
    with pytest.raises(ConfigError, match=r"state\.format must be"):
        world.manager.resume({**STATE, "format": "other"})
    with pytest.raises(ConfigError, match=r"state must be a mapping"):
        world.manager.resume(json.dumps(STATE))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(STATE))
def test_a_field_that_is_missing_is_named(world: World, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"state\.{name}"):
        world.manager.resume({key: value for key, value in STATE.items() if key != name})


@pytest.mark.parametrize("name", sorted(STATE))
@pytest.mark.parametrize("value", [1.5, -1, True, {"a": 1}, ["a", 5], b"x"])
def test_a_field_of_another_type_is_named(world: World, name: str, value: Any) -> None:
    if name == "wrapped_up" and value is True:
        return
    with pytest.raises(ConfigError, match=rf"state\.{name}"):
        world.manager.resume({**STATE, name: value})
    assert world.engine.explicit_runs == 0


@pytest.mark.parametrize("absurd", [2**63, 2**80, 2**200])
def test_what_no_run_can_have_used_is_refused_by_name(world: World, absurd: int) -> None:
    with pytest.raises(ConfigError, match=r"state\.elapsed_ns must be a whole number from 0 to 2\^63 - 1, got"):
        world.manager.resume({**STATE, "elapsed_ns": absurd})
    for name in STATE["used"]:
        with pytest.raises(ConfigError, match=r"state\.used must be"):
            world.manager.resume({**STATE, "used": {**STATE["used"], name: absurd}})


@settings(max_examples=400)
@given(st.sampled_from([path for path in paths(STATE) if path]), st.data())
def test_a_state_that_was_tampered_with_is_refused_in_words_or_is_a_run(path: tuple[Any, ...], data: Any) -> None:
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
    value = data.draw(st.just("drop") | st.sampled_from(["limit", "1", "NaN", "-1", "1e999"]) | values)

    def change(place: Any, key: Any) -> None:
        if value == "drop":
            del place[key]
        else:
            place[key] = value

    world = World()
    with contextlib.suppress(ConfigError), world.manager.resume(changed(path, change), reraise=False) as run:
        run.receipt()
        run.remaining()
        json.dumps(run.export_state())
    assert world.engine.explicit_runs == 0
    world.provider.shutdown()


@pytest.mark.parametrize("name", sorted(STATE["budget"]))
def test_a_field_of_the_budget_that_is_missing_or_wrong_is_named(world: World, name: str) -> None:
    budget = STATE["budget"]
    with pytest.raises(ConfigError, match=rf"state\.budget must be a mapping of .*{name}"):
        world.manager.resume({**STATE, "budget": {key: value for key, value in budget.items() if key != name}})
    with pytest.raises(ConfigError, match=r"state\.budget"):
        world.manager.resume({**STATE, "budget": {**budget, name: -1.5}})
