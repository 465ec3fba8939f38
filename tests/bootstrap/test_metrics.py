"""Metrics leave by exactly one route, unless a second one is asked for."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

import otelbudget
from otelbudget import BudgetManager, ConfigError, RunBudget
from otelbudget.bootstrap import facts
from otelbudget.bootstrap.arguments import Arguments
from otelbudget.bootstrap.metrics import MetricsRoute, ProcessDelivery, page_wanted, push_wanted


def setup(**options: object) -> BudgetManager:
    return otelbudget.setup(RunBudget(max_steps=5), exporter="none", instrument=False, **options)  # type: ignore[arg-type]


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as page:
        return str(page.read(), "utf-8")


def url() -> str | None:
    now = facts()
    assert now is not None
    return now.metrics_url


def where() -> str:
    now = facts()
    assert now is not None
    return now.metrics


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("variables", "arguments", "page"),
    [
        ({}, {}, ("127.0.0.1", 9464)),
        ({}, {"port": 9464}, ("127.0.0.1", 9464)),
        ({}, {"port": 0, "host": "0.0.0.0"}, ("0.0.0.0", 0)),
        ({}, {"configured": 9000}, ("127.0.0.1", 9000)),
        ({}, {"configured": 9000, "port": 9001}, ("127.0.0.1", 9001)),
        ({}, {"port": None, "configured": 9000}, None),
        ({"PORT": "9100"}, {}, ("127.0.0.1", 9100)),
        ({"PORT": "9100", "HOST": "::1"}, {"port": 9200}, ("::1", 9200)),
        ({"HOST": "::1"}, {"host": "127.0.0.2"}, ("127.0.0.2", 9464)),
        ({"PORT": "9100"}, {"pushed": True}, None),
        ({"PORT": "9100"}, {"own_registry": False}, None),
        ({}, {"pushed": True, "port": 9300}, ("127.0.0.1", 9300)),
        ({}, {"own_registry": False, "port": 9300}, ("127.0.0.1", 9300)),
    ],
)
def test_argument_then_configuration_then_variable_then_default(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    arguments: dict[str, object],
    page: tuple[str, int] | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_PROMETHEUS_{name}", value)
    defaults = {"port": "auto", "host": None, "configured": None, "pushed": False, "own_registry": True}
    assert page_wanted(**{**defaults, **arguments}) == page  # type: ignore[arg-type]


def test_metrics_switched_off_by_their_variable_are_on_no_page_unless_a_port_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert page_wanted("auto", None, None, pushed=False, own_registry=True) is None
    assert page_wanted(0, None, None, pushed=False, own_registry=True) is not None


@pytest.mark.parametrize("port", ["http", "65536", "-1"])
def test_a_variable_that_is_no_port_says_so(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", port)
    with pytest.raises(ConfigError, match=f"OTEL_EXPORTER_PROMETHEUS_PORT is '{port}'"):
        setup()


@pytest.mark.parametrize(
    ("variables", "pushed"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, True),
        ({"OTEL_METRICS_EXPORTER": "prometheus, otlp"}, True),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, False),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_metrics_are_pushed_only_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], pushed: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert push_wanted(None) is pushed


def test_the_page_shows_this_managers_metrics_until_shutdown() -> None:
    manager = setup(metrics_port=0)
    manager.record_call(350)
    page = url()
    assert page is not None
    assert where() == page
    assert 'otelbudget_records_total{budget="default",tenant="default"} 1.0' in scrape(page)
    otelbudget.shutdown()
    with pytest.raises(OSError, match="refused"):
        scrape(page)


def test_a_port_in_use_moves_on_and_is_an_error_only_where_all_is_strict(taken_port: int) -> None:
    setup(metrics_port=taken_port)
    assert url() not in (None, f"http://127.0.0.1:{taken_port}/metrics")
    otelbudget.shutdown()
    with pytest.raises(ConfigError, match=rf"port {taken_port} on 127\.0\.0\.1 is in use.*metrics_port=") as error:
        setup(metrics_port=taken_port, strict=True)
    assert facts() is None
    assert "\n" not in str(error.value)


def test_a_registry_given_shows_the_metrics_on_the_applications_own_page_only() -> None:
    registry = CollectorRegistry()
    setup(registry=registry).record_call(10)
    assert url() is None
    assert where() == "the registry given"
    assert b"otelbudget_records_total{" in generate_latest(registry)
    otelbudget.shutdown()
    assert b"otelbudget" not in generate_latest(registry)
    setup(registry=registry)


def test_a_registry_that_has_the_metrics_already_is_an_error() -> None:
    registry = CollectorRegistry()
    setup(registry=registry)
    other = BudgetManager()
    with pytest.raises(ConfigError, match="registry: these metrics are in it already"):
        MetricsRoute(other.engine.meters, Arguments(registry=registry), None, None)
    assert b"otelbudget_checks_total" in generate_latest(registry)


def test_a_meter_provider_given_reports_the_same_metrics_and_stays_usable() -> None:
    reader = Pushed()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    manager = setup(meter_provider=provider)
    manager.record_call(10)
    assert url() is None
    assert where() == "the application's meter provider"
    assert values(reader)["otelbudget_records"] == 1
    manager.record_call(10)
    reader.pushed.clear()
    otelbudget.shutdown()
    (last,) = reader.pushed  # by shutdown itself
    assert (last["otelbudget_records"], last["otelbudget_run_tokens"]) == (2, 20)
    assert "otelbudget_records" not in values(reader)
    provider.get_meter("app").create_counter("mine").add(1)
    assert values(reader)["mine"] == 1
    provider.shutdown()


def test_a_page_asked_for_comes_beside_a_meter_provider() -> None:
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    setup(meter_provider=provider, metrics_port=0)
    assert where() == f"{url()} and the application's meter provider"
    otelbudget.shutdown()
    provider.shutdown()


class Pushed(InMemoryMetricReader):
    """Remembers every collection."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[dict[str, float]] = []

    def _receive_metrics(self, metrics_data: Any, *args: Any, **kwargs: Any) -> None:
        self.pushed.append(sums(metrics_data))
        super()._receive_metrics(metrics_data, *args, **kwargs)


def values(reader: InMemoryMetricReader) -> dict[str, float]:
    return sums(reader.get_metrics_data())


def sums(data: Any) -> dict[str, float]:
    return {
        metric.name: sum(getattr(point, "value", getattr(point, "sum", 0)) for point in metric.data.data_points)
        for resource in ([] if data is None else data.resource_metrics)
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_metrics_over_otlp_end_quickly_and_with_one_line_when_no_collector_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{closed_port}/v1/metrics")
    setup().record_call(10)
    place = f"OTLP at http://127.0.0.1:{closed_port}/v1/metrics"
    assert where() == place
    otelbudget.shutdown()
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == [
        f"the last telemetry was not delivered: {place} does not answer"
    ]


def test_an_otlp_protocol_that_does_not_exist_leaves_no_page_behind(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="http/json"):
        setup(metrics_port=closed_port)
    monkeypatch.delenv("OTEL_METRICS_EXPORTER")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    setup(metrics_port=closed_port)


@pytest.mark.parametrize("named", [None, "mine"])
def test_metrics_of_each_process_say_which_it_is_also_where_the_sdk_does_not(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []

    class Exporter:
        def export(self, data: MetricsData, timeout_millis: float) -> None:
            assert timeout_millis == 1_000
            exported.extend(str(one.resource.attributes["service.instance.id"]) for one in data.resource_metrics)

    resource = Resource({} if named is None else {"service.instance.id": named})
    delivery = ProcessDelivery(Exporter(), "somewhere")
    for pid in (1, 1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        delivery.export(MetricsData([ResourceMetrics(resource, [], "")]), timeout_millis=1_000)
    delivery.close(lambda: None).wait(time.monotonic() + 5)
    first, second, forked = exported
    assert first == second
    assert {first, forked} == {named} if named else first != forked
