"""Traffic of three tenants, as cells see it: what a scrape finds after some minutes of agents at work."""

from __future__ import annotations

from dataclasses import dataclass, field

from otelbudget import RunBudget
from otelbudget.ledger.account import Account
from otelbudget.ledger.accounts import Accounts
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rules import rule_of, rules_of_budget
from otelbudget.model.amounts import COST, INPUT, NANOS, OUTPUT, RESOURCES, TOKENS, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.quota import Quota
from otelbudget.model.vector import pack
from otelbudget.telemetry.cells import Meters

MODELS = ("small-1", "large-1")
#: The clock of quotas, for pages of different moments to be the same.
NOW_S = 1_700_000_000.0
TENANTS = {"acme": ("research", 0), "globex": ("quick", 1), "initech": (None, 0)}


@dataclass(eq=False)
class Run:
    """A run in progress, as far as a scrape looks at it."""

    run_id: str
    tenant: str
    account: Account
    started_ns: int = -60 * NANOS


@dataclass
class Traffic:
    """Meters and how much has gone through them."""

    ledger: Ledger = field(default_factory=lambda: Ledger(clock_s=lambda: NOW_S))
    rounds: int = 0
    cost_nanousd: int = 0

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.ledger)
        self.meters = Meters(self.ledger, lambda: self.accounts, models=MODELS, clock_ns=lambda: 0)
        self.meters.reload_ok = True

    def begin(self) -> None:
        """Open one run per tenant."""
        for number, (tenant, (budget, _)) in enumerate(TENANTS.items()):
            limits = RunBudget(max_steps=10).limits
            account = Account(rules_of_budget(limits, limits, budget, (), False, None))
            self.ledger.charge([account], pack(Amounts(steps=10 - 3 * number)), [], [])
            self.meters.tenant(tenant).active += 1
            self.meters.budget(tenant, budget, limits)
            self.meters.live[Run(f"{number:032x}", tenant, account)] = None

    def go_on(self) -> None:
        """Let every tenant make calls, be refused, and end a run."""
        self.rounds += 1
        for number, (tenant, (budget, model)) in enumerate(TENANTS.items(), start=1):
            cell = self.meters.budget(tenant, budget)
            cell.call += 4 * number
            cell.records += 4 * number
            reason = "limit" if number == 1 else "deadline"
            self.meters.count(tenant, budget, "call", "deny", reason, "steps", again=self.rounds > 1)
            spend = self.meters.spend(tenant, MODELS[model])
            spend.input += 500 * number
            spend.output += 120 * number
            spend.cost_nanousd += number * NANOS // 100
            self.cost_nanousd += number * NANOS // 100
            trace = (f"{self.rounds:016x}{number:016x}", f"{number:016x}")
            self.meters.observe_check("call", number * 4e-6, trace)
            self.meters.observe_estimate(MODELS[model], 0.6 + 0.2 * number)
            self._end_run(tenant, number, trace)
            self._charge_quotas(tenant, number)

    def _charge_quotas(self, tenant: str, number: int) -> None:
        quotas = {
            Where("org", ("default",)): Quota(cost_usd=100, per="lifetime"),
            Where("tenant", ("default", tenant)): Quota(tokens=50_000, cost_usd=1, per="day"),
            Where("user", ("default", tenant, "somebody")): Quota(tokens=1_000, per="rolling 24h"),
            Where("model", ("default", MODELS[0])): Quota(cost_usd=5, per="month"),
        }
        charged = [{TOKENS: 620 * number, COST: number * NANOS // 100}.get(i, 0) for i in range(len(RESOURCES))]
        for where, quota in quotas.items():
            account = self.accounts.current(where, quota.window, NOW_S)
            self.ledger.limit(account, (rule_of(quota),))
            self.ledger.charge([account], pack(charged), [], [])

    def _end_run(self, tenant: str, number: int, trace: tuple[str, str]) -> None:
        used = [0] * len(RESOURCES)
        used[INPUT], used[OUTPUT], used[COST] = 500 * number, 120 * number, number * NANOS // 100
        used[TOKENS] = used[INPUT] + used[OUTPUT]
        outcome = "exhausted" if number == 1 else "completed"
        self.meters.observe_run(tenant, outcome, used, 2.5 * number, trace)
