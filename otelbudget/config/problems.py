"""Everything that is wrong with a file, as one error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from otelbudget.errors import ConfigError, Problem

__all__ = ["dotted", "refused"]

_MOST_SAID: Final = 50
_SIMPLE_NAME: Final = re.compile(r"[\w-]+")


def dotted(path: tuple[str, ...]) -> str:
    """A path as messages have it: ``budgets.'odd name'.max_steps``."""
    return ".".join(part if _SIMPLE_NAME.fullmatch(part) else repr(part) for part in path)


def refused(problems: Iterable[Problem]) -> ConfigError:
    """The error that says all of *problems*, those beyond the first 50 by their number only."""
    found = tuple(problems)
    lines = [str(problem) for problem in found[:_MOST_SAID]]
    if len(found) > _MOST_SAID:
        more = f"and {len(found) - _MOST_SAID} more from here on"
        lines.append(str(found[_MOST_SAID]._replace(path="", message=more)))
    return ConfigError("\n".join(lines), problems=found)
