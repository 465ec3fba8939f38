"""`QuotaService`: quotas of tenants for code that does its own calls, alone or on a manager's accounts.

It asks the way every call asks, only that no run is in between.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from otelbudget.admission import settlement, trips
from otelbudget.admission.cost import wanted
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Once, Request
from otelbudget.config import Config, StoreConfig
from otelbudget.engine.context import set_up_engine
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Names
from otelbudget.errors import BudgetExceeded, ConfigError
from otelbudget.ledger.account import QuotaAccount
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.amounts import CEILING, Unsaid, amounts_from
from otelbudget.model.keywords import OtherKeywords
from otelbudget.model.quota import Quota, Quotas, check_priority
from otelbudget.model.usage import Usage
from otelbudget.model.values import spelled
from otelbudget.model.vector import unpack
from otelbudget.quota.values import Change, QuotaLike, QuotaUsage, daily_of, listed, usage_of
from otelbudget.runs import asking, reserving
from otelbudget.runs.reservation import Reservation, unpaid
from otelbudget.runs.reserving import Keys, as_key
from otelbudget.runs.view import left_of
from otelbudget.stores.base import Store

if TYPE_CHECKING:
    from otelbudget.manager import BudgetManager  # needs the SDK

_DAILY_TOKENS: Final = Unsaid(10_000)


@spelled
class QuotaService:
    """Quotas per tenant: any resources, any windows, kept shares for higher priorities.

    After `otelbudget.setup()`, and with a manager as *store*, it is about the quotas of that configuration, of
    organisations, users and models too, and shares their accounts with every run. Else it stands alone.

    Example:
        >>> service = QuotaService(default_daily_quota=1000)
        >>> service.check_quota("acme", 400)
        True
        >>> service.consume_quota("acme", 400)
        >>> service.remaining("acme")
        600

    Amount keywords are those of `BudgetRun`; *model* and *user* ask and charge their quotas as well. Every check is an
    event on the current span and counted. An idempotency key is the tenant's; a process remembers 100,000.

    Args:
        default_daily_quota: What a tenant without quotas of its own may use: tokens per day, a `Quota`, or several;
            None is unlimited. Like *quotas* and all from *timezone* on, only for a service that stands alone.
        quotas: The same for tenants, by name or pattern (``acme-*``).
        store: A manager; or where a service that stands alone counts: ``memory``, ``sqlite:///path.db``,
            ``redis://host:port/db``, a `StoreConfig` or a store. None is the manager of `setup()`, and ``memory`` where
            there is none.
        timezone: IANA name of the zone whose midnight begins a day, where a quota is given as a number.
        reserve_for: ``{"high": 0.2, "normal": 0.2}`` keeps a fifth of each quota for high and a fifth for normal
            priority: normal then stops at 80 %, low at 60 %; for quotas that don't say so themselves.
        clock_s: Unix seconds.

    Raises:
        ConfigError: An argument is wrong, or said where a manager's configuration decides.
    """

    def __init__(
        self,
        default_daily_quota: QuotaLike | None = _DAILY_TOKENS,
        *,
        quotas: Mapping[str, QuotaLike] | None = None,
        store: BudgetManager | Store | StoreConfig | str | None = None,
        timezone: str = "UTC",
        reserve_for: Mapping[str, float] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        daily = self._daily = Quota(tokens=0, timezone=timezone, reserve_for=reserve_for)
        found = set_up_engine() if store is None else getattr(store, "engine", None)
        if isinstance(found, Engine):
            said = {
                "default_daily_quota": default_daily_quota is not _DAILY_TOKENS,
                "quotas": quotas is not None,
                "timezone": timezone != "UTC",
                "reserve_for": reserve_for is not None,
                "clock_s": clock_s is not time.time,
            }
            if given := ", ".join(name for name in said if said[name]):
                raise ConfigError(
                    f"{given} can't be given here, since this service is about the quotas of a manager: that of"
                    " setup(), or the one passed as store. Write them into its configuration, under `quotas:`, or pass"
                    " store='memory' for a service of its own"
                )
            self._engine = found
        else:
            if quotas is not None and not isinstance(quotas, Mapping):
                raise ConfigError(f"quotas must map tenants to tokens or quotas, {{'acme': 50_000}}, got {quotas!r}")
            own = Quotas(
                default=() if default_daily_quota is None else listed(default_daily_quota, daily),
                tenants={tenant: listed(theirs, daily) for tenant, theirs in (quotas or {}).items()},
            )
            self._engine = _engine_at(store, Config(quotas=own), clock_s)
        self._keys = Keys(self._engine, self._engine.quota_keys, shared_as=("tenant",))

    def __repr__(self) -> str:
        return f"<QuotaService: {self._engine.config.quotas!r}>"

    # --- asking

    def check_quota(
        self,
        tenant: str,
        estimated_tokens: int | None = None,
        priority: str = "normal",
        *,
        user: str | None = None,
        model: str | None = None,
        **amounts: Unpack[OtherKeywords],
    ) -> bool:
        """Whether so much more fits into all quotas of *tenant* right now. Holds nothing; see `reserve`.

        A token or cost amount implies one step; without any amount it asks for one model call. With *model* what it
        costs is asked for too.

        Raises:
            ValueError, TypeError: An amount, a name or the priority is none.
        """
        payer = self._payer(tenant, priority, user)
        asked, model, unpriced = wanted(payer, _given(amounts, tokens=estimated_tokens, model=model))
        try:
            return asking.decide(payer, Request("check", asked, payer.around().site, model, unpriced=unpriced)).allowed
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
        **amounts: Unpack[OtherKeywords],
    ) -> Reservation:
        """Hold so much of all quotas of *tenant* until it is committed or released; amounts as for `check_quota`.

        *wait_s* and *on_unknown* are as for `BudgetRun.reserve`. With *idempotency_key* the same request once more
        gives the same reservation, in all processes of a store; there it is held anew once it was released or expired.

        Raises:
            BudgetExceeded: It does not fit; ``resets_at`` and ``retry_after_s`` say when it may.
        """
        asked = _given(amounts, tokens=tokens, model=model, idempotency_key=idempotency_key)
        asked.update(wait_s=wait_s, on_unknown=on_unknown)
        return reserving.reserve(self._payer(tenant, priority, user), asked, self._keys)

    def consume_quota(
        self,
        tenant: str,
        tokens: int | Usage | None = None,
        *,
        user: str | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
        **amounts: Unpack[OtherKeywords],
    ) -> None:
        """Charge what was used to the present windows, over the quotas too, and no call again that a guard has charged.

        A `Usage` is charged as `BudgetRun.record` does; else steps are charged if they are given, and with *model* the
        tokens cost what they cost there, unless ``cost_usd`` says it. With *idempotency_key* it is charged once.
        """
        usage, nested = (tokens, 0) if isinstance(tokens, Usage) else _spent(_given(amounts, tokens=tokens), model)
        if usage is tokens and (amounts or model is not None):
            raise TypeError("consume_quota() takes a Usage, or amounts and a model, and got both")
        payer = self._payer(tenant, "normal", user)
        key, keys = idempotency_key, self._keys
        with nullcontext() if key is None else keys.asking(tenant, Once("record", as_key(key), usage)) as once:
            settlement.record(payer, unpaid(payer, usage), payer.around().site, nested=nested, once=once)

    # --- looking

    def remaining(self, tenant: str, *, priority: str = "high", user: str | None = None) -> int:
        """How many tokens are left to *tenant*, over all its quotas: all that a check with *priority* may ask for.

        Where none limits tokens that is 2**53 - 1, the most that anybody can ask for.
        """
        found: int | None = self.remaining_of(tenant, priority=priority, user=user)["tokens"]
        return CEILING - 1 if found is None else found

    def remaining_of(self, tenant: str, *, priority: str = "high", user: str | None = None) -> dict[str, Any]:
        """What is left to *tenant* of each resource: ``{resource: amount}``, money as Decimal, None is unlimited."""
        return left_of(self._payer(tenant, priority, user, fresh=True))

    def usage(self, tenant: str, *, user: str | None = None) -> QuotaUsage:
        """What *tenant* has used: ``.tokens`` in short, ``.lines`` for every resource of every quota."""
        payer = self._payer(tenant, user=user, fresh=True)
        return usage_of(payer, self._engine.directory.overrides.get(tenant, ()))

    # --- changing

    def set_quota(
        self, tenant: str, quota: QuotaLike | None, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Put *quota* in force for *tenant* from now on, for the present window too; what is used stays used.

        It wins over what is configured until ``set_quota(tenant, None)``; where processes share a store, in all of
        them, a second after their next request, with leases up to four. A number changes the tokens of the daily quota.
        A `Quota` takes the place of the one with its name, or its resources, in the same window; others come on top.
        The change is an event on the current span, with *actor* and *reason*.

        Raises:
            ConfigError: It is no quota, or one per run; nothing has changed then.
            StoreError: The store can't be reached; it may have changed all the same, and can be set again.
        """
        directory, change = self._engine.directory, Change(self._payer(tenant).tenant, actor, reason)
        changes: list[tuple[Quota | None, Quota | None]] = []
        with self._engine.overriding(tenant):
            if quota is None:
                changes += directory.restore(tenant)
            else:
                given = listed(quota, daily_of(directory.quotas_of(tenant), self._daily))
                changes += [(directory.override(tenant, one), one) for one in given]
        for was, now in changes:
            change.limits(was, now)

    def reset(self, tenant: str, *, actor: str | None = None, reason: str | None = None) -> None:
        """Forget what *tenant* has used in the present windows of its quotas; what is held stays held.

        Thresholds are armed anew. It is an event on the current span, with *actor* and *reason*.
        """
        payer = self._payer(tenant, fresh=True)
        for account in payer.binding().accounts:
            if isinstance(account, QuotaAccount) and account.scope == "tenant":
                used = unpack(self._engine.ledger.forget(account))
                if self._engine.store is not None:
                    trips.forget(payer, account)
                for rule in account.rules:
                    Change(tenant, actor, reason).forgotten(rule.quota, used)

    def _payer(self, tenant: str, priority: str = "normal", user: str | None = None, *, fresh: bool = False) -> Payer:
        """Who asks for *tenant*; *fresh* once what a shared store says of it now is known here."""
        for what, name in {"tenant": tenant, "user": "-" if user is None else user}.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"{what} must be a name, got {name!r}")
        names = Names(tenant=tenant, user=user, priority=check_priority(priority))
        payer = Payer(self._engine, self._engine.directory.owner(names), "quota")
        if fresh:
            trips.refresh(payer)
            if self._engine.caught_up():
                trips.refresh(payer)
        return payer


def _engine_at(store: Any, config: Config, clock_s: Callable[[], float]) -> Engine:
    """The engine of a service that stands alone."""
    if not (store is None or isinstance(store, str | StoreConfig) or hasattr(store, "areserve")):
        raise ConfigError(
            "store must be a BudgetManager, 'memory', 'sqlite:///path.db', 'redis://host:port/db', a StoreConfig, a"
            f" store or None, got {store!r} ({type(store).__name__})"
        )
    engine = Engine(config, ledger=Ledger(clock_s=clock_s), store=store)
    if engine.store is not None:
        weakref.finalize(engine, engine.store.close)  # also at exit, so that what waits for it is sent
    return engine


def _given(amounts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """*amounts*, and what is not None of *more*."""
    return {**amounts, **{name: value for name, value in more.items() if value is not None}}


def _spent(given: dict[str, Any], model: str | None) -> tuple[Usage, int]:
    """The amounts *given* as a usage, and the nested tool calls, which are no part of that."""
    found = amounts_from({"steps": 0, **given})
    cost, tokens = given.get("cost_usd"), (found.input_tokens, found.output_tokens)
    usage = Usage(*tokens, cost_usd=cost, steps=found.steps, tool_calls=found.tool_calls, model=model)
    return usage, found.nested_tool_calls
