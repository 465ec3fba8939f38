"""The Agent Framework ends a refused agent with a message, runs no refused tool, and agents have their budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import Agent, FunctionMiddleware
from agent_framework.openai import OpenAIChatCompletionClient
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.agent_framework import budget_middleware

Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


def agent_of(ran: list[str], name: str | None = None, *more: Any) -> Agent:
    def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    return Agent(
        OpenAIChatCompletionClient("demo-small"), name=name, tools=[search], middleware=[*more, *budget_middleware()]
    )


async def test_an_agent_that_can_t_pay_ends_with_a_message(setup: Setup, insatiable: Provider) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_steps=2, name="small")) as run:
        answer = await agent_of(ran).run("Go on.")
    assert (insatiable.requests, run.usage.steps, len(ran)) == (2, 2, 2)
    assert "Stopped before the answer was complete: budget 'small'" in answer.text


async def test_a_streamed_one_raises(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=2)):
        async for _ in agent_of([]).run("Go on.", stream=True):
            pass
    assert insatiable.requests == 2


async def test_of_three_tools_asked_for_at_once_one_runs(setup: Setup, three_at_once: Provider) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        answer = await agent_of(ran).run("Go on.")
    assert len(ran) == run.usage.tool_calls == 1
    assert str([message.to_dict() for message in answer.messages]).count("Not run: budget of run") >= 2
    assert answer.text.endswith("done")


async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider
) -> None:
    setup(BY_NAME)
    for sent in (2, 4):
        assert "budget 'two'" in (await agent_of([], "researcher").run("Go on.")).text
        assert insatiable.requests == sent


async def test_it_composes_with_middlewares_of_the_user(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            seen.append(context.function.name)
            await call_next()

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        await agent_of([], None, Theirs()).run("Go on.")
    assert seen == ["search"] * 3


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    async def text() -> str:
        return (await agent_of([]).run("Go on.")).text

    setup()
    assert row("agent-framework-core", "agent_framework.budget_middleware", text) == 1
