"""Carved children: a part of what the runs above have is kept for a child as long as it is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from otelbudget.admission.admission import Ask
from otelbudget.ledger import ledger
from otelbudget.model.amounts import COST, NOTHING, RESOURCES, UNLIMITED, Amounts, Money, count, nanousd
from otelbudget.runs import asking

if TYPE_CHECKING:
    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.run import BudgetRun

__all__ = ["Carve", "Wants", "hold", "wanted"]

#: What a carved child gets: amounts, or a share of what the runs above it have left.
Carve = Mapping[str, Money] | float
#: Gives the amounts that are to be kept, with the lock held.
Wants = Callable[[], Amounts]


def wanted(carve: Carve | None, budget: RunBudget, parent: BudgetRun) -> Wants:
    """What *carve* means for a child of *parent* under *budget*; a share is one of what is left when it is taken.

    Raises:
        ValueError: It is no share above 0 and at most 1, an amount is not one, or nothing could be carved.
        TypeError: A name is no resource.
    """
    if carve is not None and not isinstance(carve, Mapping):
        return _share_of(carve, parent)
    if carve is None:
        amounts = Amounts(*(limit if limit < UNLIMITED else 0 for limit in budget.limits))
    else:
        amounts = _parsed(carve)
    if not any(amounts):
        raise ValueError("mode='carve' keeps nothing here: pass carve={'tokens': 500}, or a budget with limits")
    return lambda: amounts


def _parsed(carve: Mapping[str, Money]) -> Amounts:
    amounts = [0] * len(RESOURCES)
    for name, value in carve.items():
        if name not in RESOURCES:
            raise TypeError(f"carve: unknown resource {name!r}: known are {', '.join(RESOURCES)}")
        i = RESOURCES.index(name)
        amounts[i] = (nanousd if i == COST else count)(f"carve: {name}", value)
    return Amounts(*amounts)


def _share_of(share: object, parent: BudgetRun) -> Wants:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"carve must be amounts, or a share above 0 and at most 1, got {share!r}")
    if not any(account.limited for account in parent.accounts):
        raise ValueError(f"carve={share!r} is a share of what the runs above have left, and they have no limits")
    millionths = round(share * 1_000_000)

    def amounts() -> Amounts:
        left = [ledger.left(parent.accounts, i) or 0 for i in range(len(RESOURCES))]
        return Amounts(*(amount * millionths // 1_000_000 for amount in left))

    return amounts


def hold(child: BudgetRun, parent: BudgetRun, wants: Wants) -> None:
    """Keep what *wants* gives of *parent* and the runs above it for *child*.

    Raises:
        BudgetExceeded: They have not so much left; nothing is kept.
    """
    asking.decide(parent, Ask(NOTHING, "reserve", site=parent.site_here(), carve_for=child, wants=wants))
