"""Prices that the genai-prices package lists: offline, from the data it ships with."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from otelbudget.model.amounts import NANOS
from otelbudget.pricing.rates import Known, rates

_log = logging.getLogger(__name__)

_PER_MILLION: Final = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
}
_PER_THOUSAND_CALLS: Final = "requests_kcount"
#: For how long a price is believed that depends on the date or the hour.
_CHANGING_FOR_S: Final = 300.0


def listed_price(model: str, provider: str | None, now_s: float) -> Known | None:
    """What the genai-prices package says; None if it is not installed, or lists no price per token for the model.

    Raises:
        ImportError: It is being imported by this very thread, which a signal handler has interrupted.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        if sys.modules.get("genai_prices") is not None:
            raise
        return None
    nothing, now = Usage(input_tokens=0), datetime.fromtimestamp(now_s, UTC)
    # A client may speak one provider's protocol to another one: by its own provider first, then by name alone.
    own = (provider.replace("_", "-"), provider) if isinstance(provider, str) and provider else ()
    for asked in (*dict.fromkeys(own), None):
        try:
            found = calc_price(nothing, model, provider_id=asked, genai_request_timestamp=now)
            return _known(found.model_price, isinstance(found.model.prices, list), now_s)
        except LookupError:
            continue
        except Exception:  # noqa: BLE001  what is wrong with a price list must not stop the call that asks
            _log.warning("genai-prices failed on model %r, which counts as unpriced", model, exc_info=True)
            return None
    return None


def _known(price: Any, changes: bool, now_s: float) -> Known | None:
    listed = {name: value for name, value in vars(price).items() if value is not None}
    if listed and "input_mtok" not in listed:
        return None  # priced by the minute, the page or the picture: tokens say nothing about it
    starts = {tier.start for name in _PER_MILLION.values() for tier in getattr(listed.get(name), "tiers", ())}
    call = Fraction(listed.get(_PER_THOUSAND_CALLS, 0)) * NANOS / 1000
    base, *above = (
        (start, rates({part: _at(listed[name], start) for part, name in _PER_MILLION.items() if name in listed}, call))
        for start in (-1, *sorted(starts))
    )
    return Known(base[1], tuple(above), changes, now_s + _CHANGING_FOR_S)


def _at(value: Any, start: int) -> Fraction:
    """A listed price as nano-USD per token, for requests of just more than *start* input tokens."""
    if not isinstance(value, Decimal):
        above = [tier.price for tier in value.tiers if start >= tier.start]
        value = above[-1] if above else value.base
    return Fraction(value) * NANOS / 1_000_000
