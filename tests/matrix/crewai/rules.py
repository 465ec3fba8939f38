"""CrewAI runs no refused tool, and a crew that can't pay for its model ends with the denial."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.hooks import clear_all_global_hooks, register_before_tool_call_hook
from crewai.tools import tool
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.crewai import budget_tools

Setup = Callable[..., otelbudget.BudgetManager]
RAN: list[str] = []


@tool("search")
def search(query: str) -> str:
    """Search for something."""
    RAN.append(query)
    return "found"


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    RAN.clear()
    budget_tools()
    budget_tools()  # once more changes nothing
    yield
    clear_all_global_hooks()


def crew(server: Provider) -> Crew:
    llm = LLM(model="openai/gpt-4o-mini", base_url=server.base_url, api_key="none")
    agent = Agent(role="researcher", goal="Find it.", backstory="Curious.", llm=llm, tools=[search], max_retry_limit=0)
    task = Task(description="Go on.", expected_output="An answer.", agent=agent)
    return Crew(agents=[agent], tasks=[task], tracing=False)


def test_a_refused_model_call_ends_the_crew(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=2)):
        crew(insatiable).kickoff()
    assert insatiable.requests == 2


def test_of_three_tools_asked_for_one_runs(setup: Setup, three_at_once: Provider) -> None:
    setup()
    seen: list[str] = []
    register_before_tool_call_hook(lambda context: seen.append(context.tool_name))
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        crew(three_at_once).kickoff()
    assert len(RAN) == run.usage.tool_calls == 1
    assert seen  # hooks of the user go on


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("crewai", "crewai.budget_tools", lambda: crew(five).kickoff()) == 1
