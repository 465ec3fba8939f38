"""Usage to money: prices from the configuration, else from a price book of the user's, else from the genai-prices
package where that is installed.

Prices are kept as exact integer rates. Rounding, up to the next nano-USD, happens once per call, where price meets
tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Final, Protocol

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import NANOS, Money, count, nanousd
from otelbudget.model.names import is_pattern, matching, undated
from otelbudget.model.usage import Usage
from otelbudget.model.values import Value
from otelbudget.pricing.listed import listed_price
from otelbudget.pricing.rates import APART, EACH, PARTS, Known, Parts, Rates, rates

__all__ = ["Price", "PriceBook", "Prices"]

_log = logging.getLogger("otelbudget")

#: Answers kept; names come from callers, so their number has no other bound.
_MOST_KNOWN: Final = 4_096
_LONGEST_NAME: Final = 512
#: Tiers in the words of providers that are the ordinary one.
_ORDINARY: Final = (None, "auto", "default", "standard", "standard_only")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Price(Value):
    """What a model's tokens cost, in USD per *per* tokens, and what else it is paid for.

    Cached tokens and sound are parts of the input, reasoning and sound parts of the output; a part without a price of
    its own costs what the whole does. A model without an *output* price (embeddings) is charged its input price for
    output, if any.

    Example:
        >>> Price(input=2.50, output=10, cache_read=1.25).output
        Decimal('10')

    Args:
        input, output: USD per *per* tokens.
        cache_read, cache_write: For input read from, or written to, the provider's cache.
        reasoning: For output that is reasoning.
        audio_input, audio_output: For sound.
        cache_audio_read: For sound read from the provider's cache; else that costs what other sound does.
        image, search, request: USD for each image that is made, each search that the provider does, each call.
        tiers: Service tier -> by how much all prices are multiplied in it, ``{"priority": 2, "batch": 0.5}``.
        per: How many tokens the prices are for.
        discount: Ratio from 0 to 1 taken off every price.

    Raises:
        ConfigError: A price is no amount of money, *per* is not a whole number of at least 1, or *discount* no ratio.
    """

    input: Money
    output: Money | None = None
    cache_read: Money | None = None
    cache_write: Money | None = None
    reasoning: Money | None = None
    audio_input: Money | None = None
    audio_output: Money | None = None
    image: Money | None = None
    search: Money | None = None
    request: Money | None = None
    tiers: Mapping[str, Money] = field(default_factory=dict, hash=False)
    per: int = 1_000_000
    discount: Money = 0
    cache_audio_read: Money | None = None

    def __post_init__(self) -> None:
        for name in (*_PRICED, "discount"):
            value = getattr(self, name)
            if value is not None or name == "input":
                object.__setattr__(self, name, _exact(name, value))
        if not isinstance(self.tiers, Mapping) or not all(isinstance(tier, str) and tier for tier in self.tiers):
            raise ConfigError(f"tiers map names of service tiers to factors, got {self.tiers!r}")
        tiers = {tier: _exact(f"tiers[{tier!r}]", factor) for tier, factor in self.tiers.items()}
        object.__setattr__(self, "tiers", MappingProxyType(tiers))
        object.__setattr__(self, "per", count("per", self.per, ConfigError))
        if self.per < 1:
            raise ConfigError("per must be at least 1 token, got 0")
        if self.discount > 1:
            raise ConfigError(f"discount must be a ratio from 0 to 1, got {self.discount}")

    def rates(self, tier: str | None = None) -> Rates:
        """The same as integer rates, in a service *tier*."""
        factor = (1 - Fraction(self.discount)) * NANOS * Fraction(self.tiers.get(tier or "", 1))
        given = [(name, value) for name in _PRICED if (value := getattr(self, name)) is not None]
        return rates({name: Fraction(value) * factor / (1 if name in EACH else self.per) for name, value in given})


#: What it prices; the rest of `APART` only the list does.
_PRICED: Final = tuple(one.name for one in fields(Price) if one.name in PARTS or one.name in APART)


class PriceBook(Protocol):
    """Knows what models cost; None where it does not.

    It is asked once for each model, by any thread, before the first request of it is sent, so it should be fast.
    """

    def __call__(self, model: str, provider: str | None, /) -> Price | None:
        """The price of *model* of *provider* (``gen_ai.provider.name``, None where nobody said)."""
        ...


class Prices:
    """Prices of models: those given, then those of a price book, then those that the genai-prices package lists.

    A model is looked up by its exact name, then without a date suffix (``gpt-4o-2024-08-06`` is ``gpt-4o``), then
    among the names that are patterns (``*``, ``?``, ``[...]``), in the order given; with its provider in front
    (``azure.ai.openai/gpt-4o``) before without. What is given for the name that was asked for comes before what is
    given for the one that answered; of listed models the one that answered comes first.

    Example:
        >>> prices = Prices({"demo-*": Price(input=0.15, output=0.60)})
        >>> prices.known("demo-small", None).cost(Usage(input_tokens=1000, output_tokens=100))
        210000

    Args:
        table: Model name or pattern -> `Price`.
        book: Asked for models that are not in *table*: for the name asked for first, then for the one that answered.
            What raises, or gives no `Price`, is warned of and knows none.
        listed: Whether the genai-prices package is asked, if installed: offline, loaded when first needed.
        clock_s: Wall clock in seconds; some listed prices depend on the date or the hour.

    Attributes:
        models: The models that were given a price by name; patterns and listed models are not among them.

    Raises:
        ConfigError: A name is not a non-empty text, or its value is not a `Price`.
    """

    __hash__ = None  # type: ignore[assignment]  # mypy #4266; equal by value, like a mapping

    def __init__(
        self,
        table: Mapping[str, Price] | None = None,
        *,
        book: PriceBook | None = None,
        listed: bool = True,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._table = dict(table or {})
        if book is not None and not callable(book):
            raise ConfigError(f"book must be callable: (model, provider) -> Price or None, got {book!r}")
        self._book = book
        self._listed = listed
        self._clock_s = clock_s
        self._known: dict[tuple[str | None, ...], Known | None] = {}
        self._given: dict[str, Known] = {}
        for name, price in self._table.items():
            if not isinstance(name, str) or not name or not isinstance(price, Price):
                raise ConfigError(f"prices map the name of a model, or a pattern, to a Price, got {name!r}: {price!r}")
            self._given[name] = Known(price.rates(), source=f"prices: {name}")
        self.models: tuple[str, ...] = tuple(name for name in self._given if not is_pattern(name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prices):
            return NotImplemented
        mine, theirs = (self._book, self._listed), (other._book, other._listed)
        return (list(self._table.items()), mine) == (list(other._table.items()), theirs)

    def __repr__(self) -> str:
        book = "" if self._book is None else f", book={self._book!r}"
        return f"Prices({self._table!r}{book}{'' if self._listed else ', listed=False'})"

    def load(self) -> bool:
        """Load the genai-prices package now (0.4 s), not at the first model; whether it is there to be asked."""
        try:
            return self._listed and listed_price("gpt-4o", "openai", self._clock_s()) is not None
        except ImportError:
            return False

    def known(
        self, model: str | None, provider: str | None, *, answered: str | None = None, tier: str | None = None
    ) -> Known | None:
        """What the tokens of *model* cost, or of the one that *answered*; None if no price is known. Never raises.

        Without a *model* only the pattern ``*`` is found. *provider* is its name after the OpenTelemetry conventions
        (``openai``, ``gcp.vertex_ai``).
        """
        if tier in _ORDINARY:
            tier = None
        asked = (model, provider, answered, tier)
        try:
            known = self._known[asked]
            if known is not None and known.changes and known.until_s <= self._clock_s():
                known = self._find(*asked) or known
        except KeyError:
            known = self._find(*asked)
        except TypeError:  # a span attribute may be anything
            return None
        return known

    def dearest_nanousd(self, usage: Usage | Parts) -> int | None:
        """What *usage* would cost at the dearest of the given prices, patterns included; None if none was given."""
        return max((known.cost(usage) for known in self._given.values()), default=None)

    def _find(self, model: str | None, provider: str | None, answered: str | None, tier: str | None) -> Known | None:
        names = [name for name in dict.fromkeys((model, answered)) if isinstance(name, str) and name]
        known = self._given_to(names or [""], provider, tier) or self._booked(names, provider, tier)
        if known is None and self._listed:
            try:
                short = (name for name in reversed(names) if len(name) <= _LONGEST_NAME)
                found = (listed_price(name, provider, self._clock_s(), tier) for name in short)
                known = next((one for one in found if one is not None), None)
            except ImportError:
                return None  # not known this time; the next call asks again
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[model, provider, answered, tier] = known
        return known

    def _given_to(self, names: Iterable[str], provider: str | None, tier: str | None) -> Known | None:
        entry = next((entry for name in names if (entry := self.entry(name, provider)) is not None), None)
        if entry is None:
            return None
        price = self._table[entry]
        return self._given[entry] if tier not in price.tiers else _known(price, tier, f"prices: {entry}")

    def _booked(self, names: Iterable[str], provider: str | None, tier: str | None) -> Known | None:
        book = self._book
        if book is None:
            return None
        for name in names:
            try:
                price = book(name, provider)
                if price is not None:
                    return _known(price, tier, f"price book: {name}")
            except Exception:  # noqa: BLE001  the user's code must not stop the call that asks
                _log.warning("the price book %r failed on model %r", book, name, exc_info=True)
        return None

    def table(self) -> Mapping[str, Known]:
        """What was given: model or pattern -> what it costs."""
        return MappingProxyType(self._given)

    def entry(self, model: str | None, provider: str | None = None) -> str | None:
        """The given name or pattern that *model* of *provider* is priced by, whatever is listed elsewhere; None if no
        given one means it."""
        model = model if isinstance(model, str) else ""  # a span attribute may be anything
        names = (model, undated(model))
        whose = (f"{provider}/{name}" for name in names if model and provider)
        return matching(self._given, *whose, *names)


def _known(price: Price, tier: str | None, source: str) -> Known:
    return Known(price.rates(tier), source=f"{source}, {tier}" if tier in price.tiers else source)


def _exact(name: str, value: object) -> Decimal:
    nanousd(name, value, ConfigError)
    return value if isinstance(value, Decimal) else Decimal(repr(value))
