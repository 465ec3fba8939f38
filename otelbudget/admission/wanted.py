"""What the keywords of `check`, `can_proceed` and `reserve` ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from otelbudget.admission import cost as costing
from otelbudget.admission.admission import one_call
from otelbudget.model.amounts import COST, NOTHING, Amounts, amounts_from
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

__all__ = ["Wanted", "wanted"]


class Wanted(NamedTuple):
    """Amounts, the model they are for, and that model if it is to be refused for want of a price."""

    amounts: Amounts
    model: str | None = None
    unpriced: str | None = None


def wanted(run: BudgetRun, given: dict[str, Any], *, timed: bool = False) -> Wanted:
    """What *given* asks of *run*; *timed* if it asks for time as well, so that nothing else is implied.

    A model given without its cost is priced: tokens without a split as input.

    Raises:
        ValueError, TypeError: An amount is not one, or a keyword is no resource.
    """
    model = given.pop("model", None)
    if model is not None and not (isinstance(model, str) and model):
        raise ValueError(f"model must be the name of a model, got {model!r}")
    amounts = amounts_from(given, NOTHING if timed or given else one_call(run, model))
    if model is None or "cost_usd" in given or not amounts.tokens:
        return Wanted(amounts, model)
    cost = costing.price(run, Usage(amounts.input_tokens, amounts.output_tokens, model=model))
    refuse = cost.unpriced and run.unpriced_policy(model) == "deny"
    return Wanted(amounts._replace(cost_nanousd=max(cost.nanousd, amounts[COST])), model, model if refuse else None)
