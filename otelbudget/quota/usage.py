"""What a tenant has used of its quotas, as a value: `QuotaUsage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from otelbudget.admission.denial import resets_at_s
from otelbudget.admission.payer import Payer
from otelbudget.ledger.account import QuotaAccount
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import RESOURCES, TOKENS, UNLIMITED, shown
from otelbudget.model.quota import Quota
from otelbudget.model.vector import lane


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLine:
    """One resource of one quota in its present window. Money is Decimal USD, all else an int.

    Args:
        quota, scope: The quota's name, and whose it is: ``org``, ``tenant`` or ``user``.
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
        tokens: Tokens it has used in the window of its token quota; of the one with least left, if it has several.
        resets_at: When that window ends, as in `QuotaLine`; None for never, and without a quota.
        lines: Every resource of every quota that binds it, its organisation's first.
    """

    tenant: str
    tokens: int
    resets_at: datetime | None
    lines: tuple[QuotaLine, ...]


def usage_of(payer: Payer, overridden: Sequence[Quota]) -> QuotaUsage:
    """The report about the owner of *payer*; *overridden* was set while running."""
    now_s = payer.engine.ledger.clock_s()
    accounts = [account for account in payer.binding().accounts if isinstance(account, QuotaAccount)]
    main = min((one for one in accounts if one.scope == "tenant"), key=_tokens_left, default=None)
    return QuotaUsage(
        tenant=payer.tenant,
        tokens=0 if main is None else lane(main.used, TOKENS),
        resets_at=None if main is None else _resets_at(main, now_s),
        lines=tuple(
            _line(account, rule, i, rule.quota in overridden, now_s)
            for account in accounts
            for rule in account.rules
            for i, limit in enumerate(rule.full)
            if limit < UNLIMITED
        ),
    )


def _tokens_left(account: QuotaAccount) -> int:
    return min((rule.full[TOKENS] for rule in account.rules), default=UNLIMITED) - lane(account.taken, TOKENS)


def _resets_at(account: QuotaAccount, now_s: float) -> datetime | None:
    at_s = resets_at_s(account, now_s)
    return None if at_s is None else datetime.fromtimestamp(at_s, account.spec.tz)


def _line(account: QuotaAccount, rule: Rule, i: int, overridden: bool, now_s: float) -> QuotaLine:
    used, reserved, limit = lane(account.used, i), account.reserved(i), rule.full[i]
    return QuotaLine(
        quota=rule.name or "",
        scope=account.scope,
        resource=RESOURCES[i],
        used=shown(i, used),
        reserved=shown(i, reserved),
        limit=shown(i, limit),
        remaining=shown(i, max(0, limit - used - reserved)),
        per=account.spec.per,
        window=account.window,
        resets_at=_resets_at(account, now_s),
        overridden=overridden,
    )
