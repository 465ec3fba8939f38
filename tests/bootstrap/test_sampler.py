"""Sampling decides what is exported, never what is enforced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

from otelbudget import BudgetExceeded, BudgetManager, RunBudget, semconv
from otelbudget.bootstrap.delivery import SimpleOutlet
from otelbudget.bootstrap.dispatcher import Dispatcher
from otelbudget.bootstrap.sampler import BudgetSampler, can_drop

CALL = {semconv.GEN_AI_OPERATION: "chat"}


def sampled_by(root: Sampler) -> tuple[TracerProvider, BudgetSampler, InMemorySpanExporter]:
    exported, dispatcher = InMemorySpanExporter(), Dispatcher()
    manager = BudgetManager(RunBudget(max_steps=2))
    dispatcher.forwarder.connect(manager, (SimpleOutlet(exported, "memory"),))
    sampler = BudgetSampler(root)
    sampler.listener = manager
    return TracerProvider(sampler, active_span_processor=dispatcher, shutdown_on_exit=False), sampler, exported


@pytest.mark.parametrize("root", [ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased(0.0)])
def test_what_is_not_sampled_is_enforced_and_not_exported(root: Sampler) -> None:
    provider, _, exported = sampled_by(root)
    tracer = provider.get_tracer("app")
    for _ in range(2):
        tracer.start_span("chat", attributes=CALL).end()
    with pytest.raises(BudgetExceeded):
        tracer.start_span("chat", attributes=CALL)
    assert exported.get_finished_spans() == ()


def test_a_heard_span_keeps_the_attributes_it_started_with_and_is_not_sampled() -> None:
    provider, _, _ = sampled_by(ALWAYS_OFF)
    span = provider.get_tracer("app").start_span("chat", attributes=CALL)
    assert span.is_recording()
    assert not span.get_span_context().trace_flags.sampled
    assert span.attributes == CALL  # type: ignore[attr-defined] # the SDK's span


def test_dropped_spans_that_no_budget_needs_stay_dropped() -> None:
    provider, sampler, _ = sampled_by(ALWAYS_OFF)
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("request"):
        assert not tracer.start_span("SELECT").is_recording()
    sampler.listener = None
    assert not tracer.start_span("chat", attributes=CALL).is_recording()


def test_what_is_sampled_is_left_to_the_sampler_below() -> None:
    provider, sampler, exported = sampled_by(ALWAYS_ON)
    provider.get_tracer("app").start_span("anything").end()
    assert len(exported.get_finished_spans()) == 1
    assert sampler.get_description() == "BudgetSampler{AlwaysOnSampler}"


def test_a_listener_that_fails_is_taken_to_need_the_span(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def must_hear(self, parent_context: Context | None, name: str, attributes: Mapping[str, Any] | None) -> bool:
            raise RuntimeError("broken")

    sampler = BudgetSampler(ALWAYS_OFF)
    sampler.listener = Failing()
    with monkeypatch.context() as outside_pytest:
        outside_pytest.delenv("PYTEST_CURRENT_TEST")
        assert sampler.should_sample(None, 1, "chat").decision is Decision.RECORD_ONLY
    assert "the call goes on" in caplog.text


@pytest.mark.parametrize(
    ("sampler", "drops"),
    [
        (ALWAYS_ON, False),
        (DEFAULT_ON, False),
        (TraceIdRatioBased(1.0), False),
        (ParentBasedTraceIdRatio(1.0), False),
        (BudgetSampler(ALWAYS_OFF), False),
        (ALWAYS_OFF, True),
        (DEFAULT_OFF, True),
        (ParentBasedTraceIdRatio(0.1), True),
        (object(), True),
    ],
)
def test_which_samplers_may_drop(sampler: object, drops: bool) -> None:
    assert can_drop(sampler) is drops
