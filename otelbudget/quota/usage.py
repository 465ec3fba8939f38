"""What a tenant has used of its quotas, as a value: `QuotaUsage`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from otelbudget.model.amounts import RESOURCES, TOKENS, UNLIMITED, shown

if TYPE_CHECKING:
    from decimal import Decimal

    from otelbudget.engine.owner import Owner
    from otelbudget.ledger.account import QuotaAccount

__all__ = ["QuotaLine", "QuotaUsage", "main_account", "resets_at", "usage_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLine:
    """One resource of one quota in its present window. Money is Decimal USD, all else an int.

    Args:
        quota: The quota's name.
        scope: Whose it is: ``org``, ``tenant`` or ``user``.
        resource: What it limits.
        used, reserved, limit, remaining: In the resource's unit; what remains is at least 0, for the highest priority.
        per: Kind of window, such as ``day``.
        window: Which one, such as ``2026-11-24``.
        resets_at: When it ends; of a rolling window, when its oldest charges fall out. None for never.
        overridden: `QuotaService.set_quota` has put it in force.
    """

    quota: str
    scope: str
    resource: str
    used: int | Decimal
    reserved: int | Decimal
    limit: int | Decimal
    remaining: int | Decimal
    per: str
    window: str
    resets_at: datetime | None
    overridden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUsage:
    """What a tenant has used of its quotas.

    Args:
        tenant: Whose.
        tokens: Tokens it has used in the window of its token quota; of the one with least left, if it has several.
        lines: Every resource of every quota that binds it, its organisation's first.
    """

    tenant: str
    tokens: int
    lines: tuple[QuotaLine, ...]


def usage_of(owner: Owner, now_s: float) -> QuotaUsage:
    """The report about *owner* as of *now_s*. Called with the store's lock held."""
    accounts = [book.current(now_s) for book in owner.books]
    main = main_account(owner, now_s)
    return QuotaUsage(
        tenant=owner.tenant,
        tokens=0 if main is None else main.used[TOKENS],
        lines=tuple(_line(account, i) for account in accounts for i in account.limited),
    )


def main_account(owner: Owner, now_s: float) -> QuotaAccount | None:
    """The account of the tenant's token quota, of the one with least left; another one if none limits tokens."""
    accounts = [book.current(now_s) for book in owner.books if book.where.scope == "tenant"]
    return min(accounts, key=lambda account: account.remaining(TOKENS), default=None)


def resets_at(account: QuotaAccount) -> datetime | None:
    """When *account*, or the first part of a rolling one, is free again, by the clock of its quota; None for never."""
    at_s = account.book.resets_at_s(account)
    return None if at_s is None else datetime.fromtimestamp(at_s, account.book.quota.window.tz)


def _line(account: QuotaAccount, i: int) -> QuotaLine:
    book, limit = account.book, account.limits[i]
    assert limit < UNLIMITED
    return QuotaLine(
        quota=account.name or "",
        scope=account.scope,
        resource=RESOURCES[i],
        used=shown(i, account.used[i]),
        reserved=shown(i, account.reserved[i]),
        limit=shown(i, limit),
        remaining=shown(i, account.remaining(i)),
        per=book.quota.per,
        window=account.window.key,
        resets_at=resets_at(account),
        overridden=book.override is not None,
    )
