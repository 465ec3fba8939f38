"""`Usage`: what a model call, or several, did spend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Self

from otelbudget.model.amounts import (
    CEILING,
    COST,
    INPUT,
    OUTPUT,
    STEPS,
    TOOLS,
    Amounts,
    Money,
    Unsaid,
    count,
    nanos_of,
    nanousd,
    usd,
)
from otelbudget.model.reported import fields_of, whole
from otelbudget.model.usage_names import CACHED, MADE, READ, REASONING, SEEN
from otelbudget.model.values import Shown, spelled

_log = logging.getLogger(__name__)
_ONE_STEP = Unsaid(1)
_NO_TOOL_CALLS = Unsaid(0)
_NOBODY_SAYS = Unsaid(0)
_MAY_BE_UNKNOWN = ("input_tokens", "output_tokens", "tokens")
#: All that is a part of something, or has a price of its own.
PARTS = (*CACHED, REASONING, *SEEN, *MADE, *READ, "cache_write_1h_tokens", "images", "searches", "file_searches")
_COUNTS = ("steps", "tool_calls", *PARTS, *_MAY_BE_UNKNOWN)


@spelled
@dataclass(frozen=True, slots=True, repr=False)
class Usage(Shown):
    """What a model call, or several, used.

    Input includes cached tokens and output includes reasoning tokens; a part above its whole proves that this whole
    leaves it out, and is added. None means unknown, which is never taken for zero: a reservation charges its hold
    instead. Only ``tokens`` given: counted as input, priced at the dearer of input and output.

    Example:
        >>> Usage(input_tokens=80, output_tokens=20, model="gpt-4o-mini").tokens
        100

    Args:
        input_tokens, output_tokens: As the provider counted them.
        tokens: Their sum, if the split is not known; set by itself where both are.
        cost_usd: What it cost; None takes the price of *model*.
        steps, tool_calls: How many model and tool calls this was; a commit that does not say it charges those that are
            held.
        cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
        image_output_tokens, cache_write_1h_tokens, image_input_tokens, video_input_tokens, video_output_tokens: Parts
            of the above, and what was written to a cache for an hour.
        cache_audio_read_tokens, cache_image_read_tokens: What of the sound and of the pictures was read from a cache;
            where nobody says, as little as can be: text is what was read from it first.
        images, searches, file_searches: Images that were made, and searches that the provider did, on the web and in
            files that it keeps, which may have a price of their own.
        tier: The service tier, such as ``priority``, ``flex`` or ``batch``; None for the ordinary one.
        model, provider, response_id: As the response says.
        estimated: The numbers are an estimate.
        reported_cost_usd: What the response says it cost: taken where ``trust_reported_cost`` is set, the configuration
            has no price for the model, and it is not zero.

    Raises:
        ValueError: A number is negative, not finite, not whole, or the sum does not fit its parts.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: int | None = None
    cost_usd: Money | None = None
    steps: int = _ONE_STEP
    tool_calls: int = _NO_TOOL_CALLS
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    estimated: bool = False
    reported_cost_usd: Money | None = None
    audio_input_tokens: int = _NOBODY_SAYS
    audio_output_tokens: int = 0
    image_output_tokens: int = _NOBODY_SAYS
    cache_write_1h_tokens: int = 0
    images: int = 0
    searches: int = 0
    file_searches: int = 0
    tier: str | None = None
    image_input_tokens: int = 0
    cache_audio_read_tokens: int = 0
    cache_image_read_tokens: int = 0
    video_input_tokens: int = 0
    video_output_tokens: int = 0

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < CEILING:
                known = isinstance(value, Unsaid) or (value is None and name in _MAY_BE_UNKNOWN)
                put(name, value if known else count(name, value))
        for name in ("cost_usd", "reported_cost_usd"):
            if getattr(self, name) is not None:
                put(name, usd(nanousd(name, getattr(self, name))))
        given, made, tokens = self.input_tokens, self.output_tokens, self.tokens
        split, known = (given or 0) + (made or 0), given is not None and made is not None
        if tokens is not None and not known and tokens < split:
            raise ValueError(f"tokens ({tokens}) is less than the input or output tokens given")
        if tokens is not None and not known:
            nobody_says = given is None and made is None
            given = tokens - (made or 0) if given is None else given
            made = tokens - given
            given = Unsaid(given) if nobody_says else given
        read = max(self.cache_audio_read_tokens, self.cache_image_read_tokens)
        if read:
            put("cache_read_tokens", whole(self.cache_read_tokens, read))
            for part, of in READ.items():
                put(of, whole(getattr(self, of), getattr(self, part)))
        put("cache_write_tokens", whole(self.cache_write_tokens, self.cache_write_1h_tokens))
        cached, reasoned = self.cache_read_tokens + self.cache_write_tokens, self.reasoning_tokens
        seen = max(self.audio_input_tokens, self.image_input_tokens, self.video_input_tokens)
        if given is not None and given < max(cached, seen):
            given = whole(whole(given, cached), seen)
        if made is not None and not isinstance(given, Unsaid):
            made = whole(
                whole(made, reasoned), max(self.audio_output_tokens, self.image_output_tokens, self.video_output_tokens)
            )
        told, split = split, (given or 0) + (made or 0)
        if tokens is not None and known and tokens not in (told, split):
            raise ValueError(f"tokens ({tokens}) is not input_tokens ({given}) + output_tokens ({made})")
        if split >= CEILING:
            count("tokens", split)
        put("input_tokens", given)
        put("output_tokens", made)
        put("tokens", None if given is None or made is None else split)

    @classmethod
    def of(cls, used: object, *, provider: str | None = None) -> Self:
        """The usage that *used* reports: a usage, or an answer or message that has one, as an object or a mapping.

        Reads the names of OpenAI (chat and Responses), Anthropic, Gemini, Bedrock, Cohere, Ollama, LangChain (its
        results too) and pydantic-ai. What is told in a way that makes no sense is unknown.

        Example:
            >>> Usage.of({"usage": {"prompt_tokens": 80, "completion_tokens": 20}, "model": "gpt-4o-mini"}).tokens
            100

        Raises:
            TypeError: Nothing in it says how many tokens were used.
        """
        found = cls.reported(used, provider=provider)
        if found is None:
            raise TypeError(f"found no usage in this {type(used).__name__}; give a Usage, or what reports one")
        return found

    @classmethod
    def reported(cls, used: object, *, provider: str | None = None) -> Self | None:
        """`of`, but None where it raises."""
        try:
            if isinstance(used, cls):
                return used
            found = fields_of(used)
            return None if found is None else cls(**found, provider=provider)
        except ValueError:  # more than a call can use
            return None
        except Exception as error:  # noqa: BLE001  somebody else's that can't be looked into, or a mistake of ours
            _unreadable(type(used).__qualname__, type(error).__qualname__)
            return None

    @property
    def cost_nanousd(self) -> int | None:
        """The cost in nano-USD, or None if unknown."""
        return None if self.cost_usd is None else nanos_of(self.cost_usd)

    def amounts(self, cost_nanousd: int = 0) -> Amounts:
        """As internal amounts, unknown token counts as 0, at the given cost."""
        given, made = self.input_tokens or 0, self.output_tokens or 0
        return Amounts(self.steps, given + made, given, made, cost_nanousd, self.tool_calls)


@lru_cache(256)
def _unreadable(kind: str, error: str) -> None:
    """Tell of it, once for each kind."""
    _log.warning("the usage of a %s is taken as unknown, since looking into it raised %s", kind, error, exc_info=True)


def sum_of(amounts: Sequence[int], *, estimated: bool = False) -> Usage:
    """What *amounts*, in `RESOURCES` order, come to. Unlike what one call used, a sum may be of any size."""
    known = {
        "input_tokens": amounts[INPUT],
        "output_tokens": amounts[OUTPUT],
        "tokens": amounts[INPUT] + amounts[OUTPUT],
        "cost_usd": usd(amounts[COST]),
        "steps": amounts[STEPS],
        "tool_calls": amounts[TOOLS],
        "estimated": estimated,
    }
    made = object.__new__(Usage)
    for one in fields(Usage):
        object.__setattr__(made, one.name, known.get(one.name, one.default))
    return made
