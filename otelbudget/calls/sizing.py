"""What a model call needs before it is sent: its input, its output and their price; and how it could do with less.

The output is the request's own maximum, over all answers it asks for; without one, what 95 % of the model's answers
did not exceed (after five of them), else ``estimates.output_tokens``, for each answer. ``estimates.hold: expected``
holds the smaller of both. What a caller wants to decide itself is held by ``run.reserve(output_tokens=...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from otelbudget.admission import cost as costing
from otelbudget.model.amounts import CEILING, Amounts, nanousd
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.admission.cost import Price
    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun

__all__ = ["ModelRequest", "Needs", "Smaller", "needs", "teach"]

#: Given what tells whether amounts would be admitted, the most that is, or None.
Smaller = Callable[[Callable[[Sequence[int]], bool]], Amounts | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What is known of a model call before it is sent.

    Args:
        provider: ``gen_ai.provider.name``, such as ``openai``.
        operation: ``gen_ai.operation.name``: ``chat``, ``text_completion``, ``embeddings``, ...
        model: The model asked for; None if unknown.
        input_tokens: Estimated input tokens, at least 1.
        max_output_tokens: The request's own maximum times the number of answers; 0 where there is no output; None if
            it has none.
        answers: How many answers it asks for, at least 1.
        lowerable: Whoever sends it can send a lower maximum, see `ModelCall.max_output_tokens`.
    """

    provider: str
    operation: str
    model: str | None
    input_tokens: int
    max_output_tokens: int | None = None
    answers: int = 1
    lowerable: bool = False


class Needs(NamedTuple):
    """What a call asks of its budgets.

    Attributes:
        amounts: To hold.
        on_expiry: Charged if nothing is ever heard of the call: one step and its input.
        unpriced: The model's name if the call is to be refused for want of a price.
        own_maximum: The request's own maximum, if that is what is held.
        smaller: How it could do with less output; None if it can't.
    """

    amounts: Amounts
    on_expiry: Amounts
    unpriced: str | None
    own_maximum: int | None
    smaller: Smaller | None


def needs(run: BudgetRun, request: ModelRequest, *, seen_whole: bool) -> Needs:
    """What *request* needs of *run*.

    Args:
        run: Who pays.
        request: What is asked for.
        seen_whole: The request itself was seen, as guards do: its input was counted, and it names its model. Else a
            span tells of it, which may learn both later.
    """
    asked = _Asked(run, request, seen_whole=seen_whole)
    output = asked.output()
    return Needs(
        asked.amounts(output),
        asked.owed(),
        (request.model or "") if asked.refused_for_its_price(output) else None,
        output if request.max_output_tokens and output == request.max_output_tokens else None,
        asked.smaller(output),
    )


def teach(engine: Engine, request: ModelRequest, usage: Usage, *, seen_whole: bool, lowered: bool) -> None:
    """Let the next call of the model profit from what an answered one used.

    Args:
        engine: What all runs share.
        request: What was asked for.
        usage: What the answer says; estimates are not learned from.
        seen_whole: As for `needs`.
        lowered: Its maximum was lowered, so its length says nothing.
    """
    cost_nanousd = None
    if seen_whole and engine.config.trust_reported_cost:
        cost_nanousd = nanousd("reported_cost_usd", usage.reported_cost_usd or 0)
    engine.learned.learn(
        request.provider,
        request.model,
        usage,
        counted_input=request.input_tokens if seen_whole else None,
        answers=None if lowered or request.max_output_tokens == 0 else request.answers,
        cost_nanousd=cost_nanousd,
    )


class _Asked:
    """One request in the eyes of one run."""

    def __init__(self, run: BudgetRun, request: ModelRequest, *, seen_whole: bool) -> None:
        engine = run.engine
        self._run = run
        self._request = request
        self._seen_whole = seen_whole
        self._estimates = engine.config.estimates
        self._input = request.input_tokens
        if seen_whole:
            corrected = engine.learned.input_tokens(request.provider, request.model, self._input)
            # An average of other texts may only add to what a hold has to cover, where it is to be an upper bound.
            self._input = corrected if self._estimates.hold == "expected" else max(self._input, corrected)
        # Nobody can know before the answer whether it will say its cost. It is let go until one has not said it.
        self._may_report = (
            engine.config.trust_reported_cost
            and seen_whole
            and request.model is not None
            and engine.learned.reports_cost(request.provider, request.model) is not False
        )

    def output(self) -> int:
        """Output tokens to hold; never 0 where there is an output."""
        request, own = self._request, self._request.max_output_tokens
        if own is None or (own and self._estimates.hold == "expected"):
            usual = self._run.engine.learned.output_tokens(request.provider, request.model)
            expected = (usual or self._estimates.output_tokens) * request.answers
            own = expected if own is None else min(own, expected)
        return min(own, CEILING - 1 - self._input)

    def amounts(self, output: int) -> Amounts:
        """What it holds with so much output."""
        usage, cost = self._priced(output)
        nanousd = cost.nanousd
        if cost.unpriced and self._run.money_limited:
            # What nobody can price still needs money that is left, so that a spent budget stops it; and what will
            # say its price is taken for dear until it has, since many such calls may be in flight.
            dearest = self._run.engine.prices.dearest_nanousd(usage) if self._may_report else None
            nanousd = max(nanousd, dearest or 0, 1)
        return usage.amounts(nanousd)

    def owed(self) -> Amounts:
        """What is charged if nothing is ever heard of it."""
        usage, cost = self._priced(0)
        return usage.amounts(cost.nanousd)

    def refused_for_its_price(self, output: int) -> bool:
        """Whether nobody can price it, and that matters. A span may learn its model later, and then asks again."""
        known = self._seen_whole or self._request.model is not None
        if not known or self._may_report or self._run.unpriced_policy() != "deny":
            return False
        return self._priced(output)[1].unpriced

    def _priced(self, output: int) -> tuple[Usage, Price]:
        request = self._request
        usage = Usage(self._input, output, model=request.model, provider=request.provider, estimated=True)
        return usage, costing.price(self._run, usage)

    def smaller(self, output: int) -> Smaller | None:
        """How it could do with less than *output*, in steps of one token for each answer."""
        answers, least = self._request.answers, self._estimates.min_output_tokens
        if not (self._estimates.clamp and self._request.lowerable):
            return None

        def most(fits: Callable[[Sequence[int]], bool]) -> Amounts | None:
            found, low, high = None, least, -(-output // answers) - 1
            while low <= high:
                middle = (low + high) // 2
                amounts = self.amounts(middle * answers)
                if fits(amounts):
                    found, low = amounts, middle + 1
                else:
                    high = middle - 1
            return found

        return most
