"""Texts of a ``budgets.yaml`` and what they mean: ``50k``, ``$2.50``, ``30s``, ``80%``; and what editors know of them.

What YAML 1.1 reads in its own way (``5:00`` is 300, ``010`` is 8, ``no`` is false) is refused, not guessed. Whether an
amount fits its setting, the value that is built from it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal
from functools import reduce
from typing import Any, Final

from otelbudget.config import store
from otelbudget.config.kinds import Form, Schema
from otelbudget.config.problems import close_to

#: No amount needs more characters; exact arithmetic on a million of them would take for ever.
_LONGEST: Final = 30

_DECIMAL: Final = r"(?:(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9]+)?|\.[0-9]+)"
_EXPONENT: Final = "[eE][+-]?[0-9]{1,2}"
# Groups: the number, and what follows it.
_COUNT: Final = rf"\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?"
_USD: Final = rf"(?:\$ *)?\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?(?: *USD)?"
_SECONDS: Final = rf"(?:\+?({_DECIMAL})({_EXPONENT})?|(?:{_DECIMAL} *(?:ms|[smhd]) *)+)"
_RATIO: Final = rf"\+?({_DECIMAL})({_EXPONENT}| *%)?"
#: Control characters, and others that can't be seen or turn the direction of writing.
_INVISIBLE: Final = r"\x00-\x1f\x7f-\xa0\xad\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff"
NAME_PATTERN: Final = f"[^{_INVISIBLE}]{{1,200}}"
#: A text that the environment completes, or that writes ``$`` as ``$$``: what it becomes, a schema can't know.
_VARIABLE: Final = r"\$[{$]"

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
_YES_OR_NO: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def parse_count(text: str) -> int:
    """A whole number: ``5``, ``50k``, ``1.5M``, ``2B``, ``10_000``, ``1e3``; ValueError with a hint if it is none."""
    value = _value(*_matched(text, _COUNT, _count_hint).groups())
    if value != value.to_integral_value():
        raise ValueError("it is not a whole number")
    return int(value)


def parse_usd(text: str) -> Decimal:
    """US dollars: ``$2.50``, ``2.50``, ``2.50 USD``, ``$1.5k``."""
    return _value(*_matched(text, _USD, _hint).groups())


def parse_seconds(text: str) -> int | Decimal:
    """Seconds: ``30``, ``30s``, ``500ms``, ``5m``, ``1h30m``, ``2d``; an int where they are whole."""
    found = _matched(text, _SECONDS, _time_hint)
    parts = _PART.findall(found[0]) if found[1] is None else [found.groups()]
    value = reduce(_EXACT.add, (_value(*part) for part in parts))
    return int(value) if value == value.to_integral_value() else value


def parse_ratio(text: str) -> float:
    """A ratio from 0 to 1: ``80%`` or ``0.8``."""
    number, unit = _matched(text, _RATIO, _hint).groups()
    value = _value(number, unit)
    if value > 1:
        raise ValueError("that is more than all" if unit else "write a share of a hundred with a %")
    return float(value)


def parse_flag(text: str) -> bool:
    """``true`` or ``false``; ``yes`` and ``no`` are texts."""
    word = text.strip(_SPACE).lower()
    if word not in ("true", "false"):
        raise ValueError(f"write {_YES_OR_NO[word]}" if word in _YES_OR_NO else "")
    return word == "true"


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
    if text.endswith("m") and re.fullmatch(_COUNT, text[:-1].rstrip()):
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


# --- what a text of a setting may be


def text(wanted: str, pattern: str, parse: Callable[[str], Any] = str, *others: str, **bounds: float) -> Form:
    """A text that matches *pattern*; *others* are the types that YAML takes such texts for, within *bounds*."""
    schema: Schema = {
        "type": [*others, "string"],
        "pattern": rf"^[ \t\r\n]*(?:{pattern})[ \t\r\n]*$|{_VARIABLE}",
        "patternErrorMessage": f"must be {wanted}",
    }
    return Form(wanted, parse, schema | bounds)


def words(*known: str) -> Form:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(close_to(text, known))
        return text

    return Form(" or ".join(known), parse, {"anyOf": [{"enum": list(known)}, {"type": "string", "pattern": _VARIABLE}]})


def _address(text: str) -> str:
    if not re.fullmatch(store.ADDRESS, text):
        raise ValueError(store.address_hint(text))
    return text


def _name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError
    return text


COUNT: Final = text("a whole number such as 5, 50k or 1.5M", _COUNT, parse_count, "integer", minimum=0)
MONEY: Final = text("an amount of money such as $2.50", _USD, parse_usd, "number", minimum=0)
SECONDS: Final = text("a time such as 30s, 5m or 1h30m", _SECONDS, parse_seconds, "number", minimum=0)
RATIO: Final = text("a ratio from 0 to 1, such as 10%", _RATIO, parse_ratio, "number", minimum=0, maximum=1)
FLAG: Final = text("true or false", "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]", parse_flag, "boolean")
WINDOW: Final = text(
    "run, lifetime, minute, hour, day, week, month or 'rolling 24h'",
    "run|lifetime|minute|hour|day|week|month|rolling [0-9]+[smhd]",
)
TIME_OF_DAY: Final = text("a time of day such as 06:00", "[0-2][0-9]:[0-5][0-9]")
ZONE: Final = text("the IANA name of a time zone, such as Europe/Berlin or UTC", "[A-Za-z0-9_+/-]+")
ADDRESS: Final = text(store.ADDRESSES, store.ADDRESS, _address)
NAME: Final = text("a name of 1 to 200 printable characters", NAME_PATTERN, _name, "number", "boolean")
BUDGET: Final = text("a budget or the name of one", NAME_PATTERN, _name, "number", "boolean")
