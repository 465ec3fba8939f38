"""Google's ADK runs no refused tool, agents have the budget of their name, and a refused one can end with a message."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from conftest import asks_for
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.google_llm import Gemini
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.genai.types import Content, Part
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from provider import Provider, Reply

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.google_adk import BudgetPlugin

Setup = Callable[..., otelbudget.BudgetManager]


BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"
WAYS = ("async", "stream", "sync")


def runner_of(
    server: Provider, ran: list[str], *plugins: BasePlugin, name: str = "worker", below: tuple[LlmAgent, ...] = ()
) -> InMemoryRunner:
    def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    model = Gemini(model="gemini-2.5-flash", base_url=server.root_url, client_kwargs={"api_key": "none"})
    agent = LlmAgent(name=name, model=model, tools=[search], sub_agents=list(below))
    return InMemoryRunner(agent, plugins=list(plugins))


async def work(runner: InMemoryRunner, way: str = "async") -> list[Any]:
    session = await runner.session_service.create_session(app_name=runner.app_name, user_id="u")
    given = {"user_id": "u", "session_id": session.id, "new_message": Content(role="user", parts=[Part(text="Go on.")])}
    if way == "sync":
        return await asyncio.to_thread(lambda: list(runner.run(**given)))
    how = RunConfig(streaming_mode=StreamingMode.SSE if way == "stream" else StreamingMode.NONE)
    return [event async for event in runner.run_async(**given, run_config=how)]


async def ask(server: Provider, ran: list[str], *plugins: BasePlugin, way: str = "async") -> list[Any]:
    return await work(runner_of(server, ran, *plugins), way)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "none")


@pytest.mark.parametrize("way", ["async", "stream"])
async def test_an_agent_that_can_t_pay_ends_with_a_message(setup: Setup, insatiable: Provider, way: str) -> None:
    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_steps=2, name="small")) as run:
        events = await ask(insatiable, ran, BudgetPlugin(), way=way)
    assert (insatiable.requests, run.usage.steps, len(ran)) == (2, 2, 2)
    assert events[-1].error_code == "BUDGET_EXCEEDED"
    assert events[-1].content.parts[0].text.startswith("Stopped before the answer was complete: budget 'small'")


async def test_leaving_the_run_raises_where_that_is_wanted(setup: Setup, insatiable: Provider) -> None:
    setup()
    with pytest.raises(BudgetExceeded), otelbudget.run(RunBudget(max_steps=1)):
        await ask(insatiable, [], BudgetPlugin(acknowledge=False))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_of_three_tools_asked_for_at_once_one_runs_after_setup_alone(
    setup: Setup, three_at_once: Provider, way: str, earlier: bool
) -> None:
    ran: list[str] = []
    runner = runner_of(three_at_once, ran) if earlier else None
    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        events = await work(runner or runner_of(three_at_once, ran), way)
    assert len(ran) == run.usage.tool_calls == 1
    assert str(events).count("Not run: budget of run") >= 2
    assert events[-1].content.parts[0].text == "done"


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("way", ["async", "stream"])
async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str, earlier: bool
) -> None:
    runner = runner_of(insatiable, [], name="researcher") if earlier else None
    setup(BY_NAME)
    for sent in (2, 4):
        with pytest.raises(BudgetExceeded, match="budget 'two'"):
            await work(runner or runner_of(insatiable, [], name="researcher"), way)
        assert insatiable.requests == sent


@pytest.mark.parametrize("sampler", ["always_on", "always_off", "of a provider that is joined"])
async def test_an_agent_below_another_has_the_budget_of_its_name(
    setup: Setup, server: Provider, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    if sampler in ("always_on", "always_off"):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        setup(BY_NAME)
    else:
        setup(BY_NAME, tracer_provider=TracerProvider(ALWAYS_OFF))
    handed = Reply(text="", tool_calls=[("transfer_to_agent", {"agent_name": "researcher"})])
    server.enqueue(handed, *[Reply(text="", tool_calls=[("search", {"query": "more"})])] * 9)
    researcher = runner_of(server, [], name="researcher").agent
    with pytest.raises(BudgetExceeded, match="budget 'two'"):
        await work(runner_of(server, [], name="coordinator", below=(researcher,)))
    assert server.requests == 3


@pytest.mark.parametrize(("budget", "found"), [(RunBudget(), 1), (RunBudget(max_nested_tool_calls=0), 0)])
async def test_a_tool_that_an_agent_calls_which_is_a_tool_itself_is_nested(
    setup: Setup, server: Provider, budget: RunBudget, found: int
) -> None:
    setup()
    server.enqueue(
        Reply(text="", tool_calls=[("researcher", {"request": "Go on."})]),
        asks_for("search", "search"),
        Reply(text="ok"),
    )
    ran: list[str] = []
    inner, outer = runner_of(server, ran, name="researcher").agent, runner_of(server, ran)
    outer.agent.tools = [AgentTool(inner)]
    with otelbudget.run(budget) as run:
        await work(outer)
    assert (len(ran), run.usage.tool_calls) == (2 * found, 1 + 2 * found)


@pytest.mark.parametrize("acknowledge", [False, True])
async def test_beside_the_plugin_a_tool_call_is_charged_once(
    setup: Setup, three_at_once: Provider, acknowledge: bool
) -> None:
    setup()
    ran: list[str] = []
    budget = RunBudget(max_tool_calls=2, max_nested_tool_calls=0)
    with nullcontext() if acknowledge else pytest.raises(BudgetExceeded), otelbudget.run(budget) as run:
        await ask(three_at_once, ran, BudgetPlugin(acknowledge=acknowledge))
    assert len(ran) == run.usage.tool_calls == 2


async def test_it_is_taken_out_again(setup: Setup, three_at_once: Provider) -> None:
    before = PluginManager.run_before_tool_callback.__code__
    for _ in range(2):
        setup()
        assert PluginManager.run_before_tool_callback.__code__ is not before
        otelbudget.shutdown()
        assert PluginManager.run_before_tool_callback.__code__ is before
    ran: list[str] = []
    await ask(three_at_once, ran)
    assert len(ran) == 3


def test_a_version_without_the_hooked_function_is_warned_of(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(PluginManager, "run_before_tool_callback")
    setup()
    assert "can't hook PluginManager.run_before_tool_callback: not in this version" in caplog.text


async def test_it_composes_with_plugins_of_the_user(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, **_: Any) -> None:
            seen.append(tool.name)

    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        await ask(three_at_once, ran, Theirs("theirs"))
    assert (seen, len(ran)) == (["search"] * 3, 1)


async def test_a_tool_that_a_plugin_of_the_user_answers_for_is_not_charged(
    setup: Setup, three_at_once: Provider
) -> None:
    class Cached(BasePlugin):
        async def before_tool_callback(self, **_: Any) -> dict[str, str]:
            return {"result": "known"}

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        await ask(three_at_once, [], Cached("cached"))
    assert run.usage.tool_calls == 0


async def last(server: Provider, ran: list[str], *plugins: BudgetPlugin) -> str:
    return (await ask(server, ran, *plugins))[-1].content.parts[0].text


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("google-adk", "google_adk.BudgetPlugin", lambda: last(five, [], BudgetPlugin())) == 1


def test_of_five_tools_one_is_run(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    ran: list[str] = []
    how = {"budget": RunBudget(max_tool_calls=1), "wanted": "4 tool calls", "sent": lambda: len(ran)}
    assert row("google-adk", "setup() alone", lambda: last(five, ran), **how) == 1


@pytest.mark.parametrize(
    "first",
    [
        "import google.adk.runners",
        "import google.adk.agents",
        "import otelbudget.integrations.google_adk",
        "import google.adk.agents as kinds; kinds.LoopAgent = None",  # which a later version doesn't have
    ],
)
def test_it_is_held_in_whatever_order_it_is_imported_after_setup(first: str) -> None:
    script = (
        "import otelbudget\n"
        "otelbudget.setup(otelbudget.RunBudget(), exporter='none', metrics_port=None)\n"
        f"{first}\n"
        "from google.adk.runners import InMemoryRunner\n"
        "from google.adk.agents import LlmAgent\n"
        "from google.adk.plugins.plugin_manager import PluginManager\n"
        "for held in (LlmAgent._run_async_impl, PluginManager.run_before_tool_callback):\n"
        "    print('otelbudget' in held.__code__.co_filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["True", "True"], done.stderr
