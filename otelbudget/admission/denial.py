"""What a refusal says: the `Denial` of every reason, with the numbers of its moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Request
from otelbudget.admission.state import RunState
from otelbudget.ledger import rolling
from otelbudget.ledger.account import INSIDE, Account, QuotaAccount, Refusal, SharedAccount
from otelbudget.ledger.judging import refusals, rises
from otelbudget.model.amounts import COST, NANOS, RESOURCES, UNLIMITED, shown
from otelbudget.model.decision import Denial
from otelbudget.model.vector import LOW, lane, unpack

#: After how many seconds a request that only open holds refuse is worth trying again.
BUSY_RETRY_S: Final = 1.0


def of_run(one: RunState | None, payer: Payer, reason: str, **said: Any) -> Denial:
    """*one* refuses, a run of the lineage of *payer*; None: it is nobody's budget."""
    whose: dict[str, Any] = {"budget": None if one is None else one.account.name, "scope": "run"}
    by = {"tenant": payer.tenant, "run_id": payer.run_id, "ambient": payer.kind == "ambient"}
    return Denial(reason=reason, **(whose | by | said))


def unpriced(payer: Payer, model: str, accounts: Sequence[Account]) -> tuple[Denial, RunState | None]:
    """No price is known for *model*, and the first account that limits money asks for one."""
    asks = next((account for account in accounts if COST in account.limits.refusing), None)
    one = payer.run if asks is None else payer.ancestor_of(asks)
    said: dict[str, Any] = {"resource": "cost_usd", "detail": model or None}
    if one is None and asks is not None:
        rule = next(rule for rule in asks.rules if not rule.warn and rule.limits[-1][COST] < UNLIMITED)
        said |= {"budget": rule.name, "scope": asks.scope, "where": asks.where, "origin": rule.origin}
    return of_run(one, payer, "unpriced", **said), one


def deadline(one: RunState, payer: Payer, request: Request, elapsed_ns: int) -> Denial:
    """The time of *one* has run out, or would."""
    used, limit, requested = (ns / NANOS for ns in (elapsed_ns, one.max_ns or 0, request.seconds_ns))
    said = {"resource": "seconds", "used": used, "limit": limit, "requested": requested}
    return of_run(one, payer, "deadline", origin=one.budget.origin, **said)


def too_deep(one: RunState, payer: Payer, depth: int) -> Denial:
    """*payer*, or a child of it, would be at *depth*, where *one* allows none."""
    said = {"resource": "depth", "used": depth - 1, "reserved": 0, "limit": one.budget.max_depth, "requested": 1}
    return of_run(one, payer, "limit", origin=one.budget.origin, **said)


def overage(one: RunState) -> Denial | None:
    """What *one* has used more of than its own budget allows, in place of a refusal; None if there is nothing."""
    rule = one.account.rule
    for i, (used, limit) in enumerate(zip(unpack(one.account.used), rule.full, strict=True)):
        if used > limit:
            more = {"used": shown(i, used), "limit": shown(i, limit), "origin": rule.origin}
            return of_run(one, one, "overage", resource=RESOURCES[i], **more)
    return None


def of_account(payer: Payer, request: Request, over: Refusal, accounts: Sequence[Account]) -> Denial:
    """An account of *accounts* has not enough left."""
    if over is INSIDE:
        return Denial(reason="busy", tenant=payer.tenant, run_id=payer.run_id, retry_after_s=0.0, detail="inside")
    account, rule, i = over.account, over.rule, over.resource
    # A tool call waits for none, since what those that run hold is as good as used. But leased blocks come back.
    leased = isinstance(account, QuotaAccount | SharedAccount) and payer.engine.config.store.lease > 0
    busy = over.busy and (leased or not request.tool)
    numbers = {"used": over.used, "reserved": over.reserved, "limit": over.limit, "requested": request.amounts[i]}
    said: dict[str, Any] = {name: shown(i, amount) for name, amount in numbers.items()}
    if RESOURCES[i] in ("tokens", "output_tokens", "cost_usd"):
        said["own_maximum"] = request.own_maximum
    if isinstance(account, QuotaAccount):
        said |= _of_quota(payer, over, account)
    else:
        aside = rule.full[i] - over.limit
        said |= {"set_aside": shown(i, aside) if aside > 0 else None, "carved": lane(account.floor, i) > 0}
    return of_run(
        None,
        payer,
        "busy" if busy else "limit",
        resource=RESOURCES[i],
        budget=rule.name,
        scope=account.scope,
        origin=rule.origin,
        retry_after_s=BUSY_RETRY_S if busy else _retry_after_s(payer, request, over, accounts),
        **said,
    )


def _of_quota(payer: Payer, over: Refusal, account: QuotaAccount) -> dict[str, Any]:
    """What a quota adds: whose it is, when it resets, and what is kept for other priorities."""
    now_s, i = payer.engine.ledger.clock_s(), over.resource
    said: dict[str, Any] = {"where": account.where, "per": account.spec.per}
    if (resets_s := resets_at_s(account, now_s)) is not None:
        said["resets_at"] = datetime.fromtimestamp(resets_s, account.spec.tz)
        said["resets_in_s"] = max(0.0, resets_s - now_s)
    whole = over.rule.full[i]
    if over.limit < whole:
        said |= {"priority": payer.owner.priority, "whole": shown(i, whole)}
    return said


def resets_at_s(account: QuotaAccount, now_s: float) -> float | None:
    """When *account*, or the first part of a rolling one, is free again, in Unix seconds; None for never."""
    if account.buckets is not None:
        return rolling.next_s(account, now_s)
    return account.end_s if account.end_s < float("inf") else None


def _retry_after_s(payer: Payer, request: Request, over: Refusal, accounts: Sequence[Account]) -> float | None:
    """In how many seconds the same request fits, if nobody spends meanwhile; None for never."""
    level, now_s, more = payer.owner.level, payer.engine.ledger.clock_s(), request.beyond
    each = dict(zip(accounts, rises(accounts, more), strict=True))
    latest = now_s
    for one in (over, *refusals(accounts, more, level)):
        one = one._replace(busy=one.busy and not request.tool)
        at_s = _fits_at_s(one, each.get(one.account, more), level, now_s)
        if at_s is None:
            return None
        latest = max(latest, at_s)
    return latest - now_s


def _fits_at_s(one: Refusal, more: int, level: int, now_s: float) -> float | None:
    account, cap = one.account, one.account.limits.caps[level]
    if not isinstance(account, QuotaAccount):
        return now_s if one.busy else None
    if lane(more, one.resource) > lane(cap & LOW, one.resource):
        return None
    return resets_at_s(account, now_s) if account.buckets is None else rolling.fits_at_s(account, more, cap, now_s)
