"""Runs that nobody opens or ends, one per tenant, user and priority: what is asked and charged beside every run."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import check_priority
from otelbudget.runs.idempotency import Keys, warn_forgotten
from otelbudget.runs.run import BudgetRun

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine

__all__ = ["StandingRuns", "TenantKeys"]

_NO_LIMITS: Final = RunBudget(name="quota", latch=False)
#: How many are kept at hand; another one is made as cheaply as any run.
AT_HAND: Final = 1024
#: How many idempotency keys are remembered for all tenants together, where no more than 100,000 are of one.
KEPT_IN_ALL: Final = 200_000


class TenantKeys:
    """The idempotency keys of each tenant, whoever asks. Called with the engine's lock held."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys: OrderedDict[str, Keys] = OrderedDict()  # the tenant that used one last comes last
        self._look_after = KEPT_IN_ALL

    def of(self, tenant: str) -> Keys:
        """The keys of *tenant*, for one more of them."""
        keys = self._keys.pop(tenant, None)
        keys = self._keys[tenant] = Keys() if keys is None else keys
        self._look_after -= 1
        if self._look_after <= 0:
            self._forget(KEPT_IN_ALL - KEPT_IN_ALL // 8)
        return keys

    def _forget(self, bound: int) -> None:
        """Forget the keys of the tenants that used theirs longest ago, unless a call of theirs is in flight."""
        kept = sum(len(keys.entries) for keys in self._keys.values())
        for tenant, keys in list(self._keys.items())[:-1] if kept >= KEPT_IN_ALL else ():
            if kept <= bound:
                break
            if not keys.attempts:
                del self._keys[tenant]
                kept -= len(keys.entries)
                warn_forgotten(self._engine)
        self._look_after = max(KEPT_IN_ALL - kept, KEPT_IN_ALL // 8)


class StandingRuns:
    """The standing runs of an engine. They have no limits of their own, so only quotas refuse.

    They are not shown as runs in progress, and those that were not used for long are made anew. Idempotency keys are a
    tenant's, see `TenantKeys`, and outlive them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent: OrderedDict[tuple[str, str | None, str], BudgetRun] = OrderedDict()

    def of(self, tenant: str, priority: str, user: str | None, *, keyed: bool = False) -> BudgetRun:
        """The run through which *tenant* is asked about; *keyed* if that is done with an idempotency key.

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
            self._recent[key] = run
            if len(self._recent) > AT_HAND:
                self._recent.popitem(last=False)
            if keyed:
                run.keys = engine.tenant_keys.of(tenant)
        return run
