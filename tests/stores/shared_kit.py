"""What the tests of shared quotas start from: `otelbudget.setup()` on each store, and a clock that can be put on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis_server import empty_server
from store_kit import ClockedRedis

import otelbudget
from otelbudget import BudgetManager, Config, Quota, Quotas, QuotaService
from otelbudget.pricing import Price, Prices
from otelbudget.stores.base import Store
from otelbudget.stores.memory import MemoryStore
from otelbudget.stores.sqlite import SqliteStore

#: One dollar per million tokens in, two out.
PRICES = Prices({"demo": Price(input=1, output=2)}, listed=False)

#: The stores of the running test.
handed_out: list[Store] = []


class Later:
    """The time of day, and some seconds more."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.by_s


class Place:
    """Where quotas are counted: ``none`` is the process itself, the others are stores that are shared."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "quotas.db"
        self.url = empty_server().url if kind == "redis" else f"sqlite:///{self.path}"
        self.clock = Later()
        self.registry = CollectorRegistry()
        self.exporter = InMemorySpanExporter()

    def store(self) -> Any:
        """One more store of this place; the fixture `stores_closed` closes it."""
        if self.kind == "none":
            return None
        if self.kind == "memory":
            made: Store = MemoryStore(clock_s=self.clock)
        elif self.kind == "redis":
            made = ClockedRedis(self.url, self.clock)
        else:
            made = SqliteStore(self.path, clock_s=self.clock)
        handed_out.append(made)
        return made

    def setup(self, config: Any = None, **options: Any) -> BudgetManager:
        """The manager of this process."""
        return otelbudget.setup(
            Config(quotas=config, prices=PRICES) if isinstance(config, Quotas) else config,
            tracer_provider=TracerProvider(shutdown_on_exit=False),
            registry=self.registry,
            exporter=self.exporter,
            instrument=False,
            **{"store": self.store(), **options},
        )

    def quota(self, *, default: bool = True, **limits: Any) -> QuotaService:
        """A manager whose tenants have one quota for ever, and what looks at it."""
        one = Quota(**{"per": "lifetime", "name": "q", **limits})
        manager = self.setup(Quotas(default=[one]) if default else Quotas(org=[one]))
        return QuotaService(store=manager)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The attributes of all events of that name, of runs that have ended."""
        spans = self.exporter.get_finished_spans()
        return [dict(event.attributes or {}) for span in spans for event in span.events if event.name == name]

    def gauges(self, metric: str) -> dict[tuple[str, str], float]:
        """(store, resource) -> what the page says."""
        page = text_string_to_metric_families(generate_latest(self.registry).decode())
        rows = [sample for family in page for sample in family.samples if sample.name == metric]
        return {(row.labels["store"], row.labels["resource"]): row.value for row in rows}


def state(service: QuotaService, resource: str = "tokens", tenant: str = "default") -> tuple[Any, Any, Any]:
    """Used, held and left, as the store says now."""
    (line,) = [one for one in service.usage(tenant).lines if one.resource == resource]
    return line.used, line.reserved, line.remaining


def wait_until(done: Callable[[], bool]) -> None:
    """For what happens by itself, in a thread or task beside."""
    ends_s = time.monotonic() + 20
    while not done():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


async def await_until(done: Callable[[], bool]) -> None:
    """The same for a coroutine."""
    await asyncio.to_thread(wait_until, done)
