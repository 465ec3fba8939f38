"""What a denial says: what ran out, where, how much was used and held, when it resets, and how to raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otelbudget.model.decision import Denial

_AMBIENT: Final = (
    " Calls outside otelbudget.run() share one process-wide run: open one per request or job with"
    " `with otelbudget.run(...):`, or start it anew with manager.reset()."
)


def message(denial: Denial, run: str | None = None) -> str:
    """The sentence or two that explain *denial*; with an id of the *run* whose budget it was, that as well."""
    return f"{_where(denial, run)}: {_WHAT[denial.reason](denial)}{_AMBIENT if denial.ambient else ''}"


def _where(d: Denial, run: str | None) -> str:
    if d.where is not None:
        return f"quota {d.budget!r} of {whose(d.where)}"
    if d.reason == "store_unavailable":
        return "quotas" + (f" of tenant {d.tenant!r}" if d.tenant else "")
    of = [f"budget {d.budget!r}" if d.budget else "budget", "of", d.scope or "run", run or ""]
    return " ".join(filter(None, of)) + (f" (tenant {d.tenant!r})" if d.tenant else "")


def whose(where: Any) -> str:
    """Whose a quota is."""
    org, tenant = where.get("org"), where.get("tenant")
    if where.scope == "org":
        return f"org {org!r}"
    if where.scope == "tag":
        return f"tag {where.get('tag')} {where.get('value')!r} (org {org!r})"
    of_tenant = "" if where.scope in ("tenant", "model") else f" of tenant {tenant!r}"
    return f"{where.scope} {where.names[-1]!r}{of_tenant} (org {org!r})"


# --- what each reason says


def _limit(d: Denial) -> str:
    if d.detail == "wrap_up":
        return "wrap_up() admits one model call and no tool call, and this is another one."
    own = ""
    if d.own_maximum is not None:
        own = f" The request's own maximum of {d.own_maximum} output tokens is part of that; a smaller one may fit."
    return f"exhausted: {_numbers(d)}.{own} {_resets(d)}{_raise_it(d)}"


def _busy(d: Denial) -> str:
    if d.detail == "inside":
        return (
            "busy: this thread is in the middle of another budget operation (in a finalizer or signal handler); retry."
        )
    return (
        f"busy: {_numbers(d)}. Calls in flight hold the rest; retry when one has ended, in about {d.retry_after_s} s,"
        f" or wait with wait_s. {_resets(d)}{_raise_it(d)}"
    )


def _deadline(d: Denial) -> str:
    asked = f", and {_amount(d, d.requested)} more were asked for" if d.requested else ""
    return (
        f"out of time: {_amount(d, d.used)} of {_amount(d, d.limit)} have passed{asked}."
        f" Raise max_seconds{_at(d)}, or call run.extend(seconds=...)."
    )


def _frozen(d: Denial) -> str:
    by = f" ({d.detail})" if d.detail else ""
    return f"frozen{by}: no new calls until run.unfreeze()."


def _unpriced(d: Denial) -> str:
    what = f"no price is known for model {d.detail!r}" if d.detail else "tokens were recorded without a cost or a model"
    return (
        f"{what}, and a cost limit is in force. Add it under `prices:` in budgets.yaml,"
        " pass cost_usd, or set on_unpriced to 'estimate' or 'allow' (an estimate is the dearest of the given prices)."
    )


def _overage(d: Denial) -> str:
    used, limit = _amount(d, d.used), _amount(d, d.limit)
    return f"over its limit, though no call was refused: {d.resource} used {used} of {limit}."


_CLOSED: Final = (
    "the run has ended; a task or stream left behind can't make new calls in it. Open a new otelbudget.run()."
)
_WHAT: Final[dict[str, Callable[[Denial], str]]] = {
    "limit": _limit,
    "busy": _busy,
    "deadline": _deadline,
    "frozen": _frozen,
    "closed": lambda _: _CLOSED,
    "unpriced": _unpriced,
    "no_tenant": lambda _: "a tenant is required and none was given: otelbudget.run(..., tenant=...).",
    "store_unavailable": lambda d: f"the store of the quotas can't be reached, so nothing is admitted: {d.detail}",
    "overage": _overage,  # why a run is exhausted, and no call was refused
}


# --- parts of it


def _numbers(d: Denial) -> str:
    held = f", held {_amount(d, d.reserved)}" if d.reserved else ""
    aside = f" ({_amount(d, d.set_aside)} more set aside for wrap_up())" if d.set_aside else ""
    if d.whole is not None:
        aside = f" (what priority {d.priority!r} may use of {_amount(d, d.whole)})"
    used, limit, requested = (_amount(d, value) for value in (d.used, d.limit, d.requested))
    return f"{d.resource} used {used}{held} of {limit}{aside}, requested {requested}"


def _resets(d: Denial) -> str:
    if d.where is None:
        return ""
    if d.resets_at is None or d.resets_in_s is None:
        never = {"lifetime": "It never resets. ", "run": "It is each run's own and does not reset. "}
        return never.get(d.per or "", "Nothing of it is used: only calls in flight are in the way. ")
    if d.requested is not None and d.limit is not None and d.requested > d.limit:
        return "No window has room for a request of that size. "
    what = "Its oldest charges fall out" if (d.per or "").startswith("rolling") else "It resets"
    return f"{what} at {d.resets_at.isoformat(timespec='seconds')}, in {_duration(d.resets_in_s)}. "


def _raise_it(d: Denial) -> str:
    if d.where is not None:
        service = " or with QuotaService.set_quota()" if d.where.scope == "tenant" and d.per != "run" else ""
        return f"To allow more, raise it under quotas{_at(d)}{service}."
    if d.resource == "depth":
        return f"Raise max_depth{_at(d)}, or open the run with mode='detached'."
    if d.carved:
        return f"That is what was carved out for it: carve more, or call its extend({d.resource}=...)."
    return f"A run's budget does not reset: raise max_{d.resource}{_at(d)}, or call run.extend({d.resource}=...)."


def _at(d: Denial) -> str:
    return f" ({d.origin})" if d.origin else ""


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


def _amount(d: Denial, value: Any) -> str:
    return amount(d.resource, value)


def amount(resource: str | None, value: Any) -> str:
    """So much of *resource*, as people write it."""
    if resource == "cost_usd":
        return f"${value:f}"
    if resource == "seconds":
        return f"{value:.2f}".rstrip("0").rstrip(".") + " s"
    return str(value)
