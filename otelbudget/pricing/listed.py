"""Prices that the genai-prices package lists: offline, from the data it ships with."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any, Final

from otelbudget.model.amounts import NANOS
from otelbudget.pricing.rates import Known, Rates, rates

_log = logging.getLogger(__name__)

#: How many of what the price is for -> what -> its name in the list.
_NAMES: Final = {
    1_000_000: {
        "input": "input_mtok",
        "cache_read": "cache_read_mtok",
        "cache_write": "cache_write_mtok",
        "output": "output_mtok",
        "reasoning": "output_reasoning_mtok",
        "audio_input": "input_audio_mtok",
        "image_input": "input_image_mtok",
        "audio_output": "output_audio_mtok",
        "image_output": "output_image_mtok",
        "video_input": "input_video_mtok",
        "video_output": "output_video_mtok",
        "cache_write_1h": "cache_write_1h_mtok",
        "cache_audio_read": "cache_audio_read_mtok",
        "cache_image_read": "cache_image_read_mtok",
    },
    1_000: {"search": "web_searches_kcount", "file_search": "storage_searches_kcount", "request": "requests_kcount"},
}
#: Providers of the semantic conventions (``gen_ai.provider.name``) that the list does not know by that name.
_PROVIDERS: Final = {"azure.ai.openai": "azure", "azure.ai.inference": "azure", "moonshot_ai": "moonshotai"}
#: Ends of OpenRouter's models that say no more than whom to ask, and the one of those that cost nothing.
_ROUTED: Final = (":nitro", ":floor", ":exacto")
_FREE: Final = ":free"
#: What Google has in front of a model's name.
_RESOURCE: Final = re.compile(r"\A(?:.*publishers/[^/]+/)?models/")
#: For how long a price is believed that depends on the date or the hour.
_CHANGING_FOR_S: Final = 300.0


def listed_price(model: str, provider: str | None, now_s: float, tier: str | None = None) -> Known | None:
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
    if provider == "openrouter" and model.endswith(_FREE):
        return Known(rates({"input": Fraction(0)}), source=f"OpenRouter: {model}")
    if provider == "openrouter" and model.endswith(_ROUTED):
        model = model.rpartition(":")[0]
    model = _RESOURCE.sub("", model)
    now = datetime.fromtimestamp(now_s, UTC)
    context: Any = {"price_context": {"service_tier": tier, "processing": tier}} if tier else {}
    # A client may speak one provider's protocol to another one: by its own provider first, then by name alone, then by
    # the provider that a gateway has in front of the name.
    front, _, behind = model.partition("/")
    asked_by = [*((one, model) for one in (*_ids(provider), None)), *((one, behind) for one in _ids(front) if behind)]
    for asked, name in asked_by:
        try:
            found = calc_price(Usage(input_tokens=0), name, provider_id=asked, genai_request_timestamp=now, **context)
            return _known(found, now_s, changes=tier is not None)
        except LookupError:
            continue
        except Exception:  # noqa: BLE001  what is wrong with a price list must not stop the call that asks
            _log.warning("genai-prices failed on model %r, which counts as unpriced", model, exc_info=True)
            return None
    return None


def _ids(provider: object) -> tuple[str, ...]:
    """What the list may know *provider* as."""
    own = (_PROVIDERS.get(provider), provider.replace("_", "-"), provider) if isinstance(provider, str) else ()
    return tuple(one for one in dict.fromkeys(own) if one)


@lru_cache(maxsize=256)
def listed_provider(base_url: str) -> str | None:
    """Whose address that is by the genai-prices package; None if it is not installed, or does not know it."""
    with suppress(ImportError, LookupError):
        from genai_prices.data_snapshot import get_snapshot

        return get_snapshot().find_provider(None, None, base_url).id
    return None


def listed_models(provider: str | None = None) -> list[tuple[str, str]]:
    """(provider, model) of all that the genai-prices package lists, or of *provider*; empty if it is not installed."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return []
    snapshot = get_snapshot()
    providers = snapshot.providers if provider is None else []
    for name in _ids(provider):
        with suppress(LookupError):
            providers = [snapshot.find_provider(None, name, None)]
            break
    return [(one.id, model.id) for one in providers for model in one.models]


def _known(found: Any, now_s: float, *, changes: bool) -> Known | None:
    listed = {name: value for name, value in vars(found.model_price).items() if value is not None}
    if listed and "input_mtok" not in listed:
        return None  # priced by the minute, the page or the picture: tokens say nothing about it
    starts = {tier.start for value in listed.values() for tier in getattr(value, "tiers", ())}
    base, *above = ((start, _rates(listed, start)) for start in (-1, *sorted(starts)))
    dated = found.model.prices if isinstance(found.model.prices, list) else []
    source = f"genai-prices {_version()}: {found.provider.id}/{found.model.id}"
    for one in dated:
        if one.prices is found.model_price and (since := getattr(one.constraint, "start_date", None)):
            source += f", since {since}"
    if found.auto_update_timestamp:
        source += f", as of {found.auto_update_timestamp:%Y-%m-%d}"
    return Known(base[1], tuple(above), changes or bool(dated), now_s + _CHANGING_FOR_S, source)


def _rates(listed: dict[str, Any], start: int) -> Rates:
    """The listed prices for requests of just more than *start* input tokens."""
    priced = [(part, name, per) for per, names in _NAMES.items() for part, name in names.items() if name in listed]
    return rates({part: _at(listed[name], start) * NANOS / per for part, name, per in priced})


def _at(value: Any, start: int) -> Fraction:
    if not isinstance(value, Decimal):
        above = [tier.price for tier in value.tiers if start >= tier.start]
        value = above[-1] if above else value.base
    return Fraction(value)


@cache
def _version() -> str:
    return version("genai-prices")
