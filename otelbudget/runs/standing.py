"""Runs that nobody opens or ends, one per tenant, user and priority: what is asked and charged beside every run."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import check_priority
from otelbudget.runs.run import BudgetRun

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine

__all__ = ["StandingRuns"]

_NO_LIMITS: Final = RunBudget(name="quota", latch=False)
#: How many are kept at hand; another one is made as cheaply as any run.
AT_HAND: Final = 1024


class StandingRuns:
    """The standing runs of an engine. They have no limits of their own, so only quotas refuse.

    They are not shown as runs in progress, and those that were not used for long are made anew. What a tenant did under
    idempotency keys outlives them: it is in one mapping of the engine, which is bounded.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent: OrderedDict[tuple[str, str | None, str], BudgetRun] = OrderedDict()

    def of(self, tenant: str, priority: str, user: str | None) -> BudgetRun:
        """The run through which *tenant* is asked about.

        Raises:
            ValueError: A name is none, or there is no such priority.
        """
        for what, name in (("tenant", tenant), ("user", "nobody" if user is None else user)):
            if not isinstance(name, str) or not name:
                raise ValueError(f"{what} must be a name, got {name!r}")
        check_priority(priority)
        key = (tenant, user, priority)
        engine = self._engine
        with engine.lock:
            run = self._recent.pop(key, None)
            if run is None or run.org != engine.owners.org_of(tenant):
                owner = engine.owners.owner(None, tenant, user, priority)
                run = BudgetRun(engine, _NO_LIMITS, owner, kind="quota", reraise=False)
                run.keys = engine.quota_keys
            self._recent[key] = run
            if len(self._recent) > AT_HAND:
                self._recent.popitem(last=False)
        return run
