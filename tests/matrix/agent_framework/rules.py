"""The Agent Framework runs no refused tool, agents have their budgets, and a refused one can end with a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agent_framework import Agent, FunctionMiddleware, FunctionTool, RawAgent
from agent_framework.exceptions import ChatClientException
from agent_framework.observability import disable_instrumentation, enable_instrumentation
from agent_framework.openai import OpenAIChatCompletionClient
from conftest import asks_for
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.agent_framework import budget_middleware

Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


WAYS = ("run", "stream", "last of stream")


@pytest.fixture(params=[False, True], ids=["", "own spans"])
def _spans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without the framework's own spans, and with them."""
    if request.param:
        enable_instrumentation()
    yield
    disable_instrumentation()


def agent_of(ran: list[str], name: str | None = None, *middleware: Any, tools: tuple[Any, ...] = ()) -> Agent:
    def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    client = OpenAIChatCompletionClient("demo-small")
    return Agent(client, name=name, tools=[search, *tools], middleware=list(middleware))


async def work(agent: Agent, way: str) -> Any:
    if way == "run":
        return await agent.run("Go on.")
    stream = agent.run("Go on.", stream=True)
    if way == "stream":
        async for _ in stream:
            pass
    return await stream.get_final_response()


async def test_an_agent_that_can_t_pay_ends_with_a_message(setup: Setup, insatiable: Provider) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_steps=2, name="small")) as run:
        answer = await agent_of(ran, None, *budget_middleware()).run("Go on.")
    assert (insatiable.requests, run.usage.steps, len(ran)) == (2, 2, 2)
    assert "Stopped before the answer was complete: budget 'small'" in answer.text


async def test_a_streamed_one_raises(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=2)):
        async for _ in agent_of([], None, *budget_middleware()).run("Go on.", stream=True):
            pass
    assert insatiable.requests == 2


@pytest.mark.usefixtures("_spans")
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_of_three_tools_asked_for_at_once_one_runs_after_setup_alone(
    setup: Setup, three_at_once: Provider, way: str, earlier: bool
) -> None:
    ran: list[str] = []
    agent = agent_of(ran) if earlier else None
    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1, max_nested_tool_calls=0)) as run:
        answer = await work(agent or agent_of(ran), way)
    assert len(ran) == run.usage.tool_calls == 1
    assert str([message.to_dict() for message in answer.messages]).count("Not run: budget of run") >= 2
    assert answer.text.endswith("done")


async def test_a_tool_that_no_model_asked_for_raises(setup: Setup) -> None:
    setup()
    tool = FunctionTool(name="search", description="", func=lambda: "found")
    with otelbudget.run(RunBudget(max_tool_calls=1), reraise=False):
        assert (await tool.invoke())[0].text == "found"
        with pytest.raises(BudgetExceeded):
            await tool.invoke()


@pytest.mark.usefixtures("_spans")
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str, earlier: bool
) -> None:
    agent = agent_of([], "researcher") if earlier else None
    setup(BY_NAME)
    for sent in (2, 4):
        with pytest.raises(ChatClientException, match="budget 'two'"):  # the client's own, from BudgetExceeded
            await work(agent or agent_of([], "researcher"), way)
        assert insatiable.requests == sent
    assert otelbudget.current_run() is None


async def test_a_stream_that_is_read_in_a_run_is_of_that_run(setup: Setup, insatiable: Provider) -> None:
    setup(BY_NAME)
    stream = agent_of([], "researcher").run("Go on.", stream=True)
    with pytest.raises(BudgetExceeded, match="budget 'two'"), otelbudget.run(RunBudget(max_steps=5)) as run:
        await stream.get_final_response()
    assert run.usage.steps == insatiable.requests == 2


async def test_an_agent_that_is_a_tool_has_the_budget_of_its_name(setup: Setup, server: Provider) -> None:
    setup("budgets:\n  two: {max_steps: 2}\nagents: {inner: two}\n")
    server.enqueue(asks_for("inner"), *[asks_for("search")] * 9)
    inner = agent_of([], "inner")
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=4)):
        await agent_of([], "outer", tools=(inner.as_tool(name="inner"),)).run("Go on.")
    assert server.requests == 4


async def test_it_is_taken_out_again(setup: Setup, three_at_once: Provider) -> None:
    entries = (RawAgent.run, FunctionTool.invoke)
    before = [one.__code__ for one in entries]
    for _ in range(2):
        setup()
        assert all(one.__code__ is not code for one, code in zip(entries, before, strict=True))
        otelbudget.shutdown()
        assert [one.__code__ for one in entries] == before
    ran: list[str] = []
    await agent_of(ran).run("Go on.")
    assert len(ran) == 3


async def test_it_composes_with_middlewares_of_the_user(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            seen.append(context.function.name)
            await call_next()

    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        await agent_of(ran, None, Theirs(), *budget_middleware()).run("Go on.")
    assert (seen, len(ran)) == (["search"] * 3, 1)


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    async def text() -> str:
        return (await agent_of([], None, *budget_middleware()).run("Go on.")).text

    setup()
    assert row("agent-framework-core", "agent_framework.budget_middleware", text) == 1


def test_of_five_tools_one_is_run(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    ran: list[str] = []

    async def text() -> str:
        return (await agent_of(ran).run("Go on.")).text

    how = {"budget": RunBudget(max_tool_calls=1), "wanted": "4 tool calls", "sent": lambda: len(ran)}
    assert row("agent-framework-core", "setup() alone", text, **how) == 1
