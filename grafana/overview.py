"""The Overview board: is money being spent as it should be, who is close to a limit, who was refused and why.

Read from the top: eight numbers, then the quotas and the runs that are nearly used up, the refusals and what quotas
hold, then who spends on what, then whether the budgeting itself works. Every query aggregates, since several processes
may be scraped.
"""

from __future__ import annotations

import quotas
from blocks import FULL, Json, bars, dashboard, instant, query, stat, table, timeseries

#: Probes (`can_proceed`) refuse nobody, so they are left out wherever requests are counted.
CHECKS = 'otelbudget_checks_total{tenant=~"$tenant", operation!="probe"'
COST = 'otelbudget_cost_usd_total{tenant=~"$tenant"}'
RATIO = 'max by (tenant, budget, run_id) (otelbudget_active_run_used_ratio{tenant=~"$tenant"})'
RUN_COST = 'max by (tenant, budget, run_id) (otelbudget_active_run_cost_usd{tenant=~"$tenant"})'
CLOSEST = f"topk(10, {RATIO})"
#: A sample of the checks is timed and calls may be rare, so latency and accuracy look back further than one scrape.
LOOK_BACK = "5m"
TENANTS_OWN = 'scope="tenant"'


def overview() -> Json:
    """The whole board."""
    return dashboard(
        "otelbudget-overview",
        "otelbudget / Overview",
        "Spend, refusals and the runs closest to their limits, over all tenants.",
        [
            (4, [(3, panel) for panel in _numbers()]),
            (9, [(11, quotas.fullest()), (13, _closest_runs())]),
            (8, [(8, _refusals()), (8, quotas.tokens()), (8, quotas.money())]),
            (8, [(10, _spend_by_tenant()), (7, _spend_by_model()), (7, _tokens())]),
            (8, [(12, _tenants()), (7, _run_costs()), (5, _outcomes())]),
            (8, [(8, _decisions()), (8, _latency()), (8, _estimates())]),
        ],
    )


def _numbers() -> list[Json]:
    return [
        stat(
            "Spent",
            "Money charged to runs in the time range shown.",
            instant(f"sum(increase({COST}[$__range]))"),
            unit="currencyUSD",
        ),
        stat(
            "Burn rate per hour",
            "Money per hour if spending went on as it does now.",
            query(f"sum(rate({COST}[$__rate_interval])) * 3600"),
            unit="currencyUSD",
        ),
        quotas.nearly_used_up(),
        quotas.soonest_exhaustion(),
        stat(
            "Runs active",
            "Runs in progress now.",
            query('sum(otelbudget_runs_active{tenant=~"$tenant"})'),
            unit="locale",
        ),
        stat(
            "Admitted",
            "Model and tool calls, reservations and checks that were within every budget, in the range shown.",
            instant(f'sum(increase({CHECKS}, decision=~"allow|warn"}}[$__range]))'),
            unit="locale",
            decimals=0,
        ),
        stat(
            "Refused",
            "Requests that were not, in the range shown. A refused model call sends no request.",
            instant(f'sum(increase({CHECKS}, decision="deny"}}[$__range]))'),
            unit="locale",
            decimals=0,
            loud_from=0.5,
        ),
        stat(
            "Check, p99",
            "99 of 100 checks took less than this, in the range shown.",
            instant(_quantile(0.99, "otelbudget_check_duration_seconds_bucket", "$__range")),
            unit="s",
            no_value="-",
        ),
    ]


def _quantile(share: float, buckets: str, window: str, by: str = "le") -> str:
    """A quantile of what was observed in *window*, and nothing (not NaN) where nothing was."""
    return f"histogram_quantile({share}, sum by ({by}) (rate({buckets}[{window}]))) >= 0"


def _closest_runs() -> Json:
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    return table(
        "Which runs are closest to their limits?",
        "Runs in progress by the greatest used share of any of their limits. Gone when they end; look ended runs up "
        "in the traces by their id.",
        [instant(CLOSEST), instant(f"{RUN_COST} and on (tenant, budget, run_id) {CLOSEST}")],
        {
            "tenant": {"displayName": "Tenant", "custom.width": 110},
            "budget": {"displayName": "Budget", "custom.width": 140},
            "run_id": {"displayName": "Run", "custom.width": 300},
            "Value #B": {"displayName": "Cost", "unit": "currencyUSD", "custom.width": 90},
            "Value #A": {
                "displayName": "Used",
                "unit": "percentunit",
                "min": 0,
                "max": 1,
                "thresholds": FULL,
                "color": {"mode": "thresholds"},
                "custom.cellOptions": gauge,
            },
        },
        sort_by="Used",
    )


def _refusals() -> Json:
    return timeseries(
        "Why are requests refused?",
        "Refusals per minute by reason: limit (nothing left), latched (asked again after that), deadline (out of "
        "time), busy (held by calls in flight), frozen, closed, unpriced.",
        [query(f'sum by (reason) (rate({CHECKS}, decision="deny"}}[$__rate_interval])) * 60', "{{reason}}")],
        unit="suffix:/min",
        style="bars",
        stacked=True,
    )


def _spend_by_tenant() -> Json:
    return timeseries(
        "Who is spending?",
        "Money per hour by tenant.",
        [query(f"sum by (tenant) (rate({COST}[$__rate_interval])) * 3600", "{{tenant}}")],
        unit="currencyUSD",
        stacked=True,
    )


def _tenants() -> Json:
    spend = f"sum by (tenant) (increase({COST}[$__range]))"
    refused = f'sum by (tenant) (increase({CHECKS}, decision="deny"}}[$__range]))'
    this_tenant = {
        "title": "Show this tenant only",
        "url": "/d/otelbudget-overview?var-tenant=${__value.raw}&${__url_time_range}",
    }
    return table(
        "Which tenants spend most?",
        "In the range shown. Quota: the used share of the tenant's fullest one, now.",
        [
            instant(f"topk(20, {spend})"),
            instant(f"max by (tenant) ({quotas.share(TENANTS_OWN)})"),
            instant(refused),
        ],
        {
            "tenant": {"displayName": "Tenant", "links": [this_tenant]},
            "Value #A": {"displayName": "Spent", "unit": "currencyUSD", "custom.width": 110},
            "Value #B": {
                "displayName": "Quota",
                "unit": "percentunit",
                "decimals": 0,
                "min": 0,
                "max": 1,
                "thresholds": FULL,
                "color": {"mode": "thresholds"},
                "custom.cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
            },
            "Value #C": {"displayName": "Refused", "unit": "locale", "decimals": 0, "custom.width": 90},
        },
        sort_by="Spent",
    )


def _spend_by_model() -> Json:
    spend = f"sort_desc(sum by (model) (increase({COST}[$__range])) > 0)"
    return bars(
        "On which models?",
        "Money by model in the range shown.",
        instant(f'label_replace({spend}, "model", "(no model)", "model", "")', "{{model}}"),
        unit="currencyUSD",
    )


def _tokens() -> Json:
    tokens = 'otelbudget_tokens_total{tenant=~"$tenant"}'
    return timeseries(
        "How many tokens?",
        "Tokens per second by type. Input includes cached tokens, output includes reasoning.",
        [query(f"sum by (token_type) (rate({tokens}[$__rate_interval]))", "{{token_type}}")],
        unit="suffix:tok/s",
        stacked=True,
        colours=("input", "output"),
    )


def _decisions() -> Json:
    return timeseries(
        "What is decided?",
        "Decisions per second. warn: over a limit that only warns.",
        [query(f"sum by (decision) (rate({CHECKS}}}[$__rate_interval]))", "{{decision}}")],
        unit="reqps",
        colours=("allow", "warn", "deny"),
    )


def _latency() -> Json:
    buckets = "otelbudget_check_duration_seconds_bucket"
    return timeseries(
        "How long does a check take?",
        "What budgeting adds to a call. The dots are single checks and lead to their traces.",
        [
            query(_quantile(0.99, buckets, LOOK_BACK), "p99", exemplar=True),
            query(_quantile(0.5, buckets, LOOK_BACK), "p50"),
        ],
        unit="s",
    )


def _estimates() -> Json:
    return timeseries(
        "Are the estimates right?",
        "Actual tokens as a share of what was held for the call, median by model. Above 100 % calls cost more than was "
        "held for them.",
        [query(_quantile(0.5, "otelbudget_estimate_ratio_bucket", LOOK_BACK, "le, model"), "{{model}}")],
        unit="percentunit",
        line_at=1,
    )


def _run_costs() -> Json:
    buckets = 'otelbudget_run_cost_usd_bucket{tenant=~"$tenant"}'
    return bars(
        "What does a run cost, in USD?",
        "Runs that ended in the range shown, by what they cost.",
        instant(f"sum by (le) (increase({buckets}[$__range]))", "up to {{le}}", format="heatmap"),
        unit="locale",
        decimals=0,
    )


def _outcomes() -> Json:
    ended = 'otelbudget_run_cost_usd_count{tenant=~"$tenant"}'
    return bars(
        "How do runs end?",
        "Runs that ended in the range shown. Exhausted: a budget stopped them.",
        instant(f"sum by (outcome) (increase({ended}[$__range]))", "{{outcome}}"),
        unit="locale",
        decimals=0,
        colours=("completed", "exhausted", "error"),
    )
