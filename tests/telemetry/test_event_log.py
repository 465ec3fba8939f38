"""Events as log records: the same names and attributes, in the trace of their span, and no bound of a span's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, TraceIdRatioBased
from world import said

from otelbudget import BudgetExceeded, Config, Quota, QuotaService, RunBudget
from otelbudget.model.quota import Quotas
from otelbudget.telemetry import events
from otelbudget.telemetry.event_log import EventLog

if TYPE_CHECKING:
    from world import World

BUDGET = RunBudget(max_steps=2, max_tokens=1_000)
WHOSE = ("otelbudget.tenant", "otelbudget.user", "otelbudget.run.id")


class Records:
    """The log records of a test."""

    def __init__(self) -> None:
        self._exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self._exporter))

    def all(self) -> list[Any]:
        return [found.log_record for found in self._exporter.get_finished_logs()]

    def said(self) -> list[tuple[str | None, dict[str, Any]]]:
        """Names and attributes, but for those that say whose it is."""
        return [
            (record.event_name, {k: v for k, v in (record.attributes or {}).items() if k not in WHOSE})
            for record in self.all()
        ]

    def write(self, *, on_span: bool = False) -> None:
        events.write_to(EventLog(self.provider, on_span=on_span))


@pytest.fixture
def records() -> Iterator[Records]:
    made = Records()
    yield made
    events.write_to(None)
    made.provider.shutdown()


def _work(world: World) -> None:
    with world.run(BUDGET, tenant="acme", reraise=False) as run:
        run.check(tokens=10)
        run.record_call(900)
        run.record_call(1)
        with pytest.raises(BudgetExceeded):
            run.check()


def test_log_records_are_the_events_that_the_span_would_have(
    make_world: Callable[..., World], records: Records
) -> None:
    plain, world = make_world(), make_world()
    _work(plain)
    records.write()
    _work(world)
    assert records.said() == said(plain.span("otelbudget.run"))
    assert said(world.span("otelbudget.run")) == []
    assert (
        dict(world.span("otelbudget.run").attributes or {}).keys()
        == dict(plain.span("otelbudget.run").attributes or {}).keys()
    )


def test_both_writes_both(world: World, records: Records) -> None:
    records.write(on_span=True)
    _work(world)
    assert len(records.said()) > 3
    assert records.said() == said(world.span("otelbudget.run"))


def test_a_record_belongs_to_the_trace_of_its_span(world: World, records: Records) -> None:
    records.write()
    with world.run(BUDGET) as run, world.tracer.start_as_current_span("other"):
        run.check()
    [record] = records.all()
    span = world.span("otelbudget.run").context
    assert (record.trace_id, record.span_id, record.trace_flags) == (span.trace_id, span.span_id, span.trace_flags)
    assert record.timestamp > 1_600_000_000 * 10**9


def test_refusals_and_thresholds_stand_out(world: World, records: Records) -> None:
    records.write()
    _work(world)
    severities = {
        (record.event_name, (record.attributes or {}).get("otelbudget.decision")): record.severity_text
        for record in records.all()
    }
    assert severities == {
        ("otelbudget.check", "allow"): "INFO",
        ("otelbudget.record", None): "INFO",
        ("otelbudget.threshold", None): "WARN",
        ("otelbudget.check", "deny"): "WARN",
    }


def test_log_records_know_no_bound_of_spans(make_world: Callable[..., World], records: Records) -> None:
    world = make_world(limits=SpanLimits(max_events=16))
    records.write()
    with world.run() as run:
        for _ in range(100):
            run.check(steps=1, tokens=1)
    assert len(records.all()) == 100
    assert world.engine.meters.events_suppressed == 0


def test_with_both_the_span_keeps_its_bound_and_the_log_has_all(
    make_world: Callable[..., World], records: Records
) -> None:
    world = make_world(limits=SpanLimits(max_events=40))
    records.write(on_span=True)
    with world.run() as run:
        for _ in range(100):
            run.check(steps=1, tokens=1)
    assert len(records.all()) == 100
    assert len(said(world.span("otelbudget.run"))) == 28
    assert world.engine.meters.events_suppressed == 72


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, TraceIdRatioBased(0.1), ALWAYS_ON])
def test_refusals_and_thresholds_are_logged_whatever_the_sampler_decided(
    make_world: Callable[..., World], records: Records, sampler: Sampler
) -> None:
    world = make_world(sampler=sampler)
    records.write()
    for _ in range(20):
        with world.run(RunBudget(max_steps=1, thresholds=(1.0,)), tenant="acme", reraise=False) as run:
            run.record_call(1)
            for _ in range(10):
                with pytest.raises(BudgetExceeded):
                    run.check()
    names = [name for name, attributes in records.said() if attributes.get("otelbudget.decision") != "allow"]
    assert names.count("otelbudget.threshold") == 20
    assert names.count("otelbudget.check") == 20 * 8, "denials of one kind are told 8 times per run"


def test_all_else_is_logged_only_where_the_span_has_it_too(make_world: Callable[..., World], records: Records) -> None:
    world = make_world(sampler=ALWAYS_OFF)
    records.write()
    _work(world)
    assert {record.severity_text for record in records.all()} == {"WARN"}


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ALWAYS_ON])
def test_refusals_and_thresholds_say_whose_they_are_in_the_trace_of_their_span(
    make_world: Callable[..., World], records: Records, sampler: Sampler
) -> None:
    world = make_world(sampler=sampler)
    records.write()
    with (
        world.tracer.start_as_current_span("request") as request,
        world.run(BUDGET, tenant="acme", user="ann", reraise=False) as run,
        suppress(BudgetExceeded),
    ):
        run.record_call(900)
        run.check(tokens=200)
    told = [record for record in records.all() if record.severity_text == "WARN"]
    assert [record.event_name for record in told] == ["otelbudget.threshold", "otelbudget.check"]
    for record in told:
        assert [(record.attributes or {}).get(name) for name in WHOSE] == ["acme", "ann", run.run_id]
        assert record.trace_id == request.get_span_context().trace_id


def test_a_refusal_outside_every_run_and_trace_is_logged_all_the_same(
    make_world: Callable[..., World], records: Records
) -> None:
    world = make_world(RunBudget(max_steps=0), sampler=ALWAYS_OFF)
    records.write()
    with pytest.raises(BudgetExceeded):
        world.manager.check()
    [record] = records.all()
    assert (record.trace_id, record.event_name) == (0, "otelbudget.check")
    assert (record.attributes or {})["otelbudget.tenant"] == "default"


def test_asking_whether_a_call_would_be_refused_logs_nothing(world: World, records: Records) -> None:
    records.write()
    with world.run(RunBudget(max_steps=0)) as run:
        assert not run.can_proceed()
    assert records.all() == []


def test_a_quota_service_logs_its_refusals_with_the_tenant(make_world: Callable[..., World], records: Records) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(Quota(tokens=10),))), sampler=ALWAYS_OFF)
    records.write()
    with world.tracer.start_as_current_span("request") as request:
        assert not QuotaService(store=world.manager).check_quota("acme", 11, user="ann")
    [record] = records.all()
    assert record.trace_id == request.get_span_context().trace_id
    assert [(record.attributes or {}).get(name) for name in WHOSE] == ["acme", "ann", None]


def test_changes_of_a_run_are_logged_too(world: World, records: Records) -> None:
    records.write()
    with world.run(BUDGET) as run:
        run.freeze(actor="ops", reason="looking")
        run.extend(steps=1)
    assert [name for name, _ in records.said()] == ["otelbudget.freeze", "otelbudget.extend"]


def test_a_processor_that_raises_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            raise RuntimeError("broken")

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Broken())
    events.write_to(EventLog(provider, on_span=True))
    try:
        with caplog.at_level(logging.ERROR), world.run(BUDGET) as run:
            run.check()
    finally:
        events.write_to(None)
    assert "a log record processor failed on the event 'otelbudget.check'" in caplog.text
    assert [name for name, _ in said(world.span("otelbudget.run"))] == ["otelbudget.check"]


def test_a_provider_that_is_no_sdk_gets_records_of_the_api() -> None:
    got: list[Any] = []

    class Foreign:
        def get_logger(self, *_: object) -> Any:
            return type("Logger", (), {"emit": staticmethod(got.append)})

    from opentelemetry._logs import LogRecord
    from opentelemetry.trace import INVALID_SPAN

    EventLog(Foreign(), on_span=False).write(INVALID_SPAN, "otelbudget.check", {"a": 1})  # type: ignore[arg-type]
    assert [(type(record), record.event_name, record.attributes) for record in got] == [
        (LogRecord, "otelbudget.check", {"a": 1})
    ]
