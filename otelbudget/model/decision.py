"""The answer to a request: `Decision`, and `Denial` with everything that explains a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from otelbudget.errors import BudgetExceeded
from otelbudget.model.message import message

#: What an exception has of a denial.
_TOLD: Final = [name for name in BudgetExceeded.__annotations__ if name != "receipt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a request was refused, with the numbers of that moment.

    The fields are those of `BudgetExceeded`, plus:

    Args:
        tenant, run_id: Whose request it was.
        where: Whose quota refused, a `Where`; None for a run.
        per: The window of that quota.
        resets_in_s: Seconds until `resets_at`.
        priority, whole: The request's priority, and the whole limit, of which it may use no more than `limit`.
        origin: ``file:line`` of the limit, where it came from a file.
        ambient: It was made outside every run, in the process-wide one.
        own_maximum: The request's own maximum of output tokens, if that is part of what did not fit.
        carved: The limit is what was carved out of the runs above.
        set_aside: What the limit leaves for `wrap_up()`, which the budget allows on top.
        detail: What `reason` alone does not say (a model's name).
        store_mode: The policy by which it was admitted while the store of its quotas could not be reached.
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
    store_mode: str | None = None

    @property
    def message(self) -> str:
        """What ran out, where, how much was used and held, when it resets and how to raise it."""
        return message(self)

    def error(self, receipt: Any = None) -> BudgetExceeded:
        """The exception that tells the caller."""
        return BudgetExceeded(self.message, receipt=receipt, **{name: getattr(self, name) for name in _TOLD})


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
