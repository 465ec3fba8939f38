"""Amounts as people write them, read from text: ``50k``, ``$2.50``, ``30s``, ``80%``.

Each reader raises ValueError with a hint, possibly empty, on how to write what was meant; whoever calls knows where
the text stands. What YAML 1.1 reads in its own way (``5:00`` is 300, ``010`` is 8, ``no`` is false) is refused, not
guessed. A text that its pattern, which editors know as well, does not match is refused in any case.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final
from zoneinfo import available_timezones

from otelbudget.config import patterns
from otelbudget.config.patterns import LARGEST_SECONDS, LARGEST_USD, SPACE
from otelbudget.config.settings import close_to
from otelbudget.errors import ConfigError
from otelbudget.model.amounts import CEILING
from otelbudget.model.windows import CALENDAR, zone, zone_advice

__all__ = [
    "parse_count",
    "parse_flag",
    "parse_lasting_window",
    "parse_ratio",
    "parse_seconds",
    "parse_time_of_day",
    "parse_usd",
    "parse_window",
    "parse_zone",
]

_NUMBER: Final = re.compile(r"(?:\d+(?:_\d+)*)?(?:\.\d+(?:_\d+)*)?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_LONGEST: Final = 25
_TIMES: Final = {"k": 1_000, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_SECONDS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_DURATION_PART: Final = re.compile(r"([\d_.]+)\s*([a-zA-Z]+)\s*", re.ASCII)
_BASE_60: Final = re.compile(r"[+-]?\d+(:\d+)+(\.\d*)?", re.ASCII)
_OTHER_BASE: Final = re.compile(r"[+-]?0[xob][0-9a-f_]+", re.ASCII | re.IGNORECASE)
_NOT_FINITE: Final = re.compile(r"[+-]?\.?(inf|infinity|nan)", re.IGNORECASE)
_COUNT: Final = re.compile(patterns.counts())
_USD: Final = re.compile(patterns.USD)
_DURATION: Final = re.compile(patterns.SECONDS)
_RATIO: Final = re.compile(patterns.RATIO)
_WINDOW: Final = re.compile(patterns.WINDOW)
_TIME_OF_DAY: Final = re.compile(patterns.TIME_OF_DAY)
_HOUR: Final = re.compile("([0-9]):([0-5][0-9])")
_LASTING: Final = ("lifetime", *CALENDAR)
_ZONE: Final = re.compile(patterns.ZONE)
_YES_OR_NO: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def parse_count(text: str) -> int:
    """A whole number below 2^53: ``5``, ``50k``, ``1.5M``, ``2B``, ``10_000``, ``1e3``."""
    text = text.strip(SPACE)
    if text.endswith("m"):
        raise ValueError(f"a million is written with a capital M: {text[:-1].strip()}M")
    value = _scaled(text)
    if value != value.to_integral_value():
        raise ValueError("it is not a whole number")
    return int(_written(text, _COUNT, _below(value, CEILING)))


def parse_usd(text: str) -> Decimal:
    """US dollars: ``$2.50``, ``2.50``, ``2.50 USD``, ``$1.5k``."""
    text = text.strip(SPACE)
    if any(sign in text for sign in "€£¥"):
        raise ValueError("amounts of money are in US dollars")
    bare = text.removeprefix("$").removesuffix("USD")
    return _written(text, _USD, _below(_scaled(bare.strip()), LARGEST_USD))


def parse_seconds(text: str) -> int | Decimal:
    """Seconds: ``30``, ``30s``, ``500ms``, ``5m``, ``1h30m``, ``2d``; an int where they are whole."""
    text = whole = text.strip(SPACE)
    if text[-1:].isalpha():
        value = Decimal(0)
        while text:
            part = _DURATION_PART.match(text)
            if part is None or part[2] not in _SECONDS:
                raise ValueError(_hint(text) or "units are ms, s, m, h and d, as in 500ms or 1h30m")
            value, text = value + _number(part[1]) * _SECONDS[part[2]], text[part.end() :]
    elif _BASE_60.fullmatch(text):
        raise ValueError("write it with units: 5m is five minutes, 1h30m an hour and a half")
    else:
        value = _number(text)
    if value >= LARGEST_SECONDS:
        raise ValueError(f"it must be below {LARGEST_SECONDS // 86_400} days")
    _written(whole, _DURATION, value)
    return int(value) if value == value.to_integral_value() else value


def parse_ratio(text: str) -> Decimal:
    """A ratio from 0 to 1: ``80%`` or ``0.8``."""
    text = text.strip(SPACE)
    percent = text.endswith("%")
    value = _number(text.removesuffix("%").strip()) * (Decimal("0.01") if percent else 1)
    if value > 1:
        raise ValueError("that is more than all" if percent else "write a share of a hundred with a %")
    return _written(text, _RATIO, value)


def parse_flag(text: str) -> bool:
    """``true`` or ``false``, in any case; not ``yes``, ``no``, ``on``, ``off``, on which YAML 1.1 and 1.2 differ."""
    word = text.strip(SPACE).lower()
    if word not in ("true", "false"):
        raise ValueError(f"write {_YES_OR_NO[word]}" if word in _YES_OR_NO else "")
    return word == "true"


def parse_window(text: str) -> str:
    """A window: ``day``, ``rolling 24h``, ... as `WindowSpec` has them."""
    return _matching(text, _WINDOW, close_to(text, ("run", *_LASTING)).removeprefix("; "))


def parse_lasting_window(text: str) -> str:
    """A window of more than a run."""
    if text.strip(SPACE) == "run":
        raise ValueError("a model has no quota per run; limit the run's budget")
    return _matching(text, _WINDOW, close_to(text, _LASTING).removeprefix("; "))


def parse_time_of_day(text: str) -> str:
    """A local time of day, ``HH:MM``."""
    hour = _HOUR.fullmatch(text.strip(SPACE))
    return _matching(text, _TIME_OF_DAY, f"write 0{hour[0]}" if hour else "")


def parse_zone(text: str) -> str:
    """The name of a time zone that there is."""
    name = _matching(text, _ZONE)
    try:
        zone(name)
    except ConfigError as error:
        hint = close_to(name, available_timezones()) or zone_advice(error.__cause__)
        raise ValueError(f"no such zone is known here{hint}") from error
    return name


def _matching(text: str, pattern: re.Pattern[str], hint: str = "") -> str:
    text = text.strip(SPACE)
    if not pattern.fullmatch(text):
        raise ValueError(hint)
    return text


def _written(text: str, pattern: re.Pattern[str], value: Decimal) -> Decimal:
    """*value*, if its *text* is written in a way that editors are told is right."""
    if not pattern.fullmatch(text):
        raise ValueError("write it as a plain number")
    return value


def _scaled(text: str) -> Decimal:
    times = _TIMES.get(text[-1:])
    return _number(text) if times is None else _number(text[:-1].rstrip()) * times


def _number(text: str) -> Decimal:
    digits = text.removeprefix("+")
    if len(digits) > _LONGEST or not _NUMBER.fullmatch(digits) or digits[:1] in ("", "e", "E"):
        raise ValueError(_hint(text))
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in ".eE":
        raise ValueError(f"YAML 1.1 takes a leading zero for base 8; write {digits.lstrip('0_') or '0'}")
    return Decimal(digits)


def _hint(text: str) -> str:
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    if text.startswith("-"):
        return "it can't be negative"
    if _NOT_FINITE.fullmatch(text):
        return "it is not a finite number"
    if _BASE_60.fullmatch(text):
        return "YAML 1.1 takes colons for base 60; write a plain number"
    if _OTHER_BASE.fullmatch(text):
        return "write it in decimal"
    if "," in text and _NUMBER.fullmatch(text.replace(",", "")):
        return "write thousands as 1_000 and fractions as 0.5, without commas"
    return ""


def _below(value: Decimal, bound: int) -> Decimal:
    if value >= bound:
        raise ValueError(f"it must be below {bound:,}")
    return value
