"""A block of accounts that a process has leased, a hold on it, and how large it may be. See `lease`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from otelbudget.ledger.account import Account, Hold
from otelbudget.ledger.rules import Rule, rules_of_budget
from otelbudget.model.amounts import NOTHING, UNLIMITED, Amounts
from otelbudget.model.vector import pack, unpack
from otelbudget.stores.base import GRACE_S, Answer, Line, Reserve, Settle, State

Key = tuple[str, tuple[Line, ...]]
#: A shard, and what names an account in it: all of a line but its limits.
Place = tuple[str, str, int, int, bool]


class Lease:
    """A block of the accounts of *key*, and what is spent and held of it: nothing more once it is closed.

    Attributes:
        block: What the store holds for it; nothing until it has said so.
        states: What the others have, as it was when the block was taken.
        until_s: When it is to be closed.
    """

    __slots__ = ("account", "block", "id", "is_open", "key", "lines", "places", "shard", "states", "until_s")

    def __init__(self, key: Key) -> None:
        self.id = f"{secrets.randbits(128):032x}"
        self.key = key
        self.shard, self.lines = key
        self.block: tuple[int, ...] = NOTHING
        self.account = Account(CLOSED)
        self.is_open = False
        self.states: tuple[State, ...] = ()
        self.places = places_of(self.shard, self.lines)
        self.until_s = 0.0

    def asks(self, block: tuple[int, ...], ttl_s: float) -> Reserve:
        """What makes it a block of so much, all of which a crash charges."""
        return Reserve(self.id, self.shard, self.lines, block, self.block, block, ttl_s)

    def ends(self) -> Settle:
        """What charges all that was spent."""
        return Settle(self.id, self.shard, self.lines, self.block, tuple(unpack(self.account.used)), self.block)

    def seen(self) -> tuple[State, ...]:
        """What each line has used and taken, as far as it is known here."""
        used, taken = self.account.used, self.account.taken
        return tuple([(theirs + used, all_theirs + taken) for theirs, all_theirs in self.states])

    def needed(self) -> tuple[int, ...]:
        """What of the block is spent or held."""
        return tuple(map(min, unpack(self.account.taken), self.block))


class Held:
    """A hold on a lease, until when it lives."""

    __slots__ = ("hold", "lease", "until_s")

    def __init__(self, asked: Reserve, lease: Lease, now_s: float) -> None:
        amounts = Amounts(*asked.amounts)
        self.hold = Hold(None, (lease.account,), amounts, pack(amounts), Amounts(*asked.on_expiry))
        self.lease = lease
        self.renew(now_s, asked.ttl_s)

    def renew(self, now_s: float, ttl_s: float) -> None:
        """Let it live so long from now."""
        self.until_s = now_s + ttl_s + GRACE_S


def places_of(shard: str, lines: Sequence[Line]) -> list[Place]:
    """Which accounts *lines* name."""
    return [(shard, line.key, line.start_s, line.end_s, line.rolling) for line in lines]


def least(limits: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Of each resource the least limit; -1 is none."""
    return tuple([min([one for one in each if one >= 0], default=-1) for each in zip(*limits, strict=True)])


def left(lines: Sequence[Line], answer: Answer) -> list[int]:
    """How much of each resource all of *lines* have left."""
    rooms = [
        [max(0, b - a) if b >= 0 else UNLIMITED for a, b in zip(unpack(taken), line.limits, strict=True)]
        for line, (_, taken) in zip(lines, answer.states, strict=True)
    ]
    return list(map(min, zip(*rooms, strict=True)))


def is_worth(block: Sequence[int], amounts: Sequence[int], limits: Sequence[int]) -> bool:
    """Whether *amounts* fit into *block*, and something is left."""
    return any(block) and all(b > a or not a or limit < 0 for a, b, limit in zip(amounts, block, limits, strict=True))


def rules_of(limits: Sequence[int]) -> tuple[Rule]:
    """What holds an account to the *limits* of a line."""
    some = tuple(limit if limit >= 0 else UNLIMITED for limit in limits)
    return rules_of_budget(some, some, None, (), False, None)


#: Of a block of which nothing is to be had.
CLOSED: Final = rules_of(NOTHING)
