"""What a service takes and tells: quotas as they are given, what a tenant has used of them, what has changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from opentelemetry import trace

from otelbudget import semconv
from otelbudget.admission.denial import resets_at_s
from otelbudget.admission.payer import Payer
from otelbudget.errors import ConfigError
from otelbudget.ledger.account import QuotaAccount
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import COST, NANOS, RESOURCES, TOKENS, UNLIMITED, shown
from otelbudget.model.quota import Quota
from otelbudget.model.vector import lane
from otelbudget.telemetry import events

QuotaLike = int | Quota | Iterable[Quota]
#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


def listed(quotas: Any, daily: Quota) -> tuple[Quota, ...]:
    """What *quotas* are: a number is *daily* with so many tokens, others keep for priorities what *daily* does."""
    if not isinstance(quotas, Iterable | Quota) or isinstance(quotas, str | bytes | Mapping):
        number: Any = quotas  # a quota says what is wrong with anything else
        return (replace(daily, tokens=number),)
    found = (quotas,) if isinstance(quotas, Quota) else tuple(quotas)
    for one in found:
        if not isinstance(one, Quota):
            raise ConfigError(f"a list of quotas holds Quota(...) only, got {one!r} ({type(one).__name__})")
        if one.per == "run":
            raise ConfigError("a quota per run binds runs, not a service: put it into the manager's configuration")
    return tuple(replace(one, reserve_for=daily.reserve_for) if one.reserve_for is None else one for one in found)


def daily_of(quotas: Iterable[Quota], otherwise: Quota) -> Quota:
    """The one of *quotas* that limits tokens per day; *otherwise* if none does."""
    return next((one for one in quotas if one.per == "day" and one.limits[TOKENS] < UNLIMITED), otherwise)


class Change(NamedTuple):
    """Whose quotas are changed, by whom and why. It is told on the current span and in the log, by resource."""

    tenant: str
    actor: str | None
    reason: str | None

    def limits(self, before: Quota | None, now: Quota | None) -> None:
        """Say by how much *now* limits each resource that *before* limited otherwise; None limits nothing."""
        for i in range(len(RESOURCES)):
            old, new = (UNLIMITED if quota is None else quota.limits[i] for quota in (before, now))
            if old != new:
                self._say(semconv.EVENT_EXTEND, now or before, i, old, new)

    def forgotten(self, quota: Quota | None, used: Sequence[int]) -> None:
        """Say that *used* of what *quota* limits has been forgotten."""
        for i, limit in enumerate(quota.limits if quota else ()):
            if limit < UNLIMITED:
                self._say(semconv.EVENT_RESET, quota, i, used[i], 0)

    def _say(self, event: str, quota: Quota | None, i: int, *amounts: int) -> None:
        unit = NANOS if i == COST else 1
        old, new = (None if amount == UNLIMITED else amount / unit for amount in amounts)
        name = None if quota is None else quota.name
        _log.info(
            "%s of quota %r of tenant %r: %s was %s and is %s now (actor %s, reason %s); None is unlimited",
            *(event.removeprefix("otelbudget."), name, self.tenant, RESOURCES[i], old, new, self.actor, self.reason),
        )
        whose = {semconv.SCOPE: "tenant", semconv.TENANT: self.tenant, semconv.BUDGET: name}
        what = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: old, semconv.NEW: new}
        by = {semconv.ACTOR: self.actor, semconv.REASON: self.reason}
        events.change_event(events.site_of(trace.get_current_span()), event, {**whose, **what, **by})


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
