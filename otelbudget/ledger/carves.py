"""Carved children: what they keep of the runs above them, and what their requests therefore still ask there.

Pure, like `ledger`. A carved child counts on the runs above it as at least its carve: they hold
``max(reserved, carve - used)`` of it. So what it spends moves there from reserved to used, what it spends beyond its
carve is ordinary use, and a request within its carve asks nothing of them. Quotas count such a child like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from otelbudget.ledger.account import ZEROS

__all__ = ["alone_on", "any_carved", "counts", "kept_on_each", "on_each"]

Each = list[Sequence[int]]


class Counted(Protocol):
    """What counts: an account, or what one is to be."""

    # fmt: off
    @property
    def scope(self) -> str: ...
    @property
    def used(self) -> Sequence[int]: ...
    @property
    def reserved(self) -> Sequence[int]: ...
    @property
    def carved(self) -> Sequence[int] | None: ...
    # fmt: on


def any_carved(accounts: Sequence[Counted]) -> bool:
    """Whether one of *accounts* keeps something of those before it; else all below is the same on every account."""
    for account in accounts:  # noqa: SIM110 - every call comes here, and any() takes three times as long
        if account.carved is not None:
            return True
    return False


def counts(carved: int, used: int, reserved: int) -> int:
    """What the runs above a carved child hold for it."""
    return max(reserved, carved - used)


def on_each(accounts: Sequence[Counted], held: Sequence[int], used: Sequence[int] = ZEROS) -> Each:
    """What *held* more comes to on each account, given that *used* more is charged to it. Call it before the change."""
    found: Each = []
    more = held
    for account in reversed(accounts):
        found.append(more if account.scope == "run" else held)
        carved = account.carved
        if carved is not None:
            more = [
                counts(c, u + a, r + b) - counts(c, u, r)
                for c, u, r, a, b in zip(carved, account.used, account.reserved, used, more, strict=True)
            ]
    found.reverse()
    return found


def kept_on_each(accounts: Sequence[Counted]) -> Each:
    """What each account holds for carved children below it and the last account may still use."""
    found: Each = []
    kept: Sequence[int] = ZEROS
    for account in reversed(accounts):
        found.append(kept if account.scope == "run" else ZEROS)
        if account.carved is not None:
            kept = [
                k + counts(c, u, r) - r
                for k, c, u, r in zip(kept, account.carved, account.used, account.reserved, strict=True)
            ]
    found.reverse()
    return found


def alone_on(accounts: Sequence[Counted], n: int, resource: int, amount: int) -> int:
    """What a call of *amount* comes to on account *n* if no other call is open, though carved children stay."""
    if accounts[n].scope == "run":
        for account in reversed(accounts[n + 1 :]):
            if account.carved is not None:
                amount = counts(account.carved[resource], account.used[resource], amount)
    return amount
