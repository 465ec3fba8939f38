"""For every group of the matrix: a provider on loopback, budgets that are switched on for one test, and its result."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from provider import Provider, Reply
from results import write_row

import otelbudget
from otelbudget import RunBudget
from otelbudget.errors import found_in

ONE_STEP = RunBudget(max_steps=1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_BASE", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., otelbudget.BudgetManager]]:
    """Switch budgets on from a YAML text, without any instrumentor; off again after the test."""
    for name in [name for name in os.environ if name.startswith("OTEL") and not name.startswith("OTELBUDGET_MATRIX")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def begin(text: str = "", **more: Any) -> otelbudget.BudgetManager:
        (tmp_path / "budgets.yaml").write_text(text or "budgets: {}\n")
        return otelbudget.setup(exporter="none", metrics_port=None, instrument=False, **more)

    yield begin
    otelbudget.shutdown()


def asks_for(*tools: str) -> Reply:
    """An answer that wants these tools called, in parallel."""
    return Reply(text="", tool_calls=[(tool, {"query": f"{tool} {i}"}) for i, tool in enumerate(tools)])


@pytest.fixture
def insatiable(server: Provider) -> Provider:
    """A model that asks for the tool ``search`` in every answer."""
    server.enqueue(*[asks_for("search")] * 20)
    return server


@pytest.fixture
def three_at_once(server: Provider) -> Provider:
    """A model that asks for three searches at once, then answers."""
    server.enqueue(asks_for("search", "search", "search"), Reply(text="done"))
    return server


@pytest.fixture
def five(server: Provider) -> Provider:
    """A model whose work takes five calls."""
    server.enqueue(*[asks_for("search")] * 4, Reply(text="done"))
    return server


@pytest.fixture
def row(request: pytest.FixtureRequest, server: Provider) -> Callable[..., int]:
    """Let a framework work in a run, and say what became of it in a row of RESULTS.md; gives the calls that it made."""

    def row(
        package: str,
        using: str,
        ask: Callable[[], object],
        *,
        budget: RunBudget | None = ONE_STEP,
        wanted: str = "5 requests",
        allowed: int = 1,
        sent: Callable[[], int] = lambda: server.requests,
    ) -> int:
        saw, made = _seen(ask, budget), sent()
        said = (request.path.parent.name, package, version(package), using, wanted, allowed, made, saw)
        write_row("frameworks", *said, "yes" if made <= allowed else "no")
        return made

    return row


@pytest.fixture(scope="module")
def sent(request: pytest.FixtureRequest) -> Iterator[dict[int, list[int]]]:
    """How many requests were sent in each way of calling an SDK, by the steps that were allowed; a row of RESULTS.md.

    The module says which ``PACKAGE`` it is about and what its callers ``SAW``; what isn't charged exactly fails.
    """
    sent: dict[int, list[int]] = {0: [], 1: []}
    yield sent
    module = request.module
    if sent[0] and sent[1]:
        most = [max(sent[steps]) for steps in (0, 1)]
        blocks = "yes" if most <= [0, 1] else "no"
        write_row(
            "sdks", module.PACKAGE, version(module.PACKAGE), "none", len(sent[0]), *most, "exact", module.SAW, blocks
        )


def _seen(ask: Callable[[], object], budget: RunBudget | None) -> str:
    """What there is to see for who asks: the beginning of the answer, or the error."""
    saw = ""
    try:
        with nullcontext() if budget is None else otelbudget.run(budget):
            answer = ask()
            answer = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
            saw = str(answer).partition(":")[0]
    except Exception as error:  # noqa: BLE001 - whatever a framework makes of a denial
        denial = found_in(error)
        raised = type(error).__name__ + (" from BudgetExceeded" if denial is not None and denial is not error else "")
        return f"{saw}; leaving the run raises {raised}" if saw else raised
    return saw
