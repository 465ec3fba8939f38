"""The OpenAI Agents SDK runs no refused tool, raises for what is refused, and agents have the budget of their name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agents import Agent, OpenAIChatCompletionsModel, RunHooks, Runner, function_tool, set_trace_processors
from openai import AsyncOpenAI
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.openai_agents import BudgetHooks, budget_agents

Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\n  one: {max_steps: 1}\nagents: {researcher: two, writer: one}\n"


@pytest.fixture(autouse=True)
def _no_tracing_elsewhere() -> Iterator[None]:
    set_trace_processors([])
    yield
    set_trace_processors([])


def agent_of(ran: list[str], name: str = "agent", **options: Any) -> Agent:
    @function_tool
    async def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    model = OpenAIChatCompletionsModel("demo-small", AsyncOpenAI(max_retries=0))
    return Agent(name=name, model=model, tools=[search], **options)


async def ask(agent: Agent, way: str, hooks: RunHooks | None = None) -> Any:
    if way == "run":
        return await Runner.run(agent, "Go on.", hooks=hooks or BudgetHooks(), max_turns=10)
    result = Runner.run_streamed(agent, "Go on.", hooks=hooks or BudgetHooks(), max_turns=10)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_a_refused_model_call_raises(setup: Setup, insatiable: Provider, way: str) -> None:
    setup()
    ran: list[str] = []
    with pytest.raises(BudgetExceeded, match="steps"), otelbudget.run(RunBudget(max_steps=2)):
        await ask(agent_of(ran), way)
    assert (insatiable.requests, len(ran)) == (2, 2)


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_of_three_tools_asked_for_at_once_at_most_one_runs(
    setup: Setup, three_at_once: Provider, way: str
) -> None:
    setup()
    ran: list[str] = []
    with pytest.raises(BudgetExceeded, match="tool_calls"), otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        await ask(agent_of(ran), way)
    assert len(ran) <= 1
    assert run.usage.tool_calls == 1


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    setup(BY_NAME)
    if way == "stream":
        budget_agents()  # setup() has done so
    agent = agent_of([], "researcher")
    for sent in (2, 4):
        with pytest.raises(BudgetExceeded, match="budget 'two'"):
            await ask(agent, way)
        assert insatiable.requests == sent
    with pytest.raises(BudgetExceeded, match="budget 'one'"):
        await ask(agent_of([], "writer"), way)
    assert insatiable.requests == 5
    assert otelbudget.current_run() is None
    assert "detach" not in caplog.text


async def test_hooks_of_the_user_go_on(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(RunHooks):
        async def on_llm_start(self, *args: Any) -> None:
            seen.append("model")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append(tool.name)

        async def on_agent_end(self, *args: Any) -> None:
            seen.append("end")

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=3)) as run:
        result = await ask(agent_of([]), "run", BudgetHooks(Theirs()))
    assert seen == ["model", "search", "search", "search", "model", "end"]
    assert (result.final_output, run.usage.tool_calls) == ("done", 3)


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("openai-agents", "openai_agents.BudgetHooks", lambda: ask(agent_of([]), "run")) == 1
