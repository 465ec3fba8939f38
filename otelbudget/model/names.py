"""Names that a configuration gives rules for: exact ones, patterns, models with and without the date of a release."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

_DATE_SUFFIX: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})\Z")


def is_pattern(name: str) -> bool:
    """Whether *name* stands for all names that it matches (``*``, ``?``, ``[...]``)."""
    return any(sign in name for sign in "*?[")


def matching(known: Collection[str], *names: str) -> str | None:
    """Which of *known* means a thing that has these *names*; None if there is none.

    The first of the names that is known itself, else the first pattern that matches one of them.
    """
    exact = next((name for name in names if name in known), None)
    if exact is not None:
        return exact
    return next((one for one in known if is_pattern(one) and any(fnmatchcase(name, one) for name in names)), None)


@lru_cache(maxsize=1024)
def undated(model: str) -> str:
    """A model's name without the date of its release: ``gpt-4o-2024-08-06`` is ``gpt-4o``."""
    return _DATE_SUFFIX.sub("", model)
