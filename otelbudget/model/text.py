"""Amounts as people write them: ``50k``, ``$2.50``, ``30s``, ``80%``; in code, in a budgets.yaml, on the command line.

What YAML 1.1 reads in its own way (``5:00`` is 300, ``010`` is 8) is refused, not guessed. Whether an amount fits its
setting, the value that is built from it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Context, Decimal
from functools import reduce
from typing import Any, Final

from otelbudget.errors import ConfigError

#: No amount needs more characters; exact arithmetic on a million of them would take for ever.
_LONGEST: Final = 30

_DECIMAL: Final = r"(?:(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9]+)?|\.[0-9]+)"
_EXPONENT: Final = "[eE][+-]?[0-9]{1,2}"
# Groups: the number, and what follows it.
COUNT: Final = rf"\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?"
USD: Final = rf"(?:\$ *)?\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?(?: *USD)?"
SECONDS: Final = rf"(?:\+?({_DECIMAL})({_EXPONENT})?|(?:{_DECIMAL} *(?:ms|[smhd]) *)+)"
RATIO: Final = rf"\+?({_DECIMAL})({_EXPONENT}| *%)?"
_PART: Final = re.compile(f"({_DECIMAL}) *(ms|[smhd])")
_UNITS: Final[dict[str, Decimal]] = {"": Decimal(1), "%": Decimal("0.01"), "ms": Decimal("0.001")} | {
    unit: Decimal(times)
    for units, times in (("kK", 10**3), ("M", 10**6), ("B", 10**9), ("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400))
    for unit in units
}
_SPACE: Final = " \t\r\n"
#: The application's own decimal context may be anything.
_EXACT: Final = Context(prec=64)
_BASE_60: Final = re.compile(r"[+-]?\d+(:\d+)+(\.\d*)?", re.ASCII)
#: Texts that are no amounts, and how to write what they may mean.
_HINTS: Final = (
    ("-.*", "it can't be negative"),
    (r"\+?\.?(inf|infinity|nan)", "it is not a finite number"),
    (_BASE_60.pattern, "YAML 1.1 takes colons for base 60; write a plain number"),
    (r"\+?0_?\d.*", "YAML 1.1 takes a leading zero for base 8; write {}"),
    (r"\+?0[xob][0-9a-f_]+", "write it in decimal"),
    (r"\+?[\d_]+(,[\d_.]+)+", "write thousands as 1_000 and fractions as 0.5, without commas"),
)


def parse_count(text: str) -> int:
    """A whole number: ``5``, ``50k``, ``1.5M``, ``2B``, ``10_000``, ``1e3``; ValueError with a hint if it is none."""
    value = _value(*_matched(text, COUNT, _count_hint).groups())
    if value != value.to_integral_value():
        raise ValueError("it is not a whole number")
    return int(value)


def parse_usd(text: str) -> Decimal:
    """US dollars: ``$2.50``, ``2.50``, ``2.50 USD``, ``$1.5k``."""
    return _value(*_matched(text, USD, _hint).groups())


def parse_seconds(text: str) -> int | Decimal:
    """Seconds: ``30``, ``30s``, ``500ms``, ``5m``, ``1h30m``, ``2d``; an int where they are whole."""
    found = _matched(text, SECONDS, _time_hint)
    parts = _PART.findall(found[0]) if found[1] is None else [found.groups()]
    value = reduce(_EXACT.add, (_value(*part) for part in parts))
    return int(value) if value == value.to_integral_value() else value


def parse_ratio(text: str) -> float:
    """A ratio from 0 to 1: ``80%`` or ``0.8``."""
    number, unit = _matched(text, RATIO, _hint).groups()
    value = _value(number, unit)
    if value > 1:
        raise ValueError("that is more than all" if unit else "write a share of a hundred with a %")
    return float(value)


def _matched(text: str, pattern: str, hint: Callable[[str], str]) -> re.Match[str]:
    text = text.strip(_SPACE)
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    found = re.fullmatch(pattern, text)
    if found is None:
        raise ValueError(hint(text))
    return found


def _value(number: str, suffix: str | None) -> Decimal:
    unit = (suffix or "").strip()
    return _EXACT.multiply(Decimal(number), _UNITS[unit]) if unit in _UNITS else Decimal(number + unit)


def _count_hint(text: str) -> str:
    if text.endswith("m") and re.fullmatch(COUNT, text[:-1].rstrip()):
        return f"a million is written with a capital M: {text[:-1].rstrip()}M"
    return _hint(text)


def _time_hint(text: str) -> str:
    if _BASE_60.fullmatch(text):
        return "write it with units: 5m is five minutes, 1h30m an hour and a half"
    return _hint(text) or ("units are ms, s, m, h and d, as in 500ms or 1h30m" if text[-1:].isalpha() else "")


def _hint(text: str) -> str:
    """How to write the amount that *text* seems to be."""
    if any(sign in text for sign in "€£¥"):
        return "amounts of money are in US dollars"
    text = text.lstrip("$ ").removesuffix("USD").rstrip()
    hint = next((hint for pattern, hint in _HINTS if re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE)), "")
    return hint.format(text.lstrip("+0_") or "0")


#: What an amount of a kind has to be, the pattern of such texts, and what reads them.
KINDS: Final[dict[str, tuple[str, str, Callable[[str], Any]]]] = {
    "count": ("a whole number such as 5, 50k or 1.5M", COUNT, parse_count),
    "cost_usd": ("an amount of money such as $2.50", USD, parse_usd),
    "seconds": ("a time such as 30s, 5m or 1h30m", SECONDS, parse_seconds),
    "ratio": ("a ratio from 0 to 1, such as 10%", RATIO, parse_ratio),
}


def read(name: str, kind: str, value: Any) -> Any:
    """*value*, or the number that it means if it is a text or a timedelta; ConfigError naming *name* if it is none."""
    if kind == "seconds" and isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return value
    wanted, _, parse = KINDS.get(kind, KINDS["count"])
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{name} must be {wanted}, got {value!r}" + (f": {error}" if str(error) else "")) from None
