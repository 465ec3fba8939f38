"""Carved children: a part of what the runs above have is kept for a child as long as it is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from otelbudget import ledger
from otelbudget.amounts import COST, RESOURCES, UNLIMITED, Amounts, Money, count, nanousd
from otelbudget.runs import denying
from otelbudget.runs.admission import Ask

if TYPE_CHECKING:
    from otelbudget.model import RunBudget
    from otelbudget.runs.run import BudgetRun

__all__ = ["Carve", "amounts_of", "hold"]

#: What a carved child gets: amounts, or a share of what the runs above have left.
Carve = Mapping[str, Money] | float


def amounts_of(carve: Carve | None, budget: RunBudget, parent: BudgetRun) -> Amounts:
    """What *carve* means for a child of *parent* under *budget*.

    Raises:
        ValueError: It is no share above 0 and at most 1, an amount is not one, or nothing would be carved.
        TypeError: A name is no resource.
    """
    if carve is None:
        amounts = [limit if limit < UNLIMITED else 0 for limit in budget.limits]
    elif isinstance(carve, Mapping):
        amounts = [0] * len(RESOURCES)
        for name, value in carve.items():
            if name not in RESOURCES:
                raise TypeError(f"carve: unknown resource {name!r}: known are {', '.join(RESOURCES)}")
            i = RESOURCES.index(name)
            amounts[i] = (nanousd if i == COST else count)(f"carve: {name}", value)
    else:
        amounts = _share_of(carve, parent)
    if not any(amounts):
        raise ValueError("mode='carve' keeps nothing here: pass carve={'tokens': 500}, or a budget with limits")
    return Amounts(*amounts)


def _share_of(share: object, parent: BudgetRun) -> list[int]:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"carve must be amounts, or a share above 0 and at most 1, got {share!r}")
    with parent.engine.lock:
        left = [ledger.left(parent.accounts, i) for i in range(len(RESOURCES))]
    millionths = round(share * 1_000_000)
    return [0 if amount is None else amount * millionths // 1_000_000 for amount in left]


def hold(child: BudgetRun, parent: BudgetRun, amounts: Amounts) -> None:
    """Keep *amounts* of *parent* and the runs above it for *child*.

    Raises:
        BudgetExceeded: They have not so much left; nothing is kept.
    """
    denying.decide(parent, Ask(amounts, "reserve", site=parent.site_here(), carve_for=child))
