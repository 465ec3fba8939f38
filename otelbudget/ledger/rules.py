"""Rules: what limits an account, and what several of them come to. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from otelbudget.model.amounts import UNLIMITED
from otelbudget.model.quota import PRIORITIES, Quota
from otelbudget.model.vector import GUARDS, NO_LIMIT, SHIFTS, cap, unpack


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
def rules_of_budget(
    limits: tuple[int, ...],
    full: tuple[int, ...],
    name: str | None,
    thresholds: tuple[float, ...],
    warn: bool,
    origin: str | None,
) -> tuple[Rule]:
    """The rule that a run's budget is, alone; the same object for all runs of a budget."""
    return (Rule(name, (limits,) * len(PRIORITIES), full, thresholds, warn, origin),)


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """What the rules of an account come to.

    Attributes:
        caps: What each priority may reach under all rules that refuse, ready to be compared.
        full: The same including what is set aside for wrapping up.
        warns: What each priority may reach without a warning; None where no rule warns.
        limited: The resources that a rule limits, ascending.
        refusing: Those that a rule refuses, ascending.
        mark: See `marked`, where nothing is used.
        most: What the highest priority may reach of each of `limited`, warning or not.
    """

    caps: tuple[int, ...]
    full: int
    warns: tuple[int, ...] | None
    limited: tuple[int, ...]
    refusing: tuple[int, ...]
    mark: int
    most: tuple[tuple[int, int], ...]


@lru_cache(maxsize=4096)
def limits_of(rules: tuple[Rule, ...]) -> Limits:
    """What *rules* come to together: the least of each resource."""
    strict, lenient = [r for r in rules if not r.warn], [r for r in rules if r.warn]
    priorities, limited = range(len(PRIORITIES)), _limited(rules)
    most = _least([rule.limits[-1] for rule in rules])
    return Limits(
        tuple(cap(_least([rule.limits[p] for rule in strict])) for p in priorities),
        cap(_least([rule.full for rule in strict])),
        tuple(cap(_least([rule.limits[p] for rule in lenient])) for p in priorities) if lenient else None,
        limited,
        _limited(strict),
        marked(rules, 0),
        tuple((i, most[i]) for i in limited),
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
