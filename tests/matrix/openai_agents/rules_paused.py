"""A tool that waits for a person is charged once it has run: nothing before, and once however often it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    RunResult,
    RunState,
    UserError,
    function_tool,
    set_trace_processors,
)
from conftest import asks_for
from openai import AsyncOpenAI
from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor as OpenInference
from opentelemetry.instrumentation.genai.openai_agents import OpenAIAgentsInstrumentor as Official
from opentelemetry.instrumentation.openai_agents import OpenAIAgentsInstrumentor as OpenLLMetry
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget
from otelbudget.integrations.openai_agents import BudgetHooks

Setup = Callable[..., otelbudget.BudgetManager]
#: Asks for the tool that is an agent.
DELEGATES = Reply(text="", tool_calls=[("research", {"input": "Go on."})])


@pytest.fixture(autouse=True)
def _no_tracing_elsewhere() -> Iterator[None]:
    set_trace_processors([])
    yield
    set_trace_processors([])


@pytest.fixture(params=[None, Official, OpenLLMetry, OpenInference])
def _instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without an instrumentation, and beside each."""
    if request.param is not None:
        request.param().instrument()
    yield
    if request.param is not None:
        request.param().uninstrument()


@pytest.fixture(params=[None, BudgetHooks], ids=["plain", "hooks"])
def ours(request: pytest.FixtureRequest) -> Any:
    return None if request.param is None else request.param()


def agent_of(ran: list[str], *, name: str = "agent", tools: list[Any] | None = None) -> Agent:
    @function_tool(needs_approval=True)
    async def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    model = OpenAIChatCompletionsModel("demo-small", AsyncOpenAI(max_retries=0))
    return Agent(name=name, model=model, tools=[search] if tools is None else tools)


async def goes_on(agent: Agent, waits: RunResult, ours: Any, *, stored: bool = False, approved: bool = True) -> Any:
    """Let *agent* go on once what it *waits* for was decided, perhaps after its state was stored."""
    state = waits.to_state()
    state = await RunState.from_json(agent, state.to_json()) if stored else state
    for one in state.get_interruptions():
        (state.approve if approved else state.reject)(one)
    return await Runner.run(agent, state, hooks=ours)


@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("approved", [False, True])
async def test_what_waits_is_not_charged_what_was_approved_is_once_and_what_was_refused_never(
    setup: Setup, server: Provider, ours: Any, stored: bool, approved: bool
) -> None:
    setup()
    server.enqueue(asks_for("search"), Reply(text="done"))
    ran: list[str] = []
    agent = agent_of(ran)
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        waits = await Runner.run(agent, "Go on.", hooks=ours)
        assert (len(waits.interruptions), run.remaining()["tool_calls"]) == (1, 1)
        done = await goes_on(agent, waits, ours, stored=stored, approved=approved)
    assert done.final_output == "done"
    assert len(ran) == run.usage.tool_calls == int(approved)


@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("limit", [2, 5])
async def test_a_tool_that_is_an_agent_which_waits_is_charged_once(
    setup: Setup, server: Provider, ours: Any, stored: bool, limit: int
) -> None:
    setup()
    server.enqueue(DELEGATES, asks_for("search"), Reply(text="inner"), Reply(text="done"))
    ran: list[str] = []
    agent = agent_of(ran, tools=[agent_of(ran, name="inner").as_tool("research", "Research something.")])
    with otelbudget.run(RunBudget(max_tool_calls=limit)) as run:
        waits = await Runner.run(agent, "Go on.", hooks=ours)
        assert (len(waits.interruptions), run.remaining()["tool_calls"]) == (1, limit)
        done = await goes_on(agent, waits, ours, stored=stored)
    assert done.final_output == "done"
    assert (len(ran), run.usage.tool_calls) == (1, 2)


async def test_an_agent_that_was_approved_and_can_t_go_on_is_not_waited_for(
    setup: Setup, server: Provider, ours: Any
) -> None:
    setup()
    server.enqueue(DELEGATES, asks_for("search"), Reply(text="done"))
    ran: list[str] = []
    agent = agent_of(ran, tools=[agent_of(ran, name="inner").as_tool("research", "Research something.")])
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        waits = await Runner.run(agent, "Go on.", hooks=ours)
        with run.tool_call("another"):
            pass
        done = await goes_on(agent, waits, ours)
    assert (done.interruptions, done.final_output) == ([], "done")
    assert "Not run: budget of run" in str(done.to_input_list())
    assert (ran, run.usage.tool_calls) == ([], 1)


@pytest.mark.parametrize("fails", [False, True])
async def test_without_setup_a_tool_call_is_charged_by_the_hooks_alone(server: Provider, fails: bool) -> None:
    @function_tool
    async def search(query: str) -> str:
        """Search for something."""
        if fails:
            raise LookupError(query)
        return "found"

    server.enqueue(asks_for("search", "search"), Reply(text="done"))
    with otelbudget.run(RunBudget(max_tool_calls=2)) as run:
        await Runner.run(agent_of([], tools=[search]), "Go on.", hooks=BudgetHooks())
    assert run.usage.tool_calls == 2


@pytest.mark.parametrize("ends", ["raises", "is cancelled"])
@pytest.mark.parametrize("alone", [False, True])
async def test_a_call_that_fails_is_charged_at_once(
    setup: Setup, server: Provider, ours: Any, ends: str, alone: bool
) -> None:
    @function_tool(failure_error_function=None)
    async def search(query: str) -> str:
        """Search for something."""
        if ends == "raises":
            raise LookupError(query)
        await asyncio.sleep(60)
        return "found"

    manager = otelbudget.BudgetManager() if alone else setup()
    server.enqueue(asks_for("search"))
    agent = agent_of([], tools=[search])
    with manager.run(RunBudget(max_tool_calls=5), reraise=False) as run:
        with pytest.raises((LookupError, UserError, TimeoutError)):
            async with asyncio.timeout(2 if ends == "is cancelled" else 60):
                await Runner.run(agent, "Go on.", hooks=BudgetHooks() if alone else ours)
        assert run.usage.tool_calls == 1
    assert run.receipt().used["tool_calls"] == 1
