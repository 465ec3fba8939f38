"""The forms that texts of a ``budgets.yaml`` have: how each is read, what it is called in messages, its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from otelbudget.config import patterns, scalars
from otelbudget.model.amounts import CEILING

__all__ = [
    "COUNT",
    "EXACT_NAMES",
    "FLAG",
    "LASTING_WINDOW",
    "MONEY",
    "NAME",
    "NAMES",
    "PORT",
    "POSITIVE_COUNT",
    "RATIO",
    "SECONDS",
    "THRESHOLD",
    "TIME_OF_DAY",
    "VARIABLE",
    "WINDOW",
    "ZONE",
    "Form",
]

#: A text that the environment completes, or that writes ``$`` as ``$$``: what it becomes, a schema can't know.
VARIABLE: Final = r"\$[{$]"

_NAME: Final = re.compile(patterns.NAME)
_MOST_PORTS: Final = 65_535


@dataclass(frozen=True, slots=True)
class Form:
    """One form of text.

    Args:
        name: What definitions of the schema call it.
        parse: Text -> value; ValueError, with a hint or without, where it is none of this form.
        wanted: What it must be, for messages.
        schema: The same as a JSON Schema.
    """

    name: str
    parse: Callable[[str], Any]
    wanted: str
    schema: dict[str, Any]


def _form(
    name: str, parse: Callable[[str], Any], wanted: str, pattern: str, types: tuple[str, ...] = (), **bounds: Any
) -> Form:
    """A form whose texts match *pattern*; plain values that YAML takes for one of *types* have *bounds*."""
    spaces = f"[{patterns.SPACE}]*".encode("unicode_escape").decode()
    return Form(
        name,
        parse,
        wanted,
        {
            "description": f"{wanted[0].upper()}{wanted[1:]}.",
            "type": [*types, "string"] if types else "string",
            "pattern": f"^{spaces}(?:{pattern}){spaces}$|{VARIABLE}",
            "patternErrorMessage": f"must be {wanted}",
            **bounds,
        },
    )


def _whole(text: str, *, least: int = 0, most: int = CEILING - 1) -> int:
    number = scalars.parse_count(text)
    if not least <= number <= most:
        raise ValueError("")
    return number


def _threshold(text: str) -> float:
    ratio = scalars.parse_ratio(text)
    if not ratio:
        raise ValueError("a threshold of nothing is always crossed")
    return float(ratio)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("")
    return text


_COUNT = "a whole number such as 5, 50k or 1.5M"
_INTEGER = ("integer",)
_NUMBER = ("number",)

COUNT: Final = _form("count", scalars.parse_count, _COUNT, patterns.counts(), _INTEGER, minimum=0, maximum=CEILING - 1)
POSITIVE_COUNT: Final = _form(
    "positive_count",
    partial(_whole, least=1),
    "a whole number of at least 1, such as 256 or 1k",
    patterns.positive(patterns.counts()),
    _INTEGER,
    minimum=1,
    maximum=CEILING - 1,
)
PORT: Final = _form(
    "port",
    partial(_whole, most=_MOST_PORTS),
    f"a port from 0 to {_MOST_PORTS}",
    patterns.counts(_MOST_PORTS),
    _INTEGER,
    minimum=0,
    maximum=_MOST_PORTS,
)
MONEY: Final = _form(
    "money",
    scalars.parse_usd,
    "an amount of money such as $2.50",
    patterns.USD,
    _NUMBER,
    minimum=0,
    exclusiveMaximum=patterns.LARGEST_USD,
)
SECONDS: Final = _form(
    "time",
    scalars.parse_seconds,
    "a time such as 30s, 5m or 1h30m",
    patterns.SECONDS,
    _NUMBER,
    minimum=0,
    exclusiveMaximum=patterns.LARGEST_SECONDS,
)
RATIO: Final = _form(
    "ratio",
    scalars.parse_ratio,
    "a ratio from 0 to 1, such as 10%",
    patterns.RATIO,
    _NUMBER,
    minimum=0,
    maximum=1,
)
THRESHOLD: Final = _form(
    "threshold",
    _threshold,
    "a ratio above 0 and at most 1, such as 80%",
    patterns.positive(patterns.RATIO),
    _NUMBER,
    exclusiveMinimum=0,
    maximum=1,
)
FLAG: Final = _form("flag", scalars.parse_flag, "true or false", patterns.FLAG, ("boolean",))
WINDOW: Final = _form(
    "window",
    scalars.parse_window,
    "run, lifetime, minute, hour, day, week, month or 'rolling 24h' (1s to 366d)",
    patterns.WINDOW,
)
LASTING_WINDOW: Final = _form(
    "lasting_window",
    scalars.parse_lasting_window,
    "lifetime, minute, hour, day, week, month or 'rolling 24h' (1s to 366d)",
    patterns.LASTING,
)
TIME_OF_DAY: Final = _form(
    "time_of_day", scalars.parse_time_of_day, "a time of day such as 06:00", patterns.TIME_OF_DAY
)
ZONE: Final = _form(
    "zone", scalars.parse_zone, "the IANA name of a time zone, such as Europe/Berlin or UTC", patterns.ZONE
)
NAME: Final = Form(
    "name",
    _name,
    "a name of 1 to 200 printable characters",
    {
        "description": "A name of 1 to 200 printable characters.",
        "type": ["string", "number", "boolean"],
        "pattern": f"^{patterns.NAME}$(?!\\n)|{VARIABLE}",
        "patternErrorMessage": "must be a name of 1 to 200 printable characters",
    },
)


def _names(without: str, words: str) -> dict[str, Any]:
    return {
        "pattern": f"^(?!.*(?:{without})){patterns.NAME}$(?!\\n)",
        "patternErrorMessage": f"must be a name of 1 to 200 printable characters, without {words}",
    }


#: What the names in a mapping must be; variables are not replaced in them.
NAMES: Final = _names(r"\$\{", "${VARIABLES}")
#: The same where patterns mean nothing.
EXACT_NAMES: Final = _names(r"\$\{|[*?\[]", "${VARIABLES}, *, ? and [")
