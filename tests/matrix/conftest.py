"""For every group of the matrix: a provider on loopback, and budgets that are switched on for one test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from provider import Provider, Reply

import otelbudget


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_BASE", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], otelbudget.BudgetManager]]:
    """Switch budgets on from a YAML text, without any instrumentor; off again after the test."""
    for name in [name for name in os.environ if name.startswith("OTEL")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def begin(text: str = "") -> otelbudget.BudgetManager:
        (tmp_path / "budgets.yaml").write_text(text or "budgets: {}\n")
        return otelbudget.setup(exporter="none", metrics_port=None, instrument=False)

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
