"""The questions of the boards in PromQL: how full quotas are, when they run out, who is refused, what is spent.

Gauges of quotas mix units, so what is compared is the used share of a limit. A share is the greatest of any process: in
memory each process counts for itself and the fullest one refuses; those that share a store all say the same.
"""

from __future__ import annotations

from collections.abc import Callable

#: Everything that tells one window of a quota from another, then one amount of it.
WINDOW = "scope, org, tenant, model, agent, tag, budget, window"
WHICH = f"{WINDOW}, resource, mode"
#: A forecast looks back so far: long enough for calls that are rare, short enough for a loop that has just begun.
LOOK_BACK = "5m"
DENIED = 'decision="deny"'
ENFORCED = 'mode="enforce"'
#: The alert of what `blocked` finds.
BLOCKED = "OtelbudgetTenantBlocked"
#: Those that all processes share, and those of each.
_STORES = ('store!="memory"', 'store="memory"')
LIMIT = 'reason="limit"'
_SCOPES = ('scope="tenant"', 'scope!="tenant"')
_CLOCK, _ROLLING = 'window!~"rolling.*"', 'window=~"rolling.*"'


def checks(more: str, only: str = "") -> str:
    """Checks that were asked for: probes (`can_proceed`) refuse nobody."""
    return _of("otelbudget_checks_total", 'operation!="probe"', more, only)


def spend(only: str = "") -> str:
    """Money charged."""
    return _of("otelbudget_cost_usd_total", only)


def per_hour(by: str = "", only: str = "") -> str:
    """Money per hour if spending goes on as it does now."""
    return f"{_sum(by)} (rate({spend(only)}[$__rate_interval])) * 3600"


def refused(window: str, by: str = "", only: str = "") -> str:
    """Refusals in *window*; a loop that asks for the same again and again counts once."""
    all_of_them = f"{_sum(by)} (increase({checks(DENIED, only)}[{window}]))"
    again = f"{_sum(by)} (increase({_of('otelbudget_repeated_denials_total', only)}[{window}]))"
    return f"clamp_min(({all_of_them} - {again}) or {all_of_them}, 0)"


def blocked(ratio: Callable[[str], str] | None = None, many: str = "tenant, budget") -> str:
    """Refusals per minute of (tenant, budget) by a quota that is nearly used up.

    Args:
        ratio: Gives shares, by matchers.
        many: What those by a quota of several tenants are told apart by.
    """
    ratio = ratio or share
    own, of_many = (f"({ratio(f'{ENFORCED}, {scope}')}) >= 0.9" for scope in _SCOPES)
    by = ("tenant, budget", many)
    rate, rate_of_many = (f"sum by ({one}) (rate({checks(DENIED, LIMIT)}[2m])) * 60 > 0" for one in by)
    # A tenant's own quota has its name on it, that of an organisation or model concerns every tenant.
    return f"({rate}) and on (tenant, budget) ({own}) or ({rate_of_many}) and on (budget) ({of_many})"


def blocked_for(refusals: str) -> str:
    """Of those *refusals* that are by a quota, for how many seconds there have been such; where the alert is known."""
    since = f'ALERTS_FOR_STATE{{alertname="{BLOCKED}"'
    own = f'time() - max by (tenant, budget) ({since}, tenant!=""}})'
    of_many = f'time() - max by (budget) ({since}, tenant=""}})'
    return (
        f"({refusals}) * 0 + on (tenant, budget) group_left () ({own})"
        f" or ({refusals}) * 0 + on (budget) group_left () ({of_many})"
    )


def share(only: str = "") -> str:
    """The used share of every limit of a quota."""
    return f"max by ({WHICH}) ({_quota('used', only)} / ({_quota('limit', only)} > 0))"


def growth(only: str = "", window: str = LOOK_BACK) -> str:
    """By how much of the limit a share grows per second; what began anew counts from 0."""
    clock = f"rate({_quota('used', _CLOCK, only)}[{window}]) > 0"
    rolling = f"deriv({_quota('used', _ROLLING, only)}[{window}]) > 0"
    return f"max by ({WHICH}) (({clock} or {rolling}) / ({_quota('limit', only)} > 0))"


def resets_in() -> str:
    """Seconds until a window ends."""
    return f"max by ({WINDOW}) (otelbudget_budget_reset_timestamp_seconds) - time()"


def resets_of(only: str = "") -> str:
    """The same for every limit, 0 where a window does not end."""
    return f"({share(only)}) * 0 + on ({WINDOW}) group_left () ({resets_in()})"


def exhausted_in(only: str = "") -> str:
    """Seconds until a limit is reached, if that comes before its window's end; nothing from 99 % on."""
    lasts = f"((1 - ({share(only)})) > 0.01) / ({growth(only)})"
    return f"({lasts}) unless (({lasts}) > on ({WINDOW}) group_left () ({resets_in()}))"


def share_at_end(only: str = "") -> str:
    """The used share at the end of its window, if things go on as they do."""
    return f"({share(only)}) + ({growth(only)}) * on ({WINDOW}) group_left () ({resets_in()})"


def projected(only: str = "") -> str:
    """The amount used at the end of its window, if things go on as they do."""
    shared, own = (f"rate({_quota('used', store, only)}[{LOOK_BACK}]) > 0" for store in _STORES)
    grows = f"max by ({WHICH}) ({shared}) or sum by ({WHICH}) ({own})"
    return f"({amount('used', only)}) + ({grows}) * on ({WINDOW}) group_left () ({resets_in()})"


def amount(which: str, only: str = "") -> str:
    """What quotas have ``used``, hold (``reserved``) or may use (``limit``); in memory each process has its own."""
    shared, own = (_quota(which, store, only) for store in _STORES)
    return f"max by ({WHICH}) ({shared}) or sum by ({WHICH}) ({own})"


def named(expr: str) -> str:
    """*expr* with whose quota it is as the label ``who``: the narrowest of organisation, tenant, model, agent, tag."""
    for label in ("org", "tenant", "model", "agent", "tag"):
        expr = f'label_replace({expr}, "who", "$1", "{label}", "(.+)")'
    return expr


def of_models(expr: str) -> str:
    """Those of the amounts by model that are not 0, with a name where there is no model."""
    return f'label_replace({expr} > 0, "model", "(no model)", "model", "")'


def quantile(which: float, buckets: str, window: str, by: str = "le") -> str:
    """A quantile of what was observed in *window*, and nothing (not NaN) where nothing was."""
    return f"histogram_quantile({which}, sum by ({by}) (rate({buckets}[{window}]))) >= 0"


def _sum(by: str) -> str:
    return f"sum {by}" if by else "sum"


def _quota(which: str, *only: str) -> str:
    return _of(f"otelbudget_budget_{which}", *only)


def _of(metric: str, *only: str) -> str:
    matchers = ", ".join(one for one in only if one)
    return f"{metric}{{{matchers}}}" if matchers else metric
