"""Pydantic AI runs no refused tool, raises for a refused model call, and agents have the budget of their name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from provider import Provider
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.pydantic_ai import BudgetCapability

Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


def agent_of(ran: list[str], name: str | None = None, *more: Any) -> Agent:
    agent = Agent(OpenAIChatModel("demo-small"), name=name, capabilities=[*more, BudgetCapability()])

    @agent.tool_plain
    async def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    return agent


async def ask(agent: Agent, way: str) -> Any:
    if way == "run":
        return await agent.run("Go on.")
    async with agent.run_stream("Go on.") as result:
        await result.get_output()
        return result


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_a_refused_model_call_raises(setup: Setup, insatiable: Provider, way: str) -> None:
    setup()
    ran: list[str] = []
    with pytest.raises(BudgetExceeded, match="steps"), otelbudget.run(RunBudget(max_steps=2)):
        await ask(agent_of(ran), way)
    assert (insatiable.requests, len(ran)) == (2, 2)


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_of_three_tools_asked_for_at_once_one_runs(setup: Setup, three_at_once: Provider, way: str) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        result = await ask(agent_of(ran), way)
    assert len(ran) == run.usage.tool_calls == 1
    told = str(result.all_messages())
    assert told.count("Not run: budget of run") == 2


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str
) -> None:
    setup(BY_NAME)
    agent = agent_of([], "researcher")
    for sent in (2, 4):
        with pytest.raises(BudgetExceeded, match="budget 'two'"):
            await ask(agent, way)
        assert insatiable.requests == sent


async def test_it_composes_with_capabilities_of_the_user(setup: Setup, three_at_once: Provider) -> None:
    class Theirs(BudgetCapability.__mro__[1]):  # type: ignore[name-defined,misc]
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            return (await handler(args)).upper()

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        result = await agent_of([], None, Theirs()).run("Go on.")
    assert "FOUND" in str(result.all_messages())


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("pydantic-ai-slim", "pydantic_ai.BudgetCapability", lambda: ask(agent_of([]), "run")) == 1
