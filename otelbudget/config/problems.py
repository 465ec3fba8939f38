"""Everything that is wrong with a file, as one error; and how what stands in it is shown there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from otelbudget.errors import ConfigError, Problem

#: How many problems are said, and how many names a wrong one is compared with: it takes time with both.
MOST_SAID: Final = 50
_MOST_COMPARED: Final = 500
_LONGEST_SHOWN: Final = 60
_SIMPLE_NAME: Final = re.compile(r"[\w-]+")
#: What an address with a password may be: all after its first colon is kept to ourselves.
_ADDRESS: Final = re.compile(r"[^:]*:(?://|.*@)", re.DOTALL)


def shown(text: str) -> str:
    """*text* for a message: quoted, not too long, and without what may be a password."""
    text = _concealed(text)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")


def _concealed(text: str) -> str:
    return f"{text.partition(':')[0]}:..." if _ADDRESS.match(text) else text


def dotted(path: tuple[str, ...]) -> str:
    """A path as messages have it: ``budgets.'odd name'.max_steps``."""
    return ".".join(part if _SIMPLE_NAME.fullmatch(part) else repr(_concealed(part)) for part in path)


def refused(problems: Iterable[Problem]) -> ConfigError:
    """The error that says all of *problems*, those beyond the first 50 by their number only."""
    found = tuple(problems)
    lines = [str(problem) for problem in found[:MOST_SAID]]
    if len(found) > MOST_SAID:
        more = f"and {len(found) - MOST_SAID} more from here on"
        lines.append(str(found[MOST_SAID]._replace(path="", message=more)))
    return ConfigError("\n".join(lines), problems=found)


def close_to(wrong: str, known: Iterable[str]) -> str:
    """A question whether one of *known* was meant, if one is close to what is wrong; else empty."""
    from difflib import get_close_matches

    names, wrong = list(islice(known, _MOST_COMPARED)), wrong[:_LONGEST_SHOWN]
    close = get_close_matches(wrong, names, n=1) or get_close_matches(wrong.lower(), names, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def did_you_mean(wrong: object, known: Collection[str]) -> str:
    """The end of a message about an unknown name: what it is close to, or what there is."""
    names = ", ".join(islice(known, 20)) + (", ..." if len(known) > 20 else "")
    listed = f"known are {names}" if known else "there are none"
    return f"; {close_to(str(wrong), known) or listed}"
