"""The answer to a request: `Decision`, and `Denial` with everything that explains a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otelbudget.errors import BudgetExceeded

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

__all__ = ["ALLOWED", "Decision", "Denial"]

_AMBIENT = (
    " Calls outside otelbudget.run() share one process-wide run: open one per request or job with"
    " `with otelbudget.run(...):`, or start it anew with manager.reset()."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a request was refused, with the numbers of that moment.

    The fields are those of `BudgetExceeded`, plus:

    Args:
        tenant, run_id: Whose request it was.
        where: Whose quota refused: its org, tenant, user and model, empty where they don't apply; None for a run.
        per: The window of that quota.
        resets_in_s: Seconds until `resets_at`.
        priority, whole: The request's priority, and the whole limit, of which it may use no more than `limit`.
        origin: ``file:line`` of the limit, where it came from a file.
        ambient: It was made outside every run, in the process-wide one.
        own_maximum: The request's own maximum of output tokens, if that is part of what did not fit.
        carved: The limit is what was carved out of the runs above.
        set_aside: What the limit leaves for `wrap_up()`, which the budget allows on top.
        detail: What `reason` alone does not say (a model's name).
    """

    reason: str
    resource: str | None = None
    budget: str | None = None
    scope: str | None = None
    used: int | float | Decimal | None = None
    reserved: int | float | Decimal | None = None
    limit: int | float | Decimal | None = None
    requested: int | float | Decimal | None = None
    retry_after_s: float | None = None
    resets_at: datetime | None = None
    tenant: str | None = None
    run_id: str | None = None
    where: Any = None
    per: str | None = None
    resets_in_s: float | None = None
    priority: str | None = None
    whole: int | Decimal | None = None
    origin: str | None = None
    ambient: bool = False
    own_maximum: int | None = None
    set_aside: int | Decimal | None = None
    carved: bool = False
    detail: str | None = None

    @property
    def message(self) -> str:
        """What ran out, where, how much was used and held, when it resets and how to raise it."""
        return f"{self._where()}: {_WHAT[self.reason](self)}{_AMBIENT if self.ambient else ''}"

    def error(self, receipt: Any = None) -> BudgetExceeded:
        """The exception that tells the caller."""
        return BudgetExceeded(
            self.message,
            reason=self.reason,
            resource=self.resource,
            budget=self.budget,
            scope=self.scope,
            used=self.used,
            reserved=self.reserved,
            limit=self.limit,
            requested=self.requested,
            retry_after_s=self.retry_after_s,
            resets_at=self.resets_at,
            receipt=receipt,
        )

    def _where(self) -> str:
        if self.where is not None:
            return f"quota {self.budget!r} of {_whose(self.where)}"
        named = f"budget {self.budget!r}" if self.budget else "budget"
        return f"{named} of {self.scope or 'run'}" + (f" (tenant {self.tenant!r})" if self.tenant else "")

    def _numbers(self) -> str:
        held = f", held {_amount(self, self.reserved)}" if self.reserved else ""
        aside = f" ({_amount(self, self.set_aside)} more set aside for wrap_up())" if self.set_aside else ""
        if self.whole is not None:
            aside = f" (what priority {self.priority!r} may use of {_amount(self, self.whole)})"
        return (
            f"{self.resource} used {_amount(self, self.used)}{held} of {_amount(self, self.limit)}{aside},"
            f" requested {_amount(self, self.requested)}"
        )

    def _raise_it(self) -> str:
        at = f" ({self.origin})" if self.origin else ""
        if self.where is not None:
            return f"{self._resets()} To allow more, raise it under quotas{at} or with QuotaService.set_quota()."
        if self.resource == "depth":
            return f"Raise max_depth{at}, or open the run with mode='detached'."
        if self.carved:
            return f"That is what was carved out for it: carve more, or call its extend({self.resource}=...)."
        return f"A run's budget does not reset: raise max_{self.resource}{at}, or call run.extend({self.resource}=...)."

    def _resets(self) -> str:
        if self.resets_at is None or self.resets_in_s is None:
            return {"lifetime": "It never resets.", "run": "It is each run's own and does not reset."}.get(
                self.per or "", "It has room again when calls in flight end."
            )
        what = "Its oldest charges fall out" if (self.per or "").startswith("rolling") else "It resets"
        return f"{what} at {self.resets_at.isoformat(timespec='seconds')}, in {_duration(self.resets_in_s)}."


def _whose(where: Any) -> str:
    within = f" (org {where.org!r})"
    if where.scope == "org":
        return f"org {where.org!r}"
    if where.scope == "user":
        return f"user {where.user!r} of tenant {where.tenant!r}{within}"
    return f"{where.scope} {getattr(where, where.scope)!r}{within}"


def _duration(seconds: float) -> str:
    """A time to wait as people say it, rounded up: ``45 s``, ``12 min``, ``5 h 12 min``, ``3 d 4 h``."""
    whole = -int(-seconds // 1)
    if whole < 120:
        return f"{whole} s"
    minutes = -(-whole // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _amount(denial: Denial, value: Any) -> str:
    if denial.resource == "cost_usd":
        return f"${value:f}"
    if denial.resource == "seconds":
        return f"{value:.2f}".rstrip("0").rstrip(".") + " s"
    return str(value)


def _limit(d: Denial) -> str:
    own = ""
    if d.own_maximum is not None:
        own = f" The request's own maximum of {d.own_maximum} output tokens is part of that; a smaller one may fit."
    return f"exhausted: {d._numbers()}.{own} {d._raise_it()}"


def _busy(d: Denial) -> str:
    return (
        f"busy: {d._numbers()}. Calls in flight hold the rest; retry when one has ended, in about {d.retry_after_s} s."
    )


def _deadline(d: Denial) -> str:
    return (
        f"out of time: {_amount(d, d.used)} of {_amount(d, d.limit)} have passed."
        " Raise max_seconds, or call run.extend(seconds=...)."
    )


def _latched(d: Denial) -> str:
    if d.detail == "wrap_up":
        return "wrap_up() admits one model call and no tool call, and this is another one."
    return (
        f"stays exhausted: {d.resource} was refused before and the run goes on asking."
        f" Stop, or call run.extend({d.resource}=...); RunBudget(latch=False) judges every request anew."
    )


def _frozen(d: Denial) -> str:
    by = f" ({d.detail})" if d.detail else ""
    return f"frozen{by}: no new calls until run.unfreeze()."


def _closed(_: Denial) -> str:
    return "the run has ended; a task or stream left behind can't make new calls in it. Open a new otelbudget.run()."


def _unpriced(d: Denial) -> str:
    what = f"no price is known for model {d.detail!r}" if d.detail else "tokens were recorded without a cost or a model"
    return (
        f"{what}, and a cost limit is in force. Add it under `prices:` in budgets.yaml,"
        " pass cost_usd, or set on_unpriced to 'estimate' or 'allow'."
    )


def _no_tenant(_: Denial) -> str:
    return "a tenant is required and none was given: otelbudget.run(..., tenant=...)."


def _store_unavailable(d: Denial) -> str:
    return f"the store can't be reached ({d.detail}), and on_store_error is fail_closed."


_WHAT: Final = {
    "limit": _limit,
    "busy": _busy,
    "deadline": _deadline,
    "latched": _latched,
    "frozen": _frozen,
    "closed": _closed,
    "unpriced": _unpriced,
    "no_tenant": _no_tenant,
    "store_unavailable": _store_unavailable,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a check answered; true if the request may go on.

    Args:
        allowed: Whether it may.
        warned: It may, but only because its budget warns instead of refusing.
        denial: Why not, or what it warns of; None for a plain yes.
    """

    allowed: bool
    warned: bool = False
    denial: Denial | None = None

    def __bool__(self) -> bool:
        return self.allowed


#: The shared answer of every check that is simply allowed.
ALLOWED: Final = Decision(True)
