"""Which names may be label values: bounds that keep the number of time series finite whatever the traffic does."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from otelbudget.telemetry.cell_types import Tally

#: Stands for every name beyond the bound, so that sums stay right.
OTHER: Final = "other"
#: Label of a budget that has no name.
UNNAMED: Final = "custom"
#: Characters of a name that is not from the configuration, at most: every series repeats it.
_LONGEST: Final = 200


class Room:
    """How many more series there may be; who gets none counts under labels that are there already."""

    __slots__ = ("_left",)

    def __init__(self, series: int) -> None:
        self._left = series

    def take(self, series: int) -> bool:
        """Whether there is room for so many; then it is taken."""
        if series > self._left:
            return False
        self._left -= series
        return True


class Names:
    """Label values in use: reserved names always have room, others come first seen first served, then ``other``,
    which those are too that are longer than a label should be.

    Args:
        limit: How many names there may be at once, ``other`` not counted.
        overflow: Raised whenever a name had to become ``other``.
        reserved: Names from the configuration; those beyond *limit* are treated like any other.
    """

    __slots__ = ("_in_use", "_limit", "_overflow", "reserved")

    def __init__(self, limit: int, overflow: Tally, reserved: Iterable[str] = ()) -> None:
        self._limit = limit
        self._overflow = overflow
        self.reserved = set(islice(dict.fromkeys(reserved), limit))
        self._in_use: set[str] = set()

    def shown(self, name: str) -> str:
        """*name* if it is a label already, else ``other``."""
        return name if name in self._in_use else OTHER

    def label(self, name: str) -> str:
        """*name* if there is room for it, else ``other``."""
        if name in self._in_use or name == OTHER:
            return name
        name = name.encode(errors="replace").decode()  # half a surrogate pair would spoil every scrape
        taken = self.reserved | self._in_use
        if name not in taken and (len(taken) >= self._limit or len(name) > _LONGEST):
            self._overflow.n += 1
            return OTHER
        self._in_use.add(name)
        return name
