"""Log records of events go through the provider given, the application's, or the exporters that variables name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import otelbudget
from otelbudget import BudgetExceeded, Config, ConfigError, RunBudget
from otelbudget.bootstrap import facts
from otelbudget.config import TelemetryConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess


def _config(events: str) -> Config:
    telemetry = TelemetryConfig(events=events)  # type: ignore[arg-type]
    return Config(default_budget=RunBudget(max_steps=2), telemetry=telemetry)


def _set_up(events: str, **more: Any) -> None:
    tracing = TracerProvider(shutdown_on_exit=False)
    otelbudget.setup(_config(events), metrics_port=None, instrument=False, tracer_provider=tracing, **more)


@pytest.fixture
def exporter() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()


@pytest.fixture
def provider(exporter: InMemoryLogRecordExporter) -> Iterator[LoggerProvider]:
    """An application's: in batches, so that what is not flushed is not there."""
    made = LoggerProvider(shutdown_on_exit=False)
    made.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=3_600_000))
    yield made
    made.shutdown()


def test_a_provider_given_gets_the_events_and_is_flushed_at_the_end_and_not_shut_down(
    provider: LoggerProvider, exporter: InMemoryLogRecordExporter
) -> None:
    spans = InMemorySpanExporter()
    _set_up("both", logger_provider=provider, exporter=spans)
    with otelbudget.run() as run:
        run.check()
    otelbudget.shutdown()
    assert [one.log_record.event_name for one in exporter.get_finished_logs()] == ["otelbudget.check"]
    [span] = spans.get_finished_spans()
    assert [event.name for event in span.events] == ["otelbudget.check"]
    provider.get_logger("app").emit(event_name="later")
    provider.force_flush()
    assert len(exporter.get_finished_logs()) == 2


@pytest.mark.parametrize("events", ["log", "both"])
def test_refusals_go_out_where_the_application_samples_nothing(
    provider: LoggerProvider, exporter: InMemoryLogRecordExporter, events: str
) -> None:
    tracing = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    config = Config(default_budget=RunBudget(max_steps=0), telemetry=TelemetryConfig(events=events))  # type: ignore[arg-type]
    otelbudget.setup(config, metrics_port=None, instrument=False, tracer_provider=tracing, logger_provider=provider)
    with otelbudget.run(tenant="acme", user="ann", reraise=False) as run, contextlib.suppress(BudgetExceeded):
        run.check()
    otelbudget.shutdown()
    [record] = [one.log_record for one in exporter.get_finished_logs()]
    attributes = record.attributes or {}
    assert (record.event_name, attributes["otelbudget.decision"]) == ("otelbudget.check", "deny")
    whose = [attributes[f"otelbudget.{name}"] for name in ("tenant", "user", "run.id")]
    assert whose == ["acme", "ann", run.run_id]
    assert record.trace_id != 0


def test_after_the_end_events_are_on_spans_again(provider: LoggerProvider, exporter: InMemoryLogRecordExporter) -> None:
    _set_up("log", logger_provider=provider)
    otelbudget.shutdown()
    spans = InMemorySpanExporter()
    _set_up("span", exporter=spans)
    with otelbudget.run() as run:
        run.check()
    otelbudget.shutdown()
    assert exporter.get_finished_logs() == ()
    assert [event.name for span in spans.get_finished_spans() for event in span.events] == ["otelbudget.check"]


def test_the_totals_of_the_process_wide_run_still_go_out(
    provider: LoggerProvider, exporter: InMemoryLogRecordExporter
) -> None:
    _set_up("log", logger_provider=provider)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("app")
    with tracer.start_as_current_span("work"):
        manager = otelbudget.setup()
        manager.record_call(5)
    otelbudget.shutdown()
    assert next(one.log_record.event_name for one in exporter.get_finished_logs()) == "otelbudget.record"


@pytest.mark.parametrize("events", ["log", "both"])
@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}]
)
def test_without_anything_that_carries_them_out_setup_refuses(
    events: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = rf"telemetry.events is {events}, and nothing would carry log records out: pass setup\(logger_provider"
    with pytest.raises(ConfigError, match=said):
        _set_up(events, exporter="none")
    assert facts() is None


def test_a_provider_that_nothing_would_be_written_to_is_refused(provider: LoggerProvider) -> None:
    with pytest.raises(ConfigError, match=r"set telemetry\.events to log or both, or leave logger_provider out"):
        _set_up("span", logger_provider=provider)


def test_an_exporter_that_nobody_provides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "carrier-pigeon")
    with pytest.raises(ConfigError, match=r"OTEL_LOGS_EXPORTER names 'carrier-pigeon'.*known: console, .*none, otlp"):
        _set_up("log", exporter="none")


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"OTEL_LOGS_EXPORTER": "console"}, "console"),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:9/v1/logs"}, "OTLP at http://127.0.0.1:9/v1/logs"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "OTLP at http://127.0.0.1:4318"),
        ({"OTEL_LOGS_EXPORTER": "otlp,console"}, "OTLP at http://localhost:4317 and console"),
    ],
)
def test_the_variables_say_where_log_records_go(
    variables: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _set_up("log", exporter="none")
    told = facts()
    assert told is not None
    assert told.logs == where
    assert f"log records of events go to {where}" in str(told)


def test_over_otlp_they_arrive_before_shutdown_returns(script: Callable[..., CompletedProcess[str]]) -> None:
    bodies: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = script(
            """
            import otelbudget
            from otelbudget import Config, RunBudget
            from otelbudget.config import TelemetryConfig
            config = Config(default_budget=RunBudget(max_steps=2), telemetry=TelemetryConfig(events="log"))
            otelbudget.setup(config, metrics_port=None, exporter="none", instrument=False, service_name="shop")
            with otelbudget.run() as run:
                run.check()
            """,
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"http://127.0.0.1:{server.server_port}/v1/logs",
        )
        server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    [(path, body)] = bodies
    assert path == "/v1/logs"
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    [resource_logs] = ExportLogsServiceRequest.FromString(body).resource_logs
    assert ("service.name", "shop") in {(a.key, a.value.string_value) for a in resource_logs.resource.attributes}
    [record] = resource_logs.scope_logs[0].log_records
    assert record.event_name == "otelbudget.check"
    assert any(record.trace_id)


def test_a_collector_that_is_not_there_holds_nothing_up(script: Callable[..., CompletedProcess[str]]) -> None:
    done = script(
        """
        import time, otelbudget
        from otelbudget import Config, RunBudget
        from otelbudget.config import TelemetryConfig
        config = Config(default_budget=RunBudget(max_steps=2), telemetry=TelemetryConfig(events="both"))
        otelbudget.setup(config, metrics_port=None, exporter="none", instrument=False)
        with otelbudget.run() as run:
            run.check()
        began = time.monotonic()
        otelbudget.shutdown()
        print(time.monotonic() - began < 2.5)
        """,
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://127.0.0.1:9/v1/logs",
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert "the last telemetry was not delivered: OTLP at http://127.0.0.1:9/v1/logs does not answer" in done.stderr


def test_the_applications_global_provider_is_joined(script: Callable[..., CompletedProcess[str]]) -> None:
    done = script(
        """
        import otelbudget
        from opentelemetry import _logs
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
        from otelbudget import Config, RunBudget
        from otelbudget.config import TelemetryConfig
        exporter = InMemoryLogRecordExporter()
        provider = LoggerProvider()
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        _logs.set_logger_provider(provider)
        config = Config(default_budget=RunBudget(max_steps=2), telemetry=TelemetryConfig(events="log"))
        otelbudget.setup(config, metrics_port=None, exporter="none", instrument=False)
        with otelbudget.run() as run:
            run.check()
        otelbudget.shutdown()
        print([one.log_record.event_name for one in exporter.get_finished_logs()])
        """
    )
    assert (done.stdout, done.stderr) == ("['otelbudget.check']\n", "")


def test_without_log_records_the_logs_sdk_is_not_loaded(script: Callable[..., CompletedProcess[str]]) -> None:
    done = script(
        """
        import sys, otelbudget
        from otelbudget import RunBudget
        otelbudget.setup(RunBudget(max_steps=2), metrics_port=None, exporter="none", instrument=False)
        print([name for name in sys.modules if name.startswith("opentelemetry.sdk._logs")])
        """
    )
    assert done.stdout == "[]\n", done.stderr
