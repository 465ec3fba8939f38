"""The Tenant board: what one tenant spends, how full its quotas are and will be, what stops it."""

from __future__ import annotations

import panels
import queries
from blocks import TEMPO, Json, bars, column, instant, link_to, query, stat, table, timeseries, traces
from frame import dashboard, tenant_variable

OWN = 'tenant="$tenant"'
#: Windows whose projection says something about a bill.
BILLED = f'{OWN}, scope="tenant", resource="cost_usd"'


def tenant() -> Json:
    """The whole board."""
    return dashboard(
        "Tenant",
        "One tenant: spend, quotas, refusals, runs.",
        [
            (4, [(3, panel) for panel in _numbers()]),
            (6, [(24, panels.fullest_quotas(OWN, amounts=True))]),
            (8, [(12, _shares()), (12, _spend_by_model())]),
            (8, [(12, panels.refusals(OWN, "$__range")), (12, panels.refusals_over_time(OWN))]),
            (8, [(9, _run_costs()), (5, _outcomes()), (10, panels.runs_in_progress(OWN))]),
            (8, [(8, panels.money_by_model(OWN)), (8, _tokens()), (8, _users())]),
            (8, [(14, _dearest()), (10, panels.estimates("Are the estimates right, over all tenants?"))]),
        ],
        [tenant_variable()],
        since="now-1h",
    )


def _numbers() -> list[Json]:
    own_quotas = f"{OWN}, {queries.ENFORCED}"
    soonest = f"bottomk(1, {queries.exhausted_in(own_quotas)})"
    at_end = f"topk(1, {queries.projected(BILLED)})"
    spent = instant(f"sum(increase({queries.spend(OWN)}[$__range]))")
    refused = instant(queries.refused("$__range", only=OWN))
    usd: Json = {"unit": "currencyUSD"}
    count: Json = {"unit": "locale", "decimals": 0}
    return [
        stat("Spent today", "Money charged since midnight.", spent, since="now/d", **usd),
        stat("Spent this month", "Money charged since the month began.", spent, since="now/M", **usd),
        stat("Burn rate per hour", "As spending goes on now.", query(queries.per_hour(only=OWN)), **usd),
        stat(
            "Fullest quota",
            "The greatest used share of a quota that refuses.",
            instant(f"topk(1, {queries.share(own_quotas)})", "{{budget}}"),
            unit="percentunit",
            decimals=1,
            no_value="no quota",
            loud_from=0.95,
            name=True,
        ),
        stat(
            "Runs out next",
            "If spending goes on as in the last minutes; what is used up already does not count.",
            instant(soonest, "{{budget}}"),
            unit="s",
            decimals=0,
            no_value="none",
            name=True,
        ),
        stat(
            "At window's end",
            "What the quota in money that is used most will have been charged by its window's end, as things go on.",
            instant(at_end, "{{budget}}"),
            no_value="not growing",
            name=True,
            **usd,
        ),
        stat("Refused", "In the range shown, repeats left out.", refused, loud_from=0.5, **count),
        stat("Runs active", "Runs in progress now.", query(f"sum(otelbudget_runs_active{{{OWN}}})"), **count),
    ]


def _shares() -> Json:
    return timeseries(
        "How full are the quotas?",
        "Used share of the limit; at the dashed line requests are refused, unless the quota only warns.",
        [query(queries.share(OWN), "{{budget}} ({{resource}}, {{scope}})")],
        unit="percentunit",
        line_at=1,
    )


def _spend_by_model() -> Json:
    return timeseries(
        "What is being spent?",
        "Money per hour by model.",
        [query(queries.of_models(queries.per_hour("by (model)", OWN)), "{{model}}")],
        unit="currencyUSD",
        stacked=True,
    )


def _run_costs() -> Json:
    buckets = f"otelbudget_run_cost_usd_bucket{{{OWN}}}"
    return timeseries(
        "What does a run cost?",
        "Median and 95th percentile of the runs that ended in the last minutes. The dots are single runs and lead to "
        "their traces.",
        [
            query(queries.quantile(0.95, buckets, panels.LOOK_BACK), "p95", exemplar=True),
            query(queries.quantile(0.5, buckets, panels.LOOK_BACK), "p50"),
        ],
        unit="currencyUSD",
    )


def _outcomes() -> Json:
    ended = f"otelbudget_run_cost_usd_count{{{OWN}}}"
    return bars(
        "How do runs end?",
        "Runs that ended in the range shown. Exhausted: a budget stopped them.",
        instant(f"sum by (outcome) (increase({ended}[$__range]))", "{{outcome}}"),
        unit="locale",
        decimals=0,
        colours=("completed", "exhausted", "error"),
    )


def _tokens() -> Json:
    return timeseries(
        "How many tokens?",
        "Tokens per second by type. Input includes cached tokens, output includes reasoning.",
        [query(f"sum by (token_type) (rate(otelbudget_tokens_total{{{OWN}}}[$__rate_interval]))", "{{token_type}}")],
        unit="suffix:tok/s",
        stacked=True,
        colours=("input", "output"),
    )


def _users() -> Json:
    return table(
        "How many users are over a threshold?",
        "Users of the tenant who have used this share of a quota of theirs, or more. Empty without quotas of users.",
        [instant(f"max by (budget, ratio) (otelbudget_users_over_ratio{{{OWN}}})")],
        {
            "budget": column("Quota"),
            "ratio": column("Share used", 100, unit="percentunit"),
            "Value": column("Users", 80, decimals=0),
        },
        sort_by="Users",
    )


def _dearest() -> Json:
    cost = "span.otelbudget.used.cost_usd"
    spans = f'{{ span.otelbudget.tenant = "$tenant" && name =~ "otelbudget.run.*" && {cost} > 0.0 }}'
    by_run = f"{spans} | sum_over_time({cost}) by (span.otelbudget.run.id) | topk(10)"
    panel = bars(
        "Which runs were dearest?",
        "The ten run spans of the range shown that cost most, with the runs inside them; from the traces.",
        traces(by_run, metricsQueryType="instant"),
        unit="currencyUSD",
    )
    # Each run is a series of its own, with its id as the name.
    panel["fieldConfig"]["defaults"]["links"] = [link_to("run", "This run", "run", "${__series.name}")]
    return panel | {"datasource": TEMPO}
