"""A tool that waits for a person is charged once it has run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from agent_framework import Agent, Message, tool
from agent_framework.openai import OpenAIChatCompletionClient
from conftest import asks_for
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget

Setup = Callable[..., otelbudget.BudgetManager]


@pytest.mark.parametrize("approved", [False, True])
async def test_what_waits_is_not_charged_what_was_approved_is_once_and_what_was_refused_never(
    setup: Setup, server: Provider, approved: bool
) -> None:
    ran: list[str] = []

    @tool(approval_mode="always_require")
    def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    setup()
    server.enqueue(asks_for("search"), Reply(text="done"))
    agent = Agent(OpenAIChatCompletionClient("demo-small"), tools=[search])
    session = agent.create_session()
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        waits = await agent.run("Go on.", session=session)
        assert run.remaining()["tool_calls"] == 1
        said = [one.to_function_approval_response(approved=approved) for one in waits.user_input_requests]
        done = await agent.run([Message("user", said)], session=session)
    assert done.text == "done"
    assert len(ran) == run.usage.tool_calls == int(approved)
