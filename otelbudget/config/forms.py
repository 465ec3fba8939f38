"""What a text of a ``budgets.yaml`` may be: amounts (see `model.text`), words, names; and what editors know of them.

What YAML 1.1 reads in its own way (``no`` is false) is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from otelbudget.config import store
from otelbudget.config.kinds import Form, Schema
from otelbudget.config.problems import close_to
from otelbudget.model import text

#: Control characters, and others that can't be seen or turn the direction of writing.
_INVISIBLE: Final = r"\x00-\x1f\x7f-\xa0\xad\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff"
NAME_PATTERN: Final = f"[^{_INVISIBLE}]{{1,200}}"
#: A text that the environment completes, or that writes ``$`` as ``$$``: what it becomes, a schema can't know.
_VARIABLE: Final = r"\$[{$]"

_YES_OR_NO: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def parse_flag(text: str) -> bool:
    """``true`` or ``false``; ``yes`` and ``no`` are texts."""
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise ValueError(f"write {_YES_OR_NO[word]}" if word in _YES_OR_NO else "")
    return word == "true"


# --- what a text of a setting may be


def _text(wanted: str, pattern: str, parse: Callable[[str], Any] = str, *others: str, **bounds: float) -> Form:
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


COUNT: Final = _text(*text.KINDS["count"], "integer", minimum=0)
MONEY: Final = _text(*text.KINDS["cost_usd"], "number", minimum=0)
SECONDS: Final = _text(*text.KINDS["seconds"], "number", minimum=0)
RATIO: Final = _text(*text.KINDS["ratio"], "number", minimum=0, maximum=1)
FLAG: Final = _text("true or false", "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]", parse_flag, "boolean")
WINDOW: Final = _text(
    "run, lifetime, minute, hour, day, week, month or 'rolling 24h'",
    "run|lifetime|minute|hour|day|week|month|rolling [0-9]+[smhd]",
)
TIME_OF_DAY: Final = _text("a time of day such as 06:00", "[0-2][0-9]:[0-5][0-9]")
ZONE: Final = _text("the IANA name of a time zone, such as Europe/Berlin or UTC", "[A-Za-z0-9_+/-]+")
ADDRESS: Final = _text(store.ADDRESSES, store.ADDRESS, _address)
NAME: Final = _text("a name of 1 to 200 printable characters", NAME_PATTERN, _name, "number", "boolean")
BUDGET: Final = _text("a budget or the name of one", NAME_PATTERN, _name, "number", "boolean")
