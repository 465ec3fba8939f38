"""The forms that texts of a ``budgets.yaml`` have: how each is read, what it is called in messages, its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from otelbudget.config import scalars, store
from otelbudget.config.kinds import Fits, Form, Known, Schema, fits_any
from otelbudget.config.scalars import VARIABLE, Unreadable, none_of, parse_count, parse_ratio, parse_seconds
from otelbudget.model.amounts import CEILING


def _form(name: str, wanted: str, parse: Callable[[str], Any], pattern: str, more: Schema | None = None) -> Form:
    """A form whose texts match *pattern*; *more* is said of values that YAML takes for something else than a text."""
    schema = {
        "description": f"{wanted[0].upper()}{wanted[1:]}.",
        "type": "string",
        "pattern": rf"^[ \t\r\n]*(?:{pattern})[ \t\r\n]*$|{VARIABLE}",
        "patternErrorMessage": f"must be {wanted}",
    }
    return Form(wanted, parse, schema | (more or {}), name)


def _numbers(kind: str = "number", **bounds: float) -> Schema:
    return {"type": [kind, "string"], **bounds}


def words(*known: str, fits: Fits = fits_any) -> Form:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in known:
            raise Unreadable("", lambda: known)
        return text

    schema = {"anyOf": [{"enum": list(known)}, {"type": "string", "pattern": VARIABLE}]}
    return Form(" or ".join(known), parse, schema, fits=fits)


def _within(least: Decimal | int, most: Decimal | int, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        value = parse(text)
        if not least <= value <= most:
            raise Unreadable
        return value

    return parsed


def _time_within(name: str, wanted: str) -> Form:
    least, most = store.BOUNDS_S[name]
    parse = _within(least, most, parse_seconds)
    return _form(name, wanted, parse, scalars.SECONDS, _numbers(minimum=float(least), maximum=float(most)))


def _threshold(text: str) -> float:
    ratio = parse_ratio(text)
    if not ratio:
        raise Unreadable("a threshold of nothing is always crossed")
    return float(ratio)


def _address(text: str) -> str:
    if not re.fullmatch(store.ADDRESS, text):
        raise Unreadable(store.address_hint(text))
    return text


def _positive(pattern: str) -> str:
    """Those texts of *pattern* that are not zero."""
    return f"(?![^1-9]*(?:[eE]|$)){pattern}"


def _priced(word: str, known: Known) -> Unreadable | None:
    if word != "estimate" or known["prices"]:
        return None
    return Unreadable("takes the dearest of `prices`, and there are none: give some, or write deny or allow")


def _named(name: str, known: Known) -> Unreadable | None:
    return None if name in known["budgets"] else none_of(known["budgets"], "is not the name of a budget")


_MOST: Final = CEILING - 1
_ONE_OR_MORE: Final = "a whole number of at least 1, such as 256 or 1k"
_WINDOWS: Final = "lifetime, minute, hour, day, week, month or 'rolling 24h' (1s to 366d)"
_A_NAME: Final = "a name of 1 to 200 printable characters"
_TEXTS: Final = ["string", "number", "boolean"]
_ANY_NAME: Final[Schema] = {"type": _TEXTS, "pattern": rf"^{scalars.NAME}$(?!\n)|{VARIABLE}"}
_A_ZONE: Final = "the IANA name of a time zone, such as Europe/Berlin or UTC"

#: What plain numbers must be, that YAML takes for such.
_COUNTS: Final = _numbers("integer", minimum=0, maximum=_MOST)
_POSITIVE: Final = _numbers("integer", minimum=1, maximum=_MOST)
_PORTS: Final = _numbers("integer", minimum=0, maximum=65_535)
_MONEY: Final = _numbers(minimum=0, exclusiveMaximum=scalars.LARGEST_USD)
_TIMES: Final = _numbers(minimum=0, exclusiveMaximum=scalars.LARGEST_SECONDS)
_RATIOS: Final = _numbers(minimum=0, maximum=1)
_SHARES: Final = _numbers(exclusiveMinimum=0, maximum=1)

COUNT: Final = _form("count", "a whole number such as 5, 50k or 1.5M", parse_count, scalars.COUNT, _COUNTS)
POSITIVE_COUNT: Final = _form(
    "positive_count", _ONE_OR_MORE, _within(1, _MOST, parse_count), _positive(scalars.COUNT), _POSITIVE
)
PORT: Final = _form("port", "a port from 0 to 65535", _within(0, 65_535, parse_count), scalars.COUNT, _PORTS)
MONEY: Final = _form("money", "an amount of money such as $2.50", scalars.parse_usd, scalars.USD, _MONEY)
SECONDS: Final = _form("time", "a time such as 30s, 5m or 1h30m", parse_seconds, scalars.SECONDS, _TIMES)
TIMEOUT: Final = _time_within("timeout", "a time from 10ms to 60s")
TTL: Final = _time_within("ttl", "a time from 1s to 1h")
RATIO: Final = _form(
    "ratio", "a ratio from 0 to 1, such as 10%", parse_ratio, scalars.RATIO, _numbers(minimum=0, maximum=1)
)
THRESHOLD: Final = _form(
    "threshold", "a ratio above 0 and at most 1, such as 80%", _threshold, _positive(scalars.RATIO), _SHARES
)
FLAG: Final = _form("flag", "true or false", scalars.parse_flag, scalars.FLAG, {"type": ["boolean", "string"]})
WINDOW: Final = _form("window", f"run, {_WINDOWS}", scalars.parse_window, scalars.WINDOW)
LASTING_WINDOW: Final = _form("lasting_window", _WINDOWS, scalars.parse_lasting_window, scalars.LASTING)
TIME_OF_DAY: Final = _form("time_of_day", "a time of day such as 06:00", scalars.parse_time_of_day, scalars.TIME_OF_DAY)
ZONE: Final = _form("zone", _A_ZONE, scalars.parse_zone, scalars.ZONE)
ADDRESS: Final = _form("address", store.ADDRESSES, _address, store.ADDRESS)
NAME: Final = _form("name", _A_NAME, scalars.parse_name, scalars.NAME, _ANY_NAME)
#: The name of a budget.
BUDGET: Final = Form("a budget or the name of one", scalars.parse_name, {"type": _TEXTS}, fits=_named)
ON_EXHAUSTED: Final = words("raise", "warn")
ON_UNPRICED: Final = words("deny", "estimate", "allow", fits=_priced)
