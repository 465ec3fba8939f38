"""What events say of quotas: whose and which one refused, what is left of the tightest, thresholds once per window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from world import said

from otelbudget import BudgetExceeded, BudgetRun, Config, QuotaService, RunBudget, Usage
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs.ambient import ambient_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan
    from world import World

THRESHOLD = "otelbudget.threshold"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A thousand tokens a day for every tenant, ten dollars a month for its organisation."""
    quotas = Quotas(default=(Quota(tokens=1_000),), org=(Quota(cost_usd=10, per="month"),))
    return make_world(config=Config(quotas=quotas))


def _events(span: ReadableSpan, name: str) -> list[dict[str, object]]:
    return [attributes for found, attributes in said(span) if found == name]


def _ratios(span: ReadableSpan) -> list[object]:
    return [event["otelbudget.ratio"] for event in _events(span, THRESHOLD)]


def test_a_denial_names_the_quota_and_its_numbers(world: World) -> None:
    with world.run(RunBudget(max_tokens=5_000), tenant="acme", reraise=False) as run:
        run.record(Usage(tokens=950, cost_usd=0))
        with pytest.raises(BudgetExceeded):
            run.check(tokens=100)
    [denied] = _events(world.span("otelbudget.run"), "otelbudget.check")
    assert denied == {
        "otelbudget.decision": "deny",
        "otelbudget.reason": "limit",
        "otelbudget.resource": "tokens",
        "otelbudget.scope": "tenant",
        "otelbudget.budget": "tokens per day",
        "otelbudget.used": 950.0,
        "otelbudget.limit": 1_000.0,
        "otelbudget.remaining": 50.0,
    }


def test_what_remains_is_that_of_the_tightest_account_quotas_included(world: World) -> None:
    with world.run(RunBudget(max_tokens=500), tenant="acme") as run:
        run.record_call(400)
    with world.run(RunBudget(max_tokens=500), tenant="acme") as run:
        run.check(tokens=1)
        run.record(Usage(tokens=0, cost_usd=9))
        run.check(tokens=1)
    checks = _events(world.spans("otelbudget.run")[1], "otelbudget.check")
    assert [(event["otelbudget.resource"], event["otelbudget.remaining"]) for event in checks] == [
        ("tokens", 600.0),
        ("cost_usd", 1.0),
    ]


def test_a_threshold_of_a_quota_is_said_once_per_window_whichever_run_reaches_it(world: World) -> None:
    for _ in range(4):
        with world.run(tenant="acme") as run:
            run.record_call(300)
            run.record_call(1)
    with world.run(tenant="globex") as run:
        run.record_call(800)
    world.advance(86_400)
    with world.run(tenant="acme") as run:
        run.record_call(850)
    spans = world.spans("otelbudget.run")
    assert [_ratios(span) for span in spans] == [[], [], [0.8], [0.95, 1.0], [0.8], [0.8]]
    assert _events(spans[2], THRESHOLD) == [
        {"otelbudget.budget": "tokens per day", "otelbudget.resource": "tokens", "otelbudget.ratio": 0.8}
    ]


def test_the_spans_attribute_keeps_the_runs_own_thresholds_and_those_of_quotas_apart(world: World) -> None:
    with world.run(RunBudget(max_tokens=900), tenant="acme") as run:
        run.record_call(900)
    attributes = world.span("otelbudget.run").attributes or {}
    assert {name: value for name, value in attributes.items() if name.startswith(THRESHOLD)} == {
        "otelbudget.threshold.tokens": 1.0,
        "otelbudget.threshold.tenant.tokens": 0.8,
    }


def test_outside_every_run_it_is_said_on_the_span_of_the_call(world: World) -> None:
    with world.tracer.start_as_current_span("work"):
        world.manager.record_call(850)
    assert _ratios(world.span("work")) == [0.8]


def test_a_tool_call_outside_every_run_says_it_too(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(Quota(tool_calls=1),))))
    with world.tracer.start_as_current_span("work"), BudgetRun(ambient_run(world.engine)).tool_call("search"):
        pass
    assert _ratios(world.span("work")) == [0.8, 0.95, 1.0]


def test_a_call_that_settles_after_all_spans_have_ended_has_a_span_for_it(world: World) -> None:
    with world.run(tenant="acme") as run:
        held = run.reserve(tokens=10)
    world.engine.lingering.clear()
    run._state.span.end()
    held.commit(Usage(850, 0))
    late = [span for span in world.spans("otelbudget.record") if _events(span, THRESHOLD)]
    assert [_ratios(span) for span in late] == [[0.8]]


def test_a_quota_service_says_it_on_the_current_span(world: World) -> None:
    quotas = QuotaService(store=world.manager)
    with world.tracer.start_as_current_span("work"):
        quotas.consume_quota("acme", 990)
    assert _ratios(world.span("work")) == [0.8, 0.95]


def test_what_was_reached_without_any_span_is_not_said_later(world: World) -> None:
    world.manager.record_call(850)
    with world.run(tenant="default") as run:
        run.record_call(110)
    assert _ratios(world.span("otelbudget.run")) == [0.95]
