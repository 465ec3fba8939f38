"""Rolling windows: what was charged when, in pieces of 1/60 of the window; the oldest fall out as time passes.

A piece is a bucket with a number, which follows from the clock. An amount counts as long as any of its bucket may lie
in the window: up to 1/60 longer than it should, and never shorter. Buckets that have fallen out are kept for a while,
and those that lie ahead count too: a clock that steps forth or back, however far, forgets nothing.
"""

from __future__ import annotations

from math import inf, nextafter
from typing import TYPE_CHECKING, Final

from otelbudget.model.vector import asked
from otelbudget.model.windows import BUCKETS, bucket

if TYPE_CHECKING:
    from otelbudget.ledger.account import Account

#: Buckets that are kept, fallen out or not: those of two windows more than the one that counts.
_KEPT: Final = 3 * BUCKETS


def _number(account: Account, now_s: float) -> int:
    return bucket(account.rolling_s, now_s)


def turns_at_s(account: Account, now_s: float) -> tuple[float, float]:
    """The stretch of time, around *now_s*, in which nothing falls out."""
    n = _number(account, now_s)
    return _begins_s(account, n), _begins_s(account, n + 1)


def _begins_s(account: Account, n: int) -> float:
    """The first moment of bucket *n* in floating point."""
    at_s = -(-n * account.rolling_s * 1000 // BUCKETS) / 1000
    while _number(account, at_s) < n:
        at_s = nextafter(at_s, inf)
    return at_s


def charged(account: Account, used: int, now_s: float) -> dict[int, int]:
    """The buckets of *account* once *used* has been charged now."""
    n = _number(account, now_s)
    buckets = dict(account.buckets or {})
    buckets[n] = buckets.get(n, 0) + used
    if len(buckets) > _KEPT:
        oldest = min(buckets)
        amount = buckets.pop(oldest)
        if oldest > n - _KEPT:  # the clock has been ahead: it may count yet
            buckets[min(buckets)] += amount
    return buckets


def total(account: Account, now_s: float) -> int:
    """What counts now."""
    first = _number(account, now_s) - BUCKETS
    return sum(amount for n, amount in (account.buckets or {}).items() if n >= first)


def _leaving(account: Account, now_s: float) -> list[tuple[float, int]]:
    """(when it falls out, how much) of what counts now, the oldest first."""
    if not account.buckets and account.used:  # a shared store has it, and does not say when it was charged
        return [(_begins_s(account, _number(account, now_s) + 1 + BUCKETS), account.used)]
    first = _number(account, now_s) - BUCKETS
    rows = sorted((n, amount) for n, amount in (account.buckets or {}).items() if n >= first and amount)
    return [(_begins_s(account, n + 1 + BUCKETS), amount) for n, amount in rows]


def next_s(account: Account, now_s: float) -> float | None:
    """When the oldest charges fall out, in Unix seconds; None if there are none."""
    rows = _leaving(account, now_s)
    return rows[0][0] if rows else None


def gone_s(account: Account) -> float:
    """When the last of what was charged has fallen out, in Unix seconds."""
    return _begins_s(account, max(account.buckets or {0: 0}) + 1 + BUCKETS)


def fits_at_s(account: Account, more: int, cap: int, now_s: float) -> float | None:
    """When *more* fits under *cap*, if nothing else is charged and what is held stays held; None for never."""
    taken, guards = account.taken, asked(more)
    for at_s, amount in _leaving(account, now_s):
        taken -= amount
        if (cap - taken - more) & guards == guards:
            return at_s
    return None
