"""Which limits of a configuration bind a call, and why. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from otelbudget.config.problems import dotted
from otelbudget.model.amounts import NANOS, RESOURCES, UNLIMITED, shown, usd
from otelbudget.model.budget import Usage
from otelbudget.model.levels import NAMED, Level
from otelbudget.model.names import undated
from otelbudget.model.quota import Quota
from otelbudget.model.windows import window_at

if TYPE_CHECKING:
    from otelbudget.config import Config
    from otelbudget.model.budget import RunBudget

Amount = int | Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who calls what; None is not said."""

    org: str | None = None
    tenant: str | None = None
    user: str | None = None
    model: str | None = None
    agent: str | None = None
    conversation: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    budget: str | None = None
    priority: str = "normal"


@dataclass(frozen=True, slots=True)
class Limit:
    """What one quota or budget allows; amounts by resource."""

    #: ``org``, ``tenant``, ``user``, ``model``, ``agent``, ``conversation``, ``tag`` or ``run``.
    scope: str
    #: Whose it is; of a model, the name or pattern that is counted under; of a run, the budget's name.
    of: str
    #: What denials call it.
    name: str
    limits: Mapping[str, Amount]
    #: The same less what is kept for higher priorities.
    usable: Mapping[str, Amount]
    #: How much is for one last call.
    set_aside: Mapping[str, Amount]
    window: str
    resets_at: datetime | None
    #: What does not fit is refused, not only flagged.
    refuses: bool
    #: The path of the setting that makes it apply, and where it was written, ``file:line``.
    setting: str
    origin: str | None


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in USD per million tokens."""

    input: Decimal
    output: Decimal
    #: The name or pattern in ``prices`` and its ``file:line``, or None where the genai-prices package lists it.
    entry: str | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Unpriced:
    """What becomes of a call of a model without a price, and what says so."""

    policy: str
    because: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What binds a call."""

    org: str
    tenant: str
    #: Why it is refused in any case; None if it is not.
    refused: str | None
    #: From the widest scope to the run.
    limits: Sequence[Limit]
    #: None without a price, or without a model.
    price: Price | None
    unpriced: Unpriced
    #: What does not limit it, and why.
    notes: Sequence[str]
    #: The resources that nothing refuses.
    unlimited: Sequence[str]


def explain(config: Config, call: Call, now_s: float) -> Explanation:
    """Everything that *call*, made at *now_s* (Unix seconds), has to fit.

    Raises:
        ConfigError: No budget has the name that it asks for.
    """
    tenant = call.tenant or "default"
    org = call.org or config.tenants.get(tenant, "default")
    places = list(_places(config, call, org, tenant))
    notes = list(_silent(config, call, tenant, places))
    limits = [_quota_limit(place, quota, call.priority, now_s) for place in places for quota in place.quotas]
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


class _Place(NamedTuple):
    """Where quotas of a call stand: of which scope and whose, the setting's path, and they."""

    scope: str
    of: str
    path: tuple[str, ...]
    quotas: tuple[Quota, ...]


def _places(config: Config, call: Call, org: str, tenant: str) -> Iterator[_Place]:
    """All places that apply, from the widest scope on."""
    yield _Place("org", org, ("quotas", "org"), config.quotas.org)
    for setting, level in NAMED.items():
        for names in _names(call, level, tenant):
            path, quotas = config.quotas.found(setting, *names)
            of = path[-1] if path and level.scope == "model" else "=".join(names[: 1 + level.nested])
            if level.scope != "tenant":
                of += f" of {tenant}" if "tenant" in level.fields else f" in {org}"
            yield _Place(level.scope, of, path or ("quotas", setting, ""), quotas)


def _names(call: Call, level: Level, tenant: str) -> list[tuple[str, ...]]:
    """All that the call names at a level, with what else each is called."""
    if level.nested:
        return list(call.tags.items())
    name = tenant if level.scope == "tenant" else getattr(call, level.scope)
    if name is None:
        return []
    return [(name, undated(name)) if level.scope == "model" else (name,)]


def _silent(config: Config, call: Call, tenant: str, places: Sequence[_Place]) -> Iterator[str]:
    """A note for each scope that no quota limits, and for the quotas of others."""
    for place in places:
        where = config.origin(*place.path)
        if not place.quotas and where is not None:
            yield f"{dotted(place.path)} allows everything{_in(where)}"
        elif not place.quotas:
            yield f"{dotted(place.path[:2])} says nothing of this {place.scope}"
    for setting, level in NAMED.items():
        if getattr(config.quotas, setting) and not _names(call, level, tenant):
            yield f"no {level.scope} is named, so quotas.{setting} is not looked at"
    own = places[1].path
    if config.quotas.default and own != ("quotas", "default"):
        yield f"quotas.default is not for tenant {tenant}, which {dotted(own)} means"


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


def _quota_limit(place: _Place, quota: Quota, priority: str, now_s: float) -> Limit:
    ends_s = window_at(quota.window, now_s).end_s
    window = f"per {quota.per}" if quota.per != "lifetime" else "for ever"
    if quota.at is not None or quota.timezone != "UTC":
        window += f" from {quota.at or '00:00'} {quota.timezone}"
    return Limit(
        place.scope,
        place.of,
        quota.name or "",
        _amounts(quota.limits),
        _amounts(quota.limits_of.get(priority, quota.limits)),
        {},
        window,
        datetime.fromtimestamp(ends_s, quota.window.tz) if isfinite(ends_s) else None,
        quota.on_exhausted == "raise",
        dotted(place.path),
        quota.origin,
    )


def _budget_limit(budget: RunBudget, setting: str) -> Limit:
    limits = _amounts(budget.limits)
    if budget.max_ns is not None:
        limits["seconds"] = Decimal(budget.max_ns) / NANOS
    if budget.max_depth is not None:
        limits["depth"] = budget.max_depth
    aside = [limit - ordinary for limit, ordinary in zip(budget.limits, budget.ordinary_limits, strict=True)]
    set_aside = {resource: amount for resource, amount in _amounts(aside).items() if amount}
    name = budget.name or ""
    refuses = budget.on_exhausted != "warn"
    return Limit("run", name, name, limits, limits, set_aside, "per run", None, refuses, setting, budget.origin)


def _amounts(limits: Sequence[int]) -> dict[str, Amount]:
    return {RESOURCES[i]: shown(i, limit) for i, limit in enumerate(limits) if limit < UNLIMITED}


def _price(config: Config, model: str | None) -> Price | None:
    if model is None:
        return None
    # A thousand, since listed prices rise with the size of a request.
    given = config.prices.cost_nanousd(model, None, Usage(input_tokens=1_000, output_tokens=0))
    made = config.prices.cost_nanousd(model, None, Usage(input_tokens=0, output_tokens=1_000))
    if given is None or made is None:
        return None
    entry = config.prices.entry(model)
    return Price(usd(given * 1_000), usd(made * 1_000), entry, entry and config.origin("prices", entry))


def _unpriced(config: Config, budget: RunBudget | None, limited: set[str]) -> Unpriced:
    if budget is not None and budget.on_unpriced is not None:
        return Unpriced(budget.on_unpriced, f"budget {budget.name} says so")
    if config.on_unpriced is not None:
        return Unpriced(config.on_unpriced, f"on_unpriced says so{_in(config.origin('on_unpriced'))}")
    return Unpriced("deny", "money is limited") if "cost_usd" in limited else Unpriced("allow", "no money is limited")


def _in(origin: str | None) -> str:
    return f" ({origin})" if origin else ""
