"""`QuotaService`: quotas of tenants for code that does its own calls, alone or on a manager's accounts.

It asks the way every call asks, through standing runs without limits of their own: so its checks are events and
metrics like any other, and the quotas of organisations, users and models have their say where there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from otelbudget.admission import admission
from otelbudget.admission import settlement as accounting
from otelbudget.admission.wanted import wanted
from otelbudget.config import Config
from otelbudget.engine.engine import Engine
from otelbudget.errors import BudgetExceeded, ConfigError
from otelbudget.ledger import ledger
from otelbudget.model.amounts import CEILING, RESOURCES, TOKENS, Amounts, amounts_from, shown
from otelbudget.model.budget import Usage
from otelbudget.model.quota import Quota, Quotas
from otelbudget.quota import changes
from otelbudget.quota.forms import QuotaLike, daily_of, listed
from otelbudget.quota.hold import QuotaReservation
from otelbudget.quota.usage import QuotaUsage, main_account, resets_at, usage_of
from otelbudget.runs import asking, reservation
from otelbudget.runs.idempotency import Keyed, as_key
from otelbudget.runs.standing import StandingRuns
from otelbudget.stores.memory import MemoryStore

if TYPE_CHECKING:
    from otelbudget.manager import BudgetManager
    from otelbudget.runs.run import BudgetRun

__all__ = ["QuotaService"]

_ONE_STEP: Final = Amounts(steps=1)


class QuotaService:
    """Quotas per tenant: any resources, any windows, kept shares for higher priorities.

    Example:
        >>> service = QuotaService(default_daily_quota=1000)
        >>> service.check_quota("acme", 400)
        True
        >>> service.consume_quota("acme", 400)
        >>> service.remaining("acme")
        600

    Amount keywords are those of `BudgetRun`: ``steps``, ``input_tokens``, ``output_tokens``, ``cost_usd``,
    ``tool_calls``, ``nested_tool_calls``; *model* and *user* ask and charge their quotas as well. Every check is an
    event on the current span and counted; the metrics of a service without *store* are not served anywhere.

    An idempotency key is the tenant's, whichever user, priority or model it comes with. 100,000 are remembered of one
    tenant and about 200,000 in all; the first to go are those of tenants that used one longest ago, with a warning.

    Args:
        default_daily_quota: What a tenant without quotas of its own may use: tokens per day, a `Quota`, or several;
            None is unlimited.
        quotas: The same for tenants, by name or pattern (``acme-*``).
        store: A manager whose accounts are shared: what its guards charge counts here, what is consumed here counts
            there, and its runs are held to these quotas too. For a tenant that both name, the manager's are in force,
            and its default before this one.
        timezone: IANA name of the zone whose midnight begins a day, where a quota is given as a number.
        reserve_for: ``{"high": 0.2, "normal": 0.2}`` keeps a fifth of each quota for high and a fifth for normal
            priority: normal then stops at 80 %, low at 60 %; for quotas that don't say so themselves.
        clock_s: Unix seconds; not with *store*, which has its own clock.

    Raises:
        ConfigError: An argument is wrong; the message says which.
    """

    def __init__(
        self,
        default_daily_quota: QuotaLike | None = 10_000,
        *,
        quotas: Mapping[str, QuotaLike] | None = None,
        store: BudgetManager | None = None,
        timezone: str = "UTC",
        reserve_for: Mapping[str, float] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._daily = Quota(tokens=0, timezone=timezone, reserve_for=reserve_for)
        if quotas is not None and not isinstance(quotas, Mapping):
            raise ConfigError(f"quotas must map tenants to tokens or quotas, {{'acme': 50_000}}, got {quotas!r}")
        given = Quotas(
            default=() if default_daily_quota is None else listed(default_daily_quota, self._daily),
            tenants={tenant: listed(own, self._daily) for tenant, own in (quotas or {}).items()},
        )
        self._engine = _engine(store, given, clock_s)
        self._runs = StandingRuns(self._engine)

    # --- asking

    def check_quota(
        self,
        tenant: str,
        estimated_tokens: int | None = None,
        priority: str = "normal",
        *,
        user: str | None = None,
        model: str | None = None,
        **amounts: Any,
    ) -> bool:
        """Whether so much more fits into all quotas of *tenant* right now. Holds nothing; see `reserve`.

        A token or cost amount implies one step; without any amount it asks for one model call. With *model* what it
        costs is asked for too.

        Raises:
            ValueError, TypeError: An amount, a name or the priority is none.
        """
        run = self._runs.of(tenant, priority, user)
        asked, model, unpriced = wanted(run, _given(estimated_tokens, model, amounts))
        ask = admission.Ask(asked, "check", site=run.site_here(), model=model, unpriced=unpriced)
        try:
            return asking.decide(run, ask).allowed
        except BudgetExceeded:
            return False

    def reserve(
        self,
        tenant: str,
        tokens: int | None = None,
        priority: str = "normal",
        *,
        user: str | None = None,
        model: str | None = None,
        wait_s: float = 0,
        idempotency_key: str | None = None,
        on_unknown: Literal["full", "input", "open"] = "full",
        **amounts: Any,
    ) -> QuotaReservation:
        """Hold so much of all quotas of *tenant* until it is committed or released.

        Args:
            tenant, user, model, priority: Whose call it is.
            tokens: Amounts as for `check_quota`.
            wait_s: How many seconds to wait until it fits, at most.
            idempotency_key: The same request once more gives the same reservation.
            on_unknown: What leaving the block by an exception charges: the whole hold, its input, or nothing until it
                expires.
            amounts: Further resources.

        Raises:
            BudgetExceeded: It does not fit; ``resets_at`` and ``retry_after_s`` say when it may.
        """
        given = _given(tokens, None, amounts)
        steps = amounts_from(given, _ONE_STEP).steps
        if model is not None:
            given["model"] = model
        run = self._runs.of(tenant, priority, user)
        given.update(wait_s=wait_s, idempotency_key=idempotency_key, on_unknown=on_unknown)
        return QuotaReservation(reservation.reserve(run, given), steps, model)

    def consume_quota(
        self,
        tenant: str,
        tokens: int = 0,
        *,
        user: str | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
        **amounts: Any,
    ) -> None:
        """Charge what was used to the present windows, over the quotas too: it has been used.

        Steps are charged if they are given. With *model* the tokens cost what they cost there, unless ``cost_usd`` says
        it. With *idempotency_key* the same charge is made once.
        """
        spent = amounts_from({**amounts, "tokens": tokens} if tokens else amounts or {"tokens": tokens}, _ONE_STEP)
        key = as_key(idempotency_key)
        usage = Usage(
            spent.input_tokens,
            spent.output_tokens,
            cost_usd=amounts.get("cost_usd"),
            steps=amounts.get("steps", 0),
            tool_calls=spent.tool_calls,
            model=model,
        )
        run = self._runs.of(tenant, "normal", user)
        once = None if key is None else Keyed(run, key, usage)
        accounting.record(run, usage, run.site_here(), spent.nested_tool_calls, once)

    # --- looking

    def remaining(self, tenant: str, *, priority: str = "high", user: str | None = None) -> int:
        """How many tokens are left to *tenant*, over all its quotas: all that a check with *priority* may ask for.

        Where none limits tokens that is 2**53 - 1, the most that anybody can ask for.
        """
        left = self._left(self._runs.of(tenant, priority, user), TOKENS)
        return CEILING - 1 if left is None else left

    def remaining_of(self, tenant: str, *, priority: str = "high", user: str | None = None) -> dict[str, Any]:
        """What is left to *tenant* of each resource: ``{resource: amount}``, money as Decimal, None is unlimited."""
        run = self._runs.of(tenant, priority, user)
        found: dict[str, Any] = {}
        with self._engine.lock:
            for i, resource in enumerate(RESOURCES):
                left = self._left(run, i)
                found[resource] = None if left is None else shown(i, left)
        return found

    def _left(self, run: BudgetRun, resource: int) -> int | None:
        with self._engine.lock:
            return ledger.left(admission.payers(run), resource, run.priority)

    def usage(self, tenant: str, *, user: str | None = None) -> QuotaUsage:
        """What *tenant* has used: ``.tokens`` in short, ``.lines`` for every resource of every quota."""
        run = self._runs.of(tenant, "normal", user)
        with self._engine.lock:
            return usage_of(run.owner, self._engine.store.clock_s())

    def resets_at(self, tenant: str) -> datetime | None:
        """When the window of the tenant's token quota ends, of the one with least left if it has several.

        Of a rolling window, when its oldest charges fall out. None: it has no quota, or one that never resets.
        """
        run = self._runs.of(tenant, "normal", None)
        with self._engine.lock:
            account = main_account(run.owner, self._engine.store.clock_s())
            return None if account is None else resets_at(account)

    # --- changing

    def set_quota(
        self, tenant: str, quota: QuotaLike | None, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Put *quota* in force for *tenant* from now on, for the present window too; what is used stays used.

        It wins over what is configured until ``set_quota(tenant, None)`` takes it back. A number changes the tokens of
        the daily quota. A `Quota` takes the place of the one with its name, or its resources, in the same window; any
        other comes on top. The change is an event on the current span, with *actor* and *reason*.

        Raises:
            ConfigError: It is no quota, or one per run; nothing has changed then.
        """
        run = self._runs.of(tenant, "normal", None)
        owners = self._engine.owners
        changed: list[tuple[Quota | None, Quota | None]]
        with self._engine.lock:
            if quota is None:
                changed = [*owners.restore(tenant)]
            else:
                given = listed(quota, daily_of(run.owner, self._daily))
                changed = [(owners.override(tenant, one), one) for one in given]
            self._engine.refresh_runs()
        for before, now in changed:
            changes.tell_limits(tenant, before, now, actor, reason)

    def reset(self, tenant: str, *, actor: str | None = None, reason: str | None = None) -> None:
        """Forget what *tenant* has used in the present windows of its quotas; what is held stays held.

        Thresholds are armed anew. It is an event on the current span, with *actor* and *reason*.
        """
        run = self._runs.of(tenant, "normal", None)
        engine = self._engine
        with engine.lock:
            now_s = engine.store.clock_s()
            books = [book for book in run.owner.books if book.where.scope == "tenant"]
            forgotten = [(book.quota, book.reset(now_s)) for book in books]
            engine.store.changed()
        for quota, used in forgotten:
            changes.tell_reset(tenant, quota, used, actor, reason)


def _engine(store: object, given: Quotas, clock_s: Callable[[], float]) -> Engine:
    if store is None:
        return Engine(Config(quotas=given), store=MemoryStore(clock_s=clock_s))
    engine = getattr(store, "engine", None)
    if not isinstance(engine, Engine):
        raise ConfigError(f"store must be a BudgetManager or None, got {store!r} ({type(store).__name__})")
    if clock_s is not time.time:
        raise ConfigError("clock_s goes with a store of its own: a manager's store has its clock")
    engine.owners.add(given)
    engine.refresh_runs()
    return engine


def _given(tokens: int | None, model: str | None, amounts: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(amounts)
    if tokens is not None:
        given["tokens"] = tokens
    if model is not None:
        given["model"] = model
    return given
