"""The Overview board, for who gets the bill and who is on call.

Read from the top: what is spent and who is blocked; refusals and quotas; tenants and runs; then where the money goes,
and whether the budgeting itself works. Every query aggregates, since several processes may be scraped.
"""

from __future__ import annotations

import panels
import queries
from blocks import Json, column, instant, link_to, query, share_column, stat, table, timeseries
from frame import dashboard

TENANTS_OWN = f'scope="tenant", {queries.ENFORCED}'
CHECK_SECONDS = "otelbudget_check_duration_seconds_bucket"


def overview() -> Json:
    """The whole board."""
    return dashboard(
        "Overview",
        "Who spends what, who is refused by which budget, and what runs out next, over all tenants.",
        [
            (4, [(4, panel) for panel in _numbers()]),
            (10, [(11, panels.refusals()), (13, panels.fullest_quotas())]),
            (10, [(12, _tenants()), (12, panels.runs_in_progress())]),
            (8, [(10, _spend_by_tenant()), (8, panels.refusals_over_time()), (6, panels.money_by_model())]),
            (4, [(3, panel) for panel in _health()]),
            (7, [(8, _latency()), (8, _store()), (8, panels.estimates())]),
        ],
        [],
        since="now-1h",
    )


def _numbers() -> list[Json]:
    soonest = queries.named(f"bottomk(1, {queries.exhausted_in(queries.ENFORCED)})")
    return [
        stat(
            "Spent today",
            "Money charged since midnight.",
            instant(f"sum(increase({queries.spend()}[$__range]))"),
            unit="currencyUSD",
            since="now/d",
        ),
        stat(
            "Burn rate per hour",
            "Money per hour if spending goes on as it does now.",
            query(queries.per_hour()),
            unit="currencyUSD",
        ),
        stat(
            "Tenants blocked by a quota",
            "Tenants with requests refused in the last two minutes by a quota that is nearly used up.",
            instant(f"count(count by (tenant) ({queries.blocked()})) or vector(0)"),
            unit="locale",
            decimals=0,
            loud_from=1,
        ),
        stat(
            "Next quota to run out",
            "What is used up next if spending goes on as in the last minutes, and when. Quotas that begin anew "
            "before that, that are used up already or that only warn don't count.",
            instant(soonest, "{{who}}: {{budget}}"),
            unit="s",
            decimals=0,
            no_value="not in sight",
            name=True,
        ),
        stat(
            "Refused",
            "Requests refused in the range shown; what a run asks for again after that is left out.",
            instant(queries.refused("$__range")),
            unit="locale",
            decimals=0,
            loud_from=0.5,
        ),
        stat(
            "Processes reporting",
            "Processes whose metrics arrive.",
            query("count(otelbudget_build_info)"),
            unit="locale",
            decimals=0,
            loud_below=1,
        ),
    ]


def _tenants() -> Json:
    spent = f"topk(20, sum by (tenant) (increase({queries.spend()}[$__range])))"
    return table(
        "Which tenants spend most?",
        "Spent and refused in the range shown (repeats left out), per hour as it is now, and the used share of the "
        "fullest quota that refuses.",
        [
            instant(spent),
            instant(queries.per_hour("by (tenant)")),
            instant(f"max by (tenant) ({queries.share(TENANTS_OWN)})"),
            instant(queries.refused("$__range", "by (tenant)")),
        ],
        {
            "tenant": column("Tenant", links=[link_to("tenant", "This tenant", "tenant")]),
            "Value #A": column("Spent", 100, unit="currencyUSD"),
            "Value #B": column("Per hour", 100, unit="currencyUSD"),
            "Value #C": share_column("Fullest quota", 150),
            "Value #D": column("Refused", 90, unit="locale", decimals=0),
        },
        sort_by="Spent",
    )


def _spend_by_tenant() -> Json:
    return timeseries(
        "Who is spending?",
        "Money per hour, of the eight tenants that spend most.",
        [query(f"topk(8, {queries.per_hour('by (tenant)')})", "{{tenant}}")],
        unit="currencyUSD",
        stacked=True,
    )


def _health() -> list[Json]:
    return [
        stat(
            "Check, p99",
            "99 of 100 checks took less than this, in the range shown.",
            instant(queries.quantile(0.99, CHECK_SECONDS, "$__range")),
            unit="s",
            no_value="-",
            loud_from=0.1,
        ),
        stat(
            "Unpriced calls",
            "Calls of models that no price was known for, in the range shown.",
            instant("sum(increase(otelbudget_unpriced_total[$__range])) or vector(0)"),
            unit="locale",
            decimals=0,
            loud_from=0.5,
        ),
        stat(
            "Counted as other",
            "How often a name of a tenant, model or budget was one too many to be shown, in the range shown.",
            instant("sum(increase(otelbudget_label_overflow_total[$__range]))"),
            unit="locale",
            decimals=0,
            loud_from=0.5,
        ),
        stat(
            "Oldest hold",
            "Age of the oldest open reservation; about a minute after its process is gone each comes back.",
            query("max(otelbudget_reservation_oldest_seconds)"),
            unit="s",
            decimals=0,
            loud_from=300,
        ),
        stat(
            "Store",
            "Whether every process reached the store that others share the last time.",
            query("min(otelbudget_store_up)"),
            unit="none",
            no_value="in memory",
            words={"0": "down", "1": "up"},
        ),
        stat(
            "Without store",
            "Requests admitted while the store could not be asked, in the range shown.",
            instant("sum(increase(otelbudget_store_unguarded_checks_total[$__range])) or vector(0)"),
            unit="locale",
            decimals=0,
            loud_from=0.5,
        ),
        stat(
            "Last reload",
            "Whether every process applied the configuration as it is now.",
            query("min(otelbudget_config_last_reload_successful)"),
            unit="none",
            no_value="none yet",
            words={"0": "refused", "1": "applied"},
        ),
        stat(
            "Used of held",
            "Actual tokens as a share of what was held, median of all calls in the range shown.",
            instant(queries.quantile(0.5, "otelbudget_estimate_ratio_bucket", "$__range")),
            unit="percentunit",
            decimals=0,
            no_value="-",
        ),
    ]


def _latency() -> Json:
    return timeseries(
        "How long does a check take?",
        "What budgeting adds to a call. The dots are single checks and lead to their traces.",
        [
            query(queries.quantile(0.99, CHECK_SECONDS, panels.LOOK_BACK), "p99", exemplar=True),
            query(queries.quantile(0.5, CHECK_SECONDS, panels.LOOK_BACK), "p50"),
        ],
        unit="s",
    )


def _store() -> Json:
    return timeseries(
        "Is the store well?",
        "Per minute: trips that a shared store did not answer, requests admitted without its word, settlements lost; "
        "accounts that are gone and begin anew, sums that count no further. Nothing where quotas are in memory.",
        [
            query(f"sum by ({by}) (rate({metric}[$__rate_interval])) * 60", f"{{{{{by}}}}}: {what}")
            for metric, by, what in (
                ("otelbudget_store_errors_total", "store", "no answer"),
                ("otelbudget_store_unguarded_checks_total", "policy", "admitted"),
                ("otelbudget_settles_lost_total", "store", "lost"),
                ("otelbudget_store_wiped_total", "store", "gone"),
                ("otelbudget_store_saturated_total", "store", "full"),
            )
        ],
        unit="suffix:/min",
    )
