"""litellm gives a status to all its errors: what it didn't send costs nothing, what it can't read was made."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kits import SAY, charged
from sdks import beside_openai

from otelbudget import RunBudget
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROUTES = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "groq": "groq/llama-3.3-70b-versatile",
    "vllm": "hosted_vllm/any",
}


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture
def litellm(manager: BudgetManager) -> Iterator[Any]:
    litellm = pytest.importorskip("litellm")
    with beside_openai(litellm):
        yield litellm


def _ask(litellm: Any, twin: str, **how: Any) -> None:
    made = {"messages": SAY, "max_tokens": 100, "num_retries": 0, "max_retries": 0, **how}
    with pytest.raises(Exception, match="litellm"):
        asyncio.run(litellm.acompletion(**made)) if twin else litellm.completion(**made)


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "nonsense"},
        {"model": ROUTES["anthropic"]},  # without a key
        {"model": ROUTES["anthropic"], "api_key": "none", "logit_bias": {1: 1}},
        {"model": ROUTES["gemini"], "api_key": "none", "messages": [{"role": "tool"}]},
    ],
)
def test_what_is_wrong_before_it_is_sent_is_no_step(
    wrong: dict[str, Any],
    twin: str,
    gateway: str,
    manager: BudgetManager,
    served: list[Any],
    litellm: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with manager.run(RunBudget(max_steps=1)) as run:
        _ask(litellm, twin, api_base=gateway, **wrong)
        assert charged(run) == (0, 0, 0)
    assert not served


async def test_what_finds_no_server_is_no_step_over_whatever_client(manager: BudgetManager, litellm: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with manager.run(RunBudget(max_steps=1)) as run:
        for model in ("aiohttp_openai/any", *ROUTES.values()):
            with pytest.raises(Exception, match="litellm"):
                await litellm.acompletion(model=model, messages=SAY, api_base=nobody, api_key="none", max_retries=0)
            assert charged(run) == (0, 0, 0)


@pytest.mark.parametrize("twin", ["", "a"])
def test_what_it_sends_without_logging_it_is_charged_too(
    twin: str, gateway: str, answer: dict[str, Any], manager: BudgetManager, litellm: Any
) -> None:
    answer["make"] = lambda _: (200, b'{"embedd')
    asked = {"model": "ollama/any", "input": ["Say it."], "api_base": gateway}
    with manager.run(RunBudget(max_steps=1)) as run:
        with pytest.raises(Exception, match="litellm"):
            asyncio.run(litellm.aembedding(**asked)) if twin else litellm.embedding(**asked)
        assert (charged(run)[0], bool(charged(run)[1])) == (1, True)


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_it_does_not_understand_is_charged_its_hold(
    route: str, twin: str, gateway: str, answer: dict[str, Any], manager: BudgetManager, litellm: Any
) -> None:
    answer["make"] = lambda _: (200, b'{"choices": [{"mess')
    with manager.run() as run:
        _ask(litellm, twin, model=ROUTES[route], api_base=gateway, api_key="none")
        assert charged(run)[::2] == (1, 100)


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize("route", ROUTES)
def test_an_error_of_the_server_is_a_step_without_tokens(
    route: str, twin: str, gateway: str, answer: dict[str, Any], manager: BudgetManager, litellm: Any
) -> None:
    answer["make"] = lambda _: (500, {"error": {"message": "No."}})
    with manager.run() as run:
        _ask(litellm, twin, model=ROUTES[route], api_base=gateway, api_key="none")
        assert charged(run) == (1, 0, 0)
