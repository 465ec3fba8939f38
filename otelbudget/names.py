"""Names that a configuration gives rules for: exact ones, patterns, models with and without the date of a release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

__all__ = ["is_pattern", "matching", "undated"]

_DATE_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")


def is_pattern(name: str) -> bool:
    """Whether *name* stands for all names that it matches (``*``, ``?``, ``[...]``)."""
    return any(sign in name for sign in "*?[")


def matching(known: Iterable[str], name: str) -> str | None:
    """Which of *known* means *name*: itself, else the first pattern that matches it; None if there is none."""
    names = known if isinstance(known, dict) else list(known)
    if name in names:
        return name
    return next((pattern for pattern in names if is_pattern(pattern) and fnmatchcase(name, pattern)), None)


@lru_cache(maxsize=1024)
def undated(model: str) -> str:
    """A model's name without the date of its release: ``gpt-4o-2024-08-06`` is ``gpt-4o``."""
    return _DATE_SUFFIX.sub("", model)
