"""The page that Prometheus scrapes: exact names, labels and values, in both formats."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from otelbudget import RunBudget, semconv
from otelbudget._version import __version__
from otelbudget.model.amounts import NANOS
from otelbudget.telemetry.prometheus import PrometheusCollector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Traffic
    from prometheus_client import Metric

Labels = frozenset[tuple[str, str]]

#: Whose quota, which one, and in which kind of window.
QUOTA = {"scope", "org", "tenant", "model", "agent", "tag", "budget", "window"}
#: Every metric of the contract that exists so far, with the labels its samples carry.
CONTRACT = {
    "otelbudget_checks_total": {"tenant", "budget", "operation", "decision", "reason", "resource"},
    "otelbudget_repeated_denials_total": {"tenant", "budget"},
    "otelbudget_records_total": {"tenant", "budget"},
    "otelbudget_tokens_total": {"tenant", "model", "token_type"},
    "otelbudget_token_details_total": {"tenant", "model", "detail"},
    "otelbudget_cost_usd_total": {"tenant", "model"},
    "otelbudget_tool_calls_total": {"tenant"},
    "otelbudget_runs_active": {"tenant"},
    "otelbudget_active_run_cost_usd": {"tenant", "budget", "run_id"},
    "otelbudget_active_run_used_ratio": {"tenant", "budget", "run_id"},
    "otelbudget_budget_used": QUOTA | {"mode", "resource", "store"},
    "otelbudget_budget_reserved": QUOTA | {"mode", "resource", "store"},
    "otelbudget_budget_limit": QUOTA | {"mode", "resource", "store"},
    "otelbudget_budget_reset_timestamp_seconds": QUOTA,
    "otelbudget_users_over_ratio": {"tenant", "budget", "ratio"},
    "otelbudget_config_last_reload_successful": set(),
    "otelbudget_reservations_open": {"store"},
    "otelbudget_reservation_oldest_seconds": {"store"},
    "otelbudget_store_up": {"store"},
    "otelbudget_store_errors_total": {"store", "policy"},
    "otelbudget_store_unguarded_checks_total": {"store", "policy"},
    "otelbudget_settles_lost_total": {"store"},
    "otelbudget_store_wiped_total": {"store"},
    "otelbudget_store_saturated_total": {"store"},
    "otelbudget_label_overflow_total": set(),
    "otelbudget_span_events_suppressed_total": set(),
    "otelbudget_unpriced_total": {"model"},
    "otelbudget_build_info": {"version"},
    "otelbudget_run_cost_usd": {"tenant", "outcome"},
    "otelbudget_run_tokens": {"tenant", "outcome"},
    "otelbudget_run_duration_seconds": {"tenant", "outcome"},
    "otelbudget_check_duration_seconds": {"operation", "store"},
    "otelbudget_estimate_ratio": {"model"},
}
HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


def _page(traffic: Traffic, form: str = "classic") -> list[Metric]:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(traffic.meters))
    if form == "classic":
        return list(parse_classic(generate_latest(registry).decode()))
    return list(parse_openmetrics(generate_openmetrics(registry).decode()))


def _samples(page: list[Metric]) -> dict[str, dict[Labels, float]]:
    found: dict[str, dict[Labels, float]] = {}
    for family in page:
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def _labels(**labels: str) -> Labels:
    return frozenset(labels.items())


def _value(traffic: Traffic, metric: str, labels: Mapping[str, str]) -> float | None:
    return _samples(_page(traffic)).get(metric, {}).get(_labels(**labels))


@pytest.mark.parametrize("form", ["classic", "openmetrics"])
def test_names_and_labels_are_those_of_the_contract(busy: Traffic, form: str) -> None:
    shown: dict[str, set[str]] = {}
    for family in _page(busy, form):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = next(name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part))
            shown.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert shown == CONTRACT


def test_the_contract_and_the_constants_name_the_same_metrics() -> None:
    constants = {value for name, value in vars(semconv).items() if name.startswith("M_")}
    assert constants == set(CONTRACT)


@pytest.mark.parametrize("form", ["classic", "openmetrics"])
def test_no_two_samples_share_name_and_labels(busy: Traffic, form: str) -> None:
    busy.meters.count("acme", "research", "call", "deny", "limit")
    seen = Counter((s.name, frozenset(s.labels.items())) for family in _page(busy, form) for s in family.samples)
    assert max(seen.values()) == 1


def test_checks_are_counted_by_operation_decision_and_reason(busy: Traffic) -> None:
    checks = _samples(_page(busy))["otelbudget_checks_total"]
    own = {"tenant": "acme", "budget": "research"}
    assert {labels: value for labels, value in checks.items() if ("tenant", "acme") in labels} == {
        _labels(**own, operation="call", decision="allow", reason="", resource=""): 4,
        _labels(**own, operation="call", decision="deny", reason="limit", resource="steps"): 2,
        _labels(**own, operation="call", decision="warn", reason="limit", resource=""): 1,
        _labels(**own, operation="check", decision="allow", reason="", resource=""): 2,
        _labels(**own, operation="tool", decision="deny", reason="limit", resource="tool_calls"): 1,
    }


def test_denials_of_a_run_that_were_refused_before_are_counted_as_repeated(busy: Traffic) -> None:
    repeated = _samples(_page(busy))["otelbudget_repeated_denials_total"]
    assert repeated == {_labels(tenant="acme", budget="research"): 1}


def test_a_known_budget_is_born_at_zero(quiet: Traffic) -> None:
    quiet.meters.budget("acme", "research", RunBudget(max_steps=10, max_cost_usd=1).limits)
    samples = _samples(_page(quiet))
    own = {"tenant": "acme", "budget": "research"}
    assert samples["otelbudget_checks_total"] == {
        _labels(**own, operation="call", decision="allow", reason="", resource=""): 0,
        _labels(**own, operation="call", decision="deny", reason="limit", resource="steps"): 0,
        _labels(**own, operation="call", decision="deny", reason="limit", resource="cost_usd"): 0,
    }
    assert samples["otelbudget_records_total"] == {_labels(**own): 0}
    assert samples["otelbudget_tool_calls_total"] == {_labels(tenant="acme"): 0}
    assert samples["otelbudget_runs_active"] == {_labels(tenant="acme"): 0}


def test_tokens_and_cost_of_priced_models_are_born_at_zero(quiet: Traffic) -> None:
    quiet.meters.tenant("acme")
    samples = _samples(_page(quiet))
    models = ("small-1", "large-1")
    assert samples["otelbudget_cost_usd_total"] == {_labels(tenant="acme", model=m): 0 for m in models}
    assert samples["otelbudget_tokens_total"] == {
        _labels(tenant="acme", model=m, token_type=t): 0 for m in models for t in ("input", "output")
    }


def test_an_unnamed_budget_is_called_custom(busy: Traffic) -> None:
    labels = {"tenant": "globex", "budget": "custom"}
    assert _value(busy, "otelbudget_records_total", labels) == 0


def test_spend_is_in_tokens_and_usd_by_tenant_and_model(busy: Traffic) -> None:
    acme = {"tenant": "acme", "model": "small-1"}
    assert _value(busy, "otelbudget_tokens_total", {**acme, "token_type": "input"}) == 560
    assert _value(busy, "otelbudget_tokens_total", {**acme, "token_type": "output"}) == 85
    assert _value(busy, "otelbudget_token_details_total", {**acme, "detail": "cache_read"}) == 40
    assert _value(busy, "otelbudget_token_details_total", {**acme, "detail": "cache_write"}) is None
    assert _value(busy, "otelbudget_cost_usd_total", acme) == 0.05
    undated = {"tenant": "globex", "model": "mystery-1", "token_type": "input"}
    assert _value(busy, "otelbudget_tokens_total", undated) == 1_500


def test_finished_runs_are_histograms_by_outcome(busy: Traffic) -> None:
    labels = {"tenant": "globex", "outcome": "exhausted"}
    assert _value(busy, "otelbudget_run_cost_usd_sum", labels) == 0.7
    assert _value(busy, "otelbudget_run_cost_usd_bucket", {**labels, "le": "0.5"}) == 0
    assert _value(busy, "otelbudget_run_cost_usd_bucket", {**labels, "le": "1.0"}) == 1
    assert _value(busy, "otelbudget_run_tokens_sum", labels) == 2_000
    assert _value(busy, "otelbudget_run_duration_seconds_bucket", {**labels, "le": "60.0"}) == 1
    assert _value(busy, "otelbudget_run_duration_seconds_count", labels) == 1


def test_bucket_bounds_are_those_of_the_contract(busy: Traffic) -> None:
    samples = _samples(_page(busy))

    def bounds(metric: str) -> list[float]:
        return sorted({float(dict(labels)["le"]) for labels in samples[f"{metric}_bucket"]})

    infinity = float("inf")
    assert bounds("otelbudget_run_cost_usd") == [0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50, infinity]
    assert bounds("otelbudget_run_tokens") == [100, 1e3, 5e3, 1e4, 5e4, 1e5, 5e5, 1e6, infinity]
    assert bounds("otelbudget_run_duration_seconds") == [0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, infinity]
    assert bounds("otelbudget_estimate_ratio") == [0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, infinity]


def test_exemplars_name_the_trace_in_openmetrics(busy: Traffic) -> None:
    found = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in _page(busy, "openmetrics")
        for sample in family.samples
        if sample.exemplar
    }
    trace = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    assert found["otelbudget_check_duration_seconds_bucket", "5e-06"].labels == trace
    assert found["otelbudget_run_cost_usd_bucket", "0.05"].value == 0.05
    assert all(float(exemplar.timestamp) > 0 for exemplar in found.values())
    assert {name for name, _ in found} == {
        "otelbudget_check_duration_seconds_bucket",
        "otelbudget_run_cost_usd_bucket",
        "otelbudget_run_tokens_bucket",
        "otelbudget_run_duration_seconds_bucket",
    }


def test_a_run_in_progress_is_shown_until_it_ends(busy: Traffic) -> None:
    labels = {"tenant": "acme", "budget": "research", "run_id": "run-1"}
    assert _value(busy, "otelbudget_active_run_used_ratio", labels) == 0.7
    assert _value(busy, "otelbudget_active_run_cost_usd", labels) == 0.02
    assert _value(busy, "otelbudget_runs_active", {"tenant": "acme"}) == 1
    busy.end(next(iter(busy.meters.live)), "completed", [7] * 7, 1.0)
    assert _value(busy, "otelbudget_active_run_used_ratio", labels) is None
    assert _value(busy, "otelbudget_runs_active", {"tenant": "acme"}) == 0


def test_the_rest_of_the_page(busy: Traffic) -> None:
    assert _value(busy, "otelbudget_reservations_open", {"store": "memory"}) == 1
    assert _value(busy, "otelbudget_reservation_oldest_seconds", {"store": "memory"}) == 3
    assert _value(busy, "otelbudget_span_events_suppressed_total", {}) == 6
    assert _value(busy, "otelbudget_label_overflow_total", {}) == 0
    assert _value(busy, "otelbudget_unpriced_total", {"model": "mystery-1"}) == 1
    assert _value(busy, "otelbudget_tool_calls_total", {"tenant": "globex"}) == 2
    assert _value(busy, "otelbudget_build_info", {"version": __version__}) == 1


def test_label_values_are_escaped(quiet: Traffic) -> None:
    odd = 'a"b\\c\nd'
    quiet.meters.tenant(odd)
    assert _value(quiet, "otelbudget_runs_active", {"tenant": odd}) == 0


def test_registering_does_not_collect(quiet: Traffic) -> None:
    registry = CollectorRegistry(auto_describe=True)
    with quiet.ledger.lock:  # collecting would need the lock and hang
        registry.register(PrometheusCollector(quiet.meters))


def test_registering_twice_is_refused(quiet: Traffic) -> None:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(quiet.meters))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(PrometheusCollector(quiet.meters))


def test_the_lock_is_free_while_the_page_is_formatted(busy: Traffic) -> None:
    page = PrometheusCollector(busy.meters).collect()
    next(page)
    assert busy.ledger.lock.acquire(blocking=False)
    busy.ledger.lock.release()
    assert len(list(page)) == len(CONTRACT) - 1


def test_a_run_is_shown_by_itself_only_when_it_is_old_enough(quiet: Traffic) -> None:
    run = quiet.live("run-1", "acme", "research", steps=1, cost_nanousd=0)
    run.started_ns = quiet.clock.now_ns
    for seconds, shown in ((0, []), (14, []), (1, ["run-1"])):
        quiet.clock.now_ns += seconds * NANOS
        assert [active.run_id for active in quiet.meters.snapshot().active_runs] == shown


def test_a_run_that_is_shown_gives_way_only_to_one_that_is_clearly_fuller(quiet: Traffic) -> None:
    for number in range(20):
        quiet.live(f"run-{number}", "acme", "research", steps=5, cost_nanousd=0)
    before = {active.run_id for active in quiet.meters.snapshot().active_runs}
    quiet.live("little fuller", "acme", "research", steps=6, cost_nanousd=0)
    assert {active.run_id for active in quiet.meters.snapshot().active_runs} == before
    quiet.live("much fuller", "acme", "research", steps=9, cost_nanousd=0)
    shown = {active.run_id for active in quiet.meters.snapshot().active_runs}
    assert len(shown) == 20
    assert shown - before == {"much fuller"}
