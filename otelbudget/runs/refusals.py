"""What a refusal says: the `Denial` of every reason, with the numbers of its moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otelbudget.amounts import NANOS, RESOURCES, UNLIMITED, shown
from otelbudget.decision import Denial

if TYPE_CHECKING:
    from otelbudget.ledger import Account, Refusal
    from otelbudget.runs.admission import Ask
    from otelbudget.runs.run import BudgetRun

__all__ = ["deadline", "latched", "of_account", "plain"]

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
        tenant=run.tenant,
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
    )


def of_account(run: BudgetRun, ask: Ask, refused: Refusal) -> Denial:
    """An account has not enough left."""
    account: Account = refused.account
    i = refused.resource
    output_counts = RESOURCES[i] in ("tokens", "output_tokens", "cost_usd")
    return Denial(
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
        set_aside=shown(i, account.full[i] - refused.limit) if account.full[i] > refused.limit else None,
    )
