"""Google's ADK ends a refused agent with a message and runs no refused tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.google_llm import Gemini
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.genai.types import Content, Part
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.google_adk import BudgetPlugin

Setup = Callable[..., otelbudget.BudgetManager]


async def ask(server: Provider, ran: list[str], *plugins: BasePlugin, stream: bool = False) -> list[Any]:
    def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    model = Gemini(model="gemini-2.5-flash", base_url=server.root_url, client_kwargs={"api_key": "none"})
    agent = LlmAgent(name="researcher", model=model, tools=[search])
    runner = InMemoryRunner(agent, plugins=list(plugins))
    session = await runner.session_service.create_session(app_name=runner.app_name, user_id="u")
    asked = Content(role="user", parts=[Part(text="Go on.")])
    how = RunConfig(streaming_mode=StreamingMode.SSE if stream else StreamingMode.NONE)
    run = runner.run_async(user_id="u", session_id=session.id, new_message=asked, run_config=how)
    return [event async for event in run]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "none")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_can_t_pay_ends_with_a_message(setup: Setup, insatiable: Provider, stream: bool) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_steps=2, name="small")) as run:
        events = await ask(insatiable, ran, BudgetPlugin(), stream=stream)
    assert (insatiable.requests, run.usage.steps, len(ran)) == (2, 2, 2)
    assert events[-1].error_code == "BUDGET_EXCEEDED"
    assert events[-1].content.parts[0].text.startswith("Stopped before the answer was complete: budget 'small'")


async def test_leaving_the_run_raises_where_that_is_wanted(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=1)):
        await ask(insatiable, [], BudgetPlugin(acknowledge=False))


async def test_of_three_tools_asked_for_at_once_one_runs(setup: Setup, three_at_once: Provider) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        events = await ask(three_at_once, ran, BudgetPlugin())
    assert len(ran) == run.usage.tool_calls == 1
    assert str(events).count("Not run: budget of run") >= 2
    assert events[-1].content.parts[0].text == "done"


async def test_it_composes_with_plugins_of_the_user(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, **_: Any) -> None:
            seen.append(tool.name)

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        await ask(three_at_once, [], Theirs("theirs"), BudgetPlugin())
    assert seen == ["search"] * 3


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    async def last() -> str:
        return (await ask(five, [], BudgetPlugin()))[-1].content.parts[0].text

    setup()
    assert row("google-adk", "google_adk.BudgetPlugin", last) == 1
