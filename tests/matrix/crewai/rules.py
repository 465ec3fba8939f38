"""CrewAI runs no refused tool, and a crew that can't pay for its model ends with the denial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.hooks import (
    clear_all_global_hooks,
    get_after_tool_call_hooks,
    get_before_tool_call_hooks,
    register_before_tool_call_hook,
)
from crewai.tools import tool
from openinference.instrumentation.crewai import CrewAIInstrumentor
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.crewai import budget_crews

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
    budget_crews()  # setup() has done so
    seen: list[str] = []
    register_before_tool_call_hook(lambda context: seen.append(context.tool_name))
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        crew(three_at_once).kickoff()
    assert len(RAN) == run.usage.tool_calls == 1
    assert seen  # hooks of the user go on


@pytest.mark.parametrize("budget", [RunBudget(max_nested_tool_calls=0), RunBudget(max_tool_calls=1)])
def test_a_tool_call_that_an_instrumentation_shows_as_well_is_one(
    setup: Setup, three_at_once: Provider, budget: RunBudget
) -> None:
    setup()
    CrewAIInstrumentor().instrument()
    try:
        with otelbudget.run(budget) as run:
            crew(three_at_once).kickoff()
    finally:
        CrewAIInstrumentor().uninstrument()
    assert len(RAN) == run.usage.tool_calls == (3 if budget.max_tool_calls is None else 1)


async def in_a_loop(made: Crew) -> object:
    return await made.agents[0].kickoff("Go on.")


WORK: dict[str, Callable[[Crew], object]] = {
    "crew": lambda made: made.kickoff(),
    "asynchronous crew": lambda made: asyncio.run(made.akickoff()),
    "agent alone": lambda made: made.agents[0].kickoff("Go on."),
    "asynchronous agent alone": lambda made: asyncio.run(made.agents[0].kickoff_async("Go on.")),
    "agent alone in an event loop": lambda made: asyncio.run(in_a_loop(made)),
}


@pytest.mark.parametrize("way", WORK)
def test_the_budget_of_the_agents_role_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str
) -> None:
    setup("budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n")
    for sent in (2, 4):
        with pytest.raises(BudgetExceeded, match="budget 'two'"):
            WORK[way](crew(insatiable))
        assert insatiable.requests == sent
    assert otelbudget.current_run() is None


def test_it_is_taken_out_again(setup: Setup) -> None:
    work = Agent.execute_task.__code__
    setup()
    assert Agent.execute_task.__code__ is not work
    assert len(get_before_tool_call_hooks()) == len(get_after_tool_call_hooks()) == 1
    otelbudget.shutdown()
    assert not [*get_before_tool_call_hooks(), *get_after_tool_call_hooks()]
    assert Agent.execute_task.__code__ is work
    ending = budget_crews()
    setup()
    otelbudget.shutdown()
    assert len(get_before_tool_call_hooks()) == 1  # who put it in takes it out
    ending()
    assert not get_before_tool_call_hooks()


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("crewai", "setup() alone", lambda: crew(five).kickoff()) == 1
