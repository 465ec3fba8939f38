"""One instrumentor beside the guard, in both orders and after each has left; run in a process of its own.

``python matrix_worker.py SDK INSTRUMENTOR`` prints one JSON line per situation and way of calling: what was admitted,
what arrived at the server, what was charged, and what the caller saw of the denied call.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from provider import Provider, Reply

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.engine import context as contexts
from otelbudget.estimate.learned import Learned
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

SDK = sys.argv[1]
ways = import_module(f"{SDK}_ways")
USED = Reply(text=ways.ANSWER, input_tokens=80, output_tokens=20)
NAME = {"openai": "OpenAI", "anthropic": "Anthropic"}[SDK]
Out = Callable[[], object]


def _instrument(module: str, provider: TracerProvider) -> Out:
    instrumentor = getattr(import_module(module), f"{NAME}Instrumentor")()
    instrumentor.instrument(tracer_provider=provider)
    uninstrument: Out = instrumentor.uninstrument
    return uninstrument


def instrument(provider: TracerProvider) -> Out:
    """The official instrumentor, OpenInference's and OpenLLMetry's."""
    homes = ("opentelemetry.instrumentation.genai", "openinference.instrumentation", "opentelemetry.instrumentation")
    outs = [_instrument(f"{home}.{SDK}", provider) for home in homes]
    return lambda: [out() for out in outs]


def logfire_on(what: Any) -> Out:
    import logfire

    reverting = getattr(logfire, f"instrument_{SDK}")(what)

    def revert() -> None:
        with reverting:
            pass

    return revert


class Worker:
    """The server, the clients and the instrumentor; clients are as old as the process."""

    def __init__(self, server: Provider, instrumentor: str) -> None:
        self.server = server
        self.manager = BudgetManager()
        self.manager.engine.guarded.add(SDK)
        self.client = ways.client(server.root_url)
        self.aclient = ways.aclient(server.root_url)
        self.instrument = self._instrument(instrumentor)

    def _instrument(self, name: str) -> Callable[[], Out]:
        if name.startswith("logfire"):
            import logfire

            logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[self.manager])
            what: Any = [self.client, self.aclient] if name == "logfire-instance" else None
            return lambda: logfire_on(what)
        provider = TracerProvider()
        provider.add_span_processor(self.manager)
        if SDK == "anthropic":  # so that its own spans are there as well
            trace.set_tracer_provider(provider)
        return lambda: instrument(provider)

    async def situations(self) -> None:
        out = self.instrument()
        GUARDS[SDK].install()
        await self.measure("other first")
        out()
        await self.measure("other first, then out")
        GUARDS[SDK].uninstall()
        GUARDS[SDK].install()
        out = self.instrument()
        await self.measure("guard first")
        GUARDS[SDK].uninstall()
        self.passes()
        GUARDS[SDK].install()
        await self.measure("guard first, out and in")
        out()
        await self.measure("guard first, other out")
        GUARDS[SDK].uninstall()

    async def measure(self, situation: str) -> None:
        for name, way in ways.WAYS.items():
            await self.row(situation, f"sync {name}", lambda way=way: asyncio.to_thread(way, self.client))
        for name, away in ways.ASYNC_WAYS.items():
            await self.row(situation, f"async {name}", lambda away=away: away(self.aclient))
        for name, way in ways.STOPS.items():
            await self.row(situation, f"stop {name}", lambda way=way: asyncio.to_thread(way, self.client))
        gc.collect()

    async def row(self, situation: str, way: str, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        before = self.server.requests
        self.manager.engine.learned = Learned()  # or what earlier rows have taught would change the estimates of this
        self.server.enqueue(USED, USED)
        seen = "nothing"
        async with self.manager.run(RunBudget(max_steps=2), reraise=False) as run:
            for _ in range(3):
                try:
                    await call()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                    seen = f"{type(error).__name__} caused by {type(error.__cause__).__name__}"
                    if not isinstance(error, BudgetExceeded):
                        seen += f" ({error})"
        row = {
            "situation": situation,
            "way": way,
            "sent": self.server.requests - before,
            "charged": [run.usage.steps, run.usage.input_tokens, run.usage.output_tokens],
            "seen": seen,
            "open": run._state.account.holds,
        }
        print(json.dumps(row), flush=True)

    def passes(self) -> None:
        """A guard that was taken out lets calls through, whoever holds it."""
        before = self.server.requests
        with self.manager.run(RunBudget(max_steps=0), reraise=False) as run:
            next(iter(ways.WAYS.values()))(self.client)
        assert self.server.requests == before + 1
        assert run.usage.steps == 0


def main(instrumentor: str) -> None:
    # Collected between the situations instead of anywhere: Logfire's abandoned streams set a context variable when they
    # are collected, and CPython 3.11 crashes if that happens inside another setting of one (3.12 collects elsewhere).
    gc.disable()
    inside = import_module(f"{SDK}._base_client")
    method = "request" if SDK == "openai" else "_request"
    functions = [getattr(base, method) for base in (inside.SyncAPIClient, inside.AsyncAPIClient)]
    code = [function.__code__ for function in functions]
    with Provider() as server:
        worker = Worker(server, instrumentor)
        contexts.activate(worker.manager.engine)
        asyncio.run(worker.situations())
        worker.client.close()
    assert [function.__code__ for function in functions] == code


if __name__ == "__main__":
    main(sys.argv[2])
