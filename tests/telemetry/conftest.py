"""Meters fed with a little traffic of which every number is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from otelbudget.ledger.ledger import Account, Hold, QuotaAccount
from otelbudget.model.amounts import NANOS, RESOURCES, UNLIMITED, Amounts
from otelbudget.model.quota import Quota
from otelbudget.stores.books import Where
from otelbudget.stores.memory import MemoryStore
from otelbudget.telemetry.cells import Meters

#: 2023-11-14 22:13:20 UTC; the day ends at 1,700,006,400.
NOW_S = 1_700_000_000.0
TRACE = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


@dataclass(eq=False)
class Run:
    """A run in progress, as far as a scrape looks at it."""

    run_id: str
    tenant: str
    account: Account


@dataclass
class Clock:
    now_ns: int = 1_000 * NANOS

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class Traffic:
    """Cells and what they belong to."""

    store: MemoryStore = field(default_factory=lambda: MemoryStore(clock_s=lambda: NOW_S))
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.meters = Meters(self.store, models=["small-1", "large-1"], clock_ns=self.clock)

    def live(self, run_id: str, tenant: str, budget: str | None, *, steps: int, cost_nanousd: int) -> Run:
        """Begin a run with a limit of ten steps."""
        limits = [10 if resource == "steps" else UNLIMITED for resource in RESOURCES]
        account = Account(limits, name=budget)
        account.used[0] = steps
        account.used[4] = cost_nanousd
        run = Run(run_id, tenant, account)
        with self.store.lock:
            self.meters.tenant(tenant).active += 1
            self.meters.budget(tenant, budget)
            self.meters.live.add(run)
        return run

    def end(self, run: Run, outcome: str, used: list[int], seconds: float) -> None:
        """End a run, with a trace behind it."""
        with self.store.lock:
            self.meters.live.discard(run)
            cell = self.meters.tenant(run.tenant)
            cell.active -= 1
            cell.ended(outcome, used, seconds, TRACE)

    def spend(self, tenant: str, model: str | None, tokens: tuple[int, int], cost_nanousd: int) -> None:
        """Charge one call."""
        with self.store.lock:
            cell = self.meters.spend(tenant, model)
            cell.input += tokens[0]
            cell.output += tokens[1]
            cell.cost_nanousd += cost_nanousd

    def quota(self, where: Where, quota: Quota, **used: int) -> QuotaAccount:
        """The account of a quota in its present window, of which *used* is used."""
        with self.store.lock:
            account = self.store.books.book(where, quota, NOW_S).current(NOW_S)
            self.store.charge([account], [used.get(resource, 0) for resource in RESOURCES])
        return account

    def hold(self, owner: object, *accounts: Account, **amounts: int) -> Hold:
        """Open a reservation."""
        held = Hold(accounts, Amounts(**amounts))
        with self.store.lock:
            self.store.register(held, owner, self.clock())
        return held


@pytest.fixture
def quiet() -> Traffic:
    """Cells that nothing has been counted in yet."""
    return Traffic()


@pytest.fixture
def busy(quiet: Traffic) -> Traffic:
    """Two tenants: allowed and refused checks, spending, runs that ended and one that goes on."""
    quiet.live("run-1", "acme", "research", steps=7, cost_nanousd=20_000_000)
    finished = quiet.live("run-2", "acme", "research", steps=3, cost_nanousd=0)
    quiet.end(finished, "completed", [3, 645, 560, 85, 50_000_000, 0, 0], 4.0)
    stopped = quiet.live("run-3", "globex", None, steps=10, cost_nanousd=0)
    quiet.end(stopped, "exhausted", [10, 2_000, 1_500, 500, 700_000_000, 2, 0], 45.0)
    with quiet.store.lock:
        research = quiet.meters.budget("acme", "research")
        research.call = 4
        research.check = 2
        research.records = 3
        research.count("call", "deny", "limit")
        research.count("call", "deny", "limit")
        research.count("tool", "deny", "latched")
        research.count("call", "warn", "limit")
        quiet.meters.tenant("globex").tool_calls = 2
        quiet.meters.spend("acme", "small-1").cache_read = 40
        quiet.meters.count_unpriced("mystery-1")
        quiet.meters.observe_check("call", 0.0000042, TRACE)
        quiet.meters.observe_check("call", 0.3, None)
        quiet.meters.observe_estimate("small-1", 0.8)
        quiet.meters.events_suppressed = 6
        quiet.meters.reload_ok = True
    quiet.spend("acme", "small-1", (560, 85), 50_000_000)
    quiet.spend("globex", "mystery-1-2026-01-31", (1_500, 500), 0)
    acme = Where("tenant", "enterprise", "acme")
    monthly = Quota(tokens=1_000, cost_usd=2, per="month", timezone="Europe/Berlin")
    account = quiet.quota(acme, monthly, tokens=645, cost_usd=50_000_000)
    quiet.quota(Where("org", "enterprise"), Quota(cost_usd=500, per="lifetime"), cost_usd=50_000_000)
    quiet.quota(Where("model", "enterprise", model="small-*"), Quota(steps=7, per="rolling 24h"), steps=3)
    for user, tokens in (("u1", 79), ("u2", 80), ("u3", 100), ("u4", 0)):
        quiet.quota(Where("user", "enterprise", "acme", user), Quota(tokens=100, name="per user"), tokens=tokens)
    quiet.hold(quiet, account, tokens=100)
    quiet.clock.now_ns += 3 * NANOS
    return quiet
