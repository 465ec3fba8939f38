"""Recording and alert rules; written by `generate.py`."""

from __future__ import annotations

from typing import Any

import queries

Json = dict[str, Any]

_SHARE = "otelbudget:quota_used:ratio"
_ENFORCED = f"{_SHARE}{{{queries.ENFORCED}}}"
_EMPTY_IN = "otelbudget:quota_exhausted_in:seconds"
_GROWTH = "otelbudget:quota_growth:ratio_per_second"
_DENIALS = "otelbudget:denials:rate5m"
_SPEND = "otelbudget:cost_usd:rate5m"
_MISCOUNTED = " + ".join(
    f"increase(otelbudget_{what}_total[15m])" for what in ("store_wiped", "store_saturated", "settles_lost")
)
_WHOSE = "{{ $labels.scope }} {{ or $labels.tenant $labels.model $labels.agent $labels.tag $labels.org }}"
_QUOTA = f"{_WHOSE}: quota {{{{ $labels.budget }}}} ({{{{ $labels.resource }}}})"
_PERCENT = "{{ $value | humanizePercentage }}"
_NUMBER = '{{ $value | printf "%.0f" }}'


def recorded() -> list[Json]:
    """What the alerts, and whoever asks for the same, read."""
    by = "by (tenant, budget)"
    again = f"sum {by} (rate(otelbudget_repeated_denials_total[5m]))"
    denied = f"sum {by} (rate({queries.checks(queries.DENIED)}[5m]))"
    rules = {
        _SHARE: queries.share(),
        f"{_GROWTH}_5m": queries.growth(),
        f"{_GROWTH}_30m": queries.growth(window="30m"),
        "otelbudget:quota_resets_in:seconds": queries.resets_in(),
        _EMPTY_IN: queries.exhausted_in(),
        _SPEND: "sum by (tenant) (rate(otelbudget_cost_usd_total[5m]))",
        _DENIALS: f"clamp_min({denied} - {again}, 0) or {denied}",
    }
    return [{"record": name, "expr": expr} for name, expr in rules.items()]


def money() -> list[Json]:
    """Who is stopped, or will be, and what costs more than it should."""
    burns = [
        f'{_GROWTH}_{window}{{window="{per}", mode="enforce"}} * {seconds} > 14.4' for window, per, seconds in _BURNS
    ]
    return [
        _alert(
            "TenantBlocked",
            queries.blocked(lambda only: f"{_SHARE}{{{only}}}", "budget"),
            "1m",
            "critical",
            "{{ with $labels.tenant }}Tenant {{ . }} is{{ else }}Tenants are{{ end }} refused by the quota "
            f"{{{{ $labels.budget }}}} {_NUMBER} times a minute",
            "Raise the quota or wait until it begins anew.",
        ),
        _alert(
            "QuotaExhausted",
            f"{_ENFORCED} >= 1",
            "1m",
            "warning",
            f"{_QUOTA} is used up: {_PERCENT}",
            "What it covers is refused until it begins anew.",
        ),
        _alert(
            "Quota95",
            f"{_ENFORCED} >= 0.95 < 1",
            "1m",
            "warning",
            f"{_QUOTA} is nearly used up: {_PERCENT}",
            "What does not fit into the rest is refused.",
        ),
        _alert(
            "Quota80",
            f"{_ENFORCED} >= 0.8 < 0.95",
            "1m",
            "info",
            f"{_QUOTA} fills up: {_PERCENT}",
            "Little is refused yet.",
        ),
        _alert(
            "QuotaExhaustsSoon",
            f"{_EMPTY_IN}{{{queries.ENFORCED}}} < 3600 and ({_SHARE} > 0.5 < 0.95)",
            "2m",
            "warning",
            f"{_QUOTA} runs out in {{{{ $value | humanizeDuration }}}}",
            "That is before its window ends, if things go on as in the last minutes.",
        ),
        _alert(
            "BurnFast",
            f"({burns[0]} and {burns[1]}) or ({burns[2]} and {burns[3]})",
            "2m",
            "warning",
            f"{_QUOTA} is used {{{{ $value | humanize }}}} times as fast as it lasts",
            "So in the last five and in the last thirty minutes.",
        ),
        _alert(
            "SpendSpike",
            f"{_SPEND} * 3600 > 1 and {_SPEND} > 4 * avg_over_time({_SPEND}[1d])",
            "5m",
            "warning",
            "Tenant {{ $labels.tenant }} spends {{ $value | humanize }} USD per hour, four times its usual",
            "The day's average is the measure.",
        ),
        _alert(
            "UnpricedCalls",
            "sum by (model) (increase(otelbudget_unpriced_total[15m])) > 0",
            "0m",
            "warning",
            f"{_NUMBER} calls of {{{{ $labels.model }}}} in 15 minutes had no price",
            "They cost nothing in any budget. Add the model under prices.",
        ),
    ]


def refusals() -> list[Json]:
    """Code and users that run into limits."""
    asked = f"sum by (tenant) (rate({queries.checks('')}[5m]))"
    denied = f"sum by (tenant) ({_DENIALS})"
    return [
        _alert(
            "DenialSpike",
            f"{denied} / {asked} > 0.2 and {denied} * 300 > 10",
            "2m",
            "warning",
            f"{_PERCENT} of what tenant {{{{ $labels.tenant }}}} asks for is refused",
            "Over five minutes, repeats left out.",
        ),
        _alert(
            "RetryLoop",
            "sum by (tenant, budget) (rate(otelbudget_repeated_denials_total[5m])) * 60 > 30",
            "5m",
            "warning",
            f"Code of tenant {{{{ $labels.tenant }}}} swallows {_NUMBER} refusals of {{{{ $labels.budget }}}} a minute",
            "Its runs ask again for what they were refused: BudgetExceeded must pass.",
        ),
        _alert(
            "OnlyWarns",
            f'{_SHARE}{{mode="warn"}} >= 1',
            "1m",
            "info",
            f"{_QUOTA} is over its limit, and only warns: {_PERCENT}",
            "Nothing is refused.",
        ),
        _alert(
            "UsersOver",
            'max by (tenant, budget) (otelbudget_users_over_ratio{ratio="1"}) > 0',
            "5m",
            "info",
            "Users of tenant {{ $labels.tenant }} have used up {{ $labels.budget }}: {{ $value }}",
            "Each has a quota of its own, which refuses what does not fit.",
        ),
    ]


def health() -> list[Json]:
    """Whether the budgeting itself works."""
    slow = queries.quantile(0.99, "otelbudget_check_duration_seconds_bucket", "5m", "le, operation, store")
    low = queries.quantile(0.5, "otelbudget_estimate_ratio_bucket", "15m", "le, model")
    return [
        _alert(
            "StoreDown",
            "min by (store) (otelbudget_store_up) == 0",
            "1m",
            "critical",
            "The {{ $labels.store }} store can't be reached",
            "What becomes of requests is the policy of the store (on_error).",
        ),
        _alert(
            "FailOpen",
            "sum by (store, policy) (increase(otelbudget_store_unguarded_checks_total[5m])) > 0",
            "0m",
            "critical",
            f"{_NUMBER} requests in five minutes were admitted without the {{{{ $labels.store }}}} store",
            "By the policy {{ $labels.policy }}: quotas may be exceeded.",
        ),
        _alert(
            "StoreMiscounts",
            f"sum by (store) ({_MISCOUNTED}) > 0",
            "0m",
            "critical",
            f"The {{{{ $labels.store }}}} store has counted too little, {_NUMBER} times in 15 minutes",
            "Its data was gone, a sum was full, or a settlement never reached it (the log says which): quotas may be "
            "exceeded.",
        ),
        _alert(
            "ReservationLeaked",
            "max by (store) (otelbudget_reservation_oldest_seconds) > 900",
            "5m",
            "warning",
            "A reservation has been open for {{ $value | humanizeDuration }}",
            "What it holds is missing to everybody: some code neither commits nor releases.",
        ),
        _alert(
            "NoTelemetry",
            "absent(otelbudget_build_info)",
            "5m",
            "critical",
            "No process reports its budgets",
            "Limits may hold, but nobody sees it: look at the targets of Prometheus.",
        ),
        _alert(
            "TracesLost",
            'sum(increase({__name__=~"otelcol_exporter_send_failed_spans(_total)?"}[5m])) > 0',
            "5m",
            "warning",
            f"The collector could not deliver {_NUMBER} spans in five minutes",
            "Boards of runs lack them.",
        ),
        _alert(
            "ConfigReloadFailed",
            "min by (instance) (otelbudget_config_last_reload_successful) == 0",
            "1m",
            "warning",
            "{{ $labels.instance }} refused its configuration",
            "The one before is in force; `otelbudget validate` says what is wrong.",
        ),
        _alert(
            "LabelsOverflow",
            "sum(increase(otelbudget_label_overflow_total[15m])) > 0",
            "0m",
            "info",
            "Some tenants, models or budgets are counted as other",
            "Sums stay right; telemetry.max_tenants and max_models allow more names.",
        ),
        _alert(
            "ChecksSlow",
            f"{slow} > 0.1",
            "5m",
            "warning",
            "One in a hundred checks takes {{ $value | humanizeDuration }}",
            "Operation {{ $labels.operation }}, store {{ $labels.store }}: every call waits for that.",
        ),
        _alert(
            "EstimatesTooLow",
            f"{low} > 1.1",
            "15m",
            "warning",
            f"Calls of {{{{ $labels.model }}}} use {_PERCENT} of what is held for them",
            "At the median: parallel calls may overshoot by that.",
        ),
    ]


def rules() -> Json:
    """The rule file."""
    groups = {"record": recorded(), "money": money(), "refusals": refusals(), "health": health()}
    return {"groups": [{"name": f"otelbudget-{name}", "rules": found} for name, found in groups.items()]}


def _alert(name: str, expr: str, wait: str, severity: str, summary: str, description: str) -> Json:
    of_tenant = "$labels.tenant" in summary
    whose = "{{ with $labels.tenant }}tenant?var-tenant={{ . | urlquery }}{{ else }}overview{{ end }}"
    board = f"/d/otelbudget-{whose if of_tenant else 'overview'}"
    return {
        "alert": f"Otelbudget{name}",
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        # The board is a path of whatever Grafana shows it.
        "annotations": {"summary": summary, "description": description, "dashboard": board},
    }


#: Look-back, window, its seconds.
_BURNS = (("5m", "day", 86_400), ("30m", "day", 86_400), ("5m", "month", 2_592_000), ("30m", "month", 2_592_000))
