"""What a model call needs before it is sent: its input, its output and their price; and how it could do with less.

The output is the request's own maximum, over all answers it asks for; without one, a quarter more than the longest of
the model's last hundred answers (after five of them), else ``estimates.output_tokens``, for each answer.
``estimates.hold: expected`` holds the smaller of both. What a caller wants to decide itself is held by
``run.reserve(output_tokens=...)``. The price is the dearest that what the request asks for may come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final, NamedTuple

from otelbudget.admission import cost as costs
from otelbudget.admission.cost import Price
from otelbudget.admission.request import Smaller
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Owner
from otelbudget.model.amounts import CEILING, INPUT, OUTPUT, STEPS, TOKENS, Amounts, Unsaid, nanousd
from otelbudget.model.usage import PARTS, Usage
from otelbudget.model.usage_names import MADE, REASONING
from otelbudget.pricing.rates import Parts

#: What an answer may leave open that its request says.
_ASKED: Final = ("model", "provider", "tier", "images")
#: What makes as much as its request says, and is not to be expected to make less.
_MADE_AS_ASKED: Final = ("image_generation", "speech")
#: What of a request may be dear for what is heard, or seen, in it.
_HEARD: Final[tuple[str, ...]] = ("audio_input_tokens", "video_input_tokens")
#: What is written to a cache: of it, what stays there for an hour.
_WRITTEN: Final = ("cache_write_tokens", "cache_write_1h_tokens")
_READ: Final = ("cache_read_tokens",)
_SHOWN: Final = "image_input_tokens"


class Kept(NamedTuple):
    """What a call goes on from: ids of an answer and of a conversation that its provider keeps, None if of none."""

    answer: str | None = None
    conversation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What is known of a model call before it is sent.

    Args:
        provider: ``gen_ai.provider.name``, such as ``openai``.
        operation: ``gen_ai.operation.name``: ``chat``, ``text_completion``, ``embeddings``, ...
        input_tokens: Estimated input tokens, at least 1.
        max_output_tokens: The request's own maximum times the number of answers; 0 where there is no output; None if
            it has none.
        answers, images: How many answers and pictures it asks for; at least 1 answer.
        searches: How many searches it lets its provider do at most; 0 if none, or if it does not say.
        tier: The service tier that it asks for; None if it does not say.
        apart: What of it may turn out to have a price of its own, as fields of `Usage`.
        audio_input_tokens: How many of its input tokens are sound.
        lowerable: Whoever sends it can send a lower maximum, see `ModelCall.max_output_tokens`.
        kept: What of it the provider keeps for later calls; None if nothing.
    """

    provider: str
    operation: str
    model: str | None
    input_tokens: int
    max_output_tokens: int | None = None
    answers: int = 1
    images: int = 0
    searches: int = 0
    tier: str | None = None
    apart: frozenset[str] = frozenset()
    audio_input_tokens: int = 0
    lowerable: bool = False
    kept: Kept | None = None

    def sound(self, given: int) -> int:
        """How many of *given* input tokens may be sound: all beyond what was counted of the rest."""
        return max(0, given - self.input_tokens + self.audio_input_tokens)

    def asked(self, usage: Usage) -> Usage:
        """*usage* of an answer, with what it leaves open as it was asked for, also sound and pictures."""
        more: dict[str, Any] = {}
        for name in _ASKED:
            if not getattr(usage, name) and (said := getattr(self, name)):
                more[name] = said
        if self.audio_input_tokens and isinstance(usage.audio_input_tokens, Unsaid):
            more["audio_input_tokens"] = self.sound(usage.input_tokens or 0)
        if self.operation == "image_generation" and isinstance(usage.image_output_tokens, Unsaid):
            more["image_output_tokens"] = usage.output_tokens or 0
        return replace(usage, **more) if more else usage

    def ways(self, given: int, made: int) -> list[dict[str, Any]]:
        """What of so many tokens, input and output, may turn out to be *apart*, or what nobody asks for, reasoning and
        read from a cache: a mixture of these costs at most what the dearest of them does."""
        seen = [{}, *({name: self.sound(given)} for name in _HEARD if name in self.apart)]
        if _SHOWN in self.apart:  # most of what has pictures is that
            seen.append({_SHOWN: given})
        cached = [_WRITTEN[:number] for number in range(3) if self.apart.issuperset(_WRITTEN[:number])] + [_READ]
        output = [(), (REASONING,), *((name,) for name in MADE if name in self.apart)]
        return [
            {**heard, **dict.fromkeys(some, given - sum(heard.values())), **dict.fromkeys(one, made)}
            for heard, some, one in product(seen, cached, output)
        ]


def teach(engine: Engine, request: ModelRequest, usage: Usage, *, seen_whole: bool, lowered: bool) -> None:
    """Let the next call of the model profit from what an answered one used. Where its maximum was *lowered*, its length
    says nothing."""
    cost_nanousd = None
    if seen_whole and engine.config.trust_reported_cost:
        cost_nanousd = nanousd("reported_cost_usd", usage.reported_cost_usd or 0)
    counted = seen_whole
    if request.kept is not None:
        for name in (usage.response_id, request.kept.conversation):
            engine.learned.keep(request.provider, name, usage.tokens or 0)
        # What it takes along of earlier turns says nothing of how well its own were counted.
        counted = counted and not any(request.kept)
    engine.learned.learn(
        request.provider,
        request.model,
        usage,
        counted_input=request.input_tokens if counted else None,
        answers=None if lowered or request.max_output_tokens == 0 else request.answers,
        cost_nanousd=cost_nanousd,
    )


def dearest(run: RunState, request: ModelRequest, usage: Usage, owner: Owner | None) -> Usage:
    """*usage* of *request* as the dearest that it may be, unless it tells its parts."""
    if any(getattr(usage, name) for name in PARTS):
        return usage
    ways = request.ways(usage.input_tokens or 0, usage.output_tokens or 0)
    return max((replace(usage, **way) for way in ways), key=lambda one: costs.price(run, one, owner=owner).nanousd)


def as_held(run: RunState, request: ModelRequest, held: Amounts, usage: Usage, owner: Owner | None) -> Usage:
    """*usage* of *request*, or what is *held* where that is more, as the dearest that it may be."""
    given, made = max(held[INPUT], usage.input_tokens or 0), max(held[OUTPUT], usage.output_tokens or 0)
    whole = dearest(run, request, replace(usage, input_tokens=given, output_tokens=made, tokens=None), owner)
    searched = 0 if run.engine.config.estimates.hold == "expected" else request.searches
    return replace(whole, searches=max(whole.searches, searched))


class Sizing:
    """What *request* needs of *run* and of the quotas of *owner*.

    A guard has *seen_whole*: its input was counted, and it names its model; a span that tells of it may learn both
    later. Where a reservation is around it, what was *reserved* says its steps, and its output if the request does not.

    Attributes:
        amounts: What it asks of its budgets; its output is never 0 where there is one.
        on_expiry: What is charged if nothing is ever heard of it.
        unpriced: The model that it is to be refused for, since nobody can price it; empty if unknown, None for none.
        own_maximum: That of the request, if it is what is held.
    """

    def __init__(
        self,
        run: RunState,
        request: ModelRequest,
        owner: Owner | None,
        *,
        seen_whole: bool,
        reserved: Amounts | None = None,
    ) -> None:
        engine = run.engine
        expects = engine.config.estimates.hold == "expected"
        self._run, self._request, self._owner, self._seen_whole = run, request, owner, seen_whole
        self._searches = 0 if expects else request.searches
        self._steps = 1 if reserved is None else min(reserved[STEPS], 1)
        given, output = request.input_tokens, request.max_output_tokens
        if seen_whole:
            corrected = engine.learned.input_tokens(request.provider, request.model, given)
            # An average of other texts may only add to what a hold has to cover, where it is to be an upper bound.
            given = corrected if expects else max(given, corrected)
            if request.kept is not None:
                taken_along = (engine.learned.kept_tokens(request.provider, name) for name in request.kept)
                given = min(given + max(taken_along), CEILING - 1)
        if output is None and reserved is not None and reserved[TOKENS] > given:
            output = reserved[TOKENS] - given
        elif output is None or (output and expects and request.operation not in _MADE_AS_ASKED):
            usual = engine.learned.output_tokens(request.provider, request.model)
            expected = (usual or engine.config.estimates.output_tokens) * request.answers
            output = expected if output is None else min(output, expected)
        output = min(output, CEILING - 1 - given)
        self._input, self._known = given, engine.prices.known(request.model, request.provider, tier=request.tier)
        self.unpriced: str | None = None
        self.amounts = self.held(output)
        self.on_expiry = self.held(0, unheard_of=True)
        self.own_maximum = output if output and output == request.max_output_tokens else None

    def held(self, output: int, *, unheard_of: bool = False) -> Amounts:
        """What it holds with so much output; or what is charged if it is *unheard_of*, whatever the policy."""
        given, request, known = self._input, self._request, self._known
        if known is None:
            usage = Usage(given, output, model=request.model, provider=request.provider, estimated=True)
            if self._run.engine.prices.table():  # else there is none that an estimate could take
                usage = dearest(self._run, request, usage, self._owner)
            price = costs.price(self._run, usage, owner=self._owner)
        else:
            parts = Parts(given, output, images=request.images, searches=0 if unheard_of else self._searches)
            price = Price(known.cost(parts))
            if known.dearer and not known.dearer.isdisjoint({REASONING, *_READ, *request.apart}):
                price = Price(max(known.cost(parts._replace(**way)) for way in request.ways(given, output)))
        amounts = Amounts(self._steps, given + output, given, output, price.nanousd)
        return amounts if unheard_of or known is not None else self._without_price(amounts, price)

    def _without_price(self, amounts: Amounts, price: Price) -> Amounts:
        """What it holds where no price is known, and whether it is refused for that."""
        engine, request = self._run.engine, self._request
        # Nobody can know before the answer whether it will say its cost. It is let go until one has not said it.
        may_report = (
            engine.config.trust_reported_cost
            and self._seen_whole
            and request.model is not None
            and engine.learned.reports_cost(request.provider, request.model) is not False
        )
        # A span may learn its model later, and then asks again.
        if price.denies and not may_report and (self._seen_whole or request.model is not None):
            self.unpriced = request.model or ""
        if not (price.unpriced and self._run.binding(request.model, self._owner).money):
            return amounts
        # What nobody can price still needs money that is left, so that a spent budget stops it; and what will say its
        # price is taken for dear until it has, since many such calls may be in flight.
        dearest = engine.prices.dearest_nanousd(Parts(amounts[INPUT], amounts[OUTPUT])) if may_report else None
        return amounts._replace(cost_nanousd=max(price.nanousd, dearest or 0, 1))

    def smaller(self) -> Smaller | None:
        """How it could do with less output, in steps of one token for each answer; None if nobody can lower it."""
        estimates, answers = self._run.engine.config.estimates, self._request.answers

        def most(fits: Callable[[Sequence[int]], bool]) -> Amounts | None:
            found, low, high = None, estimates.min_output_tokens, -(-self.amounts[OUTPUT] // answers) - 1
            while low <= high:
                middle = (low + high) // 2
                amounts = self.held(middle * answers)
                if fits(amounts):
                    found, low = amounts, middle + 1
                else:
                    high = middle - 1
            return found

        return most if estimates.clamp and self._request.lowerable else None
