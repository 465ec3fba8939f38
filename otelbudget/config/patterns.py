"""Which texts are amounts, as regular expressions that Python and JSON Schema (ECMA 262) read alike.

The loader and the schema for editors share them, so that both take the same texts. They know no arithmetic beyond
bounds: what an exponent comes to (``1.5e3``) and what the parts of a duration add up to, only the loader can tell.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from otelbudget.model.amounts import CEILING

__all__ = [
    "FLAG",
    "INVISIBLE",
    "LARGEST_SECONDS",
    "LARGEST_USD",
    "LASTING",
    "NAME",
    "RATIO",
    "SECONDS",
    "SPACE",
    "TIME_OF_DAY",
    "USD",
    "WINDOW",
    "ZONE",
    "counts",
    "positive",
]

#: What may stand around an amount.
SPACE: Final = " \t\r\n"
#: What times and money stay below: whole days and whole dollars under 2^53 nanoseconds and nano-USD.
LARGEST_SECONDS: Final = 104 * 86_400
LARGEST_USD: Final = CEILING // 1_000_000_000

_TIMES: Final = {"": 0, "[kK]": 3, "M": 6, "B": 9}
_SECONDS_OF: Final[dict[str, Decimal | int]] = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WHOLE: Final = "(?:0|[1-9](?:_?[0-9])*)"
_EXPONENT: Final = rf"(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)[eE][+-]?[0-9]{{1,2}}"
#: No number needs more characters; exact arithmetic on a million of them would take for ever.
_SHORT: Final = r"(?!.{30} *[^ \t\r\n])"


def counts(maximum: int = CEILING - 1) -> str:
    """Whole numbers from 0 to *maximum*: ``5``, ``10_000``, ``50k``, ``1.5M``, ``1e3``."""
    forms = [_EXPONENT]
    for unit, zeros in _TIMES.items():
        # Not more digits after the point than the unit makes whole.
        whole = rf"(?![^.]*\.[0-9]{{{zeros}}}[0-9]*[1-9])"
        forms.append(f"{whole}{_below(Decimal(maximum + 1).scaleb(-zeros))}{' *' + unit if unit else ''}")
    return rf"{_SHORT}\+?{_any(forms)}"


def positive(pattern: str) -> str:
    """Those texts of *pattern* that are not zero."""
    return f"(?![^1-9]*(?:[eE]|$)){pattern}"


def _any(forms: list[str]) -> str:
    return f"(?:{'|'.join(forms)})"


def _below(bound: Decimal | int) -> str:
    """Decimal numbers from 0 to just below *bound*."""
    whole, _, fraction = f"{Decimal(bound):f}".partition(".")
    fraction = fraction.rstrip("0")
    forms = [rf"{_integers_below(int(whole))}(?:\.[0-9]+)?", r"\.[0-9]+"] if int(whole) else ["0"]
    if fraction:
        head = whole if int(whole) else "0?"
        forms.append(rf"{'_?'.join(head) if int(whole) else head}\.{_fractions_below(fraction)}")
        if int(whole):
            forms.append("_?".join(whole))
    return _any(forms)


def _integers_below(bound: int) -> str:
    digits = str(bound - 1)
    forms = ["0"]
    if len(digits) > 1:
        forms.append(f"[1-9](?:_?[0-9]){{0,{len(digits) - 2}}}")
    for i, digit in enumerate(digits):
        least, most = (0 if i else 1), int(digit) - 1
        rest = len(digits) - i - 1
        if most >= least:
            forms.append("_?".join([*digits[:i], f"[{least}-{most}]"]) + (f"(?:_?[0-9]){{{rest}}}" if rest else ""))
    if digits != "0":
        forms.append("_?".join(digits))
    return _any(forms)


def _fractions_below(digits: str) -> str:
    forms = []
    for i, digit in enumerate(digits):
        if digit != "0":
            forms.append(f"{digits[:i]}[0-{int(digit) - 1}][0-9]*")
        if i:
            forms.append(digits[:i])
    return _any(forms)


def _up_to(bound: int) -> str:
    return _any([_below(bound), rf"{bound}(?:\.0+)?"])


def _rolling(days: int) -> str:
    lengths = {"s": days * 86_400, "m": days * 1_440, "h": days * 24, "d": days}
    return "rolling " + _any([f"(?!0){_integers_below(most + 1).replace('_?', '')}{u}" for u, most in lengths.items()])


def _money() -> str:
    forms = [_EXPONENT]
    for unit, zeros in _TIMES.items():
        forms.append(_below(Decimal(LARGEST_USD).scaleb(-zeros)) + (f" *{unit}" if unit else ""))
    return rf"{_SHORT}(?:\$ *)?\+?{_any(forms)}(?: *USD)?"


def _duration() -> str:
    parts = [f"{_below(LARGEST_SECONDS / Decimal(seconds))} *{unit}" for unit, seconds in _SECONDS_OF.items()]
    return rf"{_SHORT}(?:\+?{_any([_EXPONENT, _below(LARGEST_SECONDS)])}|(?:{_any(parts)} *)+)"


USD: Final = _money()
SECONDS: Final = _duration()
RATIO: Final = rf"{_SHORT}\+?{_any([_EXPONENT, _up_to(1), _up_to(100) + ' *%'])}"
FLAG: Final = "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]"
TIME_OF_DAY: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
LASTING: Final = _any(["lifetime", "minute", "hour", "day", "week", "month", _rolling(366)])
WINDOW: Final = f"run|{LASTING}"
#: Control characters, and others that can't be seen or turn the direction of writing.
INVISIBLE: Final = r"\x00-\x1f\x7f-\xa0\xad\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff"
NAME: Final = f"[^{INVISIBLE}]{{1,200}}"
ZONE: Final = "[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*"
