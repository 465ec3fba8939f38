"""Dialects: how requests, answers and the events of streams are read in one provider's wire format.

To add one: a `Dialect` with what differs, in a file of its own that ends with its ``ENDPOINTS``. Usages are read by
`Usage.reported`; add their names to `model.usage_names` where they are new. Bodies are mappings, answers are mappings
or the SDK's models; a value that makes no sense is taken as absent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from otelbudget.calls.sizing import Kept
from otelbudget.model.reported import at, cost_of, count, get, part_of
from otelbudget.model.reported import text as text_of
from otelbudget.model.usage import Usage

__all__ = ["Dialect", "Endpoints", "cost_of", "count", "dialect_of", "get", "named", "spoken", "text_of"]

#: Where a request says how many pictures it wants: OpenAI's, Google's, Amazon's.
_IMAGES: Final = ("n", "parameters.sampleCount", "imageGenerationConfig.numberOfImages")
#: Where it says what its output is to be, beside text: OpenAI's, Gemini's, Interactions'; and what that is of a usage.
_MODALITIES: Final = ("modalities", "generationConfig.responseModalities", "response_modalities")
_MADE: Final = {kind: f"{kind}_output_tokens" for kind in ("audio", "image", "video")}
#: Where it says how many tokens it may think, which its maximum has to be above: Anthropic's, OpenRouter's, Bedrock's.
_THOUGHTS: Final = (
    *("thinking.budget_tokens", "reasoning.max_tokens"),
    *(f"additionalModelRequestFields.{name}.budget_tokens" for name in ("thinking", "reasoning_config")),
)


@dataclass(frozen=True)
class Dialect(ABC):
    """One kind of request and what comes of it.

    Args:
        operation: ``gen_ai.operation.name``.
        maxima: Keys of the request's own maximum output; the first one given counts.
        asks_usage: Streams say their usage only if ``stream_options`` asks.
        fee: It makes no text, but costs something: a step, and the usage if the answer says one.
        inside: The part of a body that has the maximum; the body itself if empty.
        made: How many tokens it makes at most for a body, and each of its answers, of what is no text.
    """

    operation: str
    maxima: tuple[str, ...] = ()
    asks_usage: bool = False
    fee: bool = False
    inside: str = ""
    made: Callable[[Mapping[str, Any]], int] | None = None

    def answers(self, body: Mapping[str, Any]) -> int:  # noqa: ARG002 - some dialects can ask for several
        """How many answers are made, each up to the maximum."""
        return 1

    def images(self, body: Mapping[str, Any]) -> int:
        """How many pictures it makes."""
        if self.operation != "image_generation":
            return 0
        return next((n for path in _IMAGES if (n := count(at(body, path)))), 1)

    def searches(self, body: Mapping[str, Any]) -> int:  # noqa: ARG002 - most do not say
        """How many searches on the web it lets its provider do at most; 0 if it lets it do none, or does not say."""
        return 0

    def apart(self, body: Mapping[str, Any], provider: str) -> frozenset[str]:  # noqa: ARG002 - some do so by themselves
        """What may turn out to have a price of its own, beside what its messages ask for, as fields of `Usage`."""
        asked = next((found for path in _MODALITIES if isinstance(found := at(body, path), list | tuple)), ())
        kinds = {str(getattr(one, "value", one)).lower() for one in asked}
        if self.operation == "image_generation":
            kinds.add("image")
        return frozenset(name for kind, name in _MADE.items() if kind in kinds)

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """The most that the request allows to be made, over all its answers; 0 where there is none, None if open."""
        if self.made is not None:
            return self.made(body) * self.answers(body)
        if self.fee or self.operation == "embeddings":
            return 0
        limits = self._limits(body)
        maximum = next((n for key in self.maxima if (n := count(limits.get(key)))), None)
        return None if maximum is None else maximum * self.answers(body)

    def _limits(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        limits = body.get(self.inside) if self.inside else body
        return limits if isinstance(limits, Mapping) else {}

    def kept(self, body: Mapping[str, Any]) -> Kept | None:  # noqa: ARG002 - most keep nothing
        """What of it the provider keeps for later requests; None if nothing."""
        return None

    def maximum_keys(self, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:  # noqa: ARG002 - some differ
        """Where a lower maximum is put: where the request has one, else where it would; empty if it can't be, or has to
        stay above the thoughts that the request asks for."""
        if any(count(at(body, path)) for path in _THOUGHTS):
            return ()
        limits = self._limits(body)
        return tuple(key for key in self.maxima if limits.get(key) is not None) or self.maxima[:1]

    def lowered(self, body: Mapping[str, Any], provider: str, maximum: int) -> Mapping[str, Any]:
        """What has to be in the body for *maximum*, for each answer, to be its maximum."""
        lower = dict.fromkeys(self.maximum_keys(body, provider), maximum)
        return {self.inside: {**self._limits(body), **lower}} if self.inside else lower

    def usage(self, answer: object, provider: str) -> Usage | None:
        """The usage that an answer reports, or None."""
        return Usage.reported(answer, provider=provider)

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an event of a stream says about the whole answer: ``model``, ``id``, ``service_tier`` and ``usage``, as
        far as it does."""
        return part_of(event)

    @abstractmethod
    def words(self, event: Mapping[str, Any]) -> str:
        """What the model says in this event."""

    @abstractmethod
    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        """Whether the answer is complete with this event, and *usage*, as far as it was told, final."""

    def only_usage(self, event: Mapping[str, Any]) -> bool:  # noqa: ARG002 - where usage has to be asked for
        """Whether the event is there only because the usage was asked for."""
        return False


#: Ends of paths, ``*`` for any part -> what goes there; the first that fits, since gateways put more in front.
Endpoints = tuple[tuple[str, Dialect], ...]


def dialect_of(endpoints: Endpoints, method: str, url: str) -> Dialect | None:
    """What a request to *url* (a path or a whole URL) speaks, or None if it makes no tokens that we count."""
    if method.lower() != "post":
        return None
    path = "/" + url.partition("?")[0].rstrip("/")
    return next((dialect for end, dialect in endpoints if fnmatchcase(path, f"*{end}")), None)


def named(tools: object, kind: str) -> list[object]:
    """Those of the *tools* of a request whose type begins with *kind*."""
    tools = tools if isinstance(tools, list | tuple) else ()
    return [tool for tool in tools if (text_of(tool, "type") or "").startswith(kind)]


def spoken(delta: object) -> Iterable[str]:
    """All text in a piece of a stream that the model has made: words, refusals, reasoning, tool names and arguments."""
    if isinstance(delta, str):
        yield delta
    elif isinstance(delta, Mapping):
        for key, value in delta.items():
            if key not in ("id", "role", "type", "index", "logprobs", "data", "signature", "thoughtSignature"):
                yield from spoken(value)
    elif isinstance(delta, list):
        for value in delta:
            yield from spoken(value)
