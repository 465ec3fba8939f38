"""What spans meet on their way to the manager: our dispatcher, or the forwarder in a provider of the application."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from otelbudget import BudgetExceeded, BudgetManager, RunBudget, semconv
from otelbudget.bootstrap.delivery import SimpleOutlet
from otelbudget.bootstrap.dispatcher import Dispatcher, Forwarder

CALL = {semconv.GEN_AI_OPERATION: "chat", semconv.GEN_AI_REQUEST_MODEL: "demo-small"}


class Witness(SpanProcessor):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)


class Broken(SpanProcessor):
    """Raises at one of the three moments of a span."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._fail("on_start")

    def _on_ending(self, span: Span) -> None:
        self._fail("_on_ending")

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("on_end")

    def _fail(self, moment: str) -> None:
        if moment == self.moment:
            raise RuntimeError(f"broken {moment}")


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def dispatcher(exported: InMemorySpanExporter) -> Dispatcher:
    made = Dispatcher()
    made.forwarder.connect(BudgetManager(RunBudget(max_steps=1)), (SimpleOutlet(exported, "memory"),))
    return made


def provider_of(dispatcher: Dispatcher) -> TracerProvider:
    return TracerProvider(active_span_processor=dispatcher, shutdown_on_exit=False)


def spend(tracer: trace.Tracer) -> None:
    tracer.start_span("chat demo-small", attributes=CALL).end()


def test_a_denied_span_reaches_every_processor_and_is_exported_with_error(
    dispatcher: Dispatcher, exported: InMemorySpanExporter
) -> None:
    provider, early = provider_of(dispatcher), Witness()
    provider.add_span_processor(early)
    tracer = provider.get_tracer("app")
    late = Witness()
    provider.add_span_processor(late)
    spend(tracer)

    with pytest.raises(BudgetExceeded):
        tracer.start_span("chat denied", attributes=CALL)

    for witness in (early, late):
        assert witness.started == witness.ended == ["chat demo-small", "chat denied"]
    denied = exported.get_finished_spans()[-1]
    assert denied.name == "chat denied"
    assert denied.status.status_code is StatusCode.ERROR
    assert denied.status.description is not None
    assert denied.status.description.startswith("BudgetExceeded: ")
    assert [event.name for event in denied.events] == [semconv.EVENT_CHECK]


def test_a_denial_leaves_the_current_span_current(dispatcher: Dispatcher) -> None:
    tracer = provider_of(dispatcher).get_tracer("app")
    with tracer.start_as_current_span("around") as around:
        spend(tracer)
        with pytest.raises(BudgetExceeded), tracer.start_as_current_span("chat denied", attributes=CALL):
            pytest.fail("the body of a denied span must not run")
        assert trace.get_current_span() is around


def test_an_error_of_another_processor_changes_no_decision(
    dispatcher: Dispatcher, exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    provider = provider_of(dispatcher)
    tracer = provider.get_tracer("app")
    spend(tracer)
    provider.add_span_processor(Broken("on_start"))
    tracer.start_span("work").end()
    with pytest.raises(BudgetExceeded):
        tracer.start_span("chat denied", attributes=CALL)
    assert [span.name for span in exported.get_finished_spans()][-2:] == ["work", "chat denied"]
    assert "Broken failed while a span started" in caplog.text


@pytest.mark.parametrize("moment", ["_on_ending", "on_end"])
def test_an_error_of_another_processor_at_the_end_stops_nobody(
    dispatcher: Dispatcher, exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    provider, witness = provider_of(dispatcher), Witness()
    provider.add_span_processor(Broken(moment))
    provider.add_span_processor(witness)
    provider.get_tracer("app").start_span("work").end()
    assert witness.ended == ["work"]
    assert [span.name for span in exported.get_finished_spans()] == ["work"]
    assert "Broken failed" in caplog.text


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_an_error_of_the_manager_is_logged_and_the_application_goes_on(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    dispatcher = Dispatcher()
    dispatcher.forwarder.connect(Broken(moment), (SimpleOutlet(exported, "memory"),))
    tracer = provider_of(dispatcher).get_tracer("app")
    with monkeypatch.context() as outside_pytest:
        outside_pytest.delenv("PYTEST_CURRENT_TEST")
        tracer.start_span("work").end()
    assert [span.name for span in exported.get_finished_spans()] == ["work"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the call goes on" in caplog.text


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_an_error_of_the_manager_fails_a_test(moment: str) -> None:
    dispatcher = Dispatcher()
    dispatcher.forwarder.connect(Broken(moment), ())
    tracer = provider_of(dispatcher).get_tracer("app")
    with pytest.raises(RuntimeError, match=f"broken {moment}"):
        tracer.start_span("work").end()


def test_a_disconnected_forwarder_hears_and_exports_nothing(
    dispatcher: Dispatcher, exported: InMemorySpanExporter
) -> None:
    tracer = provider_of(dispatcher).get_tracer("app")
    spend(tracer)
    dispatcher.forwarder.disconnect()
    spend(tracer)
    assert len(exported.get_finished_spans()) == 1


def test_in_a_provider_of_the_application_the_forwarder_vetoes_without_ending_the_span(
    exported: InMemorySpanExporter,
) -> None:
    provider, early = TracerProvider(shutdown_on_exit=False), Witness()
    provider.add_span_processor(early)
    forwarder = Forwarder()
    provider.add_span_processor(forwarder)
    forwarder.connect(BudgetManager(RunBudget(max_steps=1)), (SimpleOutlet(exported, "memory"),))
    tracer = provider.get_tracer("app")
    spend(tracer)
    with pytest.raises(BudgetExceeded):
        spend(tracer)
    assert len(early.started) == 2
    assert len(early.ended) == len(exported.get_finished_spans()) == 1


def test_shutting_the_provider_down_flushes_the_applications_processors_and_keeps_ours_alive(
    dispatcher: Dispatcher, exported: InMemorySpanExporter
) -> None:
    provider = provider_of(dispatcher)
    tracer = provider.get_tracer("app")
    assert provider.force_flush()
    provider.shutdown()
    spend(tracer)
    with pytest.raises(BudgetExceeded):
        spend(tracer)
    assert len(exported.get_finished_spans()) == 2
