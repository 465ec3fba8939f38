"""Thresholds: ratios of a limit whose reaching is reported once. Pure; the caller holds the store's lock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from otelbudget.model.amounts import UNLIMITED

if TYPE_CHECKING:
    from otelbudget.ledger.account import Account

__all__ = ["Crossing", "armed", "crossed_by", "crossings", "first_marks", "rearm"]


class Crossing(NamedTuple):
    """A threshold that a charge has reached for the first time."""

    account: Account
    resource: int
    ratio: float


def crossings(account: Account) -> list[Crossing]:
    """The thresholds that what was charged has reached and that were not given before."""
    crossed: list[Crossing] = []
    for i in account.limited:
        if account.used[i] >= account.marks[i]:
            more, account.marks = crossed_by(account, i, account.used[i], account.marks)
            crossed += more
    return crossed


def rearm(account: Account) -> None:
    """Set every mark to the lowest threshold not reached yet."""
    account.marks = armed(account, account.used)


def armed(account: Account, used: Sequence[int]) -> tuple[int, ...]:
    """The lowest threshold of each resource that *used* has not reached yet."""
    return tuple(
        next((m for m in _marks(limit, account.thresholds) if m > amount), UNLIMITED)
        for limit, amount in zip(account.full, used, strict=True)
    )


@lru_cache(maxsize=1024)
def first_marks(limits: tuple[int, ...], thresholds: tuple[float, ...]) -> tuple[int, ...]:
    """The first mark of each resource of a fresh account; one tuple for all runs of a budget."""
    return tuple(next(iter(_marks(limit, thresholds)), UNLIMITED) for limit in limits)


def _marks(limit: int, thresholds: tuple[float, ...]) -> list[int]:
    """The amounts at which *limit* reaches each threshold, rounded up; none for no limit or a limit of nothing."""
    if not 0 < limit < UNLIMITED:
        return []
    return [-(-limit * round(ratio * 1_000_000) // 1_000_000) for ratio in thresholds]


def crossed_by(account: Account, i: int, used: int, marks: Sequence[int]) -> tuple[list[Crossing], Sequence[int]]:
    """The thresholds of resource *i* that *used* reaches, given that those below *marks* were before; and the marks
    from then on."""
    passed = marks[i]
    crossed: list[Crossing] = []
    following = UNLIMITED
    for ratio, mark in zip(account.thresholds, _marks(account.full[i], account.thresholds), strict=True):
        if mark > used:
            following = min(following, mark)
        elif mark >= passed:
            crossed.append(Crossing(account, i, ratio))
    return crossed, [following if n == i else mark for n, mark in enumerate(marks)]
