"""Which names may be label values: bounds that keep the number of time series finite whatever the traffic does."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

__all__ = ["OTHER", "UNNAMED", "Names"]

#: Stands for every name beyond the bound, so that sums stay right.
OTHER: Final = "other"
#: Label of a budget that has no name.
UNNAMED: Final = "custom"


class Names:
    """Label values in use: reserved names always have room, others come first seen first served, then ``other``.

    Args:
        limit: How many names there may be at once, ``other`` not counted.
        reserved: Names from the configuration; those beyond *limit* are treated like any other.

    Attributes:
        overflow: How often a name had to become ``other``.
    """

    __slots__ = ("_in_use", "_limit", "_reserved", "overflow")

    def __init__(self, limit: int, reserved: Iterable[str] = ()) -> None:
        self._limit = limit
        self._reserved = set(islice(dict.fromkeys(reserved), limit))
        self._in_use: set[str] = set()
        self.overflow = 0

    def __contains__(self, name: str) -> bool:
        return name in self._in_use

    def is_reserved(self, name: str) -> bool:
        """Whether *name* comes from the configuration, used yet or not."""
        return name in self._reserved

    def label(self, name: str) -> str:
        """*name* if there is room for it, else ``other``."""
        if name in self._in_use or name == OTHER:
            return name
        name = name.encode(errors="replace").decode()  # half a surrogate pair would spoil every scrape
        if name in self._in_use:
            return name
        if name not in self._reserved:
            unused = len(self._reserved - self._in_use) if self._reserved else 0
            if len(self._in_use) + unused >= self._limit:
                self.overflow += 1
                return OTHER
        self._in_use.add(name)
        return name
