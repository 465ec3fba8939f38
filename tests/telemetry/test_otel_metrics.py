"""The same metrics over OpenTelemetry: names, labels and sums equal the page's, once per collection, until closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from otelbudget.telemetry import otel_metrics
from otelbudget.telemetry.cells import Meters
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS
from otelbudget.telemetry.otel_metrics import cardinality_views, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Traffic

Labels = frozenset[tuple[str, Any]]


def _collect(reader: InMemoryMetricReader) -> dict[str, dict[Labels, Any]]:
    """``{instrument: {attributes: point}}`` of one collection."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: {frozenset((point.attributes or {}).items()): point for point in metric.data.data_points}
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def _values(reader: InMemoryMetricReader, name: str) -> dict[Labels, float]:
    return {labels: point.value for labels, point in _collect(reader).get(name, {}).items()}


def _labels(**labels: str) -> Labels:
    return frozenset(labels.items())


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def test_every_plain_sample_of_the_page_is_a_point(
    busy: Traffic, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    report(busy.meters, provider)
    now = busy.meters.snapshot()
    found = _collect(reader)
    for family in FAMILIES:
        expected = {frozenset(zip(family.labels, labels, strict=True)): value for labels, value in family.read(now)}
        points = found[family.name.removesuffix("_total")]
        assert {labels: point.value for labels, point in points.items()} == expected


def test_histograms_hold_what_was_observed_while_active(
    quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    before = quiet.live("run-1", "acme", "research", steps=1, cost_nanousd=0)
    quiet.end(before, "completed", [1, 100, 100, 0, 10_000_000, 0, 0], 1.0)
    report(quiet.meters, provider)
    run = quiet.live("run-2", "acme", "research", steps=1, cost_nanousd=0)
    quiet.end(run, "completed", [1, 645, 560, 85, 50_000_000, 0, 0], 4.0)
    quiet.meters.observe_check("call", 0.3, None)
    quiet.meters.observe_estimate("small-1", 0.8)
    found = _collect(reader)
    [point] = found["otelbudget_run_cost_usd"].values()
    assert point.attributes == {"tenant": "acme", "outcome": "completed"}
    assert (point.count, point.sum) == (1, 0.05)
    [point] = found["otelbudget_run_tokens"].values()
    assert (point.count, point.sum) == (1, 645)
    [point] = found["otelbudget_check_duration_seconds"].values()
    assert point.attributes == {"operation": "call", "store": "memory"}
    [point] = found["otelbudget_estimate_ratio"].values()
    assert (point.attributes, point.sum) == ({"model": "small-1"}, 0.8)


def test_buckets_equal_those_of_the_page(quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider) -> None:
    report(quiet.meters, provider)
    run = quiet.live("run-1", "acme", None, steps=1, cost_nanousd=0)
    quiet.end(run, "error", [1, 100, 100, 0, 0, 0, 0], 1.0)
    quiet.meters.observe_check("call", 0.3, None)
    quiet.meters.observe_estimate("small-1", 0.8)
    found = _collect(reader)
    now = quiet.meters.snapshot()
    for family in HISTOGRAMS:
        [point] = found[family.name].values()
        [(_, histogram)] = family.read(now)
        assert tuple(point.explicit_bounds) == family.bounds
        assert list(point.bucket_counts) == histogram.counts


def test_exemplars_name_the_sampled_trace_only(
    quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    report(quiet.meters, provider)
    quiet.meters.observe_check("call", 0.3, None)
    quiet.meters.observe_check("call", 0.0000042, ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"))
    [point] = _collect(reader)["otelbudget_check_duration_seconds"].values()
    [exemplar] = point.exemplars
    assert f"{exemplar.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{exemplar.span_id:016x}" == "b7ad6b7169203331"
    assert exemplar.value == 0.0000042


def test_one_collection_takes_one_snapshot(
    busy: Traffic, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    snapshot = Meters.snapshot

    def counting(meters: Meters) -> Any:
        nonlocal taken
        taken += 1
        return snapshot(meters)

    monkeypatch.setattr(Meters, "snapshot", counting)
    second = InMemoryMetricReader()
    provider = MeterProvider([reader, second], shutdown_on_exit=False)
    report(busy.meters, provider)
    for i, collecting in enumerate((reader, second, reader), start=1):
        assert len(_collect(collecting)) >= len(FAMILIES)
        assert taken == i
    provider.shutdown()


def test_counters_follow_the_cells(busy: Traffic, reader: InMemoryMetricReader, provider: MeterProvider) -> None:
    report(busy.meters, provider)
    labels = _labels(tenant="acme", model="small-1")
    assert _values(reader, "otelbudget_cost_usd")[labels] == 0.05
    busy.spend("acme", "small-1", (10, 10), 20_000_000)
    assert _values(reader, "otelbudget_cost_usd")[labels] == 0.07


def test_closing_stops_reporting(busy: Traffic, reader: InMemoryMetricReader, provider: MeterProvider) -> None:
    instruments = report(busy.meters, provider)
    assert _collect(reader)
    instruments()
    instruments()
    assert _collect(reader) == {}
    busy.meters.observe_estimate("small-1", 0.8)
    assert busy.meters.take_observations() == []


def test_a_histogram_value_seen_just_before_closing_is_not_lost(
    quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    instruments = report(quiet.meters, provider)
    quiet.meters.observe_estimate("small-1", 0.8)
    instruments()
    [point] = _collect(reader)["otelbudget_estimate_ratio"].values()
    assert point.sum == 0.8


def test_the_next_manager_on_one_provider_takes_over_and_begins_at_zero(busy: Traffic) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    labels = _labels(tenant="acme", model="small-1")
    first = report(busy.meters, provider)
    assert _values(reader, "otelbudget_cost_usd")[labels] == 0.05
    first()
    fresh = type(busy)()
    second = report(fresh.meters, provider)
    fresh.spend("acme", "small-1", (1, 1), 10_000_000)
    assert _values(reader, "otelbudget_cost_usd")[labels] == pytest.approx(0.01)
    first()
    assert _values(reader, "otelbudget_cost_usd")
    second()
    provider.shutdown()


def test_runs_beyond_what_an_sdk_can_forget_are_shown_as_other(
    quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel_metrics, "_MAX_RUN_IDS", 3)
    report(quiet.meters, provider)
    for i in range(5):
        quiet.live(f"run-{i}", "acme", "research", steps=9 - i, cost_nanousd=1_000_000_000)
    shown = _values(reader, "otelbudget_active_run_cost_usd")
    assert {dict(labels)["run_id"]: value for labels, value in shown.items()} == {
        "run-0": 1, "run-1": 1, "run-2": 1, "other": 2,
    }  # fmt: skip
    ratios = _values(reader, "otelbudget_active_run_used_ratio")
    assert {dict(labels)["run_id"]: value for labels, value in ratios.items()}["other"] == 0.6


def test_a_provider_of_our_own_holds_more_label_sets_than_an_sdk_would(reader: InMemoryMetricReader) -> None:
    if not cardinality_views():
        pytest.skip("this SDK has no cardinality limit in its views")
    from otelbudget.ledger.ledger import Ledger

    ledger = Ledger()
    meters = Meters(ledger, tuple, clock_ns=lambda: 0)
    for i in range(500):
        for j in range(5):
            meters.spend(f"tenant-{i}", f"model-{j}").cost_nanousd += 1_000_000_000
    provider = MeterProvider([reader], shutdown_on_exit=False, views=cardinality_views())
    report(meters, provider)
    run = _values(reader, "otelbudget_cost_usd")
    assert sum(run.values()) == 2_500
    assert not any("otel.metric.overflow" in dict(labels) for labels in run)
    provider.shutdown()


def test_our_views_leave_the_buckets_alone(quiet: Traffic, reader: InMemoryMetricReader) -> None:
    views = cardinality_views() or [View(instrument_name="otelbudget_*")]
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views)
    report(quiet.meters, provider)
    quiet.meters.observe_estimate("small-1", 0.8)
    [point] = _collect(reader)["otelbudget_estimate_ratio"].values()
    assert tuple(point.explicit_bounds) == next(f.bounds for f in HISTOGRAMS if f.name == "otelbudget_estimate_ratio")
    provider.shutdown()


def test_units_leave_the_names_alone_on_the_way_to_prometheus() -> None:
    for family in (*FAMILIES, *HISTOGRAMS):
        in_braces = family.unit.startswith("{") and family.unit.endswith("}")
        assert in_braces or family.unit == "" or (family.unit == "s" and family.name.endswith("_seconds"))


def test_a_provider_that_does_nothing_is_fine(busy: Traffic) -> None:
    report(busy.meters, NoOpMeterProvider())()


def test_more_sets_than_a_joined_provider_keeps_apart_are_folded_and_tenants_keep_their_whole_spend(
    quiet: Traffic, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    report(quiet.meters, provider)
    for i in range(500 * 20):
        quiet.spend(f"tenant-{i % 500}", f"model-{i // 500}", (3, 1), 10**9)
    for _ in range(2):  # nothing moves from one set to another
        found = _collect(reader)
        spent: dict[Any, float] = {}
        for labels, point in found["otelbudget_cost_usd"].items():
            spent[dict(labels)["tenant"]] = spent.get(dict(labels)["tenant"], 0) + point.value
        assert spent == {f"tenant-{i}": 20 for i in range(500)}
        assert sum(point.value for point in found["otelbudget_tokens"].values()) == 500 * 20 * 4
        overflow = ("otel.metric.overflow", True)
        assert not any(overflow in labels for points in found.values() for labels in points)
        assert max(map(len, found.values())) <= otel_metrics.JOINED_SETS
    assert quiet.meters.overflow.n > 0
