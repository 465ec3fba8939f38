"""What organisations, tenants, users and models may use per window: `Quota`; and whose is whose: `Quotas`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import COST, RESOURCES, UNLIMITED, Money, count, money_limit
from otelbudget.model.budget import ratios
from otelbudget.model.names import matching, undated
from otelbudget.model.windows import WindowSpec

__all__ = ["PRIORITIES", "Quota", "Quotas", "check_priority"]

#: From the least to the most important.
PRIORITIES: Final = ("low", "normal", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one organisation, tenant, user or model may use in one window; exactly that much is allowed.

    Example:
        >>> Quota(tokens=50_000, per="day", timezone="Europe/Berlin", at="06:00").name
        'tokens per day'

    Args:
        steps, tokens, input_tokens, output_tokens, cost_usd, tool_calls, nested_tool_calls: The limits; at least one.
        per: ``minute``, ``hour``, ``day``, ``week``, ``month``, ``lifetime``, ``rolling 24h`` (any whole number of s,
            m, h or d), or ``run``: each root run on its own.
        timezone, at: Whose clock, and at which time of day a day, week or month begins; see `WindowSpec`.
        thresholds: Ratios of each limit whose crossing is reported, once per window.
        reserve_for: ``{"high": 0.2, "normal": 0.2}`` keeps a fifth for high and a fifth for normal priority: normal
            then stops at 80 %, low at 60 %. None keeps nothing.
        on_exhausted: ``"raise"`` refuses what does not fit, ``"warn"`` charges and flags it.
        name: What denials and metrics call it; made from its resources and window if None, and kept by ``replace()``.
        origin: Where it was written, ``file:line``, for messages.

    Raises:
        ConfigError: Something is negative, not a number, too small to be counted, or not understood; or nothing is
            limited.
    """

    steps: int | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Money | None = field(default=None, compare=False)
    tool_calls: int | None = None
    nested_tool_calls: int | None = None
    per: str = "day"
    timezone: str = "UTC"
    at: str | None = None
    thresholds: tuple[float, ...] = (0.8, 0.95, 1.0)
    reserve_for: Mapping[str, float] | None = field(default=None, hash=False)
    on_exhausted: Literal["raise", "warn"] = "raise"
    name: str | None = None
    origin: str | None = field(default=None, compare=False)
    #: Limits in internal units, `RESOURCES` order, UNLIMITED where there is none.
    limits: tuple[int, ...] = field(init=False, repr=False)
    window: WindowSpec = field(init=False, repr=False)
    #: What each priority may use: limits less what is kept for those above it; empty if nothing is kept.
    limits_of: Mapping[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        limits = tuple(_limit(resource, getattr(self, resource)) for resource in RESOURCES)
        if min(limits) == UNLIMITED:
            raise ConfigError(f"a quota limits something: give one of {', '.join(RESOURCES)}")
        put("limits", limits)
        put("window", WindowSpec(self.per, self.timezone, self.at))
        put("thresholds", ratios(self.thresholds))
        if self.on_exhausted not in ("raise", "warn"):
            raise ConfigError(f"on_exhausted must be 'raise' or 'warn', got {self.on_exhausted!r}")
        if self.reserve_for is not None:
            put("reserve_for", MappingProxyType(_shares(self.reserve_for)))
        put("limits_of", MappingProxyType(_limits_of(limits, self.reserve_for or {})))
        if self.name is None:
            limited = [resource for resource, limit in zip(RESOURCES, limits, strict=True) if limit < UNLIMITED]
            put("name", f"{' + '.join(limited)} per {self.per}")
        elif not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name must be a text that is not empty, got {self.name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        if self.reserve_for is not None:
            given["reserve_for"] = dict(self.reserve_for)
        return (_rebuild, (given,))


def _rebuild(given: dict[str, Any]) -> Quota:
    return Quota(**given)


def _limit(resource: str, value: object) -> int:
    if value is None:
        return UNLIMITED
    parse = money_limit if resource == RESOURCES[COST] else count
    return parse(f"quota: {resource}", value, ConfigError)


def _shares(reserve_for: object) -> dict[str, float]:
    if not isinstance(reserve_for, Mapping):
        raise ConfigError(f"reserve_for must map priorities to shares, {{'high': 0.2}}, got {reserve_for!r}")
    for name, share in reserve_for.items():
        if name not in PRIORITIES:
            raise ConfigError(f"reserve_for: unknown priority {name!r}: known are {', '.join(PRIORITIES)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"reserve_for[{name!r}] must be a share from 0 to 1, got {share!r}")
    if sum(map(_ppm, reserve_for.values())) > 1_000_000:
        raise ConfigError("reserve_for keeps more than the whole quota")
    return {name: float(share) for name, share in reserve_for.items()}


def _ppm(share: float) -> int:
    return round(share * 1_000_000)


def _limits_of(limits: tuple[int, ...], shares: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
    found = {}
    for i, priority in enumerate(PRIORITIES if any(shares.values()) else ()):
        usable = 1_000_000 - sum(_ppm(shares.get(above, 0)) for above in PRIORITIES[i + 1 :])
        found[priority] = tuple(limit if limit == UNLIMITED else limit * usable // 1_000_000 for limit in limits)
    return found


def check_priority(priority: object) -> str:
    """*priority* if it is one of `PRIORITIES`; ValueError otherwise."""
    if priority not in PRIORITIES:
        raise ValueError(f"unknown priority {priority!r}: known are {', '.join(PRIORITIES)}")
    return str(priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Whose quota is whose. A name is matched exactly, then by patterns (``acme-*``) in their order.

    Args:
        org: What every organisation may use, each on its own.
        default: What a tenant may use that *tenants* does not name.
        tenants: Tenant or pattern -> its quotas; every tenant that a pattern matches has its own.
        users: User or pattern -> quotas, of each such user of each tenant; ``"*"`` gives one to every user.
        models: Model or pattern -> quotas, of each organisation; all models that a pattern matches share one.

    Raises:
        ConfigError: A name is empty, a value is no list of quotas, or two quotas of a list have one name.
    """

    org: tuple[Quota, ...] = ()
    default: tuple[Quota, ...] = ()
    tenants: Mapping[str, tuple[Quota, ...]] = field(default_factory=dict)
    users: Mapping[str, tuple[Quota, ...]] = field(default_factory=dict)
    models: Mapping[str, tuple[Quota, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for name in ("org", "default"):
            put(name, _listed(f"quotas.{name}", getattr(self, name)))
        for name in ("tenants", "users", "models"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise ConfigError(f"quotas.{name} must map names to lists of quotas, got {given!r}")
            put(name, MappingProxyType({_name(n): _listed(f"quotas.{name}.{n}", q) for n, q in given.items()}))
        for name, listed in self.models.items():
            if any(quota.per == "run" for quota in listed):
                raise ConfigError(f"quotas.models.{name}: a model has no quota per run; limit the run's budget")

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def __reduce__(self) -> tuple[Any, ...]:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return (_rebuild_quotas, ({k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()},))

    def of_tenant(self, tenant: str) -> tuple[Quota, ...]:
        """What *tenant* may use: its own, else the default."""
        found = matching(self.tenants, tenant)
        return self.default if found is None else self.tenants[found]

    def of_user(self, user: str) -> tuple[Quota, ...]:
        """What *user* may use; empty without an entry."""
        found = matching(self.users, user)
        return () if found is None else self.users[found]

    def of_model(self, model: str) -> tuple[str, tuple[Quota, ...]]:
        """(the name or pattern that is counted under, its quotas); empty without an entry."""
        found = matching(self.models, model, undated(model))
        return ("", ()) if found is None else (found, self.models[found])


def _rebuild_quotas(given: dict[str, Any]) -> Quotas:
    return Quotas(**given)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a name must be a text that is not empty, got {name!r}")
    return name


def _listed(where: str, given: object) -> tuple[Quota, ...]:
    quotas = (given,) if isinstance(given, Quota) else given
    if isinstance(quotas, str) or not isinstance(quotas, Iterable):
        raise ConfigError(f"{where} must be a list of quotas, got {given!r}")
    listed = tuple(quotas)
    for i, one in enumerate(listed):
        if not isinstance(one, Quota):
            raise ConfigError(f"{where}[{i}] must be a Quota, got {one!r} ({type(one).__name__})")
        if any(one.name == other.name for other in listed[:i]):
            raise ConfigError(f"{where}[{i}]: a quota before it is called {one.name!r} too; give it a name of its own")
    return listed
