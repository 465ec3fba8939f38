"""What organisations, tenants, users, models and others may use per window: `Quota`; and whose is whose: `Quotas`.

To add a level, see `levels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import RESOURCES, UNLIMITED, Money
from otelbudget.model.budget import limits_in, ratios
from otelbudget.model.levels import LEVELS, NAMED, Level, Where
from otelbudget.model.names import is_pattern, matching
from otelbudget.model.text import read
from otelbudget.model.values import Value, spelled
from otelbudget.model.windows import WindowSpec

#: From the least to the most important.
PRIORITIES: Final = ("low", "normal", "high")
#: Why some levels have no quota per run.
PER_RUN: Final = "a quota per run binds root runs, and here it is calls that are bound: limit the run's budget"


@spelled
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Quota(Value):
    """What one organisation, tenant, user, model or other owner may use in one window; exactly that much is allowed.

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

    if TYPE_CHECKING:  # what it takes, and gives as the numbers above

        def __init__(
            self,
            *,
            steps: int | str | None = None,
            tokens: int | str | None = None,
            input_tokens: int | str | None = None,
            output_tokens: int | str | None = None,
            cost_usd: Money | str | None = None,
            tool_calls: int | str | None = None,
            nested_tool_calls: int | str | None = None,
            per: str = "day",
            timezone: str = "UTC",
            at: str | None = None,
            thresholds: Iterable[float | str] = (0.8, 0.95, 1.0),
            reserve_for: Mapping[str, float | str] | None = None,
            on_exhausted: Literal["raise", "warn"] = "raise",
            name: str | None = None,
            origin: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for resource in RESOURCES:
            put(resource, read(f"quota: {resource}", resource, getattr(self, resource)))
        limits = limits_in(self, "", "quota: ")
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


def _shares(reserve_for: object) -> dict[str, float]:
    if not isinstance(reserve_for, Mapping):
        raise ConfigError(f"reserve_for must map priorities to shares, {{'high': 0.2}}, got {reserve_for!r}")
    shares = {name: read(f"reserve_for[{name!r}]", "ratio", share) for name, share in reserve_for.items()}
    for name, share in shares.items():
        if name not in PRIORITIES:
            raise ConfigError(f"reserve_for: unknown priority {name!r}: known are {', '.join(PRIORITIES)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"reserve_for[{name!r}] must be a share from 0 to 1, got {share!r}")
    if sum(map(_ppm, shares.values())) > 1_000_000:
        raise ConfigError("reserve_for keeps more than the whole quota")
    return {name: float(share) for name, share in shares.items()}


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


Listed = tuple[Quota, ...]
Named = Mapping[str, Listed]


@spelled
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Quotas(Value):
    """Whose quota is whose. A name is matched exactly, then by patterns (``acme-*``) in their order.

    Example:
        >>> quotas = Quotas(agents={"search-*": [Quota(tokens=50_000)]}, tags={"team": {"search": [Quota(cost_usd=5)]}})
        >>> quotas.found("agents", "search-docs")[1][0].tokens, quotas.found("tags", "team", "search")[1][0].cost_usd
        (50000, 5)

    Args:
        org: What every organisation may use, each on its own.
        default: What a tenant may use that *tenants* does not name.
        tenants: Tenant or pattern -> its quotas; every tenant that a pattern matches has its own.
        users: User or pattern -> quotas, of each such user of each tenant; ``"*"`` gives one to every user.
        models: Model or pattern -> quotas, of each organisation; all models that a pattern matches share one.
        agents: Agent or pattern -> quotas, of each such agent of each tenant.
        conversations: Conversation or pattern -> quotas, of each such conversation of each tenant.
        tags: Name of a tag -> its value or a pattern -> quotas, of each such value in each organisation.

    Raises:
        ConfigError: A name is empty, a value is no list of quotas, two quotas of a list have one name, or one is per
            run where calls are bound: those of models, agents, conversations and tags.
    """

    org: Listed = ()
    default: Listed = ()
    tenants: Named = field(default_factory=dict)
    users: Named = field(default_factory=dict)
    models: Named = field(default_factory=dict)
    agents: Named = field(default_factory=dict)
    conversations: Named = field(default_factory=dict)
    tags: Mapping[str, Named] = field(default_factory=dict)

    if TYPE_CHECKING:  # what it takes, and gives as the tuples above

        def __init__(
            self,
            *,
            org: Iterable[Quota] = (),
            default: Iterable[Quota] = (),
            tenants: Mapping[str, Iterable[Quota]] = ...,
            users: Mapping[str, Iterable[Quota]] = ...,
            models: Mapping[str, Iterable[Quota]] = ...,
            agents: Mapping[str, Iterable[Quota]] = ...,
            conversations: Mapping[str, Iterable[Quota]] = ...,
            tags: Mapping[str, Mapping[str, Iterable[Quota]]] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for name in ("org", "default"):
            put(name, _listed(f"quotas.{name}", getattr(self, name)))
        for name, level in NAMED.items():
            put(name, _named(f"quotas.{name}", getattr(self, name), level))

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def found(self, level: str, *names: str) -> tuple[tuple[str, ...] | None, Listed]:
        """The path of what is said of somebody at a *level* (one of `NAMED`), None if nothing is; and the quotas.

        *names* are all that it is called; a tag's name comes first, the names of its value after it.
        """
        path: tuple[str, ...]
        known, path = getattr(self, level), ("quotas", level)
        if NAMED[level].nested:
            known, path, names = known.get(names[0], {}), (*path, names[0]), names[1:]
        entry = matching(known, *names)
        if entry is not None:
            return (*path, entry), known[entry]
        return (("quotas", "default"), self.default) if level == "tenants" else (None, ())

    def listed(self) -> Iterator[Quota]:
        """All quotas."""
        for one in fields(self):
            yield from _leaves(getattr(self, one.name))

    def of(self, where: Where) -> Listed:
        """What the account of *where* is held to."""
        if where.scope == "org":
            return self.org
        if where.scope == "model":
            return self.models.get(where.names[-1], ())  # counted by its entry, which may be a pattern
        own = 2 if LEVELS[where.scope].nested else 1  # the names before those say whose it is
        return self.found(f"{where.scope}s", *where.names[-own:])[1]


def _leaves(given: Any) -> Iterator[Quota]:
    if isinstance(given, Mapping):
        for inner in given.values():
            yield from _leaves(inner)
    else:
        yield from given


def _named(where: str, given: object, level: Level) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must map names to {'values' if level.nested else 'lists of quotas'}, got {given!r}")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"a name must be a text that is not empty, got {name!r}")
        path = f"{where}.{name}"
        if level.nested and is_pattern(name):
            raise ConfigError(f"{path}: a tag is named exactly; only its values may be patterns")
        found[name] = _named(path, value, level._replace(nested=False)) if level.nested else _listed(path, value)
        if not level.per_run and not level.nested and any(quota.per == "run" for quota in found[name]):
            raise ConfigError(f"{path}: {PER_RUN}")
    return MappingProxyType(found)


def _listed(where: str, given: object) -> Listed:
    quotas = (given,) if isinstance(given, Quota) else given
    if isinstance(quotas, str) or not isinstance(quotas, Iterable):
        raise ConfigError(f"{where} must be a list of quotas, got {given!r}")
    listed = tuple(quotas)
    names: set[str | None] = set()
    for i, one in enumerate(listed):
        if not isinstance(one, Quota):
            raise ConfigError(f"{where}[{i}] must be a Quota, got {one!r} ({type(one).__name__})")
        if one.name in names:
            raise ConfigError(f"{where}[{i}]: a quota before it is called {one.name!r} too; give it a name of its own")
        names.add(one.name)
    return listed
