"""Accounts and holds. An account counts what one owner has used and taken in one window; rules limit it.

Changed only by `Ledger`, with its lock held. Amounts of all resources are one integer each, see `model.vector`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from otelbudget.model.amounts import NOTHING, UNLIMITED, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.quota import PRIORITIES, Quota
from otelbudget.model.vector import GUARDS, NO_LIMIT, SHIFTS, cap, lane, unpack

if TYPE_CHECKING:
    from otelbudget.model.windows import Window, WindowSpec

Key = tuple[Where, "WindowSpec", float]
HoldState = Literal["new", "open", "committed", "released", "expired"]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What limits an account: a run's budget, or one quota.

    Args:
        name: What denials and metrics call it.
        limits: What each priority may reach, as `PRIORITIES`; UNLIMITED where there is no limit.
        full: The same including what is set aside for wrapping up.
        thresholds: Ratios of the full limits whose crossing is reported.
        warn: It flags what exceeds it and refuses nothing.
        origin: Where it was written, ``file:line``.
        quota: The quota that it stands for; None for a run's budget.
    """

    name: str | None
    limits: tuple[tuple[int, ...], ...]
    full: tuple[int, ...]
    thresholds: tuple[float, ...] = ()
    warn: bool = False
    origin: str | None = None
    quota: Quota | None = None

    def marks(self, resource: int) -> list[tuple[float, int]]:
        """(ratio, the amount that reaches it, rounded up); none where nothing, or nothing but 0, is allowed."""
        limit = self.full[resource]
        if not 0 < limit < UNLIMITED:
            return []
        return [(ratio, -(-limit * round(ratio * 1_000_000) // 1_000_000)) for ratio in self.thresholds]


@lru_cache(maxsize=4096)
def _rule_of(quota: Quota, origin: str | None) -> Rule:
    limits = tuple(quota.limits_of.get(priority, quota.limits) for priority in PRIORITIES)
    return Rule(quota.name, limits, quota.limits, quota.thresholds, quota.on_exhausted == "warn", origin, quota)


def rule_of(quota: Quota) -> Rule:
    """The rule that *quota* is."""
    return _rule_of(quota, quota.origin)


@lru_cache(maxsize=1024)
def rule_of_budget(
    limits: tuple[int, ...],
    full: tuple[int, ...],
    name: str | None,
    thresholds: tuple[float, ...],
    warn: bool,
    origin: str | None,
) -> Rule:
    """The rule that a run's budget is; one for all runs of a budget."""
    return Rule(name, (limits,) * len(PRIORITIES), full, thresholds, warn, origin)


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """What the rules of an account come to.

    Attributes:
        caps: What each priority may reach under all rules that refuse, ready to be compared.
        full: The same including what is set aside for wrapping up.
        warns: What each priority may reach without a warning; None where no rule warns.
        limited: The resources that a rule limits, ascending.
        refusing: Those that a rule refuses, ascending.
    """

    caps: tuple[int, ...]
    full: int
    warns: tuple[int, ...] | None
    limited: tuple[int, ...]
    refusing: tuple[int, ...]
    mark: int


@lru_cache(maxsize=4096)
def limits_of(rules: tuple[Rule, ...]) -> Limits:
    """What *rules* come to together: the least of each resource."""
    strict, lenient = [r for r in rules if not r.warn], [r for r in rules if r.warn]
    priorities = range(len(PRIORITIES))
    return Limits(
        tuple(cap(_least([rule.limits[p] for rule in strict])) for p in priorities),
        cap(_least([rule.full for rule in strict])),
        tuple(cap(_least([rule.limits[p] for rule in lenient])) for p in priorities) if lenient else None,
        _limited(rules),
        _limited(strict),
        marked(rules, 0),
    )


def _least(limits: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(min, zip(*limits, strict=True))) if limits else (UNLIMITED,) * len(SHIFTS)


def _limited(rules: Sequence[Rule]) -> tuple[int, ...]:
    return tuple(i for i in range(len(SHIFTS)) if any(rule.full[i] < UNLIMITED for rule in rules))


def marked(rules: Sequence[Rule], used: int) -> int:
    """What, added to a used amount, sets the guard of each lane that reaches a threshold above *used*."""
    found = GUARDS
    for i, amount in enumerate(unpack(used)):
        found -= min((m for rule in rules for _, m in rule.marks(i) if m > amount), default=NO_LIMIT) << SHIFTS[i]
    return found


class Crossing(NamedTuple):
    """A threshold that a charge has reached."""

    account: Account
    rule: Rule
    resource: int
    ratio: float


def crossings(account: Account, before: int, after: int) -> list[Crossing]:
    """The thresholds that lie above *before* and not above *after*."""
    return [
        Crossing(account, rule, i, ratio)
        for rule in account.rules
        for i in range(len(SHIFTS))
        for ratio, mark in rule.marks(i)
        if lane(before, i) < mark <= lane(after, i)
    ]


class Account:
    """What one run has used and taken, against its budget; `QuotaAccount` is that of everybody else.

    Attributes:
        used: What was charged, by this one and its shared and carved children.
        taken: Used and held.
        below: The part of `used` that child runs spent.
        floor: What the runs above count of it at least, since it was carved out of them.
        holds: How many holds are open on it.
        rules, limits: What limits it.
        mark: Spares looking for thresholds that are not reached, see `marked`.
    """

    __slots__ = ("below", "floor", "holds", "limits", "mark", "rules", "taken", "used")
    scope: str = "run"
    #: Whose it is; None for a run.
    where: Any = None
    dropped = False
    keep: Callable[[], None]
    #: Of a rolling window: what was charged when, by number of the bucket. None for all others.
    buckets: dict[int, int] | None = None

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.used = self.taken = self.below = self.floor = self.holds = 0
        self.rules = rules
        self.limits = limits_of(rules)
        self.mark = self.limits.mark

    @property
    def rule(self) -> Rule:
        """The first rule: a run's budget."""
        return self.rules[0]

    @property
    def name(self) -> str | None:
        """The name of its first rule."""
        return self.rules[0].name if self.rules else None

    def own(self) -> list[int]:
        """What was used here and not below."""
        return unpack(self.used - self.below)

    def reserved(self, resource: int) -> int:
        """What is held of one resource."""
        return lane(self.taken, resource) - lane(self.used, resource)


class QuotaAccount(Account):
    """What an organisation, tenant, user, model, agent, conversation or tag has used in one window.

    Attributes:
        where: Whose it is.
        spec: Which kind of window.
        window: That window's name.
        start_s, end_s: Its Unix seconds.
        dropped: It is kept only by those who refer to it, since nothing was used of it; until it is charged.
        pinned: It is shown and kept also while nobody uses it.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "buckets", "dropped", "end_s", "pinned", "scope", "shelf", "spec", "start_s", "where", "window",
    )
    # fmt: on

    def __init__(self, where: Where, spec: WindowSpec, window: Window, shelf: dict[Key, QuotaAccount]) -> None:
        super().__init__(())
        self.where: Where = where
        self.scope = where.scope
        self.spec = spec
        self.window, self.start_s, self.end_s = window
        self.shelf = shelf
        self.buckets: dict[int, int] | None = None if spec.rolling_s is None else {}
        self.dropped = self.pinned = False

    @property
    def key(self) -> Key:
        """Which account it is, among all."""
        return self.where, self.spec, self.start_s

    def keep(self) -> None:
        """Put it back where others find it, since it is charged after all."""
        self.shelf[self.key] = self
        self.dropped = False


class Refusal(NamedTuple):
    """Why a request does not fit, with the numbers of that moment."""

    account: Account
    rule: Rule
    resource: int
    used: int
    reserved: int
    limit: int
    asked: int
    busy: bool


class Hold:
    """Amounts held on several accounts until they are settled.

    Attributes:
        accounts: From the widest scope to the leaf.
        amounts, vector: What is held on each.
        on_expiry: What an expiry charges.
        counts: The counters of that: (cell, slot, by how much).
        expires_ns: When it may be reclaimed if nobody holds on to it.
        state: ``new`` until it is admitted, ``open`` until it is settled, once.
        owner: A weak reference to what keeps it alive.
        payer: Who asked for it.
        priority: An index into `PRIORITIES`.
        wrapping: The account that judges its growth by full limits, or None.
        permit: The permit to wrap up that its call has used, or None.
        paid: The usage that it was charged for, as the caller gave it.
        trip: What a shared store holds for it, or None.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "accounts", "amounts", "counts", "expires_ns", "on_expiry", "opened_ns", "owner", "paid",
        "payer", "permit", "priority", "state", "trip", "vector", "wrapping",
    )
    # fmt: on

    def __init__(self, payer: Any = None, *, on_expiry: Amounts = NOTHING, priority: int = 1) -> None:
        self.accounts: tuple[Account, ...] = ()
        self.amounts: Amounts = NOTHING
        self.vector = 0
        self.on_expiry = on_expiry
        self.counts: Sequence[tuple[Any, str, int]] = ()
        self.opened_ns = 0
        self.expires_ns = 0
        self.state: HoldState = "new"
        self.owner: Any = None
        self.payer = payer
        self.priority = priority
        self.wrapping: Account | None = None
        self.permit: Any = None
        self.paid: Any = None
        self.trip: Any = None


#: The index of normal priority.
NORMAL: Final = PRIORITIES.index("normal")
