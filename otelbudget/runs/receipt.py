"""`Receipt`: what a run was allowed, what it used and how it ended, as a value to show, log or return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from otelbudget.admission import closing
from otelbudget.model.amounts import NANOS, RESOURCES, UNLIMITED, shown
from otelbudget.model.vector import unpack

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Receipt:
    """A run's summary at one moment.

    Args:
        run_id, budget, tenant, user: Whose run it is.
        outcome: ``active``, ``completed``, ``exhausted``, ``error``, or ``paused`` for one that goes on elsewhere.
        reason, resource, message: Of the first denial; ``overage`` if the run ended over a limit of its own without
            one; else None.
        used: ``{resource: amount}``, money as Decimal USD, ``seconds`` as float.
        limits, remaining: The same keys; None means unlimited.
        overage: By how much a limit was exceeded, ``{resource: amount}``, only those that were.
        denials: How many requests were refused.
    """

    run_id: str
    budget: str | None
    tenant: str
    user: str | None
    outcome: str
    reason: str | None
    resource: str | None
    used: Mapping[str, Any]
    limits: Mapping[str, Any]
    remaining: Mapping[str, Any]
    overage: Mapping[str, Any]
    denials: int
    message: str | None

    def as_dict(self) -> dict[str, Any]:
        """The receipt as JSON-friendly values; money becomes a string with all its digits."""
        plain = asdict(self)
        for part in ("used", "limits", "remaining", "overage"):
            plain[part] = {k: str(v) if isinstance(v, Decimal) else v for k, v in getattr(self, part).items()}
        return plain

    def rows(self) -> Iterator[tuple[str, str]]:
        """(resource, ``used of limit`` as text) of all that was used or is limited."""
        for resource, used in self.used.items():
            limit, over = self.limits.get(resource), self.overage.get(resource)
            if used or limit is not None:
                said = text(resource, used) if limit is None else f"{text(resource, used)} of {text(resource, limit)}"
                yield resource, said if over is None else f"{said} ({text(resource, over)} over)"

    def __str__(self) -> str:
        why = f" ({self.reason}: {self.resource})" if self.resource else f" ({self.reason})" if self.reason else ""
        head = f"{self.budget or 'run'} [{self.tenant}] {self.outcome}{why}"
        return "\n".join([head, *(f"  {resource}: {said}" for resource, said in self.rows())])

    def __repr__(self) -> str:
        said = ", ".join(f"{resource} {amounts}" for resource, amounts in self.rows())
        return f"<Receipt of {self.budget or 'run'!r} {self.run_id[:8]} of {self.tenant!r}: {self.outcome}, {said}>"


def text(resource: str, value: Any) -> str:
    """An amount as people write it, ``1,200`` or ``$0.05``."""
    if resource == "cost_usd":
        return f"${value:f}"
    if resource == "seconds":
        return f"{value:.2f}"
    return f"{value:,}"


def receipt_of(run: RunState) -> Receipt:
    """The receipt of *run* as it stands."""
    account, first, max_ns = run.account, closing.why(run, run.outcome), run.max_ns
    rule, ordinary = account.rule, account.rule.limits[run.owner.level]
    elapsed = run.elapsed_ns(min(run.ended_ns, run.engine.clock_ns()))
    used: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    remaining: dict[str, Any] = {}
    over: dict[str, Any] = {}
    for i, (name, amount, taken) in enumerate(zip(RESOURCES, unpack(account.used), unpack(account.taken), strict=True)):
        full, limited = rule.full[i], rule.full[i] < UNLIMITED
        used[name] = shown(i, amount)
        limits[name] = shown(i, full) if limited else None
        remaining[name] = shown(i, max(0, ordinary[i] - taken)) if limited else None
        if limited and amount > full:
            over[name] = shown(i, amount - full)
    if max_ns is not None and elapsed > max_ns:
        over["seconds"] = (elapsed - max_ns) / NANOS
    return Receipt(
        run_id=run.run_id,
        budget=account.name,
        tenant=run.tenant,
        user=run.user,
        outcome=run.outcome if run.closed or run.outcome == "exhausted" else "active",
        reason=first.reason if first else None,
        resource=first.resource if first else None,
        used=used | {"seconds": elapsed / NANOS},
        limits=limits | {"seconds": None if max_ns is None else max_ns / NANOS},
        remaining=remaining | {"seconds": None if max_ns is None else max(0, max_ns - elapsed) / NANOS},
        overage=over,
        denials=run.denials,
        message=first.message if first else None,
    )
