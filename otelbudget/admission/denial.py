"""What a refusal says: the `Denial` of every reason, with the numbers of its moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from otelbudget.ledger import rolling
from otelbudget.ledger.account import Account, QuotaAccount, Refusal
from otelbudget.ledger.judging import refusals, rises
from otelbudget.ledger.ledger import INSIDE
from otelbudget.model.amounts import COST, NANOS, RESOURCES, shown
from otelbudget.model.decision import Denial
from otelbudget.model.vector import LOW, lane, pack, unpack

if TYPE_CHECKING:
    from otelbudget.admission.payer import Payer
    from otelbudget.admission.request import Request
    from otelbudget.admission.state import RunState

#: After how many seconds a request that only open holds refuse is worth trying again.
BUSY_RETRY_S: Final = 1.0


def of_state(one: RunState, payer: Payer, reason: str, detail: str | None = None) -> Denial:
    """A state of *one* refuses, whatever was used."""
    return _of_run(one, payer, reason=reason, detail=detail)


def _of_run(one: RunState, payer: Payer, **said: Any) -> Denial:
    return Denial(
        budget=one.account.name,
        scope="run",
        tenant=payer.tenant,
        run_id=payer.run_id,
        ambient=payer.kind == "ambient",
        **said,
    )


def no_tenant(payer: Payer) -> Denial:
    """Nobody knows whose it is."""
    name = None if payer.run is None else payer.run.account.name
    return Denial(reason="no_tenant", budget=name, scope="run", run_id=payer.run_id, ambient=payer.kind == "ambient")


def unpriced(payer: Payer, model: str, accounts: Sequence[Account]) -> tuple[Denial, RunState | None]:
    """No price is known for *model*, and the first account that limits money asks for one."""
    asks = next((account for account in accounts if COST in account.limits.refusing), None)
    said: dict[str, Any] = {"reason": "unpriced", "resource": "cost_usd", "detail": model or None}
    one = payer.run if asks is None else payer.ancestor_of(asks)
    if one is not None:
        return _of_run(one, payer, **said), one
    if asks is None:
        return Denial(tenant=payer.tenant, **said), None
    rule = next(rule for rule in asks.rules if not rule.warn and rule.limits[-1][COST] < 2**62)
    denial = Denial(budget=rule.name, scope=asks.scope, tenant=payer.tenant, run_id=payer.run_id, **said)
    return replace(denial, where=asks.where, origin=rule.origin, ambient=payer.kind == "ambient"), None


def spent_wrap_up(one: RunState, payer: Payer, resource: str) -> Denial:
    """`wrap_up()` of *one* admits one model call and no tool call, and this is another one."""
    return _of_run(one, payer, reason="limit", resource=resource, detail="wrap_up")


def deadline(one: RunState, payer: Payer, request: Request, elapsed_ns: int) -> Denial:
    """The time of *one* has run out, or would."""
    return _of_run(
        one,
        payer,
        reason="deadline",
        resource="seconds",
        used=elapsed_ns / NANOS,
        limit=(one.max_ns or 0) / NANOS,
        requested=request.seconds_ns / NANOS,
        origin=one.budget.origin,
    )


def too_deep(one: RunState, payer: Payer, depth: int) -> Denial:
    """*payer*, or a child of it, would be at *depth*, where *one* allows none."""
    return _of_run(
        one,
        payer,
        reason="limit",
        resource="depth",
        used=depth - 1,
        reserved=0,
        limit=one.budget.max_depth,
        requested=1,
        origin=one.budget.origin,
    )


def overage(one: RunState) -> Denial | None:
    """What *one* has used more of than its own budget allows, in place of a refusal; None if there is nothing."""
    rule = one.account.rule
    for i, (used, limit) in enumerate(zip(unpack(one.account.used), rule.full, strict=True)):
        if used > limit:
            more = {"used": shown(i, used), "limit": shown(i, limit), "origin": rule.origin}
            return _of_run(one, one, reason="overage", resource=RESOURCES[i], **more)
    return None


def of_account(payer: Payer, request: Request, refused: Refusal, accounts: Sequence[Account]) -> Denial:
    """An account of *accounts* has not enough left."""
    if refused is INSIDE:
        return Denial(reason="busy", tenant=payer.tenant, run_id=payer.run_id, retry_after_s=0.0, detail="inside")
    account, rule, i = refused.account, refused.rule, refused.resource
    output_counts = RESOURCES[i] in ("tokens", "output_tokens", "cost_usd")
    denial = Denial(
        reason="busy" if refused.busy else "limit",
        resource=RESOURCES[i],
        budget=rule.name,
        scope=account.scope,
        used=shown(i, refused.used),
        reserved=shown(i, refused.reserved),
        limit=shown(i, refused.limit),
        requested=shown(i, request.amounts[i]),
        retry_after_s=BUSY_RETRY_S if refused.busy else _retry_after_s(payer, request, refused, accounts),
        tenant=payer.tenant,
        run_id=payer.run_id,
        ambient=payer.kind == "ambient",
        own_maximum=request.own_maximum if output_counts else None,
        origin=rule.origin,
    )
    if isinstance(account, QuotaAccount):
        return _of_quota(payer, denial, refused, account)
    aside = rule.full[i] - refused.limit
    set_aside = shown(i, aside) if aside > 0 else None
    return replace(denial, set_aside=set_aside, carved=lane(account.floor, i) > 0)


def _of_quota(payer: Payer, denial: Denial, refused: Refusal, account: QuotaAccount) -> Denial:
    """What a quota adds: whose it is, when it resets, and what is kept for other priorities."""
    now_s, i = payer.engine.ledger.clock_s(), refused.resource
    resets_s = resets_at_s(account, now_s)
    whole = refused.rule.full[i]
    kept = refused.limit < whole
    return replace(
        denial,
        where=account.where,
        per=account.spec.per,
        resets_at=None if resets_s is None else datetime.fromtimestamp(resets_s, account.spec.tz),
        resets_in_s=None if resets_s is None else max(0.0, resets_s - now_s),
        priority=payer.owner.priority if kept else None,
        whole=shown(i, whole) if kept else None,
    )


def resets_at_s(account: QuotaAccount, now_s: float) -> float | None:
    """When *account*, or the first part of a rolling one, is free again, in Unix seconds; None for never."""
    if account.buckets is not None:
        return rolling.next_s(account, now_s)
    return account.end_s if account.end_s < float("inf") else None


def _retry_after_s(payer: Payer, request: Request, refused: Refusal, accounts: Sequence[Account]) -> float | None:
    """In how many seconds the same request fits, if nobody spends meanwhile; None for never."""
    level, now_s = payer.owner.level, payer.engine.ledger.clock_s()
    more = pack(request.amounts)
    if request.hold is not None and request.change == "resize":
        more -= request.hold.vector
    each = dict(zip(accounts, rises(accounts, more), strict=True))
    latest = now_s
    for one in (refused, *refusals(accounts, more, level)):
        at_s = _fits_at_s(one, each.get(one.account, more), level, now_s)
        if at_s is None:
            return None
        latest = max(latest, at_s)
    return latest - now_s


def _fits_at_s(one: Refusal, more: int, level: int, now_s: float) -> float | None:
    account = one.account
    if not isinstance(account, QuotaAccount):
        return now_s if one.busy else None
    if lane(more, one.resource) > lane(account.limits.caps[level] & LOW, one.resource):
        return None
    if account.buckets is not None:
        return rolling.fits_at_s(account, more, account.limits.caps[level], now_s)
    return account.end_s if account.end_s < float("inf") else None
