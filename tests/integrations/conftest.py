from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import otelbudget
from otelbudget.demo import DemoServer

Setup = Callable[..., otelbudget.BudgetManager]


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer() as server:
        yield server


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """Switch budgets on from a YAML text; off again after the test."""
    monkeypatch.chdir(tmp_path)

    def begin(text: str = "budgets: {}\n", **more: Any) -> otelbudget.BudgetManager:
        (tmp_path / "budgets.yaml").write_text(text)
        return otelbudget.setup(exporter="none", metrics_port=None, instrument=False, **more)

    yield begin
    otelbudget.shutdown()


@pytest.fixture
def ask(server: DemoServer) -> Iterator[Callable[[], str]]:
    """One call of a model."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:

        def call() -> str:
            client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])
            return "answered"

        yield call
