"""A manager with a clock that tests move, on a real SDK provider that exports to memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from otelbudget import BudgetManager, Config, RunBudget
from otelbudget.admission.state import RunState
from otelbudget.engine import context
from otelbudget.engine.engine import Engine
from otelbudget.ledger.account import Account
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.vector import unpack
from otelbudget.pricing import Price, Prices
from otelbudget.runs.run import BudgetRun
from otelbudget.runs.scope import RunScope

#: One dollar per million tokens in, two out: 1,000 and 2,000 nano-USD per token.
PRICES = Prices({"demo": Price(input=1, output=2)}, listed=False)
Said = tuple[str, dict[str, Any]]


class World:
    """Everything a test of the core needs; nothing global is touched but by `activate`."""

    def __init__(
        self,
        default_budget: RunBudget | None = None,
        *,
        config: Config | None = None,
        enforce: bool = True,
        sampler: Sampler = ALWAYS_ON,
        limits: SpanLimits | None = None,
        ttl_s: float = 60,
    ) -> None:
        self.now_ns = 1_000_000_000
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, span_limits=limits, shutdown_on_exit=False)
        config = Config(default_budget=default_budget, prices=PRICES) if config is None else config
        self.wall_s = 1_700_000_000.0
        ledger = Ledger(ttl_s=ttl_s, clock_s=lambda: self.wall_s)
        self.engine = Engine(config, ledger=ledger, clock_ns=lambda: self.now_ns, enforce=enforce)
        self.engine.tracer = self.provider.get_tracer("otelbudget")
        self.manager = BudgetManager(engine=self.engine)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.provider.add_span_processor(self.manager)
        self.tracer = self.provider.get_tracer("app")

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.wall_s += seconds

    def run(self, budget: str | RunBudget | None = None, **options: Any) -> RunScope:
        return self.manager.run(budget, **options)

    def activate(self) -> None:
        """Make guards and the functions of the package use this manager; the fixtures undo it."""
        context.activate(self.engine)

    def span(self, prefix: str) -> ReadableSpan:
        """The only ended span whose name begins with *prefix*."""
        (found,) = self.spans(prefix)
        return found

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefix)]

    def counted(self) -> dict[tuple[str, str, str], int]:
        """(operation, decision, reason) -> checks, over all tenants and budgets."""
        found: dict[tuple[str, str, str], int] = {}
        for cell in self.engine.meters.snapshot().budgets:
            plain = {(op, "allow", ""): getattr(cell, op) for op in ("call", "check", "reserve", "tool", "probe")}
            for key, number in (*plain.items(), *((key[:3], tally.n) for key, tally in cell.rare.items())):
                if number:
                    found[key] = found.get(key, 0) + number
        return found

    def spent(self) -> tuple[int, int, int, int]:
        """(input tokens, output tokens, nano-USD, tool calls) that the counters have."""
        snapshot = self.engine.meters.snapshot()
        sums = [sum(getattr(cell, name) for cell in snapshot.spends) for name in ("input", "output", "cost_nanousd")]
        return sums[0], sums[1], sums[2], sum(cell.tool_calls for cell in snapshot.tenants)

    def records(self) -> int:
        return sum(cell.records for cell in self.engine.meters.snapshot().budgets)


def said(span: ReadableSpan) -> list[Said]:
    """The events of a span, as (name, attributes)."""
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def opened(scope: RunScope) -> BudgetRun:
    """A run that is open, and not the run of here."""
    return BudgetRun(scope.open()[0])


def held(run: BudgetRun) -> list[int]:
    return reserved_of(state(run).account)


def used(run: BudgetRun) -> list[int]:
    return used_of(state(run).account)


def state(run: BudgetRun) -> RunState:
    """The inside of a run."""
    return run._state


def used_of(account: Account) -> list[int]:
    """What an account has used, in `RESOURCES` order."""
    return unpack(account.used)


def reserved_of(account: Account) -> list[int]:
    """What is held on an account, in `RESOURCES` order."""
    return unpack(account.taken - account.used)
