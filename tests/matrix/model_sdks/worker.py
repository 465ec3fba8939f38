"""One cell of the matrix, in a process of its own: ``worker.py SDK POSITION INSTRUMENTATION...``.

Budgets are switched on after the first POSITION instrumentations. Prints one JSON object: for each way of calling what
arrived at the server, what was charged and what the caller saw; and what was left of the guards in the end.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import catching_sdk
from cells import CELLS, USED
from provider import Provider

import otelbudget
from otelbudget import Config, Quota, Quotas, RunBudget
from otelbudget.errors import found_in
from otelbudget.guards.patching import innermost

WANTED = 5
ONE = RunBudget(max_steps=1)
Seen = dict[str, Any]


def switch_on(instrumentation: str) -> None:
    module, what, *_ = instrumentation.split(":")
    if module == "logfire":
        import logfire

        logfire.configure(send_to_logfire=False, console=False)
        getattr(logfire, what)()
    elif module == "litellm":
        import litellm

        litellm.callbacks = [what]
    else:
        getattr(import_module(module), what)().instrument(skip_dep_check=True)


class Worker:
    def __init__(self, sdk: str, server: Provider) -> None:
        self.cell, self.server = CELLS[sdk], server

    def setup(self) -> None:
        quotas = Quotas(tenants={f"one {way}": [Quota(steps=1, per="day")] for way in self.cell.ways})
        config = Config(default_budget=ONE, quotas=quotas)
        otelbudget.setup(config, exporter="none", metrics_port=None, instrument=False)

    def ask(self, way: str) -> str:
        """What one call came to."""
        try:
            self.cell.ways[way](self.server.root_url)
        except Exception as error:  # noqa: BLE001 - whatever becomes of a denial
            denial = found_in(error)
            if denial is None:
                return f"{type(error).__name__}: {error}"
            return type(error).__name__ + ("" if denial is error else " from BudgetExceeded")
        return "answer"

    def in_a_run(self, way: str, **run: Any) -> Seen:
        before = self.server.requests
        with otelbudget.run(**run, reraise=False) as opened:
            saw = [self.ask(way) for _ in range(WANTED)]
        used = opened.usage
        return {
            "sent": self.server.requests - before,
            "charged": [used.steps, used.input_tokens, used.output_tokens],
            "saw": saw,
        }

    def bare(self) -> int:
        """What is sent by calls in all ways without a run: the process has one step for all of them."""
        before = self.server.requests
        for way in self.cell.ways:
            self.ask(way)
            self.ask(way)
        return self.server.requests - before

    def measure(self) -> Seen:
        ways = {
            way: {
                "denied": self.in_a_run(way, budget=RunBudget(max_steps=0)),
                "one step": self.in_a_run(way, budget=ONE),
                "quota": self.in_a_run(way, budget=RunBudget(), tenant=f"one {way}"),
            }
            for way in self.cell.ways
        }
        return {"ways": ways, "bare": self.bare()}

    def functions(self) -> list[tuple[Any, ...]]:
        """Every function of the SDK's modules and classes, as it is now, and where it hangs."""
        root = self.cell.module.partition(".")[0] if self.cell.module != "google.genai" else self.cell.module
        found = []
        for name, module in list(sys.modules.items()):
            if name == root or name.startswith(f"{root}."):
                for holder in [module, *_classes(module)]:
                    found += [_as_it_is(holder, attribute, one) for attribute, one in list(vars(holder).items())]
        return [one for one in found if one is not None]


def _classes(module: Any) -> Iterator[type]:
    # The type's type, since isinstance() would wake up lazy objects.
    for found in list(vars(module).values()):
        if issubclass(type(found), type) and found.__module__ == module.__name__:
            yield found


def _as_it_is(holder: Any, attribute: str, one: Any) -> tuple[Any, ...] | None:
    if type(one).__name__ not in ("function", "staticmethod", "classmethod", "FunctionWrapper", "BoundFunctionWrapper"):
        return None  # many a lazy object has whatever attribute it is asked for
    function = innermost(one)
    return None if function is None else (holder, attribute, one, function, *_state(function))


def _state(function: Any) -> tuple[Any, ...]:
    return function.__code__, function.__kwdefaults__, dict(vars(function))


def main(sdk: str, position: int, *instrumentations: str) -> None:
    # Or streams of Logfire's, which set a context variable when they are collected, crash CPython 3.11 where they do so
    # inside another setting of one.
    gc.disable()
    if os.environ.get("CATCHING"):
        catching_sdk.patch()
    import_module(CELLS[sdk].module)
    with Provider(script=lambda _: USED) as server:
        worker = Worker(sdk, server)
        for one in instrumentations[:position]:
            switch_on(one)
        if position == len(instrumentations):
            worker.ask(next(iter(worker.cell.ways)))  # some change themselves when they are first used
        before = worker.functions()
        worker.setup()
        for one in instrumentations[position:]:
            switch_on(one)
        said = worker.measure()
        otelbudget.shutdown()
        said["left"] = [
            f"{getattr(holder, '__name__', holder)}.{name}"
            for holder, name, one, function, *state in before
            if _state(function) != tuple(state)
            or (position == len(instrumentations) and vars(holder).get(name) is not one)
        ]
        sent = server.requests
        said["after"] = {way: worker.ask(way) for way in worker.cell.ways}
        said["sent after"] = server.requests - sent
    print(json.dumps(said))
    sys.stdout.flush()
    os._exit(0)  # some leave threads and loops behind that wait


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
