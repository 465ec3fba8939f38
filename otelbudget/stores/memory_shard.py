"""What a memory store keeps together: holds, marks, overrides and the records of runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappush

from otelbudget.ledger.account import Hold
from otelbudget.stores.base import Line, Override
from otelbudget.stores.records import Runs


@dataclass(slots=True, eq=False)
class Kept:
    """A hold, or the mark of one that has ended, and until when it is kept."""

    lines: tuple[Line, ...]
    digest: str
    until_s: float = 0.0
    hold: Hold = field(default_factory=Hold)


@dataclass(slots=True)
class Shard:
    """What is kept together; *due* has (until_s, id), also of times that were put off since."""

    kept: dict[str, Kept] = field(default_factory=dict)
    due: list[tuple[float, str]] = field(default_factory=list)
    overrides: dict[str, Override] = field(default_factory=dict)
    revision: int = 0
    runs: Runs = field(default_factory=Runs)

    def keep(self, id: str, one: Kept, until_s: float) -> None:
        """Keep *one* until then; whoever looks at `due` finds what is over."""
        self.kept[id], one.until_s = one, until_s
        heappush(self.due, (until_s, id))
