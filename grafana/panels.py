"""Panels that stand on more than one board."""

from __future__ import annotations

import queries
from blocks import NONE, Json, bars, column, instant, link_to, query, share_column, table, timeseries

#: A sample of the checks is timed and calls may be rare, so latency and accuracy look back further than one scrape.
LOOK_BACK = "5m"


def fullest_quotas(only: str = "", *, amounts: bool = False) -> Json:
    """How full quotas are, and how that will go on; with *amounts* also what is held and allowed."""
    share = queries.share(only)
    top = f"topk(15, {share})"
    asked = [top, queries.exhausted_in(only), queries.resets_of(only), queries.share_at_end(only)]
    shown = {"who": column("Whose", 95), "budget": column("Quota"), "resource": column("Resource", 80)}
    if amounts:
        asked += [queries.amount(which, only) for which in ("used", "reserved", "limit")]
        shown = {"budget": column("Quota"), "scope": column("Scope", 80), "resource": column("Resource", 80)}
    shown |= {
        "mode": column("Mode", 75),
        "Value #A": share_column("Share used", 125),
        "Value #B": column("Empty in", 80, unit="s", decimals=0),
        "Value #C": column("Begins anew in", 120, unit="s", decimals=0),
        "Value #D": column("At its end", 85, unit="percentunit", decimals=0),
    }
    if amounts:
        shown |= {
            "Value #E": column("Used", 90, unit="short"),
            "Value #F": column("Held", 80, unit="short"),
            "Value #G": column("Limit", 90, unit="short"),
        }
    which = f"on ({queries.WHICH})"
    targets = [
        instant(queries.named(asked[0])),
        *(instant(queries.named(f"({q}) and {which} {top}")) for q in asked[1:]),
    ]
    return table(
        "Which quotas are used most?",
        "Used share of the limit in the present window; when it is all used, if that comes before the window's end and "
        "things go on as in the last minutes; when it begins anew; and the share used by then. Mode warn: it refuses "
        "nothing. Amounts are in USD, tokens or calls.",
        targets,
        shown,
        sort_by="Share used",
    )


def refusals(only: str = "", window: str = "5m") -> Json:
    """Who is refused, by what and why."""
    by = "by (tenant, budget, resource, reason, operation)"
    denied, by_limits = (
        f"round(sum {by} (increase({queries.checks(queries.DENIED, more)}[{window}]))) > 0"
        for more in (only, f"{queries.LIMIT}, {only}" if only else queries.LIMIT)
    )
    who = {} if only else {"tenant": column("Tenant", 100, links=[link_to("tenant", "This tenant", "tenant")])}
    return table(
        "Who is refused, by which budget, and why?",
        f"Requests refused in {'the last 5 minutes' if window == '5m' else 'the range shown'}, repeats included, and "
        "for how long a quota has done so without a break. A refused model call sends no request. Reasons: limit "
        "(nothing left), deadline (out of time), busy (held by calls in flight), frozen, closed, unpriced, "
        "store_unavailable.",
        [instant(f"sort_desc({denied})"), instant(f"{queries.blocked_for(by_limits)} or ({denied}) * 0")],
        who
        | {
            "budget": column("Budget"),
            "resource": column("Resource", 100),
            "reason": column("Reason", 90),
            "operation": column("By", 70),
            "Value #A": column("Refused", 85, decimals=0),
            "Value #B": column("Blocked for", 95, unit="s", decimals=0, mappings=[NONE]),
        },
        sort_by="Refused",
    )


def refusals_over_time(only: str = "") -> Json:
    """Why, over time."""
    rate = f"rate({queries.checks(queries.DENIED, only)}[$__rate_interval])"
    again = f"otelbudget_repeated_denials_total{{{only}}}" if only else "otelbudget_repeated_denials_total"
    return timeseries(
        "Why are requests refused?",
        "Refusals per minute by reason, and how many of all are repeats: a run asked again for what it was refused.",
        [
            query(f"sum by (reason) ({rate}) * 60", "{{reason}}"),
            query(f"sum (rate({again}[$__rate_interval])) * 60 or vector(0)", "of these, repeats"),
        ],
        unit="suffix:/min",
    )


def runs_in_progress(only: str = "") -> Json:
    """The runs that have spent most, of those closest to their limits."""
    by = "max by (tenant, budget, run_id)"
    selected = f"{{{only}}}" if only else ""
    cost = f"topk(10, {by} (otelbudget_active_run_cost_usd{selected}))"
    ratio = f"{by} (otelbudget_active_run_used_ratio{selected}) and on (run_id) {cost}"
    return table(
        "Which runs are burning?",
        "Runs in progress for more than 15 seconds, of those closest to their limits the dearest. Gone when they end: "
        "their history is in the traces.",
        [instant(cost), instant(ratio)],
        {
            "tenant": column("Tenant", 95),
            "budget": column("Budget", 120),
            "run_id": column("Run", links=[link_to("run", "This run", "run")]),
            "Value #A": column("Cost", 85, unit="currencyUSD"),
            "Value #B": share_column("Nearest limit", 130),
        },
        sort_by="Cost",
    )


def money_by_model(only: str = "") -> Json:
    """Where the money goes."""
    spent = queries.of_models(f"sum by (model) (increase({queries.spend(only)}[$__range]))")
    return bars(
        "On which models is money spent?",
        "Money by model in the range shown.",
        instant(f"sort_desc({spent})", "{{model}}"),
        unit="currencyUSD",
    )


def estimates(title: str = "Are the estimates right?") -> Json:
    """What was used of what was held."""
    return timeseries(
        title,
        "Actual tokens as a share of what was held for the call, median by model, of all tenants. Above 100 % calls "
        "cost more than was held for them.",
        [query(queries.quantile(0.5, "otelbudget_estimate_ratio_bucket", LOOK_BACK, "le, model"), "{{model}}")],
        unit="percentunit",
        line_at=1,
    )
