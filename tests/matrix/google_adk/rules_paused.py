"""A tool that waits for a person is charged once it has run: nothing before, and once however often it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import asks_for
from google.adk.agents import LlmAgent
from google.adk.models.google_llm import Gemini
from google.adk.runners import InMemoryRunner
from google.adk.tools import FunctionTool, LongRunningFunctionTool, ToolContext
from google.genai.types import Content, FunctionResponse, Part
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget
from otelbudget.integrations.google_adk import BudgetPlugin

Setup = Callable[..., otelbudget.BudgetManager]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "none")


class Session:
    """The session of an agent with one *tool*."""

    def __init__(self, server: Provider, tool: Any, *plugins: Any, **options: Any) -> None:
        model = Gemini(model="gemini-2.5-flash", base_url=server.root_url, client_kwargs={"api_key": "none"})
        agent = LlmAgent(name="worker", model=model, tools=[tool], **options)
        self._runner = InMemoryRunner(agent, plugins=list(plugins))
        self._id: str | None = None

    async def go_on(self, *parts: Part) -> list[Any]:
        """The events that *parts* of the user lead to."""
        if self._id is None:
            made = await self._runner.session_service.create_session(app_name=self._runner.app_name, user_id="u")
            self._id = made.id
        message = Content(role="user", parts=list(parts))
        return [one async for one in self._runner.run_async(user_id="u", session_id=self._id, new_message=message)]


def answers(events: list[Any], name: str, response: dict[str, Any]) -> list[Part]:
    """What a user answers to each call of *name*."""
    calls = [call for event in events for call in event.get_function_calls() if call.name == name]
    return [Part(function_response=FunctionResponse(id=one.id, name=name, response=response)) for one in calls]


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("asks", ["before", "itself"])
@pytest.mark.parametrize("limit", [1, 5])
async def test_what_waits_is_not_charged_and_what_was_confirmed_is_once(
    setup: Setup, server: Provider, asks: str, ours: bool, limit: int
) -> None:
    ran: list[str] = []

    def search(query: str, tool_context: ToolContext) -> dict[str, str]:
        """Search for something."""
        if asks == "itself" and tool_context.tool_confirmation is None:
            tool_context.request_confirmation(hint="Is it allowed?")
            return {"status": "waits"}
        ran.append(query)
        return {"status": "found"}

    setup()
    told = [Reply(text="waits")] if asks == "itself" else []  # ADK lets the model say that
    server.enqueue(asks_for("search"), *told, Reply(text="done"))
    tool = FunctionTool(search, require_confirmation=asks == "before")
    session = Session(server, tool, *([BudgetPlugin()] if ours else []))
    with otelbudget.run(RunBudget(max_tool_calls=limit)) as run:
        events = await session.go_on(Part(text="Go on."))
        assert (len(ran), run.remaining()["tool_calls"]) == (0, limit)
        events = await session.go_on(*answers(events, "adk_request_confirmation", {"confirmed": True}))
    assert len(ran) == run.usage.tool_calls == 1
    assert events[-1].content.parts[0].text == "done"


async def test_a_long_running_tool_is_charged_when_it_was_begun(setup: Setup, server: Provider) -> None:
    def search(query: str) -> dict[str, str]:
        """Search for something."""
        return {"status": "pending"}

    setup()
    server.enqueue(asks_for("search"), Reply(text="waits"), Reply(text="done"))
    session = Session(server, LongRunningFunctionTool(search))
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        events = await session.go_on(Part(text="Go on."))
        assert run.usage.tool_calls == 1
        await session.go_on(*answers(events, "search", {"status": "found"}))
    assert run.usage.tool_calls == 1


@pytest.mark.parametrize("ours", [False, True])
async def test_a_tool_that_fails_is_charged_at_once(setup: Setup, server: Provider, ours: bool) -> None:
    def search(query: str) -> None:
        """Search for something."""
        raise LookupError(query)

    setup()
    server.enqueue(asks_for("search"))
    session = Session(server, search, *([BudgetPlugin()] if ours else []))
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        with pytest.raises(LookupError):
            await session.go_on(Part(text="Go on."))
        assert run.usage.tool_calls == 1


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("ends", ["raises", "is cancelled", "callback raises"])
async def test_a_call_that_fails_is_charged_at_once(setup: Setup, server: Provider, ours: bool, ends: str) -> None:
    async def search(query: str) -> str:
        """Search for something."""
        if ends == "raises":
            raise LookupError(query)
        await asyncio.sleep(60)
        return "found"

    def fails(*_: Any, **__: Any) -> None:
        raise LookupError("no")

    setup()
    server.enqueue(asks_for("search"))
    options = {"before_tool_callback": fails} if ends == "callback raises" else {}
    session = Session(server, search, *([BudgetPlugin()] if ours else []), **options)
    with otelbudget.run(RunBudget(max_tool_calls=5), reraise=False) as run:
        with pytest.raises((LookupError, TimeoutError)):
            async with asyncio.timeout(2 if ends == "is cancelled" else 60):
                await session.go_on(Part(text="Go on."))
        await asyncio.sleep(0)
        assert run.usage.tool_calls == 1
    assert run.receipt().used["tool_calls"] == 1
