"""One instrumentor beside the guard, in both orders and after each has left; run in a process of its own.

``python matrix_worker.py INSTRUMENTOR`` prints one JSON line per situation and way of calling: what was admitted,
what arrived at the server, what was charged, and what the caller saw of the denied call.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI
from openai_ways import ANSWER, ASYNC_WAYS, STOPS, WAYS
from opentelemetry.sdk.trace import TracerProvider
from provider import Provider, Reply

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.engine import context as contexts
from otelbudget.estimate.learned import Learned
from otelbudget.guards import openai as guard
from otelbudget.manager import BudgetManager

USED = Reply(text=ANSWER, input_tokens=80, output_tokens=20)
Out = Callable[[], object]


def official(provider: TracerProvider) -> Out:
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return OpenAIInstrumentor().uninstrument


def openinference(provider: TracerProvider) -> Out:
    from openinference.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return OpenAIInstrumentor().uninstrument


def openllmetry(provider: TracerProvider) -> Out:
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return OpenAIInstrumentor().uninstrument


def logfire_on(what: Any) -> Out:
    import logfire

    reverting = logfire.instrument_openai(what)

    def revert() -> None:
        with reverting:
            pass

    return revert


def all_three(provider: TracerProvider) -> Out:
    outs = [official(provider), openinference(provider), openllmetry(provider)]
    return lambda: [out() for out in outs]


class Worker:
    """The server, the clients and the instrumentor; clients are as old as the process."""

    def __init__(self, server: Provider, instrumentor: str) -> None:
        self.server = server
        self.manager = BudgetManager()
        self.manager.engine.guarded.add("openai")
        self.client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        self.aclient = AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        self.instrument = self._instrument(instrumentor)

    def _instrument(self, name: str) -> Callable[[], Out]:
        if name.startswith("logfire"):
            import logfire

            logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[self.manager])
            what: Any = [self.client, self.aclient] if name == "logfire-instance" else None
            return lambda: logfire_on(what)
        provider = TracerProvider()
        provider.add_span_processor(self.manager)
        return lambda: {
            "none": lambda _: lambda: None,
            "official": official,
            "openinference": openinference,
            "openllmetry": openllmetry,
            "all-three": all_three,
        }[name](provider)

    async def situations(self) -> None:
        out = self.instrument()
        guard.install()
        await self.measure("other first")
        out()
        await self.measure("other first, then out")
        guard.uninstall()
        guard.install()
        out = self.instrument()
        await self.measure("guard first")
        guard.uninstall()
        self.passes()
        guard.install()
        await self.measure("guard first, out and in")
        out()
        await self.measure("guard first, other out")
        guard.uninstall()

    async def measure(self, situation: str) -> None:
        for name, way in WAYS.items():
            await self.row(situation, f"sync {name}", lambda way=way: asyncio.to_thread(way, self.client))
        for name, away in ASYNC_WAYS.items():
            await self.row(situation, f"async {name}", lambda away=away: away(self.aclient))
        for name, way in STOPS.items():
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
            WAYS["chat"](self.client)
        assert self.server.requests == before + 1
        assert run.usage.steps == 0


def main(instrumentor: str) -> None:
    # Collected between the situations instead of anywhere: Logfire's abandoned streams set a context variable when they
    # are collected, and CPython 3.11 crashes if that happens inside another setting of one (3.12 collects elsewhere).
    gc.disable()
    functions = [openai._base_client.SyncAPIClient.request, openai._base_client.AsyncAPIClient.request]
    code = [function.__code__ for function in functions]
    with Provider() as server:
        worker = Worker(server, instrumentor)
        contexts.activate(worker.manager.engine)
        asyncio.run(worker.situations())
        worker.client.close()
    assert [function.__code__ for function in functions] == code


if __name__ == "__main__":
    main(sys.argv[1])
