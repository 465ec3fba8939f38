"""A tool that waits for a person is charged once it has run: nothing before, and once however often it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from conftest import asks_for
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from openinference.instrumentation.langchain import LangChainInstrumentor as OpenInference
from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget
from otelbudget.integrations.langchain import BudgetMiddleware

Setup = Callable[..., otelbudget.BudgetManager]
LOOP = asyncio.Runner()


@pytest.fixture(params=[None, LangChainInstrumentor, LangchainInstrumentor, OpenInference])
def _instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without an instrumentation, and beside each."""
    token = attach(Context())  # OpenLLMetry leaves spans of its own attached
    if request.param is not None:
        request.param().instrument()
    yield
    if request.param is not None:
        request.param().uninstrument()
    detach(token)


class Asked:
    """An agent that asks for the tool ``search`` twice, of which each call needs the approval of a person."""

    def __init__(self, server: Provider, asks: str, *middleware: Any) -> None:
        self.ran: list[str] = []

        @tool
        def search(query: str) -> str:
            """Search for something."""
            if asks == "interrupt" and interrupt(query) != "yes":
                return "not allowed"
            self.ran.append(query)
            return "found"

        gate = [HumanInTheLoopMiddleware(interrupt_on={"search": True})] if asks == "middleware" else []
        server.enqueue(asks_for("search"), asks_for("search"), Reply(text="done"))
        model = ChatOpenAI(model="demo-small", max_retries=0)
        self._agent: Any = create_agent(model, [search], middleware=[*middleware, *gate], checkpointer=InMemorySaver())
        self._yes = {"decisions": [{"type": "approve"}]} if asks == "middleware" else "yes"

    def go_on(self, way: str, given: Any = None) -> dict[str, Any]:
        """Let it work until it needs an approval, which it is given next time."""
        given = Command(resume=self._yes) if given is None else given
        thread = {"configurable": {"thread_id": "1"}}
        if way == "sync":
            return self._agent.invoke(given, thread)
        return LOOP.run(self._agent.ainvoke(given, thread), context=copy_context())

    def begin(self, way: str) -> dict[str, Any]:
        return self.go_on(way, {"messages": [("user", "Go on.")]})


@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("asks", ["interrupt", "middleware"])
@pytest.mark.parametrize("limit", [1, 5])
def test_what_waits_is_not_charged_and_what_was_approved_is_once(
    setup: Setup, server: Provider, asks: str, ours: bool, way: str, limit: int
) -> None:
    setup()
    agent = Asked(server, asks, *([BudgetMiddleware()] if ours else []))
    with otelbudget.run(RunBudget(max_tool_calls=limit)) as run:
        agent.begin(way)
        assert (len(agent.ran), run.remaining()["tool_calls"]) == (0, limit)
        found = agent.go_on(way)
        assert len(agent.ran) == run.usage.tool_calls == 1
        while "__interrupt__" in found:
            found = agent.go_on(way)
    assert found["messages"][-1].text == "done"
    assert len(agent.ran) == run.usage.tool_calls == min(limit, 2)


def test_a_call_that_goes_on_in_another_run_is_charged_there(setup: Setup, server: Provider) -> None:
    setup("quotas:\n  default: [{tool_calls: 1, per: day}]\n")
    agent = Asked(server, "interrupt")
    with otelbudget.run() as run:
        agent.begin("sync")
    assert run.usage.tool_calls == 0
    with otelbudget.run() as run:
        agent.go_on("sync")
    assert len(agent.ran) == run.usage.tool_calls == 1
