"""Which exporters the standard variables make, and none unasked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelbudget import ConfigError
from otelbudget.bootstrap.delivery import BatchOutlet, SimpleOutlet
from otelbudget.bootstrap.exporters import Outlet, make_outlets, otlp_endpoint, otlp_protocol

Make = Callable[[str | SpanExporter], tuple[Outlet, ...]]


class Custom(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Make:
    def make(exporter: str | SpanExporter) -> tuple[Outlet, ...]:
        outlets = make_outlets(exporter)
        request.addfinalizer(lambda: [outlet.close() for outlet in outlets])
        return outlets

    return make


def test_without_variables_nothing_is_exported(made: Make) -> None:
    assert made("auto") == ()


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, ["OTLP at http://localhost:4318"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:9/v1/traces"}, ["OTLP at http://c:9/v1/traces"]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["OTLP at http://localhost:4317"]),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_http"}, ["OTLP at http://localhost:4318"]),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["console"]),
        ({"OTEL_TRACES_EXPORTER": " console , otlp,console"}, ["console", "OTLP at http://localhost:4317"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, []),
        ({"OTEL_TRACES_EXPORTER": " ", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
    ],
)
def test_the_variables_say_where_spans_go(
    made: Make, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], where: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [outlet.where for outlet in made("auto")] == where


def test_none_exports_nothing_whatever_the_variables_say(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert made("none") == ()


@pytest.mark.parametrize(
    ("exporter", "kind"),
    [(InMemorySpanExporter(), SimpleOutlet), (ConsoleSpanExporter(), SimpleOutlet), (Custom(), BatchOutlet)],
)
def test_what_holds_nothing_exports_at_once_and_everything_else_in_batches(
    made: Make, exporter: SpanExporter, kind: type[Outlet]
) -> None:
    (outlet,) = made(exporter)
    assert type(outlet) is kind
    assert outlet.where == type(exporter).__name__


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/v1/traces"}, "http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:none"}, "grpc"),
    ],
)
def test_the_protocol_is_the_named_one_else_the_ports(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], protocol: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert otlp_protocol("TRACES") == protocol


def test_user_and_password_of_an_endpoint_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:secret@collector:4318/base")
    assert otlp_endpoint("TRACES", "http") == "http://collector:4318/base"


def test_an_unknown_exporter_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkinn")
    with pytest.raises(ConfigError, match=r"OTEL_TRACES_EXPORTER names 'zipkinn'.*known: .*console, none, otlp"):
        make_outlets("auto")


def test_an_unknown_protocol_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match=r"'http/json'.*use one of: grpc, http/protobuf"):
        make_outlets("auto")


def test_an_exporter_that_can_not_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match=r"span exporter 'otlp_proto_grpc' .* can't be made: .*soon"):
        make_outlets("auto")
