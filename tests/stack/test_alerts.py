"""The alert rules in Prometheus' own unit test: what fires on which series, and what must not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tools import promtool

from otelbudget import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

# The first run on a machine builds promtool.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ALERTS = Path(__file__).parents[2] / "grafana" / "alerts"
RULES = ALERTS / "otelbudget.rules.yaml"
#: Labels of a tenant's quota in every scenario.
WHOSE = 'scope="tenant", org="default", tenant="acme", model="", agent="", tag="", budget="daily", window="day"'
#: And of the organisation's.
ORG = WHOSE.replace('"tenant"', '"org"').replace('"acme"', '""')
#: What a process that reports says, so that its absence is no part of the scenario.
REPORTS = {"otelbudget_build_info": "1x400"}


def _quota(used: str, *, mode: str = "enforce", reset: str = "86400x400", whose: str = WHOSE) -> dict[str, str]:
    """Series of a quota of 1,000, of which *used* is used."""
    labels = f'{whose}, resource="tokens", mode="{mode}", store="memory", instance="a"'
    return REPORTS | {
        f"otelbudget_budget_used{{{labels}}}": used,
        f"otelbudget_budget_limit{{{labels}}}": "1000x400",
        f"otelbudget_budget_reset_timestamp_seconds{{{whose}}}": reset,
    }


def _checks(decision: str, counts: str, **more: str) -> dict[str, str]:
    labels = {"tenant": "acme", "budget": "daily", "operation": "call", "decision": decision} | more
    return {"otelbudget_checks_total{" + ", ".join(f'{k}="{v}"' for k, v in labels.items()) + "}": counts}


def _store(wrong: str = "") -> dict[str, str]:
    """What a process says of its store, to which something *wrong* happened a few minutes before the half hour."""
    return {f"otelbudget_{what}_total{{{STORE}}}": "0x26 1x400" if what == wrong else "0x400" for what in MISCOUNTS}


def _buckets(metric: str, labels: str, counts: Mapping[str, str]) -> dict[str, str]:
    return {f'{metric}_bucket{{{labels}, le="{le}"}}': count for le, count in counts.items()}


DENIED = _checks("deny", "0+6x400", reason="limit", resource="tokens")
REPEATED = 'otelbudget_repeated_denials_total{tenant="acme", budget="daily"}'
STORE = 'store="redis"'
MISCOUNTS = ("store_wiped", "store_saturated", "settles_lost")
#: What it is, the series each minute, and the alerts that fire after half an hour.
SCENARIOS: list[tuple[str, dict[str, str], set[str]]] = [
    ("all is well", _quota("100x400"), set()),
    ("nobody reports", {}, {"NoTelemetry"}),
    ("four fifths used", _quota("800x400"), {"Quota80"}),
    ("nearly used up", _quota("950x400"), {"Quota95"}),
    ("used up", _quota("1000x400"), {"QuotaExhausted"}),
    ("a call never fits", _quota("998x400") | DENIED, {"Quota95", "TenantBlocked", "DenialSpike"}),
    ("a share alone blocks nobody", _quota("998x400") | _checks("allow", "0+6x400"), {"Quota95"}),
    ("a run's budget refuses", _quota("100x400") | DENIED, {"DenialSpike"}),
    (
        "the organisation's quota refuses",
        _quota("998x400", whose=ORG) | DENIED,
        {"Quota95", "TenantBlocked", "DenialSpike"},
    ),
    (
        "another tenant's quota of that name is full",
        _quota("998x400", whose=WHOSE.replace('"acme"', '"other"')) | DENIED,
        {"Quota95", "DenialSpike"},
    ),
    ("probes refuse nobody", _quota("998x400") | _checks("deny", "0+6x400", operation="probe"), {"Quota95"}),
    ("it only warns", _quota("1500x400", mode="warn"), {"OnlyWarns"}),
    ("runs out before its reset", _quota("300+11x400"), {"QuotaExhaustsSoon", "BurnFast"}),
    ("begins anew before that", _quota("300+11x400", reset="2400x400"), {"BurnFast"}),
    ("slow and steady", _quota("600+0.1x400"), set()),
    ("fast for five minutes only", _quota("10x25 10+12x400"), set()),
    ("spends as always", REPORTS | {'otelbudget_cost_usd_total{tenant="acme", model="m"}': "0+1x400"}, set()),
    (
        "spends more than four times its usual",
        REPORTS | {'otelbudget_cost_usd_total{tenant="acme", model="m"}': "0+0.01x23 1+20x400"},
        {"SpendSpike"},
    ),
    ("no price", REPORTS | {'otelbudget_unpriced_total{model="new"}': "0x20 1x400"}, {"UnpricedCalls"}),
    ("few refusals among many", REPORTS | DENIED | _checks("allow", "0+60x400"), set()),
    ("a loop", REPORTS | _checks("allow", "0+60x400") | DENIED | {REPEATED: "0+40x400"}, {"RetryLoop"}),
    (
        "repeats are no spike",
        REPORTS | _checks("allow", "0+6x400") | DENIED | {REPEATED: "0+5.9x400"},
        set(),
    ),
    (
        "users over",
        REPORTS | {'otelbudget_users_over_ratio{tenant="acme", budget="per user", ratio="1"}': "2x400"},
        {"UsersOver"},
    ),
    ("a store that is gone", REPORTS | {f"otelbudget_store_up{{{STORE}}}": "1x20 0x400"}, {"StoreDown"}),
    (
        "admitted without the store",
        REPORTS | {f'otelbudget_store_unguarded_checks_total{{{STORE}, policy="fail_open"}}': "0x26 9x400"},
        {"FailOpen"},
    ),
    ("a store that nothing is wrong with", REPORTS | _store(), set()),
    *((f"a store with {what}", REPORTS | _store(what), {"StoreMiscounts"}) for what in MISCOUNTS),
    ("a leak", REPORTS | {f"otelbudget_reservation_oldest_seconds{{{STORE}}}": "0+60x400"}, {"ReservationLeaked"}),
    ("spans that get lost", REPORTS | {"otelcol_exporter_send_failed_spans": "0+5x400"}, {"TracesLost"}),
    ("a bad file", REPORTS | {"otelbudget_config_last_reload_successful": "1x20 0x400"}, {"ConfigReloadFailed"}),
    ("too many names", REPORTS | {"otelbudget_label_overflow_total": "0x20 7x400"}, {"LabelsOverflow"}),
    (
        "slow checks",
        REPORTS
        | _buckets(
            "otelbudget_check_duration_seconds",
            'operation="call", store="redis"',
            {"0.1": "0+50x400", "0.5": "0+60x400", "+Inf": "0+60x400"},
        ),
        {"ChecksSlow"},
    ),
    (
        "estimates that are too low",
        REPORTS
        | _buckets("otelbudget_estimate_ratio", 'model="m"', {"1.1": "0+1x400", "2.0": "0+9x400", "+Inf": "0+9x400"}),
        {"EstimatesTooLow"},
    ),
]


def _check(scenarios: list[dict[str, Any]], directory: Path, rules: Path = RULES) -> str:
    """What promtool finds wrong; nothing if all is as expected."""
    file = directory / "test.yaml"
    tests = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": scenarios}
    file.write_text(yaml.safe_dump(tests, sort_keys=False), "utf-8")
    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _scenario(name: str, series: Mapping[str, str], fires: set[str]) -> dict[str, Any]:
    samples = [{"labels": f'{{alertname="Otelbudget{alert}"}}', "value": 1} for alert in sorted(fires)]
    firing = 'group by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "30m", "exp_samples": samples}],
    }


def test_what_fires_and_what_does_not(tmp_path: Path) -> None:
    assert _check([_scenario(*one) for one in SCENARIOS], tmp_path) == ""


IN_QUOTA = {"resource": "tokens", "mode": "enforce", "org": "default", "budget": "daily", "window": "day"}


@pytest.mark.parametrize(
    ("series", "alert", "labels", "annotations"),
    [
        (
            _quota("1000x400"),
            "QuotaExhausted",
            IN_QUOTA | {"severity": "warning", "scope": "tenant", "tenant": "acme"},
            {
                "summary": "tenant acme: quota daily (tokens) is used up: 100%",
                "description": "What it covers is refused until it begins anew.",
                "dashboard": "/d/otelbudget-tenant?var-tenant=acme",
            },
        ),
        (
            _quota("850x400", whose=ORG),
            "Quota80",
            IN_QUOTA | {"severity": "info", "scope": "org"},
            {
                "summary": "org default: quota daily (tokens) fills up: 85%",
                "description": "Little is refused yet.",
                "dashboard": "/d/otelbudget-overview",
            },
        ),
        (
            _quota("998x400") | DENIED,
            "TenantBlocked",
            {"severity": "critical", "tenant": "acme", "budget": "daily"},
            {
                "summary": "Tenant acme is refused by the quota daily 6 times a minute",
                "description": "Raise the quota or wait until it begins anew.",
                "dashboard": "/d/otelbudget-tenant?var-tenant=acme",
            },
        ),
        (
            _quota("998x400", whose=ORG) | DENIED | {key.replace("acme", "globex"): one for key, one in DENIED.items()},
            "TenantBlocked",
            {"severity": "critical", "budget": "daily"},
            {
                "summary": "Tenants are refused by the quota daily 12 times a minute",
                "description": "Raise the quota or wait until it begins anew.",
                "dashboard": "/d/otelbudget-overview",
            },
        ),
    ],
)
def test_an_alert_says_whose_which_budget_and_how_much_and_leads_to_its_board(
    series: dict[str, str], alert: str, labels: dict[str, str], annotations: dict[str, str], tmp_path: Path
) -> None:
    scenario = _scenario("", series, set()) | {"promql_expr_test": []}
    expected = {"exp_labels": labels, "exp_annotations": annotations}
    scenario["alert_rule_test"] = [
        {"alertname": f"Otelbudget{alert}", "eval_time": "30m", "exp_alerts": [expected]},
    ]
    assert _check([scenario], tmp_path) == ""


@pytest.mark.parametrize("whose", [WHOSE, ORG])
def test_the_board_says_for_how_long_a_quota_has_refused(whose: str, generate: ModuleType, tmp_path: Path) -> None:
    panels = generate.boards()["overview.json"]["panels"]
    [refusals] = [panel for panel in panels if panel["title"].startswith("Who is refused")]
    expr = refusals["targets"][1]["expr"]
    scenario = _scenario("", _quota("998x400", whose=whose) | DENIED, set())
    labels = '{tenant="acme", budget="daily", resource="tokens", reason="limit", operation="call"}'
    samples = [{"labels": labels, "value": 29 * 60}]
    scenario["promql_expr_test"] = [{"expr": expr, "eval_time": "30m", "exp_samples": samples}]
    assert _check([scenario], tmp_path) == ""


def test_every_alert_is_in_a_scenario() -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    alerts = {
        rule["alert"].removeprefix("Otelbudget") for group in groups for rule in group["rules"] if "alert" in rule
    }
    assert alerts == set().union(*(fires for _, _, fires in SCENARIOS))


def test_a_broken_rule_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "rules.yaml"
    broken.write_text(RULES.read_text("utf-8").replace("otelbudget_store_up", "otelbudget_store_ip"), "utf-8")
    assert "StoreDown" in _check([_scenario(*one) for one in SCENARIOS], tmp_path, broken)


def test_rules_ask_for_metrics_of_the_contract_and_for_what_they_record() -> None:
    text = RULES.read_text("utf-8")
    recorded = set(re.findall(r"record: (\S+)", text))
    assert set(re.findall(r"otelbudget:[\w:]+", text)) == recorded
    names = {value for name, value in vars(semconv).items() if name.startswith("M_")}
    for name in re.findall(r"(?<!/d/)\botelbudget_\w+", text):
        assert name in names or name.removesuffix("_bucket") in names, name


def test_alertmanager_silences_only_alerts_that_there_are() -> None:
    config = yaml.safe_load((ALERTS / "alertmanager.yaml").read_text("utf-8"))
    there = set(re.findall(r"alert: (\S+)", RULES.read_text("utf-8")))
    for rule in config["inhibit_rules"]:
        named = re.findall(r"Otelbudget\w+", str(rule["source_matchers"] + rule["target_matchers"]))
        assert set(named) <= there
        assert not set(re.findall(r"Otelbudget\w+", str(rule["source_matchers"]))) & set(
            re.findall(r"Otelbudget\w+", str(rule["target_matchers"]))
        )
