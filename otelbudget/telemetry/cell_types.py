"""The cells themselves: what is counted for one budget, one tenant's model, one tenant. `cells` says which exist."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from otelbudget.telemetry.histogram import Histogram

#: The allow counters that have a slot of their own in `BudgetCell`, by operation.
ALLOW_SLOTS: Final = ("call", "check", "reserve", "tool", "probe")


class _Cell:
    """What counts; a copy of it is not changed by what is counted later."""

    __slots__: tuple[str, ...] = ()

    def reset(self) -> None:
        """Count from 0."""
        for slot in self.__slots__:
            counted = getattr(self, slot)
            if isinstance(counted, int):
                setattr(self, slot, 0)
            elif isinstance(counted, dict):
                for key in list(counted):
                    found = counted[key]
                    if isinstance(found, _Cell):
                        found.reset()  # what was born at zero stays
                    else:
                        del counted[key]

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))  # a third of the time that copy() takes by itself, under the ledger's lock
        for slot in self.__slots__:
            counted = getattr(self, slot)
            if isinstance(counted, dict):
                counted = {key: copy(found) for key, found in counted.copy().items()}  # others add to it
            setattr(twin, slot, counted)
        return twin


@dataclass(slots=True, eq=False)
class Tally(_Cell):
    """One counter."""

    n: int = 0


@dataclass(slots=True, eq=False)
class BudgetCell(_Cell):
    """Checks and records of one (tenant, budget)."""

    tenant: str
    budget: str
    call: int = 0
    check: int = 0
    reserve: int = 0
    tool: int = 0
    probe: int = 0
    records: int = 0
    repeated: int = 0
    #: (operation, decision, reason, resource on deny) -> checks, for everything that is not a plain allow.
    rare: dict[tuple[str, str, str, str], Tally] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SpendCell(_Cell):
    """Tokens and money of one (tenant, model)."""

    tenant: str
    model: str
    input: int = 0
    output: int = 0
    cost_nanousd: int = 0


@dataclass(slots=True, eq=False)
class DetailCell(_Cell):
    """Parts of the tokens of one (tenant, model)."""

    tenant: str
    model: str
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(slots=True, eq=False)
class TenantCell(_Cell):
    """Tool calls and runs of one tenant."""

    tenant: str
    tool_calls: int = 0
    active: int = 0
    #: By metric and outcome: what finished runs came to.
    runs: dict[tuple[str, str], Histogram] = field(default_factory=dict)
