"""Amounts as people write them, read from text: ``50k``, ``$2.50``, ``30s``, ``80%``.

Each kind has a pattern, which Python and JSON Schema (ECMA 262) read alike, and a reader, which knows the bounds. What
YAML 1.1 reads in its own way (``5:00`` is 300, ``010`` is 8, ``no`` is false) is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from decimal import Context, Decimal
from functools import partial, reduce
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from otelbudget.config.problems import listed
from otelbudget.model.amounts import CEILING
from otelbudget.model.quota import PER_RUN
from otelbudget.model.windows import CALENDAR, zone_advice

#: What times and money stay below: whole days and whole dollars under 2^53 nanoseconds and nano-USD.
LARGEST_SECONDS: Final = 104 * 86_400
LARGEST_USD: Final = CEILING // 1_000_000_000
#: No amount needs more characters; exact arithmetic on a million of them would take for ever.
_LONGEST: Final = 30
_LASTING: Final = ("lifetime", *CALENDAR)

_SHORT: Final = rf"(?!.{{{_LONGEST}}} *[^ \t\r\n])"
_DECIMAL: Final = r"(?:(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9]+)?|\.[0-9]+)"
_EXPONENT: Final = "[eE][+-]?[0-9]{1,2}"
_PERCENT: Final = r"(?:1_?0_?0(?:\.0+)?|(?:[1-9]_?)?[0-9](?:\.[0-9]+)?|\.[0-9]+) *%"
# Groups: the number, and what follows it.
COUNT: Final = rf"{_SHORT}\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?"
USD: Final = rf"{_SHORT}(?:\$ *)?\+?({_DECIMAL})({_EXPONENT}| *[kKMB])?(?: *USD)?"
SECONDS: Final = rf"{_SHORT}(?:\+?({_DECIMAL})({_EXPONENT})?|(?:{_DECIMAL} *(?:ms|[smhd]) *)+)"
RATIO: Final = rf"{_SHORT}\+?(?:{_PERCENT}|0(?:\.[0-9]+)?|\.[0-9]+|1(?:\.0+)?|{_DECIMAL}{_EXPONENT})"
FLAG: Final = "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]"
TIME_OF_DAY: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
LASTING: Final = rf"{'|'.join(_LASTING)}|rolling [1-9][0-9]{{0,7}}[smhd]"
WINDOW: Final = f"run|{LASTING}"
#: Control characters, and others that can't be seen or turn the direction of writing.
_INVISIBLE: Final = r"\x00-\x1f\x7f-\xa0\xad\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff"
NAME: Final = f"[^{_INVISIBLE}]{{1,200}}"
#: A text that the environment completes, or that writes ``$`` as ``$$``: what it becomes, a schema can't know.
VARIABLE: Final = r"\$[{$]"
ZONE: Final = "[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*"

_ANY_RATIO: Final = rf"{_SHORT}\+?({_DECIMAL})({_EXPONENT}| *%)?"
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


class Unreadable(ValueError):
    """A text is not what it should be; *hint* says how to write what was meant.

    That may be one of *among*, called, as that may take a while, only where it helps; *otherwise* a further hint.
    """

    def __init__(
        self, hint: str = "", among: Callable[[], Iterable[str]] | None = None, otherwise: Callable[[], str] = str
    ) -> None:
        super().__init__(hint)
        self.among = among
        self.otherwise = otherwise


def none_of(known: Collection[str], hint: str) -> Unreadable:
    """That a name is none of *known*."""
    return Unreadable(hint, lambda: known, lambda: listed(known))


def parse_count(text: str) -> int:
    """A whole number below 2^53: ``5``, ``50k``, ``1.5M``, ``2B``, ``10_000``, ``1e3``."""
    value = _value(*_matched(text, COUNT, _count_hint).groups())
    if value != value.to_integral_value():
        raise Unreadable("it is not a whole number")
    return int(_below(value, CEILING))


def parse_usd(text: str) -> Decimal:
    """US dollars: ``$2.50``, ``2.50``, ``2.50 USD``, ``$1.5k``."""
    return _below(_value(*_matched(text, USD, _hint).groups()), LARGEST_USD)


def parse_seconds(text: str) -> int | Decimal:
    """Seconds: ``30``, ``30s``, ``500ms``, ``5m``, ``1h30m``, ``2d``; an int where they are whole."""
    found = _matched(text, SECONDS, _time_hint)
    parts = _PART.findall(found[0]) if found[1] is None else [found.groups()]
    value = reduce(_EXACT.add, (_value(*part) for part in parts))
    if value >= LARGEST_SECONDS:
        raise Unreadable(f"it must be below {LARGEST_SECONDS // 86_400} days")
    return int(value) if value == value.to_integral_value() else value


def parse_ratio(text: str) -> Decimal:
    """A ratio from 0 to 1: ``80%`` or ``0.8``."""
    number, unit = _matched(text, _ANY_RATIO, _hint).groups()
    value = _value(number, unit)
    if value > 1:
        raise Unreadable("that is more than all" if unit else "write a share of a hundred with a %")
    return value


def parse_flag(text: str) -> bool:
    """``true`` or ``false``; ``yes`` and ``no`` are texts."""
    word = text.strip(_SPACE).lower()
    if word not in ("true", "false"):
        raise Unreadable(f"write {_YES_OR_NO[word]}" if word in _YES_OR_NO else "")
    return word == "true"


def parse_window(text: str) -> str:
    """A window: ``day``, ``rolling 24h``, ... as `WindowSpec` has them."""
    return _matched(text, WINDOW, among=("run", *_LASTING))[0]


def parse_lasting_window(text: str) -> str:
    """A window of more than a run."""
    return _matched(text, LASTING, lambda text: PER_RUN if text == "run" else "", _LASTING)[0]


def parse_time_of_day(text: str) -> str:
    """A local time of day, ``HH:MM``."""
    early = re.fullmatch("[0-9]:[0-5][0-9]", text.strip(_SPACE))
    return _matched(text, TIME_OF_DAY, lambda text: f"write 0{text}" if early else "")[0]


def parse_zone(text: str) -> str:
    """The name of a time zone that there is."""
    name = _matched(text, ZONE)[0]
    try:
        return name if name == "UTC" else ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        advice = partial(zone_advice, error)
        raise Unreadable("no such zone is known here", available_timezones, lambda: advice().lstrip(":; ")) from error


def parse_name(text: str) -> str:
    """A name, as it is."""
    if not re.fullmatch(NAME, text):
        raise Unreadable
    return text


def _matched(
    text: str, pattern: str, hint: Callable[[str], str] = lambda _: "", among: Iterable[str] = ()
) -> re.Match[str]:
    text = text.strip(_SPACE)
    found = re.fullmatch(pattern, text)
    if found is None:
        raise Unreadable(hint(text), (lambda: among) if among else None)
    return found


def _value(number: str, suffix: str | None) -> Decimal:
    unit = (suffix or "").strip()
    return _EXACT.multiply(Decimal(number), _UNITS[unit]) if unit in _UNITS else Decimal(number + unit)


def _below(value: Decimal, bound: int) -> Decimal:
    if value >= bound:
        raise Unreadable(f"it must be below {bound:,}")
    return value


def _count_hint(text: str) -> str:
    if text.endswith("m") and re.fullmatch(COUNT, text[:-1].rstrip()):
        return f"a million is written with a capital M: {text[:-1].rstrip()}M"
    return _hint(text)


def _time_hint(text: str) -> str:
    if _BASE_60.fullmatch(text[: _LONGEST + 1]):
        return "write it with units: 5m is five minutes, 1h30m an hour and a half"
    return _hint(text) or ("units are ms, s, m, h and d, as in 500ms or 1h30m" if text[-1:].isalpha() else "")


def _hint(text: str) -> str:
    """How to write the amount that *text* seems to be."""
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    if any(sign in text for sign in "€£¥"):
        return "amounts of money are in US dollars"
    text = text.lstrip("$ ").removesuffix("USD").rstrip()
    hint = next((hint for pattern, hint in _HINTS if re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE)), "")
    return hint.format(text.lstrip("+0_") or "0")
