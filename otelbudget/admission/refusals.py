"""What a refusal says: the `Denial` of every reason, with the numbers of its moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from otelbudget.model.amounts import NANOS, RESOURCES, UNLIMITED, shown
from otelbudget.model.decision import Denial

if TYPE_CHECKING:
    from otelbudget.admission.admission import Ask
    from otelbudget.ledger.account import Account, Refusal
    from otelbudget.runs.run import BudgetRun

__all__ = ["deadline", "latched", "of_account", "plain", "too_deep"]

#: After how many seconds a request that only open holds refuse is worth trying again.
BUSY_RETRY_S: Final = 1.0


def latched(one: BudgetRun, run: BudgetRun, ask: Ask, i: int) -> Denial:
    """Resource *i* was refused before on *one*."""
    account = one.account
    return Denial(
        reason="latched",
        resource=RESOURCES[i],
        budget=account.name,
        scope="run",
        used=shown(i, account.used[i]),
        reserved=shown(i, account.reserved[i]),
        limit=shown(i, account.limits[i]) if account.limits[i] < UNLIMITED else None,
        requested=shown(i, ask.amounts[i]),
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        origin=one.budget.origin,
    )


def plain(
    one: BudgetRun, run: BudgetRun, reason: str, *, detail: str | None = None, resource: str | None = None
) -> Denial:
    """A state of *one* refuses, whatever was used."""
    return Denial(
        reason=reason,
        resource=resource,
        budget=one.account.name,
        scope="run",
        tenant=None if reason == "no_tenant" else run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        detail=detail,
    )


def deadline(one: BudgetRun, run: BudgetRun, ask: Ask, elapsed_ns: int) -> Denial:
    """The time of *one* has run out, or would."""
    return Denial(
        reason="deadline",
        resource="seconds",
        budget=one.account.name,
        scope="run",
        used=elapsed_ns / NANOS,
        limit=(one.max_ns or 0) / NANOS,
        requested=ask.seconds_ns / NANOS,
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        origin=one.budget.origin,
    )


def too_deep(one: BudgetRun, run: BudgetRun, depth: int) -> Denial:
    """*run*, or a child of it, would be at *depth*, where *one* allows none."""
    return Denial(
        reason="limit",
        resource="depth",
        budget=one.budget.name,
        scope="run",
        used=depth - 1,
        reserved=0,
        limit=one.budget.max_depth,
        requested=1,
        tenant=run.tenant,
        run_id=run.run_id,
        origin=one.budget.origin,
    )


def of_account(run: BudgetRun, ask: Ask, refused: Refusal) -> Denial:
    """An account has not enough left."""
    account: Any = refused.account
    i = refused.resource
    output_counts = RESOURCES[i] in ("tokens", "output_tokens", "cost_usd")
    denial = Denial(
        reason="busy" if refused.busy else "limit",
        resource=RESOURCES[i],
        budget=account.name,
        scope=account.scope,
        used=shown(i, refused.used),
        reserved=shown(i, refused.reserved),
        limit=shown(i, refused.limit),
        requested=shown(i, ask.amounts[i]),
        retry_after_s=BUSY_RETRY_S if refused.busy else None,
        tenant=run.tenant,
        run_id=run.run_id,
        ambient=run.kind == "ambient",
        own_maximum=ask.own_maximum if output_counts else None,
    )
    if account.scope == "run":
        aside = account.full[i] - refused.limit
        return replace(
            denial,
            origin=_origin(run, account),
            set_aside=shown(i, aside) if aside > 0 else None,
            carved=account.carved is not None and account.carved[i] > 0,
        )
    return _of_quota(run, ask, denial, refused)


def _of_quota(run: BudgetRun, ask: Ask, denial: Denial, refused: Refusal) -> Denial:
    """What a quota adds: whose it is, when it resets, and what is kept for other priorities."""
    account: Any = refused.account
    now_s, i = run.engine.store.clock_s(), refused.resource
    resets_s = account.book.resets_at_s(account)
    whole = account.limits[i]
    fits_a_new_window = ask.amounts[i] <= refused.limit
    retry_after_s = _seconds_to(resets_s if fits_a_new_window else None, now_s)
    quota = account.book.quota
    return replace(
        denial,
        where=account.book.where,
        per=quota.per,
        resets_at=None if resets_s is None else datetime.fromtimestamp(resets_s, quota.window.tz),
        resets_in_s=_seconds_to(resets_s, now_s),
        retry_after_s=denial.retry_after_s if refused.busy else retry_after_s,
        priority=run.priority if refused.limit < whole else None,
        whole=shown(i, whole) if refused.limit < whole else None,
        origin=quota.origin,
    )


def _seconds_to(then_s: float | None, now_s: float) -> float | None:
    return None if then_s is None else max(0.0, then_s - now_s)


def _origin(run: BudgetRun, account: Account) -> str | None:
    """Where the budget of the run that *account* belongs to was written."""
    payer = run.ancestor_of(account)
    return None if payer is None else payer.budget.origin
