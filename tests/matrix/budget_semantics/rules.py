"""Twelve runners of eleven frameworks, to each of which a budget of 3 means something else, make three requests.

They are those of the package ``agent-budget-semantics``, which give each framework a limit of its own as well.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

import agno.agent
import pytest
from google.adk.models.google_llm import Gemini
from google.adk.models.registry import LLMRegistry
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget

Setup = Callable[..., otelbudget.BudgetManager]
SCENARIO = {"name": "no end", "tool_definitions": [{"name": "get_weather"}]}
AGAIN = Reply(text="", tool_calls=[("get_weather", {"city": "Paris"})])
#: Runner -> the package of its framework.
RUNNERS = {
    "adk": "google-adk",
    "agno": "agno",
    "agno_stream": "agno",
    "anthropic": "anthropic",
    "autogen": "autogen-agentchat",
    "crewai": "crewai",
    "langchain": "langchain",
    "langgraph": "langgraph",
    "llamaindex": "llama-index-core",
    "openai_agents": "openai-agents",
    "semantic_kernel": "semantic-kernel",
    "swarm": "openai-swarm",
}


class MockGemini(Gemini):
    """The model that the runner names, at the provider, which knows it by another name."""

    @classmethod
    def supported_models(cls) -> list[str]:
        return ["mock-budget-llm"]

    def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        llm_request.model = "gemini-2.5-flash"
        return super().generate_content_async(llm_request, stream)


@pytest.fixture
def insatiable(server: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A model that never has enough, as far as a limit that lets twenty through is none."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.root_url)
    monkeypatch.setenv("GOOGLE_API_KEY", "none")
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    LLMRegistry.register(MockGemini)
    agent, known = agno.agent.Agent, signature(agno.agent.Agent).parameters
    # The runner gives options of agno 1 still.
    monkeypatch.setattr(agno.agent, "Agent", lambda **how: agent(**{name: how[name] for name in how if name in known}))
    server.enqueue(*[AGAIN] * 20)
    return server


@pytest.mark.parametrize("runner", RUNNERS)
def test_three_steps_are_three_requests(
    setup: Setup, insatiable: Provider, row: Callable[..., int], runner: str
) -> None:
    setup()
    three = {"budget": RunBudget(max_steps=3), "wanted": "no end", "allowed": 3}
    assert row(RUNNERS[runner], f"{runner}, setup() alone", lambda: _ask(insatiable, runner, 50), **three) == 3


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_the_frameworks_own_limit_of_three_lets_through(
    setup: Setup, insatiable: Provider, row: Callable[..., int], runner: str
) -> None:
    setup()
    three = {"budget": RunBudget(), "wanted": "no end", "allowed": 3}
    assert row(RUNNERS[runner], f"{runner}, its own limit", lambda: _ask(insatiable, runner, 3), **three) > 1


async def _ask(server: Provider, runner: str, limit: int) -> str:
    """Have the runner do its work; it makes a text of an error."""
    result = await import_module(f"runners.runner_{runner}").run(SCENARIO, server.root_url, limit)
    return f"stopped by {result.stopped_by}"
