"""Gauges of quotas: what the accounts say, bounded, in the window of now; users are counted and never named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from otelbudget import Config, Usage
from otelbudget.model.amounts import TOKENS
from otelbudget.model.levels import Where
from otelbudget.model.quota import Quota, Quotas
from otelbudget.telemetry import cells, quota_gauges
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS
from otelbudget.telemetry.prometheus import PrometheusCollector

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Traffic
    from world import World

    from otelbudget.telemetry.cells import Meters
    from otelbudget.telemetry.snapshot import Snapshot

DAILY = Quota(tokens=1_000, per="day")


def _page(meters: Meters) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """``{name: {labels that are not empty: value}}`` of the page that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(meters))
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = frozenset((name, value) for name, value in sample.labels.items() if value)
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _series(now: Snapshot) -> int:
    plain = sum(len(list(family.read(now))) for family in FAMILIES)
    return plain + sum(len(h.counts) + 2 for family in HISTOGRAMS for _, h in family.read(now))


def test_used_held_and_limit_are_in_the_units_of_what_is_limited(busy: Traffic) -> None:
    page = _page(busy.meters)
    acme = {"scope": "tenant", "org": "enterprise", "tenant": "acme", "store": "memory", "window": "month"}
    acme |= {"budget": "tokens + cost_usd per month", "mode": "enforce"}
    org = {"mode": "enforce", "scope": "org", "org": "enterprise", "store": "memory", "window": "lifetime"}
    org |= {"budget": "cost_usd per lifetime", "resource": "cost_usd"}
    model = {
        "mode": "enforce",
        "scope": "model",
        "org": "enterprise",
        "model": "small-*",
        "store": "memory",
        "window": "rolling 24h",
    }
    model |= {"budget": "steps per rolling 24h", "resource": "steps"}
    tokens, money = _labels(**acme, resource="tokens"), _labels(**acme, resource="cost_usd")
    whose = (tokens, money, _labels(**org), _labels(**model))
    expected = {
        "otelbudget_budget_used": (645, 0.05, 0.05, 3),
        "otelbudget_budget_reserved": (100, 0, 0, 0),
        "otelbudget_budget_limit": (1_000, 2, 500, 7),
    }
    for name, values in expected.items():
        assert page[name] == dict(zip(whose, values, strict=True)), name


def test_a_quota_that_only_warns_is_told_from_one_that_refuses(quiet: Traffic) -> None:
    for on_exhausted in ("raise", "warn"):
        quota = Quota(tokens=10, per="day", name="daily", on_exhausted=on_exhausted)
        quiet.quota(Where("tenant", ("default", "acme")), quota)
    page = _page(quiet.meters)
    for name in ("otelbudget_budget_used", "otelbudget_budget_reserved", "otelbudget_budget_limit"):
        assert sorted(dict(labels)["mode"] for labels in page[name]) == ["enforce", "warn"]
    assert len(page["otelbudget_budget_reset_timestamp_seconds"]) == 1


def test_the_end_of_the_window_is_told_where_it_has_one(busy: Traffic) -> None:
    whose = {"scope": "tenant", "org": "enterprise", "tenant": "acme", "budget": "tokens + cost_usd per month"}
    december_in_berlin = 1_701_385_200
    assert _page(busy.meters)["otelbudget_budget_reset_timestamp_seconds"] == {
        _labels(**whose, window="month"): december_in_berlin
    }


def test_users_are_counted_by_the_thresholds_they_have_reached(busy: Traffic) -> None:
    over = {ratio: _labels(tenant="acme", budget="per user", ratio=ratio) for ratio in ("0.8", "0.95", "1")}
    counted = {over["0.8"]: 2, over["0.95"]: 1, over["1"]: 1}
    assert _page(busy.meters)["otelbudget_users_over_ratio"] == counted


def test_no_user_is_named(busy: Traffic) -> None:
    values = {value for samples in _page(busy.meters).values() for labels in samples for _, value in labels}
    assert not values & {"u1", "u2", "u3", "u4", "user"}


def test_a_user_who_may_use_nothing_is_over_no_ratio(quiet: Traffic) -> None:
    quiet.quota(Where("user", ("default", "acme", "u1")), Quota(tokens=0, steps=5), steps=1)
    assert set(quiet.meters.snapshot().quotas.users_over.values()) == {0}


@pytest.mark.parametrize(("ok", "shown"), [(None, {}), (True, {frozenset(): 1.0}), (False, {frozenset(): 0.0})])
def test_whether_the_last_reload_was_applied(quiet: Traffic, ok: bool | None, shown: dict[object, float]) -> None:
    quiet.meters.reload_ok = ok
    assert _page(quiet.meters).get("otelbudget_config_last_reload_successful", {}) == shown


def test_who_is_named_in_the_configuration_is_shown_before_anybody_spends(make_world: Callable[..., World]) -> None:
    quotas = Quotas(org=(DAILY,), tenants={"acme": (DAILY,), "team-*": (DAILY,)}, models={"gpt-*": (DAILY,)})
    world = make_world(config=Config(quotas=quotas, tenants={"acme": "enterprise"}))
    shown = world.engine.meters.snapshot().quotas
    assert {(whose.scope, whose.org, whose.tenant, whose.model) for whose, _ in shown.amounts} == {
        ("org", "enterprise", "", ""),
        ("tenant", "enterprise", "acme", ""),
        ("model", "enterprise", "", "gpt-*"),
    }
    assert set(shown.amounts.values()) == {(0, 0, 1_000)}


def test_a_scrape_turns_the_window_though_nobody_calls(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(DAILY,))))
    with world.run(tenant="acme") as run:
        run.record_call(700)
    [(used, _, _)] = world.engine.meters.snapshot().quotas.amounts.values()
    [first_end_s] = world.engine.meters.snapshot().quotas.resets.values()
    world.advance(86_400)
    now = world.engine.meters.snapshot().quotas
    assert used == 700
    assert list(now.amounts.values()) == [(0, 0, 1_000)]
    assert list(now.resets.values()) == [first_end_s + 86_400]


def test_what_calls_in_flight_hold_is_shown(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(DAILY,))))
    with world.run(tenant="acme") as run, run.reserve(tokens=300) as hold:
        assert list(world.engine.meters.snapshot().quotas.amounts.values()) == [(0, 300, 1_000)]
        hold.commit(Usage(100, 20))
    assert list(world.engine.meters.snapshot().quotas.amounts.values()) == [(120, 0, 1_000)]


def test_quotas_of_each_root_run_are_not_shown(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(Quota(tokens=10, per="run"),))))
    with world.run(tenant="acme"):
        assert not world.engine.meters.snapshot().quotas.amounts


def test_ten_thousand_runs_of_seven_hundred_tenants_stay_bounded_and_add_up(make_world: Callable[..., World]) -> None:
    quotas = Quotas(
        org=(Quota(cost_usd=1_000, per="month"),),
        default=(DAILY, Quota(cost_usd=9, per="month")),
        users={"*": (DAILY,)},
    )
    world = make_world(config=Config(quotas=quotas))
    for i in range(10_000):
        with world.run(org=f"org-{i % 150}", tenant=f"tenant-{i % 700}", user=f"user-{i % 3}", reraise=False) as run:
            run.record(Usage(10, 5, cost_usd=0.000_000_001, model=f"model-{i % 9}"))
    for _ in range(2):  # nothing is counted twice, nothing moves from one label to another
        now = world.engine.meters.snapshot()
        by_tenant = {key: used for key, (used, _, _) in now.quotas.amounts.items() if key[0].scope == "tenant"}
        assert _series(now) <= 40_000
        assert sum(used for (_, i), used in by_tenant.items() if i == TOKENS) == 150_000
        assert sum(used for (_, i), used in by_tenant.items() if i != TOKENS) == 10_000
        assert len({whose.tenant for whose, _ in by_tenant}) <= cells.MAX_TENANTS + 1
        assert len({whose.org for whose, _ in now.quotas.amounts}) <= quota_gauges.MAX_ORGS + 1
        assert now.quotas.amounts.keys() >= {key for key in by_tenant if key[0].tenant == "other"} != set()
        assert {tenant for tenant, _, _ in now.quotas.users_over} >= {"other"}
    spent: dict[str, int] = {}
    for cell in now.spends:
        spent[cell.tenant] = spent.get(cell.tenant, 0) + cell.cost_nanousd
    named = {tenant: cost for tenant, cost in spent.items() if tenant not in ("other", "default")}
    assert named == {f"tenant-{t}": 15 - (t >= 200) for t in range(500)}
    assert sum(spent.values()) == 10_000
    assert world.engine.meters.snapshot().label_overflow == now.label_overflow > 200
    assert any(whose.tenant == "other" for whose in now.quotas.resets)


def test_however_many_quotas_there_are_they_stay_bounded_and_add_up(quiet: Traffic) -> None:
    for i in range(30_000):
        named = Quota(tokens=10, steps=3, name=f"quota-{i % 999}", per=f"rolling {i % 77 + 1}h")
        quiet.quota(Where("tenant", (f"org-{i % 888}", f"tenant-{i % 777}")), named, tokens=1)
    now = quiet.meters.snapshot()
    assert _series(now) <= quota_gauges.MAX_QUOTA_SERIES + 100
    used = {i: sum(used for (_, j), (used, _, _) in now.quotas.amounts.items() if i == j) for i in (0, TOKENS)}
    assert used == {0: 0, TOKENS: 30_000}
    assert now.label_overflow > 0


def test_a_tenant_that_is_called_other_adds_to_the_others(quiet: Traffic) -> None:
    quiet.meters._tenant_names._limit = 1
    for tenant in ("acme", "other", "globex"):
        quiet.quota(Where("tenant", ("default", tenant)), DAILY, tokens=5)
    assert {whose.tenant: used for (whose, _), (used, _, _) in quiet.meters.snapshot().quotas.amounts.items()} == {
        "acme": 5,
        "other": 10,
    }


def test_the_first_window_to_end_is_told_of_those_that_are_summed_up(quiet: Traffic) -> None:
    quiet.meters._tenant_names._limit = 0
    for tenant, zone in (("acme", "UTC"), ("globex", "Asia/Tokyo")):
        quota = Quota(tokens=10, per="day", timezone=zone)
        quiet.quota(Where("tenant", ("default", tenant)), quota)
    [end_s] = quiet.meters.snapshot().quotas.resets.values()
    assert end_s == 1_700_060_400 - 54_000  # midnight in UTC; Tokyo's, 15 hours later by then, is not the first


def test_calls_go_on_while_quotas_are_read_however_many_there_are(quiet: Traffic) -> None:
    for i in range(1_000):
        quiet.quota(Where("user", ("default", "acme", f"user-{i}")), DAILY)
    with quiet.ledger.lock, ThreadPoolExecutor(1) as pool:
        readings = pool.submit(quiet.meters._quotas.read).result(timeout=20)
    assert readings.users_over.keys() == {("acme", "tokens per day", ratio) for ratio in ("0.8", "0.95", "1")}


def test_where_no_room_is_left_a_tenant_keeps_its_whole_spend_under_its_own_name(quiet: Traffic) -> None:
    models, tenants = 60, 500
    for i in range(models * tenants):
        tenant, model = f"tenant-{i % tenants}", f"model-{i // tenants}"
        quiet.spend(tenant, model, (3, 2), 7)
        quiet.meters.details(tenant, model).cache_read += 1
        quiet.meters.budget(tenant, f"budget-{model}", (5,) * 7).call += 1
        quiet.meters.count(tenant, f"budget-{model}", "call", "deny", "limit", "steps")
        quiet.meters.observe_run(tenant, f"outcome-{i % 3}", [1] * 7, 1.0, None)
    now = quiet.meters.snapshot()
    assert _series(now) <= 40_000
    spent: dict[str, int] = {}
    for cell in now.spends:
        spent[cell.tenant] = spent.get(cell.tenant, 0) + cell.cost_nanousd
    assert spent == {f"tenant-{i}": 7 * models for i in range(tenants)} | {"other": 0}
    assert sum(cell.cache_read for cell in now.details) == models * tenants
    assert sum(tally.n for cell in now.budgets for tally in cell.rare.values()) == models * tenants
    assert now.label_overflow > 0
