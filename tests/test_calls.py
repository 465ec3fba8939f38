from __future__ import annotations

import gc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, use_span
from world import World, held, said, used

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.calls.model_call import BLOCK, ModelCall, ModelRequest, abegin, begin
from otelbudget.config import TelemetryConfig
from otelbudget.engine import context as contexts
from otelbudget.pricing import Price

CHAT = ModelRequest(provider="openai", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)


@pytest.fixture(autouse=True)
def active(world: World) -> None:
    world.activate()


def begun(request: ModelRequest = CHAT) -> ModelCall:
    call = begin(request)
    assert call is not None
    return call


def test_without_a_manager_a_call_is_none_of_our_business(world: World) -> None:
    contexts.deactivate(world.engine)
    assert begin(CHAT) is None


async def test_the_async_twin_does_the_same(world: World) -> None:
    async with world.run(RunBudget(max_steps=1), reraise=False):
        call = await abegin(CHAT)
        assert call is not None
        call.commit(Usage(1, 1))
        with pytest.raises(BudgetExceeded):
            await abegin(CHAT)
    contexts.deactivate(world.engine)
    assert await abegin(CHAT) is None


@pytest.mark.parametrize(
    ("request_", "holds"),
    [
        (CHAT, [1, 100, 40, 60, 160_000, 0, 0]),
        (
            ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40),
            [1, 296, 40, 256, 552_000, 0, 0],
        ),
        (
            ModelRequest(provider="p", operation="embeddings", model="demo", input_tokens=40, max_output_tokens=0),
            [1, 40, 40, 0, 40_000, 0, 0],
        ),
        (ModelRequest(provider="p", operation="chat", model=None, input_tokens=40), [1, 296, 40, 256, 0, 0, 0]),
    ],
)
def test_an_admitted_call_holds_a_step_its_input_its_maximum_output_and_their_price(
    world: World, request_: ModelRequest, holds: list[int]
) -> None:
    with world.run() as run:
        call = begun(request_)
        assert held(run) == holds
        call.release()
        assert held(run) == used(run) == [0] * 7


SETTLEMENTS: dict[str, tuple[Callable[[ModelCall], None], list[int]]] = {
    "commit": (lambda call: call.commit(Usage(30, 20)), [1, 50, 30, 20, 70_000, 0, 0]),
    "commit over the hold": (lambda call: call.commit(Usage(30, 200)), [1, 230, 30, 200, 430_000, 0, 0]),
    "commit by cost": (lambda call: call.commit(Usage(3, 2, cost_usd=0.01)), [1, 5, 3, 2, 10_000_000, 0, 0]),
    "commit nothing": (lambda call: call.commit(Usage(0, 0)), [1, 0, 0, 0, 0, 0, 0]),
    "commit without usage": (lambda call: call.commit(None), [1, 100, 40, 60, 160_000, 0, 0]),
    "commit input only": (lambda call: call.commit(Usage(input_tokens=30)), [1, 90, 30, 60, 150_000, 0, 0]),
    "release": (lambda call: call.release(), [0, 0, 0, 0, 0, 0, 0]),
    "failed": (lambda call: call.failed(), [1, 0, 0, 0, 0, 0, 0]),
    "failed with usage": (lambda call: call.failed(Usage(40, 0)), [1, 40, 40, 0, 40_000, 0, 0]),
    "unknown": (lambda call: call.unknown(), [1, 40, 40, 0, 40_000, 0, 0]),
    "unknown with output": (lambda call: call.unknown(7), [1, 47, 40, 7, 54_000, 0, 0]),
}


@pytest.mark.parametrize("first", SETTLEMENTS)
def test_each_end_charges_what_it_should_and_whatever_comes_after_changes_nothing(world: World, first: str) -> None:
    settle, charged = SETTLEMENTS[first]
    with world.run(RunBudget(max_tokens=1000)) as run:
        call = begun()
        assert not call.settled
        settle(call)
        assert call.settled
        assert (used(run), held(run)) == (charged, [0] * 7)
        for again, _ in SETTLEMENTS.values():
            again(call)
        call.grow(10_000)
        assert (used(run), held(run), run._state.account.holds) == (charged, [0] * 7, 0)
    assert world.spent()[:3] == (charged[2], charged[3], charged[4])


def test_a_call_that_is_never_heard_of_again_is_counted_under_its_model(world: World) -> None:
    with world.run() as run:
        begun()
        gc.collect()
        world.advance(66)
        assert run.can_proceed()
        assert used(run) == [1, 40, 40, 0, 40_000, 0, 0]
    assert {cell.model: cell.input for cell in world.engine.meters.snapshot().spends if cell.input} == {"demo": 40}


# --- its span


def test_without_an_instrumentor_the_guard_opens_a_span_after_the_conventions(world: World) -> None:
    with world.run(RunBudget(max_steps=3, name="b"), tenant="acme") as run:
        call = begun()
        with call.active(), world.tracer.start_as_current_span("http"):
            pass
        call.commit(Usage(30, 20, model="demo-2", response_id="r1", cache_read_tokens=5, reasoning_tokens=4))
    span = world.span("chat demo")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo-2",
        "gen_ai.response.id": "r1",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 4,
        "otelbudget.run.id": run.run_id,
        "otelbudget.tenant": "acme",
        "otelbudget.decision": "allow",
        "otelbudget.cost.usd": 0.00007,
        "otelbudget.cost.source": "prices: demo",
    }
    assert said(span) == [
        (
            "otelbudget.check",
            {"otelbudget.decision": "allow", "otelbudget.resource": "steps", "otelbudget.remaining": 2.0},
        ),
        (
            "otelbudget.record",
            {"otelbudget.tokens.input": 30, "otelbudget.tokens.output": 20, "otelbudget.cost.usd": 0.00007},
        ),
    ]
    assert world.span("http").parent == span.context
    assert span.parent == world.span("otelbudget.run").context


@pytest.mark.parametrize(("reported", "source"), [(None, "local"), ("0.5", "provider")])
def test_a_cost_is_said_in_the_names_proposed_for_the_conventions_where_that_is_wanted(
    reported: str | None, source: str, make_world: Callable[..., World]
) -> None:
    prices = {} if reported else {"demo": Price(input=1, output=2)}
    config = Config(telemetry=TelemetryConfig(semconv_cost=True), prices=prices, trust_reported_cost=True)
    world = make_world(config=config)
    world.activate()
    with world.run():
        begun().commit(Usage(30, 20, model="demo", reported_cost_usd=reported and Decimal(reported)))
    attributes = dict(world.span("chat demo").attributes or {})
    assert {name: attributes[name] for name in attributes if "usage.cost" in name} == {
        "gen_ai.usage.cost.amount": 0.5 if reported else 0.00007,
        "gen_ai.usage.cost.currency": "USD",
        "gen_ai.usage.cost.source": source,
    }


def test_a_denied_call_has_a_span_with_the_check_and_status_error(world: World) -> None:
    small = RunBudget(max_tokens=99, name="b")
    with world.run(small, tenant="acme", reraise=False) as run, pytest.raises(BudgetExceeded, match="maximum of 60"):
        begin(CHAT)
    span = world.span("chat demo")
    assert span.status.status_code is StatusCode.ERROR
    ours = {k: v for k, v in (span.attributes or {}).items() if not k.startswith("gen_ai")}
    assert ours == {
        "otelbudget.run.id": run.run_id,
        "otelbudget.tenant": "acme",
        "otelbudget.decision": "deny",
        "otelbudget.reason": "limit",
        "otelbudget.resource": "tokens",
        "otelbudget.budget": "b",
        "otelbudget.scope": "run",
        "error.type": "otelbudget.BudgetExceeded",
    }
    assert [name for name, _ in said(span)] == ["otelbudget.check"]
    assert used(run) == [0] * 7


def test_an_error_of_the_call_is_on_its_span(world: World) -> None:
    with world.run():
        begun().failed(error=ValueError("x"))
        begun().unknown(error=TimeoutError())
        begun().release(ConnectionError())
    kinds = [(span.attributes or {})["error.type"] for span in world.spans("chat")]
    assert kinds == ["ValueError", "TimeoutError", "ConnectionError"]
    last = world.spans("chat")[-1]
    assert said(last)[-1] == ("otelbudget.release", {"otelbudget.reason": "not_sent"})


def test_the_instrumentors_span_is_taken_if_it_is_current_and_a_model_span_once(world: World) -> None:
    world.engine.guarded.add("openai")
    tracer = world.provider.get_tracer("opentelemetry.instrumentation.openai.v1")
    with world.run():
        with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
            begun().commit(Usage(1, 1))
            begun().commit(Usage(2, 2))
        with world.tracer.start_as_current_span("plain"):
            begun().commit(Usage(3, 3))
    theirs = [span for span in world.spans("chat") if span.instrumentation_scope.name != "otelbudget"]  # type: ignore[union-attr]
    ours = [span for span in world.spans("chat") if span not in theirs]
    assert [[n for n, _ in said(span)] for span in (*theirs, *ours)] == [["otelbudget.check", "otelbudget.record"]] * 3
    assert said(world.span("plain")) == []


def test_a_record_whose_span_has_ended_goes_to_the_runs_span(world: World) -> None:
    world.engine.guarded.add("openai")
    tracer = world.provider.get_tracer("opentelemetry.instrumentation.openai.v1")
    with world.run():
        with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
            call = begun()
        call.commit(Usage(1, 1))
    assert [n for n, _ in said(world.span("chat"))] == ["otelbudget.check"]
    assert [n for n, _ in said(world.span("otelbudget.run"))] == ["otelbudget.record"]


def test_sampled_out_calls_count_and_leave_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(sampler=ALWAYS_OFF)
    world.activate()
    with world.run(RunBudget(max_steps=1), reraise=False):
        begun().commit(Usage(5, 5))
        with pytest.raises(BudgetExceeded):
            begin(CHAT)
    assert (world.spent()[:2], world.spans()) == ((5, 5), [])
    assert world.counted() == {("call", "allow", ""): 1, ("call", "deny", "limit"): 1}


# --- streams


def test_a_streams_hold_grows_in_blocks_and_a_refusal_cuts_it(world: World) -> None:
    with world.run(RunBudget(max_tokens=100 + BLOCK), reraise=False) as run:
        call = begun()
        call.grow(60)
        assert held(run)[1] == 100
        call.grow(61)
        assert held(run)[1] == 100 + BLOCK
        assert held(run)[4] == 160_000 + BLOCK * 2_000
        call.grow(60 + BLOCK)
        with pytest.raises(BudgetExceeded) as cut:
            call.grow(61 + BLOCK)
        assert cut.value.reason == "limit"
        call.unknown(61 + BLOCK, cut.value)
        assert (used(run)[1], held(run)) == (40 + 61 + BLOCK, [0] * 7)
    names = [name for name, _ in said(world.span("chat"))]
    assert names == ["otelbudget.check", "otelbudget.check", "otelbudget.stream_cut", "otelbudget.record"]


def test_a_stream_that_outlives_its_run_may_still_grow_and_settle(world: World) -> None:
    with world.run(RunBudget(max_tokens=1000)) as run:
        call = begun()
    call.grow(100)
    call.commit(Usage(40, 100))
    assert used(run)[1] == 140
    assert (world.span("otelbudget.run").attributes or {})["otelbudget.used.tokens"] == 140


# --- money


def test_an_unpriced_model_is_refused_before_it_is_sent_unless_nobody_limits_money(world: World) -> None:
    mystery = ModelRequest(provider="p", operation="chat", model="mystery", input_tokens=5)
    with world.run(RunBudget(max_cost_usd=1), reraise=False), pytest.raises(BudgetExceeded, match="no price"):
        begin(mystery)
    with world.run(RunBudget(max_tokens=1000)) as run:
        begun(mystery).commit(Usage(5, 5))
        assert used(run)[4] == 0
    with world.run(RunBudget(max_cost_usd=1)) as run:
        begun().commit(Usage(5, 5, model="answered-by-another"))
        assert used(run)[4] == 15_000


def test_a_call_that_names_no_model_is_unpriced_under_a_money_limit(world: World) -> None:
    nameless = ModelRequest(provider="p", operation="chat", model=None, input_tokens=5)
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as denied:
            begin(nameless)
        assert denied.value.reason == "unpriced"
        begun(CHAT).commit(Usage(5, 5))
        assert used(run)[0] == 1


def test_an_unpriced_call_needs_money_that_is_left_even_where_it_is_allowed(world: World) -> None:
    nameless = ModelRequest(provider="p", operation="chat", model=None, input_tokens=5)
    with world.run(RunBudget(max_cost_usd=1, on_unpriced="allow"), reraise=False) as run:
        begun(nameless).commit(Usage(5, 5))
        run.record(Usage(cost_usd=1))
        with pytest.raises(BudgetExceeded) as denied:
            begin(nameless)
        assert (denied.value.reason, denied.value.resource) == ("limit", "cost_usd")


def test_a_maximum_beyond_all_numbers_is_a_limit_reached_and_no_error_of_ours(world: World) -> None:
    huge = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=5, max_output_tokens=2**70)
    with world.run(RunBudget(max_tokens=1000), reraise=False), pytest.raises(BudgetExceeded) as denied:
        begin(huge)
    assert denied.value.resource == "tokens"


def test_how_good_estimates_are_is_observed(world: World) -> None:
    with world.run():
        begun().commit(Usage(25, 25))
        begun().commit(None)
    (histogram,) = world.engine.meters.snapshot().estimate_ratio.values()
    assert (sum(histogram.counts), histogram.total) == (1, 0.5)


def test_a_dropped_call_is_reclaimed_and_its_object_keeps_it_alive(world: World) -> None:
    with world.run() as run:
        calls: list[Any] = [begun()]
        world.advance(500)
        run.can_proceed()
        assert held(run)[0] == 1
        calls.clear()
        gc.collect()
        world.advance(500)
        run.can_proceed()
        assert (held(run)[0], used(run)[:3]) == (0, [1, 40, 40])


def test_outside_every_run_calls_share_the_process_wide_one(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=5))
    world.activate()
    for _ in range(5):
        begun().commit(Usage(1, 1))
    with pytest.raises(BudgetExceeded, match="share one process-wide run"):
        begin(CHAT)
    assert world.spent()[:2] == (5, 5)
    world.manager.reset()
    begun().commit(Usage(1, 1))


def test_a_call_inside_a_span_of_the_application_is_that_units(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=1))
    world.activate()
    for _ in range(2):
        with world.tracer.start_as_current_span("GET /"):
            begun().commit(Usage(1, 1))
            with pytest.raises(BudgetExceeded):
                begin(CHAT)


def test_a_call_made_active_by_use_span_of_another_provider_is_not_mistaken(world: World) -> None:
    from opentelemetry.trace import NonRecordingSpan, SpanContext

    foreign = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    with world.run() as run, use_span(foreign):
        begun().commit(Usage(1, 1))
        assert used(run)[0] == 1
