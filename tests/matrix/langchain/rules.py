"""LangChain agents end with a message, run no refused tool, and have the budget of their name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_openai import ChatOpenAI
from openinference.instrumentation.langchain import LangChainInstrumentor as OpenInference
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from provider import Provider, Reply

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.langchain import BudgetMiddleware

Setup = Callable[..., otelbudget.BudgetManager]
LOOP = asyncio.Runner()
INSTRUMENTORS = (LangChainInstrumentor, LangchainInstrumentor, OpenInference)
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


class Agent:
    def __init__(self, *, name: str | None = None, before: tuple[AgentMiddleware, ...] = (), **options: Any) -> None:
        self.ran: list[str] = []

        def search(query: str) -> str:
            """Search for something."""
            self.ran.append(query)
            return "found"

        middleware = [*before, BudgetMiddleware(**options)]
        model = ChatOpenAI(model="demo-small", max_retries=0)
        self._agent = create_agent(model, [search], name=name, middleware=middleware)

    def ask(self, way: str = "sync") -> list[Any]:
        asked: Any = {"messages": [{"role": "user", "content": "Go on."}]}
        if way == "sync":
            return self._agent.invoke(asked)["messages"]
        if way == "stream":
            return list(self._agent.stream(asked, stream_mode="values"))[-1]["messages"]
        return LOOP.run(self._agent.ainvoke(asked), context=copy_context())["messages"]


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
def test_an_agent_that_can_t_pay_ends_with_a_message(setup: Setup, insatiable: Provider, way: str) -> None:
    setup()
    with otelbudget.run(RunBudget(max_steps=3, name="small"), tenant="acme") as run:
        messages = Agent().ask(way)
    assert insatiable.requests == 3
    assert run.usage.steps == 3
    assert messages[-1].type == "ai"
    assert messages[-1].text.startswith("Stopped before the answer was complete: budget 'small' of run (tenant 'acme')")
    assert messages[-1].response_metadata["finish_reason"] == "budget_exceeded"


def test_leaving_the_run_raises_where_that_is_wanted(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=1)):
        Agent(acknowledge=False).ask()


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
def test_of_three_tools_asked_for_at_once_one_runs(setup: Setup, three_at_once: Provider, way: str) -> None:
    setup()
    agent = Agent()
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        messages = agent.ask(way)
    assert len(agent.ran) == run.usage.tool_calls == 1
    tools = [message for message in messages if message.type == "tool"]
    assert sorted(message.status for message in tools) == ["error", "error", "success"]
    assert any("Not run: " in message.text and "tool_calls" in message.text for message in tools)
    assert messages[-1].text == "done"


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
@pytest.mark.parametrize("instrumentor", INSTRUMENTORS)
def test_beside_an_instrumentation_each_call_is_charged_once(
    setup: Setup, three_at_once: Provider, instrumentor: type[Any], way: str
) -> None:
    setup()
    instrumentor().instrument()
    agent = Agent()
    try:
        with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
            agent.ask(way)
    finally:
        instrumentor().uninstrument()
    assert len(agent.ran) == run.usage.tool_calls == 3
    assert three_at_once.requests == run.usage.steps == 2


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
@pytest.mark.parametrize("instrumentor", INSTRUMENTORS)
def test_beside_an_instrumentation_agents_have_their_budgets(
    setup: Setup, insatiable: Provider, instrumentor: type[Any], way: str
) -> None:
    setup(BY_NAME)
    instrumentor().instrument()
    try:
        answers = [Agent(name="researcher").ask(way)[-1].text for _ in range(2)]
    finally:
        instrumentor().uninstrument()
    assert [("budget 'two'" in answer) for answer in answers] == [True, True]
    assert insatiable.requests == 4


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str
) -> None:
    setup(BY_NAME)
    agent = Agent(name="researcher")
    assert "budget 'two'" in agent.ask(way)[-1].text
    assert insatiable.requests == 2
    agent.ask(way)
    assert insatiable.requests == 4
    Agent(name="writer").ask(way)
    assert insatiable.requests > 6


def test_outside_every_run_the_process_wide_one_limits_models_and_tools(setup: Setup, three_at_once: Provider) -> None:
    setup("default_budget: small\nbudgets:\n  small: {max_tool_calls: 2, max_steps: 1}\n")
    agent = Agent()
    assert "Stopped" in agent.ask()[-1].text
    assert (len(agent.ran), three_at_once.requests) == (2, 1)


def test_it_composes_with_middlewares_of_the_user(setup: Setup, insatiable: Provider) -> None:
    class Theirs(AgentMiddleware):
        seen: ClassVar[list[str]] = []

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            answer = handler(request)
            self.seen.append("model")
            return answer

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            self.seen.append("tool")
            return handler(request)

    setup()
    with otelbudget.run(RunBudget(max_steps=1)):
        Agent(before=(Theirs(),)).ask()
    assert Theirs.seen == ["model", "tool", "model"]


def test_other_errors_pass(setup: Setup, server: Provider) -> None:
    setup()
    server.enqueue(Reply(status=400, error="no such model"))
    with pytest.raises(Exception, match="no such model"), otelbudget.run():
        Agent().ask()


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("langchain", "langchain.BudgetMiddleware", lambda: Agent().ask()[-1].text) == 1
