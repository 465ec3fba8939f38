"""Which limits of a configuration bind a call, and why. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Final

from otelbudget.config.problems import dotted
from otelbudget.model.amounts import COST, NANOS, RESOURCES, UNLIMITED, usd
from otelbudget.model.budget import Usage
from otelbudget.model.names import matching
from otelbudget.model.windows import window_at

if TYPE_CHECKING:
    from otelbudget.config import Config
    from otelbudget.model.budget import RunBudget
    from otelbudget.model.quota import Quota

__all__ = ["Amount", "Call", "Explanation", "Limit", "Price", "Unpriced", "explain"]

Amount = int | Decimal

_DEFAULT: Final = "default"
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who calls what; None is not said."""

    org: str | None = None
    tenant: str | None = None
    user: str | None = None
    agent: str | None = None
    model: str | None = None
    budget: str | None = None
    priority: str = "normal"


@dataclass(frozen=True, slots=True)
class Limit:
    """What one quota or budget allows.

    Attributes:
        scope: ``org``, ``tenant``, ``user``, ``model`` or ``run``.
        of: Whose it is; of a model, the name or pattern that is counted under; of a run, the budget's name.
        name: What denials call it.
        limits: Resource -> what may be used in all.
        usable: The same less what is kept for higher priorities.
        set_aside: Resource -> how much of it is for one last call.
        window: In which it is counted.
        resets_at: When that window ends; None if it does not.
        refuses: What does not fit is refused, not only flagged.
        setting: The path of the setting that makes it apply.
        origin: Where it was written, ``file:line``.
    """

    scope: str
    of: str
    name: str
    limits: Mapping[str, Amount]
    usable: Mapping[str, Amount]
    set_aside: Mapping[str, Amount]
    window: str
    resets_at: datetime | None
    refuses: bool
    setting: str
    origin: str | None


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in USD per million tokens, and by which entry; None if it has no price.

    Attributes:
        entry: The name or pattern in ``prices``, or None where the genai-prices package lists it.
        origin: Where it was written, ``file:line``.
    """

    input: Decimal
    output: Decimal
    entry: str | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Unpriced:
    """What becomes of a call of a model without a price, and what says so."""

    policy: str
    because: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What binds a call.

    Attributes:
        org, tenant: Whose it is.
        refused: Why it is refused in any case; None if it is not.
        limits: From the widest scope to the run.
        price: Of its model; None without a price, or without a model.
        unpriced: What becomes of a call whose model has no price.
        notes: What does not limit it, and why.
        unlimited: The resources that nothing refuses.
    """

    org: str
    tenant: str
    refused: str | None
    limits: Sequence[Limit]
    price: Price | None
    unpriced: Unpriced
    notes: Sequence[str]
    unlimited: Sequence[str]


def explain(config: Config, call: Call, now_s: float) -> Explanation:
    """Everything that *call*, made at *now_s* (Unix seconds), has to fit.

    Raises:
        ConfigError: No budget has the name that it asks for.
    """
    tenant = call.tenant or _DEFAULT
    org = call.org or config.tenants.get(tenant, _DEFAULT)
    notes: list[str] = []
    listed = list(_quotas(config, call, org, tenant, notes))
    limits = [_quota_limit(*one, call.priority, now_s) for one in listed]
    budget, setting = _budget(config, call, notes)
    if budget is not None:
        limits.append(_budget_limit(budget, setting))
    refused = None
    if call.tenant is None and config.require_tenant:
        refused = f"it names no tenant, and require_tenant is set{_in(config.origin('require_tenant'))}"
    limited = {resource for limit in limits if limit.refuses for resource in limit.usable}
    return Explanation(
        org,
        tenant,
        refused,
        limits,
        _price(config, call.model),
        _unpriced(config, budget, limited),
        notes,
        [resource for resource in (*RESOURCES, "seconds", "depth") if resource not in limited],
    )


def _quotas(
    config: Config, call: Call, org: str, tenant: str, notes: list[str]
) -> Iterator[tuple[str, str, tuple[str, ...], Quota]]:
    """(scope, whose, the setting's path, the quota) of all that apply; a note for each scope that has none."""
    quotas = config.quotas
    own = matching(quotas.tenants, tenant)
    user = None if call.user is None else matching(quotas.users, call.user)
    model, of_model = ("", ()) if call.model is None else quotas.of_model(call.model)
    tenant_path = ("quotas", "default") if own is None else ("quotas", "tenants", own)
    found: list[tuple[str, str, tuple[str, ...], Sequence[Quota]]] = [
        ("org", org, ("quotas", "org"), quotas.org),
        ("tenant", tenant, tenant_path, quotas.of_tenant(tenant)),
        ("user", f"{call.user} of {tenant}", ("quotas", "users", user or ""), quotas.of_user(call.user or "")),
        ("model", f"{model} in {org}", ("quotas", "models", model), of_model),
    ]
    missing = {"user": call.user is None, "model": call.model is None}
    for scope, of, path, listed in found:
        if missing.get(scope):
            notes.append(f"no {scope} is named, so quotas.{scope}s is not looked at")
            continue
        if not listed:
            notes.append(_nothing(config, scope, path))
        for quota in listed:
            yield scope, of, path, quota
    if own is not None and quotas.default:
        notes.append(f"quotas.default is not for tenant {tenant}, which {dotted(tenant_path)} means")


def _nothing(config: Config, scope: str, path: tuple[str, ...]) -> str:
    where = config.origin(*path)
    if where is not None:
        return f"{dotted(path)} allows everything{_in(where)}"
    return f"{dotted(path[:2])} says nothing of this {scope}"


def _budget(config: Config, call: Call, notes: list[str]) -> tuple[RunBudget | None, str]:
    if call.budget is not None:
        return config.budget(call.budget), dotted(("budgets", call.budget))
    if call.agent is not None and call.agent in config.agents:
        return config.agents[call.agent], dotted(("agents", call.agent))
    if call.agent is not None:
        notes.append(f"agents says nothing of {call.agent}")
    if config.default_budget is None:
        notes.append("there is no default_budget, so a run on its own is not limited")
    return config.default_budget, "default_budget"


def _quota_limit(scope: str, of: str, path: tuple[str, ...], quota: Quota, priority: str, now_s: float) -> Limit:
    ends_s = window_at(quota.window, now_s).end_s
    window = f"per {quota.per}" if quota.per != "lifetime" else "for ever"
    if quota.at is not None or quota.timezone != "UTC":
        window += f" from {quota.at or '00:00'} {quota.timezone}"
    return Limit(
        scope,
        of,
        quota.name or "",
        _amounts(quota.limits),
        _amounts(quota.limits_of.get(priority, quota.limits)),
        {},
        window,
        datetime.fromtimestamp(ends_s, quota.window.tz) if isfinite(ends_s) else None,
        quota.on_exhausted == "raise",
        dotted(path),
        quota.origin,
    )


def _budget_limit(budget: RunBudget, setting: str) -> Limit:
    limits = _amounts(budget.limits)
    if budget.max_ns is not None:
        limits["seconds"] = Decimal(budget.max_ns) / NANOS
    if budget.max_depth is not None:
        limits["depth"] = budget.max_depth
    set_aside = {
        RESOURCES[i]: _amount(i, limit - ordinary)
        for i, (limit, ordinary) in enumerate(zip(budget.limits, budget.ordinary_limits, strict=True))
        if limit != ordinary
    }
    name = budget.name or ""
    refuses = budget.on_exhausted != "warn"
    return Limit("run", name, name, limits, limits, set_aside, "per run", None, refuses, setting, budget.origin)


def _amounts(limits: Sequence[int]) -> dict[str, Amount]:
    return {RESOURCES[i]: _amount(i, limit) for i, limit in enumerate(limits) if limit < UNLIMITED}


def _amount(resource: int, value: int) -> Amount:
    return usd(value) if resource == COST else value


def _price(config: Config, model: str | None) -> Price | None:
    if model is None:
        return None
    # A thousand, since listed prices rise with the size of a request.
    costs = [
        config.prices.cost_nanousd(model, None, Usage(input_tokens=given, output_tokens=made))
        for given, made in ((1_000, 0), (0, 1_000))
    ]
    if costs[0] is None or costs[1] is None:
        return None
    entry = config.prices.entry(model)
    origin = None if entry is None else config.origin("prices", entry)
    return Price(usd(costs[0] * 1_000), usd(costs[1] * 1_000), entry, origin)


def _unpriced(config: Config, budget: RunBudget | None, limited: set[str]) -> Unpriced:
    if budget is not None and budget.on_unpriced is not None:
        return Unpriced(budget.on_unpriced, f"budget {budget.name} says so")
    if config.on_unpriced is not None:
        return Unpriced(config.on_unpriced, f"on_unpriced says so{_in(config.origin('on_unpriced'))}")
    if "cost_usd" in limited:
        return Unpriced("deny", "money is limited")
    return Unpriced("allow", "no money is limited")


def _in(origin: str | None) -> str:
    return f" ({origin})" if origin else ""
