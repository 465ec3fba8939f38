"""The guard of ollama: its streams, its options, its module's own functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kits import OLLAMA_CHAT, USED, charged, ollama
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.manager import BudgetManager

module = pytest.importorskip("ollama")


@pytest.fixture
def sdk() -> str:
    return "ollama"


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Any]:
    with ollama("Client")(server.root_url) as client:
        yield client


def test_the_functions_of_the_module_are_guarded_too(server: Provider, manager: BudgetManager) -> None:
    module.chat.__self__._client.base_url = server.root_url
    server.enqueue(USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        module.chat(**OLLAMA_CHAT)
        with pytest.raises(BudgetExceeded):
            module.generate(model="llama3.2", prompt="Say it.")
        assert charged(run) == (1, 80, 20)
    module.chat.__self__.close()
    assert server.requests == 1


def test_a_stream_that_nobody_reads_is_never_sent_and_costs_nothing(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    with manager.run() as run:
        client.chat(**OLLAMA_CHAT, stream=True)
        assert charged(run) == (0, 0, 0)
    assert server.requests == 0


def test_a_stream_left_early_is_charged_what_was_read(server: Provider, manager: BudgetManager, client: Any) -> None:
    for leave in (lambda lines: lines.close(), lambda _: None):
        server.enqueue(USED)
        with manager.run() as run:
            lines = client.chat(**OLLAMA_CHAT, stream=True)
            assert next(lines).message.content == "one "
            leave(lines)
            del lines
            assert charged(run) == (1, count_input(OLLAMA_CHAT), estimate_tokens("one "))


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_that_outgrows_the_budget_is_cut_and_a_maximum_is_held(
    stream: bool, server: Provider, manager: BudgetManager, client: Any
) -> None:
    if not stream:
        with manager.run(RunBudget(max_output_tokens=99), reraise=False), pytest.raises(BudgetExceeded):
            client.chat(**OLLAMA_CHAT)
        assert server.requests == 0
        return
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            list(client.chat(model="m", messages=OLLAMA_CHAT["messages"], options={"num_predict": -1}, stream=True))
        assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_what_is_sent(server: Provider, manager: BudgetManager, client: Any) -> None:
    asked: dict[str, Any] = {**OLLAMA_CHAT, "options": {"num_predict": 100, "seed": 1}}
    for stream in (False, True):
        with manager.run(RunBudget(max_output_tokens=40), reraise=False):
            found = client.chat(**asked, stream=stream)
            assert not stream or list(found)
        assert server.recent[-1].body["options"] == {"num_predict": 40, "seed": 1}


def test_embeddings_hold_no_output_and_lists_of_models_pass(
    gateway: str, answer: dict[str, Any], manager: BudgetManager
) -> None:
    answer["make"] = lambda _: (200, {"model": "m", "embeddings": [[0.0]], "prompt_eval_count": 7, "model_info": None})
    with ollama("Client")(gateway) as client, manager.run(RunBudget(max_output_tokens=0, max_steps=1)) as run:
        client.embed(model="m", input="Say it.")
        client.show("m")
        assert charged(run) == (1, 7, 0)
