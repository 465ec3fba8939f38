"""Panels about quotas: how full they are, when they will be used up, what is committed, held and allowed.

Gauges of quotas mix units, so a query either fixes the resource or divides amounts of the same one. Those of a shared
store say the same in every process, those of a store in memory are each process's own: one is the maximum, the other a
sum.
"""

from __future__ import annotations

from blocks import Json, bars, instant, query, stat, timeseries

#: Everything that tells one quota from another.
WHICH = "scope, org, tenant, model, budget, resource, window"
WINDOW = "scope, org, tenant, model, budget, window"
#: A forecast looks back so far: long enough for calls that are rare, short enough for a loop that has just begun.
LOOK_BACK = "5m"


def share(only: str = "") -> str:
    """The used share of every quota."""
    return f"({amount('used', only)}) / (({amount('limit', only)}) > 0)"


def amount(which: str, only: str = "", wrap: str = "{}") -> str:
    """What quotas have ``used``, hold (``reserved``) or may use (``limit``).

    Args:
        only: Further matchers.
        wrap: A function around the selector, such as ``deriv({}[5m])``.
    """
    rest = f", {only}" if only else ""
    name = f"otelbudget_budget_{which}"
    shared, own = (wrap.format(f'{name}{{tenant=~"$tenant", store{equal}"memory"{rest}}}') for equal in ("!=", "="))
    return f"max by ({WHICH}) ({shared}) or sum by ({WHICH}) ({own})"


def nearly_used_up() -> Json:
    """How many quotas are nearly used up."""
    return stat(
        "Quotas 80 % used",
        "Quotas of organisations, tenants and models of which 80 % or more are used in their present window.",
        query(f"count({share()} >= 0.8) or vector(0)"),
        unit="locale",
        decimals=0,
        loud_from=1,
    )


def soonest_exhaustion() -> Json:
    """When the next quota is used up."""
    grows = amount("used", wrap=f"deriv({{}}[{LOOK_BACK}])")
    lasts = f"(({amount('limit')}) - ({amount('used')}) > 0) / (({grows}) > 0)"
    reset = f'max by ({WINDOW}) (otelbudget_budget_reset_timestamp_seconds{{tenant=~"$tenant"}}) - time()'
    return stat(
        "Next exhaustion",
        "When the next quota is used up if spending goes on as in the last minutes; those that begin anew before that "
        "don't count.",
        instant(f"min({lasts} unless ({lasts} > on ({WINDOW}) group_left () ({reset})))"),
        unit="s",
        decimals=0,
        no_value="not in sight",
    )


def fullest() -> Json:
    """Used against limit, fullest first."""
    named = share()
    for label in ("org", "tenant", "model"):  # whichever is the narrowest
        named = f'label_replace({named}, "who", "$1", "{label}", "(.+)")'
    return bars(
        "Which quotas are used most?",
        "Used share of the limit in the present window, of the fullest quotas.",
        instant(f"sort_desc(topk(10, {named}))", "{{scope}} {{who}}: {{resource}} per {{window}}"),
        unit="percentunit",
        decimals=0,
        shares=True,
    )


def tokens() -> Json:
    """Tokens of tenants' quotas."""
    return _held("tokens", "How many tokens are left to tenants?", "short")


def money() -> Json:
    """Money of tenants' quotas."""
    return _held("cost_usd", "How much money is left to tenants?", "currencyUSD")


def _held(resource: str, title: str, unit: str) -> Json:
    only = f'scope="tenant", resource="{resource}"'
    words = {"used": "committed", "reserved": "held", "limit": "limit"}
    return timeseries(
        title,
        "Committed, held by calls in flight, and limit, summed over the quotas of the tenants chosen, by window.",
        [query(f"sum by (window) ({amount(w, only)})", f"{word}, per {{{{window}}}}") for w, word in words.items()],
        unit=unit,
    )
