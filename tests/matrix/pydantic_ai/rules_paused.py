"""A tool that waits for a person is charged once it has run: nothing before, and once however often it began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import asks_for
from provider import Provider, Reply
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolDenied,
)
from pydantic_ai.models.openai import OpenAIChatModel

import otelbudget
from otelbudget import RunBudget
from otelbudget.integrations.pydantic_ai import BudgetCapability

Setup = Callable[..., otelbudget.BudgetManager]


@pytest.fixture(params=[False, True], ids=["", "own spans"])
def _spans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without the framework's own spans, and with them."""
    Agent.instrument_all(request.param)
    yield
    Agent.instrument_all(False)


def agent_of(ran: list[str], asks: str, *ours: Any) -> Agent[Any, Any]:
    """One whose tool *asks* for an approval: before it is begun, or itself."""
    agent = Agent(OpenAIChatModel("demo-small"), output_type=[str, DeferredToolRequests], capabilities=ours)

    @agent.tool(requires_approval=asks == "before")
    async def search(ctx: RunContext, query: str) -> str:
        """Search for something."""
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        ran.append(query)
        return "found"

    return agent


@pytest.mark.usefixtures("_spans")
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("asks", ["before", "itself"])
async def test_what_waits_is_not_charged_what_was_approved_is_once_and_what_was_refused_never(
    setup: Setup, server: Provider, asks: str, approved: bool, ours: bool
) -> None:
    setup()
    server.enqueue(asks_for("search"), Reply(text="done"))
    ran: list[str] = []
    agent = agent_of(ran, asks, *([BudgetCapability()] if ours else []))
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        waits = await agent.run("Go on.")
        assert run.remaining()["tool_calls"] == 1
        said = {one.tool_call_id: True if approved else ToolDenied("no") for one in waits.output.approvals}
        results = DeferredToolResults(approvals=said)
        done = await agent.run(message_history=waits.all_messages(), deferred_tool_results=results)
    assert done.output == "done"
    assert len(ran) == run.usage.tool_calls == int(approved)


@pytest.mark.usefixtures("_spans")
async def test_one_whose_result_comes_later_is_charged_when_it_was_begun(setup: Setup, server: Provider) -> None:
    setup()
    server.enqueue(asks_for("search"), Reply(text="done"))
    agent = Agent(OpenAIChatModel("demo-small"), output_type=[str, DeferredToolRequests])

    @agent.tool_plain
    async def search(query: str) -> str:
        """Search for something."""
        raise CallDeferred

    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        waits = await agent.run("Go on.")
        assert run.usage.tool_calls == 1
        results = DeferredToolResults(calls={one.tool_call_id: "found" for one in waits.output.calls})
        done = await agent.run(message_history=waits.all_messages(), deferred_tool_results=results)
    assert (done.output, run.usage.tool_calls) == ("done", 1)
