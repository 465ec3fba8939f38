"""What a model call needs before it is sent: its input, its output and their price; and how it could do with less.

The output is the request's own maximum, over all answers it asks for; without one, what 95 % of the model's answers
did not exceed (after five of them), else ``estimates.output_tokens``, for each answer. ``estimates.hold: expected``
holds the smaller of both. What a caller wants to decide itself is held by ``run.reserve(output_tokens=...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from otelbudget.admission import cost as costs
from otelbudget.admission.request import Smaller
from otelbudget.model.amounts import CEILING, Amounts, nanousd
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState
    from otelbudget.engine.engine import Engine


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
    """What a call asks of its budgets: *on_expiry* is charged if nothing is ever heard of it, *unpriced* is the model
    that it is to be refused for, *own_maximum* that of the request if it is what is held."""

    amounts: Amounts
    on_expiry: Amounts
    unpriced: str | None
    own_maximum: int | None
    smaller: Smaller | None


def needs(run: RunState, request: ModelRequest, *, seen_whole: bool) -> Needs:
    """What *request* needs of *run*. A guard has seen it whole: its input was counted, and it names its model; a span
    that tells of it may learn both later."""
    asked = _Asked(run, request, seen_whole=seen_whole)
    output = asked.output()
    amounts, unpriced = asked.held(output)
    return Needs(
        amounts,
        asked.priced(0)[0],
        (request.model or "") if unpriced and asked.needs_a_price() else None,
        output if request.max_output_tokens and output == request.max_output_tokens else None,
        asked.smaller(output),
    )


def teach(engine: Engine, request: ModelRequest, usage: Usage, *, seen_whole: bool, lowered: bool) -> None:
    """Let the next call of the model profit from what an answered one used. Where its maximum was *lowered*, its length
    says nothing."""
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

    def __init__(self, run: RunState, request: ModelRequest, *, seen_whole: bool) -> None:
        engine = run.engine
        self._run, self._request, self._seen_whole = run, request, seen_whole
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

    def held(self, output: int) -> tuple[Amounts, bool]:
        """What it holds with so much output, and whether nobody can price that."""
        amounts, usage, unpriced = self.priced(output)
        if unpriced and self._run.binding_here().money:
            # What nobody can price still needs money that is left, so that a spent budget stops it; and what will
            # say its price is taken for dear until it has, since many such calls may be in flight.
            dearest = self._run.engine.prices.dearest_nanousd(usage) if self._may_report else None
            amounts = amounts._replace(cost_nanousd=max(amounts.cost_nanousd, dearest or 0, 1))
        return amounts, unpriced

    def priced(self, output: int) -> tuple[Amounts, Usage, bool]:
        """The same at its price, 0 if there is none."""
        request = self._request
        usage = Usage(self._input, output, model=request.model, provider=request.provider, estimated=True)
        cost = costs.price(self._run, usage, owner=self._run.around().owner)
        return usage.amounts(cost.nanousd), usage, cost.unpriced

    def needs_a_price(self) -> bool:
        """Whether it is refused if nobody can price it. A span may learn its model later, and then asks again."""
        known = self._seen_whole or self._request.model is not None
        return known and not self._may_report and self._run.unpriced_policy(self._run.binding_here().money) == "deny"

    def smaller(self, output: int) -> Smaller | None:
        """How it could do with less than *output*, in steps of one token for each answer."""
        answers, least = self._request.answers, self._estimates.min_output_tokens
        if not (self._estimates.clamp and self._request.lowerable):
            return None

        def most(fits: Callable[[Sequence[int]], bool]) -> Amounts | None:
            found, low, high = None, least, -(-output // answers) - 1
            while low <= high:
                middle = (low + high) // 2
                amounts, _ = self.held(middle * answers)
                if fits(amounts):
                    found, low = amounts, middle + 1
                else:
                    high = middle - 1
            return found

        return most
