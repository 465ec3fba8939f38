from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context
from world import World, held, said, used

from otelbudget import BudgetExceeded, BudgetRun, Config, RunBudget, Usage, current_run
from otelbudget.bootstrap.sampler import BudgetSampler
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.runs.ambient import ambient_run

CHAT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "demo",
    "gen_ai.request.max_tokens": 50,
}
GUARDED = ModelRequest(provider="openai", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)
OPENAI = "opentelemetry.instrumentation.openai.v1"


@pytest.fixture(autouse=True)
def active(world: World) -> None:
    world.activate()


def model(world: World, instrumentation: str = "langchain", name: str = "chat", **attributes: Any) -> Any:
    """A model span as a context manager."""
    tracer = world.provider.get_tracer(instrumentation)
    return tracer.start_as_current_span(name, attributes={**CHAT, **attributes})


def agent(world: World, name: str) -> Any:
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    return world.tracer.start_as_current_span(f"invoke_agent {name}", attributes=attributes)


def answered(span: trace.Span, given: Any, made: Any, response_id: str | None = None) -> None:
    span.set_attribute("gen_ai.usage.input_tokens", given)
    span.set_attribute("gen_ai.usage.output_tokens", made)
    if response_id is not None:
        span.set_attribute("gen_ai.response.id", response_id)


# --- spans without a guard


def test_a_model_span_is_held_at_its_start_and_charged_its_usage_at_its_end(world: World) -> None:
    with world.run(RunBudget(max_tokens=100), tenant="acme") as run:
        with model(world) as span:
            assert held(run)[:4] == [1, 51, 1, 50]
            answered(span, 30, 20)
        assert (used(run)[:5], held(run)) == ([1, 50, 30, 20, 70_000], [0] * 7)
    found = world.span("chat")
    assert [n for n, _ in said(found)] == ["otelbudget.check"]
    assert {k: v for k, v in (found.attributes or {}).items() if k.startswith("otelbudget")} == {
        "otelbudget.run.id": run.run_id,
        "otelbudget.tenant": "acme",
        "otelbudget.decision": "allow",
    }
    # The span is frozen when its end is heard of.
    assert [n for n, _ in said(world.span("otelbudget.run"))] == ["otelbudget.record"]
    assert world.counted() == {("call", "allow", ""): 1}


def test_a_model_span_that_cannot_be_paid_for_does_not_start(world: World) -> None:
    seen: list[Any] = []

    with world.run(RunBudget(max_steps=1), reraise=False) as run:
        with model(world) as span:
            answered(span, 1, 1)
        tracer = world.provider.get_tracer("langchain")
        with pytest.raises(BudgetExceeded):
            seen.append(tracer.start_span("chat", attributes=CHAT))
        assert (seen, used(run)[0], held(run)) == ([], 1, [0] * 7)


@pytest.mark.parametrize(
    ("attributes", "status", "charged"),
    [
        ({}, StatusCode.UNSET, [1, 51, 1, 50]),
        ({}, StatusCode.ERROR, [1, 1, 1, 0]),
        ({"gen_ai.usage.input_tokens": 9}, StatusCode.ERROR, [1, 59, 9, 50]),
        ({"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0}, StatusCode.UNSET, [1, 0, 0, 0]),
    ],
)
def test_a_span_without_usage_is_estimated_and_never_free(
    world: World, attributes: dict[str, int], status: StatusCode, charged: list[int]
) -> None:
    with world.run() as run:
        with model(world) as span:
            span.set_attributes(attributes)
            span.set_status(status)
        assert used(run)[:4] == charged


def test_embeddings_hold_no_output(world: World) -> None:
    attributes = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "demo"}
    with world.run() as run, world.tracer.start_as_current_span("embeddings", attributes=attributes):
        assert held(run)[:4] == [1, 1, 1, 0]


def test_agent_totals_are_never_charged(world: World) -> None:
    with world.run() as run, agent(world, "a") as span:
        answered(span, 1000, 1000)
    assert used(run) == [0] * 7


def test_a_span_whose_sdk_has_a_guard_is_only_noted(world: World) -> None:
    world.engine.guarded.add("openai")
    with world.run(RunBudget(max_steps=0)) as run:
        with model(world, OPENAI) as span:
            answered(span, 5, 5)
        assert (used(run), held(run)) == ([0] * 7, [0] * 7)
    assert said(world.span("chat")) == []
    assert world.counted() == {}


# --- a guard inside a span


def test_a_guard_inside_takes_over_the_hold_and_the_span_charges_nothing(world: World) -> None:
    with world.run(RunBudget(max_tokens=1000)) as run:
        with model(world) as span:
            call = begin(GUARDED)
            assert call is not None
            assert held(run)[:4] == [1, 100, 40, 60]
            call.commit(Usage(30, 20))
            answered(span, 30, 20)
        assert used(run)[:4] == [1, 50, 30, 20]
    assert [n for n, _ in said(world.span("chat"))] == ["otelbudget.check", "otelbudget.record"]
    assert world.counted() == {("call", "allow", ""): 1}


def test_a_guard_inside_that_needs_more_than_there_is_is_refused_and_nothing_stays_held(world: World) -> None:
    with world.run(RunBudget(max_tokens=80), reraise=False) as run:
        with pytest.raises(BudgetExceeded), model(world):
            begin(GUARDED)
        assert (used(run), held(run), run._state.account.holds) == ([0] * 7, [0] * 7, 0)
    assert world.counted() == {("call", "allow", ""): 1, ("call", "deny", "limit"): 1}


def test_two_guards_inside_one_span_are_two_calls(world: World) -> None:
    with world.run() as run, model(world):
        first, second = begin(GUARDED), begin(GUARDED)
        assert first is not None
        assert second is not None
        assert first is not second
        first.commit(Usage(1, 1))
        second.commit(Usage(2, 2))
        assert used(run)[:2] == [2, 6]
    assert used(run)[:2] == [2, 6]


def test_guards_of_parallel_threads_inside_one_span_are_all_charged(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from otelbudget import wrap

    def call(_: int) -> None:
        made = begin(GUARDED)
        assert made is not None
        made.commit(Usage(1, 1))

    with world.run() as run, model(world), ThreadPoolExecutor(8) as pool:
        list(pool.map(wrap(call), range(64)))
    assert (used(run)[:2], held(run)) == ([64, 128], [0] * 7)


def test_a_guards_failure_before_sending_gives_the_step_back_and_the_span_charges_nothing(world: World) -> None:
    with world.run() as run, model(world):
        call = begin(GUARDED)
        assert call is not None
        call.release()
    assert used(run) == [0] * 7


# --- several layers report one call


def test_a_span_inside_a_span_is_one_call(world: World) -> None:
    with world.run() as run, model(world, "framework") as outer:
        with model(world, "client") as inner:
            assert held(run)[0] == 1
            answered(inner, 30, 20)
        answered(outer, 30, 20)
    assert used(run)[:2] == [1, 50]


def test_the_outer_span_may_be_the_one_that_knows_the_usage(world: World) -> None:
    with world.run() as run, model(world, "framework") as outer:
        with model(world, "client"):
            pass
        answered(outer, 30, 20)
    assert used(run)[:2] == [1, 50]


def test_a_span_that_asks_its_client_twice_is_two_calls(world: World) -> None:
    with world.run() as run, model(world, "framework") as outer:
        for _ in range(2):
            with model(world, "client") as inner:
                answered(inner, 30, 20)
        answered(outer, 60, 40)
    assert used(run)[:2] == [2, 100]


async def test_parallel_spans_inside_one_span_are_all_charged(world: World) -> None:
    async def call(tokens: int) -> None:
        with model(world, "client") as inner:
            await asyncio.sleep(0)
            answered(inner, tokens, tokens)
            await asyncio.sleep(0)

    async with world.run() as run:
        with model(world, "framework"):
            await asyncio.gather(*(call(10) for _ in range(4)))
    assert used(run)[:2] == [4, 80]


def test_siblings_of_two_layers_are_one_call_by_response_id_or_by_time_and_tokens(world: World) -> None:
    for response_id in ("r1", None):
        with world.run() as run:
            outer = world.provider.get_tracer("framework").start_span("chat", attributes=CHAT)
            with model(world, "client") as inner:
                answered(inner, 30, 20, response_id)
            answered(outer, 30, 20, response_id)
            outer.end()
            assert (used(run)[:2], held(run)) == ([1, 50], [0] * 7)


def test_a_call_and_the_framework_s_span_of_it_in_another_trace_are_one_call_of_runs_that_nobody_opened(
    world: World,
) -> None:
    with world.tracer.start_as_current_span("job"):
        outer = world.provider.get_tracer("framework").start_span("chat", attributes=CHAT)
    call = begin(GUARDED)  # outside of every span, as where a framework's own thread makes it
    assert call is not None
    call.commit(Usage(30, 20))
    answered(outer, 30, 20)
    outer.end()
    cells = world.engine.meters.snapshot().spends
    assert sum(cell.input + cell.output for cell in cells) == 50


def test_equal_parallel_calls_of_one_layer_are_several(world: World) -> None:
    with world.run() as run:
        outer = world.provider.get_tracer("client").start_span("chat", attributes=CHAT)
        with model(world, "client") as inner:
            answered(inner, 30, 20)
        answered(outer, 30, 20)
        outer.end()
        assert used(run)[:2] == [2, 100]


def test_a_span_that_starts_after_a_guarded_response_is_recognised_by_its_id(world: World) -> None:
    with world.run() as run:
        call = begin(GUARDED)
        assert call is not None
        call.commit(Usage(30, 20, response_id="r9"))
        with model(world, "other") as span:
            answered(span, 30, 20, "r9")
        assert (used(run)[:2], held(run)) == ([1, 50], [0] * 7)


# --- implicit runs


def test_an_agents_span_is_a_run_under_that_agents_budget(make_world: Callable[..., World]) -> None:
    budget = RunBudget(max_steps=2, name="careful")
    world = make_world(config=Config(agents={"a": budget}, default_budget=RunBudget(max_steps=9)))
    world.activate()
    with agent(world, "a"):
        run = current_run()
        assert run is not None
        assert (run._state.kind, run.budget.name) == ("implicit", "careful")
        for _ in range(2):
            with model(world) as span:
                answered(span, 30, 20)
        with pytest.raises(BudgetExceeded):
            world.tracer.start_span("chat", attributes=CHAT)
    assert run.state == "closed"
    attributes = dict(world.span("invoke_agent").attributes or {})
    assert attributes["otelbudget.run.id"] == run.run_id
    assert attributes["otelbudget.limit.steps"] == 2
    assert attributes["otelbudget.used.steps"] == 2
    assert attributes["otelbudget.used.tokens"] == 100
    assert attributes["otelbudget.outcome"] == "exhausted"
    assert attributes["otelbudget.denied.steps.limit"] is True
    assert world.spans("otelbudget.run") == []


def test_an_implicit_run_never_raises_again_at_its_end(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=0))
    world.activate()
    with agent(world, "a"), pytest.raises(BudgetExceeded):
        world.tracer.start_span("chat", attributes=CHAT)


@pytest.mark.parametrize(
    ("scope", "kind", "runs"),
    [
        ("openinference.instrumentation.groq", SpanKind.INTERNAL, 1),
        ("openinference.instrumentation.litellm", SpanKind.CLIENT, 1),
        ("litellm", SpanKind.SERVER, 2),
        ("openinference.instrumentation.langchain", SpanKind.INTERNAL, 2),
    ],
)
def test_a_clients_span_that_says_only_later_what_it_is_has_no_run_of_its_own_and_a_servers_request_has(
    world: World, scope: str, kind: SpanKind, runs: int
) -> None:
    found = set()
    for _ in range(2):
        with world.provider.get_tracer(scope).start_as_current_span("Completions", kind=kind):
            call = begin(GUARDED)
            call.commit(Usage(40, 10))
            found.add(call.run)
    assert len(found) == runs


def test_a_span_that_only_its_name_says_is_an_agents_is_one(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(agents={"inner": RunBudget(max_steps=1)}))
    world.activate()
    with agent(world, "outer"), world.tracer.start_as_current_span("invoke_agent inner"):
        with model(world) as span:
            answered(span, 1, 1)
        with pytest.raises(BudgetExceeded):
            world.tracer.start_span("chat", attributes=CHAT)


def test_one_of_the_same_name_that_says_no_more_is_the_same_piece_of_work(world: World) -> None:
    with agent(world, "a"):
        outer = current_run()
        with world.tracer.start_as_current_span("invoke_agent a"):
            assert current_run() == outer


def test_nested_agents_are_children(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(agents={"inner": RunBudget(max_steps=1), "outer": RunBudget(max_steps=2)}))
    world.activate()
    with agent(world, "outer"):
        with agent(world, "inner"):
            inner = current_run()
            with model(world) as span:
                answered(span, 1, 1)
            with pytest.raises(BudgetExceeded):
                world.tracer.start_span("chat", attributes=CHAT)
        outer = current_run()
        assert inner is not None
        assert inner.parent == outer
        with model(world) as span:
            answered(span, 1, 1)
        with pytest.raises(BudgetExceeded):
            world.tracer.start_span("chat", attributes=CHAT)
    attributes = dict(world.span("invoke_agent outer").attributes or {})
    assert (attributes["otelbudget.used.steps"], attributes["otelbudget.used.direct.steps"]) == (2, 1)


@pytest.mark.parametrize(
    ("allowed", "refused"), [(0, ["inner", "innermost", "innermost"]), (1, ["innermost", "innermost"]), (2, [])]
)
def test_calls_of_an_agent_that_is_deeper_than_one_above_allows_are_refused(
    make_world: Callable[..., World], allowed: int, refused: list[str]
) -> None:
    world = make_world(config=Config(agents={"outer": RunBudget(max_depth=allowed, name="flat")}))
    world.activate()
    denied: list[tuple[str, BudgetExceeded]] = []

    def call(where: str) -> None:
        try:
            world.tracer.start_span("chat", attributes=CHAT).end()
        except BudgetExceeded as error:
            denied.append((where, error))

    with agent(world, "outer"):
        with agent(world, "inner"):
            call("inner")
            with agent(world, "innermost"):
                call("innermost")
                call("innermost")
        call("outer")
    assert [where for where, _ in denied] == refused
    for _, error in denied:
        assert (error.reason, error.resource, error.budget, error.limit) == ("limit", "depth", "flat", allowed)
        assert "Raise max_depth" in str(error)


def test_a_tool_of_an_agent_that_is_too_deep_is_refused_and_a_question_says_so(
    make_world: Callable[..., World],
) -> None:
    world = make_world(config=Config(agents={"outer": RunBudget(max_depth=0)}))
    world.activate()
    with agent(world, "outer"), agent(world, "inner"):
        run = current_run()
        assert run is not None
        assert not run.can_proceed()
        with pytest.raises(BudgetExceeded, match="depth"), run.tool_call("search"):
            pass
        assert run.state == "active"
        run.record_call(5)
        with pytest.raises(BudgetExceeded, match="depth"), world.run():
            pass
    assert run.usage.tokens == 5


@pytest.mark.parametrize("lenient", ["warn", "enforce=False"])
def test_an_agent_that_is_too_deep_is_only_flagged_where_nothing_refuses(
    make_world: Callable[..., World], lenient: str
) -> None:
    budget = RunBudget(max_depth=0, on_exhausted="warn" if lenient == "warn" else "raise")
    world = make_world(config=Config(agents={"outer": budget}), enforce=lenient == "warn")
    world.activate()
    with agent(world, "outer"), agent(world, "inner"):
        world.tracer.start_span("chat", attributes=CHAT).end()
    assert world.counted() == {("call", "warn", "limit"): 1}
    assert said(world.span("chat"))[0][1]["otelbudget.resource"] == "depth"


def test_an_explicit_run_wins_over_the_agents_span_inside_it(world: World) -> None:
    with world.run() as run, agent(world, "a"):
        assert current_run() == run


def test_a_run_opened_inside_an_agents_span_is_part_of_the_agents_run(world: World) -> None:
    with agent(world, "a"):
        outer = current_run()
        with world.run(user="ann") as run:
            assert run.parent == outer
            assert run.user == "ann"
            run.record_call(5)
        assert outer is not None
        assert outer.usage.tokens == 5


def test_a_run_opened_inside_a_request_is_not_held_to_the_requests_default_budget(
    make_world: Callable[..., World],
) -> None:
    world = make_world(RunBudget(max_steps=1))
    world.activate()
    with world.tracer.start_as_current_span("POST /answer"), world.run(RunBudget(max_steps=3), tenant="acme") as run:
        assert (run.parent, run.tenant) == (None, "acme")
        for _ in range(3):
            with model(world) as span:
                answered(span, 1, 1)
    assert "otelbudget.run.id" not in (world.span("POST").attributes or {})


def test_each_unit_of_work_is_a_run_also_when_its_parent_is_in_another_process(
    make_world: Callable[..., World],
) -> None:
    world = make_world(RunBudget(max_steps=1))
    world.activate()
    remote = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))
    context = set_span_in_context(remote, Context())
    first = world.tracer.start_span("GET /1", context)
    second = world.tracer.start_span("GET /2", context)
    runs = []
    for request in (first, second):
        with trace.use_span(request, end_on_exit=True):
            with model(world) as span:
                answered(span, 1, 1)
            runs.append(current_run())
            with pytest.raises(BudgetExceeded):
                world.tracer.start_span("chat", attributes=CHAT)
    assert runs[0] is not runs[1]


def test_a_request_keeps_its_run_when_another_of_its_trace_has_ended_and_nothing_is_sampled(dark: World) -> None:
    remote = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0)))
    context = set_span_in_context(remote, Context())
    first, second = (dark.tracer.start_span(name, context) for name in ("GET /1", "GET /2"))
    first.end()
    with trace.use_span(second, end_on_exit=True), dark.tracer.start_as_current_span("plain"):
        run = current_run()
        assert run is not None
        assert run._state.kind == "implicit"


def test_a_model_span_that_is_a_root_itself_belongs_to_the_process_wide_run(world: World) -> None:
    remote = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))
    other = world.tracer.start_span("GET /", set_span_in_context(remote, Context()))
    span = world.tracer.start_span("chat", set_span_in_context(remote, Context()), attributes=CHAT)
    answered(span, 5, 5)
    span.end()
    other.end()
    assert BudgetRun(ambient_run(world.engine)).usage.tokens == 10
    assert "otelbudget.run.id" not in (world.span("GET").attributes or {})


async def test_a_task_that_outlives_its_agents_span_keeps_the_closed_run(world: World) -> None:
    go = asyncio.Event()

    async def straggler() -> str:
        await go.wait()
        with pytest.raises(BudgetExceeded) as denied:
            begin(GUARDED)
        return denied.value.reason

    with agent(world, "a"):
        call = begin(GUARDED)
        assert call is not None
        call.commit(Usage(1, 1))
        task = asyncio.create_task(straggler())
        await asyncio.sleep(0)
    go.set()
    assert await task == "closed"


def test_an_implicit_run_with_an_open_stream_is_charged_late_and_told(world: World) -> None:
    with agent(world, "a"):
        run = current_run()
        call = begin(GUARDED)
    assert call is not None
    assert run is not None
    call.commit(Usage(10, 20))
    assert run.usage.tokens == 30
    assert run._state.finished


def test_no_node_outlives_its_span(world: World) -> None:
    with agent(world, "a"), model(world) as span:
        answered(span, 1, 1)
    with world.run(RunBudget(max_steps=0), reraise=False), pytest.raises(BudgetExceeded):
        world.tracer.start_span("chat", attributes=CHAT)
    assert len(world.manager.live_spans.tree) == 0


# --- sampled out


@pytest.fixture
def dark(make_world: Callable[..., World]) -> World:
    """Nothing is sampled, as `setup()` arranges it."""
    sampler = BudgetSampler(ALWAYS_OFF)
    world = make_world(RunBudget(max_steps=1), sampler=sampler)
    sampler.listener = world.manager
    world.activate()
    return world


def test_sampling_off_enforces_in_runs_agents_units_and_outside(dark: World) -> None:
    def twice() -> None:
        with model(dark) as span:
            answered(span, 30, 20)
        with pytest.raises(BudgetExceeded):
            dark.tracer.start_span("chat", attributes=CHAT)

    with dark.run(RunBudget(max_steps=1), reraise=False):
        twice()
    with agent(dark, "a"), dark.tracer.start_as_current_span("plain inside"):
        twice()
    with dark.tracer.start_as_current_span("GET /"), dark.tracer.start_as_current_span("plain"):
        twice()
    twice()
    assert (dark.spent()[:2], dark.spans()) == ((120, 80), [])
    assert dark.counted() == {("call", "allow", ""): 4, ("call", "deny", "limit"): 4}


def test_only_what_budgets_need_is_heard_when_sampled_out(dark: World) -> None:
    must_hear = dark.manager.must_hear
    assert must_hear(None, "GET /", {})
    assert must_hear(None, "chat", CHAT)
    assert not must_hear(None, "otelbudget.run x", {})
    with dark.run():
        assert not must_hear(None, "db", {})
        assert must_hear(None, "chat", CHAT)
    with dark.tracer.start_as_current_span("GET /"):
        assert not must_hear(None, "db", {})
    with agent(dark, "a"):
        assert must_hear(None, "db", {})


# --- several managers


def test_a_manager_added_twice_admits_and_charges_once(world: World) -> None:
    world.provider.add_span_processor(world.manager)
    with world.run() as run, model(world) as span:
        answered(span, 5, 5)
    assert used(run)[:2] == [1, 10]


def test_two_managers_on_one_provider_each_see_to_their_own_runs(make_world: Callable[..., World]) -> None:
    one, other = make_world(), make_world()
    one.provider.add_span_processor(other.manager)
    with model(one) as span:
        answered(span, 1, 1)
    with other.run() as run, model(one) as span:
        answered(span, 5, 5)
    assert used(run)[:2] == [1, 10]


# --- reports: spans that are no place to refuse a call at


def test_a_span_that_says_only_later_that_it_is_a_model_call_is_charged_at_its_end(world: World) -> None:
    with world.run(RunBudget(max_tokens=150), reraise=False) as run:
        for _ in range(2):
            with world.tracer.start_as_current_span("llm") as span:
                for name, value in CHAT.items():
                    span.set_attribute(name, value)
                answered(span, 60, 40)
        assert used(run)[:2] == [2, 200]
        with pytest.raises(BudgetExceeded):
            run.check(tokens=1)


def test_a_span_around_a_charged_call_that_turns_out_to_be_that_call_is_not_charged_again(world: World) -> None:
    with world.run() as run:
        with world.tracer.start_as_current_span("llm") as span:
            call = begin(GUARDED)
            assert call is not None
            call.commit(Usage(30, 20, model="demo"))
            span.set_attribute("gen_ai.operation.name", "chat")
            answered(span, 31, 20)
        assert used(run)[:2] == [1, 50]


def test_a_report_after_the_fact_is_charged_and_refuses_nothing(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.record_call(10)
        with model(world, **{"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 5}):
            assert held(run) == [0] * 7
        assert used(run)[:2] == [2, 20]


def test_a_report_costs_what_the_file_says_of_the_model_that_was_asked_for(world: World) -> None:
    told = {"gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 20}
    with world.run() as run:
        with model(world, **told, **{"gen_ai.response.model": "gpt-4o-2024-08-06"}):
            pass
        assert used(run)[4] == 70_000


def test_a_response_id_that_one_instrumentation_repeats_makes_no_call_free(world: World) -> None:
    with world.run(RunBudget(max_steps=3), reraise=False) as run:
        for _ in range(3):
            with model(world) as span:
                answered(span, 10, 10, "always the same")
        assert used(run)[0] == 3
        with pytest.raises(BudgetExceeded), model(world):
            pass


def test_one_charged_call_stands_for_one_report_of_another_layer(world: World) -> None:
    with world.run() as run:
        spans_ = [world.provider.get_tracer("langchain").start_span("chat", attributes=CHAT) for _ in range(3)]
        call = begin(GUARDED)
        assert call is not None
        call.commit(Usage(10, 10, model="demo"))
        for span in spans_:
            answered(span, 10, 10)
            span.end()
        assert used(run)[0] == 3


def test_a_job_that_outlives_its_request_leaves_no_run_behind(world: World) -> None:
    with world.tracer.start_as_current_span("GET /") as root:
        inner = world.tracer.start_span("job")
        root_context = set_span_in_context(inner)
    assert not root.is_recording()
    with (
        pytest.raises(BudgetExceeded) as denied,
        world.provider.get_tracer("langchain").start_as_current_span("chat", context=root_context, attributes=CHAT),
    ):
        pass
    assert denied.value.reason == "closed"
    inner.end()
    assert not [run for run in world.engine.meters.live if run.kind == "implicit"]


def test_a_span_that_is_dropped_without_being_ended_gives_its_hold_back_in_time(world: World) -> None:
    with world.run(RunBudget(max_steps=1), reraise=False) as run:
        before = len(world.manager.live_spans.tree)
        world.provider.get_tracer("langchain").start_span("chat", attributes=CHAT)  # and nobody keeps it
        gc.collect()
        assert len(world.manager.live_spans.tree) == before
        assert held(run)[0] == 1
        world.advance(66)
        assert not run.can_proceed(steps=1)  # reclaimed, and its step charged: it may have been made
        run.check(steps=0)
        assert (held(run)[0], used(run)[0]) == (0, 1)


@pytest.mark.parametrize("attributes", [{}, {"gen_ai.operation.name": "invoke_agent"}])
def test_the_run_of_a_span_that_is_dropped_without_being_ended_ends_too(
    world: World, attributes: dict[str, Any]
) -> None:
    meters = world.engine.meters

    def abandon(_: int) -> None:
        span = world.tracer.start_span("job", attributes=attributes)
        with trace.use_span(span):  # left open, as by a generator that nobody finishes
            run = world.manager.current()
            assert run._state.kind == "implicit"
            run.check()
            run.record_call(5)

    for i in range(2000):
        abandon(i)
    gc.collect()
    world.tracer.start_span("other").end()
    with world.run():
        pass
    assert len(meters.live) == 0
    assert len(world.manager.live_spans.tree) == 0
    assert sum(cell.active for cell in meters.snapshot().tenants) == 0


def test_a_run_whose_span_is_dropped_charges_what_was_in_flight(world: World) -> None:
    span = world.tracer.start_span("job", attributes={"gen_ai.operation.name": "invoke_agent"})
    with trace.use_span(span):
        run = world.manager.current()
    held = run.reserve(tokens=50)
    del span
    gc.collect()
    with world.run():
        pass
    assert (run.state, run._state.finished) == ("closed", False)
    held.commit(Usage(tokens=30))
    assert (run._state.finished, run.usage.tokens) == (True, 30)
    (late,) = world.spans("otelbudget.record")
    assert [name for name, _ in said(late)] == ["otelbudget.record"]


def test_what_is_said_of_an_agents_run_is_on_its_span(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(agents={"a": RunBudget(max_tokens=10)}))
    with agent(world, "a"):
        run = world.manager.current()
        run.check(tokens=9)
        run.record_call(9)
        with pytest.raises(BudgetExceeded):
            run.check(tokens=2)
    span = world.span("invoke_agent a")
    assert [name for name, _ in said(span)] == [
        "otelbudget.check",
        "otelbudget.record",
        "otelbudget.threshold",
        "otelbudget.check",
    ]
    assert (span.attributes or {})["otelbudget.used.tokens"] == 9


@pytest.mark.parametrize(("given", "made"), [(30.0, "20"), ("30", 20.0), ("30", "20")])
def test_counts_are_read_that_are_given_as_floats_or_texts(world: World, given: Any, made: Any) -> None:
    with world.run() as run, model(world, "client") as span:
        answered(span, given, made)
    assert used(run)[:2] == [1, 50]
