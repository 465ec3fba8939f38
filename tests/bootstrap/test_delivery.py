"""Closing an exporter takes no longer than granted and says in one line what was lost."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelbudget.bootstrap.delivery import BatchOutlet, SimpleOutlet, Worker

GRANTED_S = 1.0
#: Far above what is granted and far below what the SDK would take.
TOO_LONG_S = 5.0


class Exporter(SpanExporter):
    """Keeps what it gets; may answer late, fail or raise."""

    def __init__(self) -> None:
        self.exported: list[str] = []
        self.shut_down = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait(60)
        if self.error is not None:
            raise self.error
        self.exported += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shut_down += 1


def end_spans(outlet: BatchOutlet | SimpleOutlet, *names: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(outlet)
    for name in names:
        provider.get_tracer("app").start_span(name).end()


def close(outlet: BatchOutlet) -> float:
    began = time.monotonic()
    outlet.close().wait(began + GRANTED_S)
    return time.monotonic() - began


def otlp(protocol: str, port: int) -> SpanExporter:
    if protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter(endpoint=f"http://127.0.0.1:{port}")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield int(silent.getsockname()[1])


def test_closing_delivers_everything_and_shuts_the_exporter_down_once() -> None:
    exporter = Exporter()
    outlet = BatchOutlet(exporter, "there")
    end_spans(outlet, "a", "b")
    assert outlet.force_flush()
    assert exporter.exported == ["a", "b"]
    end_spans(outlet, "c")
    assert close(outlet) < GRANTED_S
    assert exporter.exported == ["a", "b", "c"]
    assert exporter.shut_down == 1


def test_flushing_takes_no_longer_than_asked_for() -> None:
    exporter = Exporter()
    outlet = BatchOutlet(exporter, "there")
    exporter.gate.clear()
    end_spans(outlet, "a")
    assert not outlet.force_flush(10)
    exporter.gate.set()
    assert outlet.force_flush()
    close(outlet)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector_that_is_not_there_ends_the_wait_at_once_with_one_line(
    protocol: str, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    outlet = BatchOutlet(otlp(protocol, closed_port), "OTLP at there")
    end_spans(outlet, "a")
    caplog.set_level(logging.DEBUG, "otelbudget")
    assert close(outlet) < GRANTED_S
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the last telemetry was not delivered: OTLP at there does not answer"
    ]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector_that_hangs_costs_what_was_granted_and_one_line(
    protocol: str, silent_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    outlet = BatchOutlet(otlp(protocol, silent_port), "OTLP at there")
    end_spans(outlet, "a")
    assert GRANTED_S - 0.1 < close(outlet) < TOO_LONG_S
    assert [record.getMessage() for record in caplog.records] == [
        "the last telemetry was not delivered: OTLP at there does not answer"
    ]


def test_an_exporter_of_the_application_that_hangs_or_raises_costs_no_more(caplog: pytest.LogCaptureFixture) -> None:
    hanging, raising = Exporter(), Exporter()
    hanging.gate.clear()
    raising.error = RuntimeError("broken")
    for exporter in (hanging, raising):
        outlet = BatchOutlet(exporter, type(exporter).__name__)
        end_spans(outlet, "a")
        assert close(outlet) < TOO_LONG_S
    hanging.gate.set()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_while_running_an_exporter_says_what_it_has_to_say(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    outlet = BatchOutlet(otlp("http", closed_port), "OTLP at there")
    end_spans(outlet, "a")
    assert not outlet.force_flush(300)
    assert "Transient error" in caplog.text
    close(outlet)


def test_exporters_of_the_application_are_not_silenced_while_ours_closes(
    closed_port: int, silent_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    outlet = BatchOutlet(otlp("http", silent_port), "OTLP at there")
    end_spans(outlet, "a")
    closing = outlet.close()
    theirs = otlp("http", closed_port)
    theirs._client._shutdown_event.set()  # type: ignore[attr-defined] # no retry
    theirs.export([])
    closing.wait(time.monotonic())
    assert "Failed to export" in caplog.text


def test_after_closing_the_loggers_are_as_they_were() -> None:
    logger = logging.getLogger(__name__)
    outlet = BatchOutlet(Exporter(), "there")
    assert len(logger.filters) == 1
    close(outlet)
    assert logger.filters == []


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.received.append(self.path)  # type: ignore[attr-defined] # put there by the test
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_collector_that_answers_gets_everything_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.received = []  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            outlet = BatchOutlet(otlp("http", server.server_port), "there")
            end_spans(outlet, "a")
            close(outlet)
        finally:
            server.shutdown()
            serving.join()
        assert server.received == ["/v1/traces"]  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_exporter_in_memory_exports_at_once_and_stays_usable() -> None:
    exporter = InMemorySpanExporter()
    outlet = SimpleOutlet(exporter, "memory")
    end_spans(outlet, "a")
    assert [span.name for span in exporter.get_finished_spans()] == ["a"]
    outlet.close()
    end_spans(SimpleOutlet(exporter, "memory"), "b")
    assert [span.name for span in exporter.get_finished_spans()] == ["a", "b"]


def test_a_worker_survives_a_job_that_raises() -> None:
    worker = Worker("test-worker")
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("broken")

    assert worker.do(fail).wait(TOO_LONG_S)
    assert worker.do(lambda: done.append("next"), last=True).wait(TOO_LONG_S)
    assert done == ["next"]
