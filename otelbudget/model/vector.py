"""Vectors: the amounts of all resources in one integer, so that adding or comparing them all is one operation.

Every resource has a lane of 96 bits, whose top bit is a guard: it is 0 in an amount. A cap has it set, so that
``(cap - taken - more) & guards`` keeps the guard of each lane that does not go below 0. Differences work too, also with
lanes below 0, as long as what comes out has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from otelbudget.model.amounts import RESOURCES, UNLIMITED

_BITS: Final = 96
SHIFTS: Final = tuple(_BITS * i for i in range(len(RESOURCES)))
#: The first lane, all of it.
LANE: Final = (1 << _BITS) - 1
_ONES: Final = sum(1 << shift for shift in SHIFTS)
#: The guard of every lane.
GUARDS: Final = _ONES << (_BITS - 1)
#: The most that every lane can hold below its guard.
LOW: Final = GUARDS - _ONES
#: What stands for no limit: above every sum of legal amounts.
NO_LIMIT: Final = 1 << (_BITS - 2)

_form: Final = Struct("<" + "q4x" * len(RESOURCES))


def pack(amounts: Sequence[int]) -> int:
    """*amounts*, in `RESOURCES` order and each from 0 to 2^63 - 1, as a vector."""
    return int.from_bytes(_form.pack(*amounts), "little")


def unpack(vector: int) -> list[int]:
    """The amounts of *vector*, none of them below 0, in `RESOURCES` order."""
    return [vector >> shift & LANE for shift in SHIFTS]


def lane(vector: int, resource: int) -> int:
    """The amount of one resource."""
    return vector >> SHIFTS[resource] & LANE


def step(difference: int, resource: int) -> int:
    """One resource of a difference, whose lanes may be below 0."""
    return lane(difference + GUARDS, resource) - (1 << (_BITS - 1))


def asked(vector: int) -> int:
    """The guards of the lanes above 0: of the resources of which something is asked for. Lanes may be below 0."""
    return (vector + LOW) & GUARDS


def cap(limits: Sequence[int]) -> int:
    """*limits* as what a request is compared with: guards set, and room for everything where nothing is limited."""
    found = GUARDS
    for shift, limit in zip(SHIFTS, limits, strict=True):
        found += (limit if limit < UNLIMITED else NO_LIMIT) << shift
    return found


def positive(difference: int) -> int:
    """*difference*, and 0 for its lanes below 0."""
    above = asked(difference)
    return (difference + GUARDS) & (above - (above >> (_BITS - 1)))


def greater(a: int, b: int) -> int:
    """The greater of each lane."""
    wins = (a + GUARDS - b) & GUARDS  # where a >= b
    mask = wins - (wins >> (_BITS - 1))
    return (a & mask) | (b & (LOW ^ mask))
