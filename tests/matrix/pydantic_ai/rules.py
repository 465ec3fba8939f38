"""Pydantic AI runs no refused tool, raises for a refused model call, and agents have the budget of their name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from provider import Provider
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UserError
from pydantic_ai.models.openai import OpenAIChatModel

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.pydantic_ai import BudgetCapability, budget_agents

Setup = Callable[..., otelbudget.BudgetManager]
WAYS = ("run", "sync", "stream", "events", "iter")
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


def agent_of(ran: list[str], name: str | None = None, *more: Any, plain: bool = False) -> Agent:
    """One with `BudgetCapability`, or a *plain* one, which has nothing of ours."""
    ours = [] if plain else [BudgetCapability()]
    agent = Agent(OpenAIChatModel("demo-small"), name=name, capabilities=[*more, *ours])

    @agent.tool_plain
    async def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    return agent


async def ask(agent: Agent, way: str) -> Any:
    if way == "run":
        return await agent.run("Go on.")
    if way == "sync":
        return await asyncio.to_thread(agent.run_sync, "Go on.")
    if way == "events":
        async with agent.run_stream_events("Go on.") as events:
            return [event async for event in events][-1].result
    if way == "iter":
        async with agent.iter("Go on.") as steps:
            async for _ in steps:
                pass
        return steps.result
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
    class Theirs(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            return (await handler(args)).upper()

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        result = await agent_of([], None, Theirs()).run("Go on.")
    assert "FOUND" in str(result.all_messages())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["agent", "setup"])
async def test_after_setup_alone_one_of_three_tools_runs_and_the_model_is_told_of_the_others(
    setup: Setup, three_at_once: Provider, first: str, way: str
) -> None:
    ran: list[str] = []
    agent = agent_of(ran, plain=True)
    setup()
    agent = agent if first == "agent" else agent_of(ran, plain=True)
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        result = await ask(agent, way)
    assert len(ran) == run.usage.tool_calls == 1
    assert str(result.all_messages()).count("Not run: budget of run") == 2


@pytest.mark.parametrize("way", ["run", "stream", "events", "iter"])
@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("first", ["agent", "setup"])
async def test_after_setup_alone_agents_have_the_budget_of_their_name_and_raise(
    setup: Setup, insatiable: Provider, first: str, instrumented: bool, way: str
) -> None:
    agent = agent_of([], "researcher", plain=True)
    setup(BY_NAME)
    agent = agent if first == "agent" else agent_of([], "researcher", plain=True)
    Agent.instrument_all(instrumented)
    try:
        for sent in (2, 4):
            with pytest.raises(BudgetExceeded, match="budget 'two'"):
                await ask(agent, way)
            assert insatiable.requests == sent
    finally:
        Agent.instrument_all(False)
    assert otelbudget.current_run() is None


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("plain", [False, True])
async def test_each_call_is_charged_once(
    setup: Setup, three_at_once: Provider, plain: bool, instrumented: bool, way: str
) -> None:
    setup()
    Agent.instrument_all(instrumented)
    ran: list[str] = []
    try:
        with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
            await ask(agent_of(ran, "researcher", plain=plain), way)
    finally:
        Agent.instrument_all(False)
    assert len(ran) == run.usage.tool_calls == 3
    assert three_at_once.requests == run.usage.steps == 2


async def test_capabilities_of_one_run_go_on(setup: Setup, three_at_once: Provider) -> None:
    class Theirs(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            return (await handler(args)).upper()

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        result = await agent_of([], plain=True).run("Go on.", capabilities=[Theirs()])
    told = str(result.all_messages())
    assert ("FOUND" in told, told.count("Not run: budget of run")) == (True, 2)


async def test_an_agent_that_takes_no_capability_of_a_run_works_as_without_us(setup: Setup, server: Provider) -> None:
    class Durable(AbstractCapability[Any]):  # in a workflow
        def _validate_runtime_capabilities(self, ctx: Any, capabilities: Any) -> None:
            if capabilities:
                raise UserError("capabilities added per-run are not supported")

    setup()
    assert (await agent_of([], None, Durable(), plain=True).run("Go on.")).output
    with pytest.raises(UserError, match="per-run"):
        await agent_of([], None, Durable(), plain=True).run("Go on.", capabilities=[BudgetCapability()])


def test_after_shutdown_pydantic_ai_is_as_it_was(setup: Setup, three_at_once: Provider) -> None:
    def there() -> Any:
        return inspect.unwrap(Agent.iter).__code__

    before = there()
    for _ in range(2):
        setup()
        budget_agents()
        assert there() != before
        otelbudget.shutdown()
        assert there() == before
    ran: list[str] = []
    agent_of(ran, plain=True).run_sync("Go on.")
    assert len(ran) == 3


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("pydantic-ai-slim", "pydantic_ai.BudgetCapability", lambda: ask(agent_of([]), "run")) == 1


def test_after_setup_alone_of_three_tool_calls_one_is_made(
    setup: Setup, three_at_once: Provider, row: Callable[..., int]
) -> None:
    setup()
    ran: list[str] = []
    agent = agent_of(ran, plain=True)
    limits = {"budget": RunBudget(max_tool_calls=1), "wanted": "3 tool calls", "sent": lambda: len(ran)}
    assert row("pydantic-ai-slim", "setup() alone", lambda: agent.run_sync("Go on.").output, **limits) == 1
