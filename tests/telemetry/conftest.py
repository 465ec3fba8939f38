"""Meters fed with a little traffic of which every number is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from otelbudget import RunBudget
from otelbudget.config import StoreConfig
from otelbudget.ledger.account import Account, Hold, QuotaAccount
from otelbudget.ledger.accounts import Accounts
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rules import rule_of, rules_of_budget
from otelbudget.model.amounts import NANOS, RESOURCES, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.quota import Quota
from otelbudget.model.vector import pack
from otelbudget.stores.failure import Failure
from otelbudget.stores.memory import MemoryStore
from otelbudget.stores.shared import Shared
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
    started_ns: int = 0


@dataclass
class Clock:
    now_ns: int = 1_000 * NANOS

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class Traffic:
    """Cells and what they belong to."""

    ledger: Ledger = field(default_factory=lambda: Ledger(clock_s=lambda: NOW_S))
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.ledger)
        self.owned: list[QuotaAccount] = []  # as those who pay have theirs in hand
        shared = Shared(MemoryStore(), list, Failure(), self.ledger.add, StoreConfig())
        shared.health.up = True
        self.meters = Meters(
            self.ledger, lambda: self.accounts, models=["small-1", "large-1"], shared=shared, clock_ns=self.clock
        )

    def live(self, run_id: str, tenant: str, budget: str | None, *, steps: int, cost_nanousd: int) -> Run:
        """Begin a run with a limit of ten steps."""
        return self.live_with(RunBudget(max_steps=10, name=budget), run_id, tenant, steps, cost_nanousd)

    def live_with(self, budget: RunBudget, run_id: str, tenant: str, steps: int = 0, cost_nanousd: int = 0) -> Run:
        """Begin a run with this budget."""
        rules = rules_of_budget(budget.limits, budget.limits, budget.name, budget.thresholds, False, None)
        account = Account(rules)
        self.ledger.charge([account], pack(Amounts(steps=steps, cost_nanousd=cost_nanousd)), [], [])
        run = Run(run_id, tenant, account)
        self.meters.tenant(tenant).active += 1
        self.meters.budget(tenant, budget.name, budget.limits)
        self.meters.live[run] = None
        return run

    def end(self, run: Run, outcome: str, used: list[int], seconds: float) -> None:
        """End a run, with a trace behind it."""
        self.meters.live.pop(run, None)
        self.meters.tenant(run.tenant).active -= 1
        self.meters.observe_run(run.tenant, outcome, used, seconds, TRACE)

    def spend(self, tenant: str, model: str | None, tokens: tuple[int, int], cost_nanousd: int) -> None:
        """Charge one call."""
        cell = self.meters.spend(tenant, model)
        cell.input += tokens[0]
        cell.output += tokens[1]
        cell.cost_nanousd += cost_nanousd

    def quota(self, where: Where, quota: Quota, **used: int) -> QuotaAccount:
        """The account of a quota in its present window, of which *used* is used."""
        account = self.accounts.current(where, quota.window, NOW_S)
        self.owned.append(account)
        self.ledger.limit(account, (*account.rules, rule_of(quota)))
        self.ledger.charge([account], pack([used.get(resource, 0) for resource in RESOURCES]), [], [])
        return account

    def hold(self, owner: object, *accounts: Account, **amounts: int) -> Hold:
        """Open a reservation."""
        held = Hold()
        held.accounts, held.amounts = accounts, Amounts(**amounts)
        held.vector = pack(held.amounts)
        assert self.ledger.hold(held, owner, [], self.clock(), []) is None
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
    research = quiet.meters.budget("acme", "research")
    research.call = 4
    research.check = 2
    research.records = 3
    quiet.meters.count("acme", "research", "call", "deny", "limit", "steps")
    quiet.meters.count("acme", "research", "call", "deny", "limit", "steps", again=True)
    quiet.meters.count("acme", "research", "tool", "deny", "limit", "tool_calls")
    quiet.meters.count("acme", "research", "call", "warn", "limit")
    quiet.meters.tenant("globex").tool_calls = 2
    quiet.meters.details("acme", "small-1").cache_read = 40
    quiet.meters.unpriced_calls("mystery-1").n += 1
    quiet.meters.observe_check("call", 0.0000042, TRACE)
    quiet.meters.observe_check("call", 0.3, None)
    quiet.meters.observe_estimate("small-1", 0.8)
    quiet.meters.events_suppressed = 6
    quiet.meters.reload_ok = True
    quiet.spend("acme", "small-1", (560, 85), 50_000_000)
    quiet.spend("globex", "mystery-1-2026-01-31", (1_500, 500), 0)
    acme = Where("tenant", ("enterprise", "acme"))
    monthly = Quota(tokens=1_000, cost_usd=2, per="month", timezone="Europe/Berlin")
    account = quiet.quota(acme, monthly, tokens=645, cost_usd=50_000_000)
    quiet.quota(Where("org", ("enterprise",)), Quota(cost_usd=500, per="lifetime"), cost_usd=50_000_000)
    quiet.quota(Where("model", ("enterprise", "small-*")), Quota(steps=7, per="rolling 24h"), steps=3)
    for user, tokens in (("u1", 79), ("u2", 80), ("u3", 100), ("u4", 0)):
        quiet.quota(Where("user", ("enterprise", "acme", user)), Quota(tokens=100, name="per user"), tokens=tokens)
    quiet.hold(quiet, account, tokens=100)
    quiet.clock.now_ns += 3 * NANOS
    return quiet
