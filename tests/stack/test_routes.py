"""What a real Prometheus holds: scraped it equals the cells, pushed over OTLP it has the same names and labels."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prometheus_client import CollectorRegistry
from prometheus_server import Prometheus, prometheus_help, running
from traffic import TENANTS, Traffic

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.engine.engine import Engine
from otelbudget.ledger.ledger import Ledger
from otelbudget.manager import BudgetManager
from otelbudget.model.amounts import TOKENS
from otelbudget.model.quota import Quota, Quotas
from otelbudget.model.vector import lane
from otelbudget.telemetry.otel_metrics import report
from otelbudget.telemetry.page import Page
from otelbudget.telemetry.prometheus import PrometheusCollector
from otelbudget.telemetry.server import MetricsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

# The first run on a machine builds Prometheus.
pytestmark = pytest.mark.timeout(900)

Identity = tuple[str, frozenset[tuple[str, str]]]


class Scraped(NamedTuple):
    """Prometheus, and what it scraped."""

    prometheus: Prometheus
    traffic: Traffic


@pytest.fixture(scope="module")
def scraped(has_prometheus: None, scrape_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A Prometheus that has seen the traffic grow from one scrape to another."""
    traffic = Traffic()
    traffic.begin()
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(traffic.meters))
    directory = tmp_path_factory.mktemp("prometheus")
    with (
        closing(MetricsServer.start(registry, "127.0.0.1", 0)) as page,
        running(scrape_config.format(port=page.port), directory, _otlp_option()) as prometheus,
    ):
        prometheus.wait_for("up == 1")
        for _ in range(2):
            traffic.go_on()
            prometheus.wait_for(f"sum(otelbudget_cost_usd_total) > {(traffic.cost_nanousd - 1) / 1e9}")
        yield Scraped(prometheus, traffic)


def _otlp_option() -> list[str]:
    """How the receiver is switched on, where this Prometheus has one."""
    return ["--web.enable-otlp-receiver"] if "web.enable-otlp-receiver" in prometheus_help() else []


def _by_identity(result: list[Any]) -> dict[Identity, float]:
    return {_identity(series["metric"]): float(series["value"][1]) for series in result}


def _identity(labels: dict[str, str]) -> Identity:
    """Name and own labels, without what the way to Prometheus adds."""
    if "le" in labels:  # "1" where it was pushed, "1.0" where it was scraped
        labels = {**labels, "le": str(float(labels["le"]))}
    added = ("__name__", "job", "instance")
    return labels["__name__"], frozenset(item for item in labels.items() if item[0] not in added)


def test_what_prometheus_holds_equals_the_cells(scraped: Scraped) -> None:
    [cost] = scraped.prometheus.query("sum(otelbudget_cost_usd_total)")
    assert float(cost["value"][1]) == pytest.approx(scraped.traffic.cost_nanousd / 1e9, abs=1e-9)


def test_quotas_are_there_by_every_label(scraped: Scraped) -> None:
    found = {
        (labels["scope"], labels.get("tenant", ""), labels.get("model", ""), labels["resource"], labels["window"])
        for labels in (series["metric"] for series in scraped.prometheus.query("otelbudget_budget_used"))
    }
    assert found == {
        ("org", "", "", "cost_usd", "lifetime"),
        ("model", "", "small-1", "cost_usd", "month"),
        *(("tenant", tenant, "", resource, "day") for tenant in TENANTS for resource in ("tokens", "cost_usd")),
    }
    over = scraped.prometheus.query('otelbudget_users_over_ratio{ratio="1"}')
    assert {series["metric"]["tenant"]: series["value"][1] for series in over} == {
        "acme": "1", "globex": "1", "initech": "1",
    }  # fmt: skip


@pytest.mark.slow
def test_quotas_of_more_tenants_than_have_a_label_add_up_to_the_ledger(
    has_prometheus: None, scrape_config: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    quotas = Quotas(
        org=(Quota(cost_usd=500, per="month"),),
        default=(Quota(tokens=1_000, per="day"), Quota(cost_usd=9, per="month")),
        users={"*": (Quota(tokens=100, per="day"),)},
    )
    now_s = time.time()  # midnight is no business of this test
    engine = Engine(Config(quotas=quotas), ledger=Ledger(clock_s=lambda: now_s))
    manager = BudgetManager(engine=engine)
    for i in range(10_000):
        with manager.run(org=f"org-{i % 7}", tenant=f"tenant-{i % 700}", user=f"user-{i % 3}", reraise=False) as run:
            run.record(Usage(i % 11, 3, cost_usd=0.001))
    daily = [one for one in engine.directory.accounts if (one.scope, one.spec.per) == ("tenant", "day")]
    used = sum(lane(account.used, TOKENS) for account in daily)
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(engine.meters))
    with (
        closing(MetricsServer.start(registry, "127.0.0.1", 0)) as page,
        running(scrape_config.format(port=page.port), tmp_path_factory.mktemp("many")) as prometheus,
    ):
        of_tenants = 'sum(otelbudget_budget_used{scope="tenant", resource="%s"})'
        [tokens] = prometheus.wait_for(of_tenants % "tokens")
        [cost] = prometheus.query(of_tenants % "cost_usd")
        [series] = prometheus.query('count({__name__=~"otelbudget_.*"})')
        [tenants] = prometheus.query('count(count by (tenant) (otelbudget_budget_used{scope="tenant"}))')
        [other] = prometheus.query('max by (tenant) (otelbudget_budget_used{tenant="other", resource="tokens"})')
    assert float(tokens["value"][1]) == used == sum(i % 11 + 3 for i in range(10_000))
    assert float(cost["value"][1]) == pytest.approx(10_000 * 0.001)
    assert int(series["value"][1]) <= 20_000
    assert int(tenants["value"][1]) == 501
    assert float(other["value"][1]) > 0


def test_growth_since_the_first_scrape_is_seen_because_counters_are_born_at_zero(scraped: Scraped) -> None:
    born = scraped.prometheus.query('min_over_time(otelbudget_checks_total{decision="deny"}[5m]) == 0')
    assert {series["metric"]["tenant"] for series in born} >= {"acme"}


def test_names_labels_and_values_over_otlp_are_those_of_the_page(scraped: Scraped) -> None:
    prometheus = scraped.prometheus
    if not _otlp_option():
        pytest.skip("this Prometheus has no OTLP receiver")
    pushed = Traffic()
    exporter = OTLPMetricExporter(endpoint=f"{prometheus.url}/api/v1/otlp/v1/metrics")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    instruments = report(pushed.meters, provider)
    pushed.begin()
    pushed.go_on()
    pushed.go_on()
    provider.force_flush()
    instruments()
    provider.shutdown()
    ours = '{__name__=~"otelbudget_.*", job%s"otelbudget"}'
    over_otlp = _by_identity(prometheus.wait_for(ours % "!="))
    assert len({labels for _, labels in over_otlp}) > len(TENANTS)
    assert over_otlp == pytest.approx(_by_identity(prometheus.query(ours % "=")))


@pytest.mark.slow
def test_the_first_spend_and_the_first_refusal_of_a_process_are_shown_by_the_second_scrape(
    has_prometheus: None, generate: ModuleType, scrape_config: str, tmp_path: Path
) -> None:
    if "created-timestamp-zero-ingestion" not in prometheus_help():
        pytest.skip("this Prometheus does not know since when a series counts")
    panels = {panel["title"]: panel for panel in generate.boards()["overview.json"]["panels"]}
    asked = {
        title: panels[title]["targets"][0]["expr"].replace("$__range", "5m") for title in ("Spent today", "Refused")
    }
    manager = BudgetManager(RunBudget(max_cost_usd=8))
    with (
        closing(MetricsServer.start(Page(manager.engine.meters), "127.0.0.1", 0)) as page,
        running(scrape_config.format(port=page.port), tmp_path) as prometheus,
    ):
        prometheus.wait_for("up == 1")
        with manager.run(tenant="acme", reraise=False) as run:
            run.record(Usage(10, 10, cost_usd=9, model="m"))
            with pytest.raises(BudgetExceeded):
                run.check()
        # What an increase adds for the time after the last scrape is small beside some scrapes.
        prometheus.wait_for("sum(count_over_time(otelbudget_cost_usd_total[1m])) > 15")
        [series] = prometheus.query('otelbudget_cost_usd_total{tenant="acme", model="m"}[1m]')
        _, second = [when for when, value in series["values"] if float(value)][:2]
        moments = [{"time": second}, {}]  # of the second scrape since then, and now
        shown = [
            [float(prometheus.ask("query", {"query": expr, **at})["result"][0]["value"][1]) for expr in asked.values()]
            for at in moments
        ]
    assert shown == [pytest.approx([9, 1], rel=0.1)] * 2
