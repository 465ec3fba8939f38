"""`QuotaService`: how many tokens each tenant may use per calendar day, in this process's memory.

The window follows from the clock at every call, so there is no reset job to forget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from otelbudget import ledger
from otelbudget.amounts import RESOURCES, TOKENS, UNLIMITED, Amounts, count
from otelbudget.decision import Denial
from otelbudget.errors import ConfigError
from otelbudget.ledger import Account, Hold
from otelbudget.stores.memory import MemoryStore
from otelbudget.windows import Window, WindowSpec, window_at, zone

if TYPE_CHECKING:
    from otelbudget.errors import BudgetExceeded

__all__ = ["Quota", "QuotaReservation", "QuotaService"]

#: From the least to the most important.
PRIORITIES: Final = ("low", "normal", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a tenant may use per calendar day.

    Args:
        tokens: Tokens per day; exactly that many are allowed.

    Raises:
        ConfigError: It is negative or not a whole number.
    """

    tokens: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", count("quota: tokens", self.tokens, ConfigError))


class QuotaService:
    """Daily token quotas per tenant.

    Example:
        >>> service = QuotaService(default_daily_quota=1000)
        >>> service.check_quota("acme", 400)
        True
        >>> service.consume_quota("acme", 400)
        >>> service.remaining("acme")
        600

    Args:
        default_daily_quota: Tokens per day of a tenant without a quota of its own.
        quotas: ``{tenant: tokens or Quota}``.
        timezone: IANA name of the zone whose midnight begins a day.
        reserve_for: ``{"high": 0.2, "normal": 0.2}`` keeps a fifth of each quota for high and a fifth for normal
            priority: normal then stops at 80 %, low at 60 %. None keeps nothing: all priorities may use all.
        clock_s: Unix seconds.

    Raises:
        ConfigError: An argument is wrong; the message says which.
    """

    def __init__(
        self,
        default_daily_quota: int = 10_000,
        *,
        quotas: Mapping[str, int | Quota] | None = None,
        timezone: str = "UTC",
        reserve_for: Mapping[str, float] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._default = Quota(tokens=default_daily_quota)
        if quotas is not None and not isinstance(quotas, Mapping):
            raise ConfigError(f"quotas must map tenants to tokens, {{'acme': 50_000}}, got {quotas!r}")
        self._quotas = {_name(tenant): _quota(value) for tenant, value in (quotas or {}).items()}
        self._zone = zone(timezone)
        self._spec = WindowSpec(timezone=timezone)
        self._kept = _kept_from(reserve_for or {})
        self._clock_s = clock_s
        self._store = MemoryStore()
        self._accounts: dict[str, tuple[Window, Account]] = {}

    def check_quota(self, tenant: str, estimated_tokens: int, priority: str = "normal") -> bool:
        """Whether *estimated_tokens* more fit into today's quota at this priority. Holds nothing; see `reserve`."""
        wanted = count("estimated_tokens", estimated_tokens)
        with self._store.lock:
            return self._refusal(self._account(tenant)[1], wanted, priority) is None

    def consume_quota(self, tenant: str, tokens: int) -> None:
        """Charge *tokens* to today, over the quota too: they have been used."""
        spent = count("tokens", tokens)
        with self._store.lock:
            ledger.charge((self._account(tenant)[1],), _tokens(spent))

    def reserve(self, tenant: str, tokens: int, priority: str = "normal") -> QuotaReservation:
        """Hold *tokens* of today's quota until they are committed or released.

        Raises:
            BudgetExceeded: They don't fit; ``resets_at`` and ``retry_after_s`` say when the next day begins.
        """
        wanted = count("tokens", tokens)
        with self._store.lock:
            self._store.sweep(time.monotonic_ns())
            window, account = self._account(tenant)
            refused = self._refusal(account, wanted, priority)
            if refused is None:
                hold = Hold((account,), _tokens(wanted))
                made = QuotaReservation(self._store, hold)
                self._store.register(hold, made, time.monotonic_ns())
                return made
        raise self._denial(tenant, window, refused, wanted)

    def remaining(self, tenant: str) -> int:
        """Tokens left today, at least 0."""
        with self._store.lock:
            return self._account(tenant)[1].remaining(TOKENS)

    def usage(self, tenant: str) -> int:
        """Tokens used today."""
        with self._store.lock:
            return self._account(tenant)[1].used[TOKENS]

    def resets_at(self, tenant: str) -> datetime:
        """When the tenant's current day ends."""
        with self._store.lock:
            return datetime.fromtimestamp(self._account(tenant)[0].end_s, self._zone)

    def set_quota(self, tenant: str, quota: int | Quota) -> None:
        """Give *tenant* a quota of its own, from now on, for today too; what is used stays used."""
        given = _quota(quota)
        with self._store.lock:
            account = self._account(tenant)[1]
            self._quotas[tenant] = given
            ledger.relimit(account, _limits(given), _limits(given))

    def reset(self, tenant: str) -> None:
        """Forget what *tenant* has used today; what is held stays held."""
        with self._store.lock:
            self._account(tenant)[1].used[:] = [0] * len(RESOURCES)

    # --- with the lock held

    def _account(self, tenant: str) -> tuple[Window, Account]:
        _name(tenant)
        window = window_at(self._spec, self._clock_s())
        current = self._accounts.get(tenant)
        if current is None or current[0].key != window.key:
            limits = _limits(self._quotas.get(tenant, self._default))
            current = self._accounts[tenant] = (window, Account(limits, scope="tenant", name=tenant))
        return current

    def _refusal(self, account: Account, wanted: int, priority: str) -> ledger.Refusal | None:
        if priority not in self._kept:
            raise ValueError(f"unknown priority {priority!r}: known are {', '.join(PRIORITIES)}")
        kept = int(account.limits[TOKENS] * self._kept[priority])
        # What is kept for those above counts as asked for; what was asked for is what the answer says.
        refused = ledger.refusal((account,), _tokens(wanted + kept)) if wanted else None
        return None if refused is None else refused._replace(limit=refused.limit - kept)

    def _denial(self, tenant: str, window: Window, refused: ledger.Refusal, wanted: int) -> BudgetExceeded:
        left_s = max(0.0, window.end_s - self._clock_s())
        return Denial(
            reason="busy" if refused.busy else "limit",
            resource="tokens",
            budget="daily quota",
            scope="tenant",
            used=refused.used,
            reserved=refused.reserved,
            limit=refused.limit,
            requested=wanted,
            retry_after_s=1.0 if refused.busy else left_s,
            resets_at=datetime.fromtimestamp(window.end_s, self._zone),
            tenant=tenant,
        ).error()


class QuotaReservation:
    """Tokens held on a quota; as a block, leaving it unsettled charges them all.

    They count for the day in which they were reserved, also when that has ended.
    """

    __slots__ = ("__weakref__", "_hold", "_store")

    def __init__(self, store: MemoryStore, hold: Hold) -> None:
        self._store = store
        self._hold = hold

    def commit(self, tokens: int | None = None) -> None:
        """Charge *tokens*, over the hold too, and give the rest back; None charges the hold. The first call counts."""
        used = self._hold.amounts[TOKENS] if tokens is None else count("tokens", tokens)
        self._settle(used, "committed")

    def release(self) -> None:
        """Give everything back, unless it was settled before."""
        self._settle(0, "released")

    def _settle(self, tokens: int, state: ledger.HoldState) -> None:
        with self._store.lock:
            if self._hold.state == "open":
                self._store.settle(self._hold, _tokens(tokens), state)
            elif self._hold.state == "expired" and state == "committed":
                self._hold.state = state
                ledger.charge(self._hold.accounts, _tokens(tokens))

    def __enter__(self) -> QuotaReservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.commit()


def _name(tenant: object) -> str:
    if not isinstance(tenant, str) or not tenant:
        raise ValueError(f"tenant must be a name, got {tenant!r}")
    return tenant


def _tokens(amount: int) -> Amounts:
    return Amounts(tokens=amount)


def _quota(value: int | Quota) -> Quota:
    return value if isinstance(value, Quota) else Quota(tokens=value)


def _limits(quota: Quota) -> tuple[int, ...]:
    return tuple(quota.tokens if i == TOKENS else UNLIMITED for i in range(len(RESOURCES)))


def _kept_from(reserve_for: Mapping[str, float]) -> dict[str, float]:
    """For each priority the share of a quota that is kept for those above it."""
    for name, share in reserve_for.items():
        if name not in PRIORITIES:
            raise ConfigError(f"reserve_for: unknown priority {name!r}: known are {', '.join(PRIORITIES)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"reserve_for[{name!r}] must be a share from 0 to 1, got {share!r}")
    if sum(reserve_for.values()) > 1:
        raise ConfigError("reserve_for keeps more than the whole quota")
    return {
        name: sum(reserve_for.get(above, 0.0) for above in PRIORITIES[i + 1 :]) for i, name in enumerate(PRIORITIES)
    }
