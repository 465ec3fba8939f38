"""The OpenAI Agents SDK runs no refused tool, raises for what is refused, and agents have the budget of their name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    Model,
    ModelResponse,
    OpenAIChatCompletionsModel,
    RunHooks,
    Runner,
    ShellTool,
    Usage,
    UserError,
    function_tool,
    set_trace_processors,
    set_tracing_disabled,
)
from agents.run import AgentRunner
from agents.tracing.spans import NoOpSpan, SpanImpl
from conftest import asks_for
from openai import AsyncOpenAI
from openai.types.responses import (
    ResponseFunctionShellToolCall,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor as OpenInference
from opentelemetry.instrumentation.genai.openai_agents import OpenAIAgentsInstrumentor as Official
from opentelemetry.instrumentation.openai_agents import OpenAIAgentsInstrumentor as OpenLLMetry
from provider import Provider, Reply
from pydantic import BaseModel

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.openai_agents import BudgetHooks, budget_agents

INSTRUMENTORS = (Official, OpenLLMetry, OpenInference)
Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\n  one: {max_steps: 1}\nagents: {researcher: two, writer: one}\n"


@pytest.fixture(autouse=True)
def _no_tracing_elsewhere() -> Iterator[None]:
    set_trace_processors([])
    yield
    set_trace_processors([])


def agent_of(ran: list[str], name: str = "agent", **options: Any) -> Agent:
    @function_tool
    async def search(query: str) -> str:
        """Search for something."""
        ran.append(query)
        return "found"

    model = OpenAIChatCompletionsModel("demo-small", AsyncOpenAI(max_retries=0))
    return Agent(name=name, model=model, **{"tools": [search], **options})


class Asked(BaseModel):
    query: str


class Found(BaseModel):
    title: str


class Asking(Model):
    """A model that asks for tools, in each of these answers, and then is done."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = iter(answers)

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        text = ResponseOutputText(text="done", type="output_text", annotations=[])
        done = ResponseOutputMessage(id="1", content=[text], role="assistant", status="completed", type="message")
        return ModelResponse(output=next(self._answers, [done]), usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError


async def ask(agent: Agent, way: str, hooks: RunHooks | None = None, *, plain: bool = False) -> Any:
    """Have it run with `BudgetHooks`, or *plain*, with nothing of ours."""
    hooks = hooks if plain else hooks or BudgetHooks()
    if way == "run":
        return await Runner.run(agent, "Go on.", hooks=hooks, max_turns=10)
    if way == "sync":
        return await asyncio.to_thread(Runner.run_sync, agent, "Go on.", hooks=hooks, max_turns=10)
    result = Runner.run_streamed(agent, "Go on.", hooks=hooks, max_turns=10)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_a_refused_model_call_raises(setup: Setup, insatiable: Provider, way: str) -> None:
    setup()
    ran: list[str] = []
    with pytest.raises(BudgetExceeded, match="steps"), otelbudget.run(RunBudget(max_steps=2)):
        await ask(agent_of(ran), way)
    assert (insatiable.requests, len(ran)) == (2, 2)


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_of_three_tools_asked_for_at_once_at_most_one_runs(
    setup: Setup, three_at_once: Provider, way: str
) -> None:
    setup()
    ran: list[str] = []
    with pytest.raises(BudgetExceeded, match="tool_calls"), otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        await ask(agent_of(ran), way)
    assert len(ran) <= 1
    assert run.usage.tool_calls == 1


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_the_budget_of_the_agents_name_applies_to_each_piece_of_its_work(
    setup: Setup, insatiable: Provider, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    setup(BY_NAME)
    if way == "stream":
        budget_agents()  # setup() has done so
    agent = agent_of([], "researcher")
    for sent in (2, 4):
        with pytest.raises(BudgetExceeded, match="budget 'two'"):
            await ask(agent, way)
        assert insatiable.requests == sent
    with pytest.raises(BudgetExceeded, match="budget 'one'"):
        await ask(agent_of([], "writer"), way)
    assert insatiable.requests == 5
    assert otelbudget.current_run() is None
    assert "detach" not in caplog.text


async def test_hooks_of_the_user_go_on(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(RunHooks):
        async def on_llm_start(self, *args: Any) -> None:
            seen.append("model")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append(tool.name)

        async def on_agent_end(self, *args: Any) -> None:
            seen.append("end")

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=3)) as run:
        result = await ask(agent_of([]), "run", BudgetHooks(Theirs()))
    assert seen == ["model", "search", "search", "search", "model", "end"]
    assert (result.final_output, run.usage.tool_calls) == ("done", 3)


async def test_a_tool_that_a_hook_of_the_users_refuses_is_not_charged(setup: Setup, three_at_once: Provider) -> None:
    class Theirs(RunHooks[Any]):
        async def on_tool_start(self, *_: Any) -> None:
            raise LookupError("not now")

    setup()
    ran: list[str] = []
    with otelbudget.run(RunBudget(max_tool_calls=3)) as run:
        with pytest.raises(UserError, match="not now"):
            await ask(agent_of(ran), "run", BudgetHooks(Theirs()))
        assert (ran, run.usage.tool_calls, run.remaining()["tool_calls"]) == ([], 0, 3)


def outputs(result: Any) -> list[str]:
    """What the model was told of the tools that it asked for."""
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


@pytest.mark.parametrize("way", ["run", "sync", "stream"])
@pytest.mark.parametrize("first", ["agent", "setup"])
async def test_after_setup_alone_one_of_three_tools_runs_and_the_model_is_told_of_the_others(
    setup: Setup, three_at_once: Provider, first: str, way: str
) -> None:
    ran: list[str] = []
    agent = agent_of(ran)
    setup()
    agent = agent if first == "agent" else agent_of(ran)
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        result = await ask(agent, way, plain=True)
    assert len(ran) == run.usage.tool_calls == 1
    assert sorted(said.partition(" of run")[0] for said in outputs(result)) == [*["Not run: budget"] * 2, "found"]
    assert result.final_output == "done"


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("instrumentor", INSTRUMENTORS)
async def test_beside_an_instrumentation_each_call_is_charged_once(
    setup: Setup, three_at_once: Provider, plain: bool, instrumentor: type[Any], way: str
) -> None:
    setup()
    instrumentor().instrument()
    ran: list[str] = []
    try:
        with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
            await ask(agent_of(ran), way, plain=plain)
    finally:
        instrumentor().uninstrument()
    assert len(ran) == run.usage.tool_calls == 3
    assert three_at_once.requests == run.usage.steps == 2


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("tracing", ["on", "off", "processors set later", *INSTRUMENTORS])
@pytest.mark.parametrize("first", ["agent", "setup"])
async def test_after_setup_alone_agents_have_the_budget_of_their_name_and_raise(
    setup: Setup, insatiable: Provider, first: str, tracing: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of([], "researcher")
    setup(BY_NAME)
    agent = agent if first == "agent" else agent_of([], "researcher")
    set_tracing_disabled(tracing == "off")
    set_trace_processors([])
    if not isinstance(tracing, str):
        tracing().instrument()
    try:
        for sent in (2, 4):
            with pytest.raises(BudgetExceeded, match="budget 'two'"):
                await ask(agent, way, plain=True)
            assert insatiable.requests == sent
    finally:
        set_tracing_disabled(False)
        if not isinstance(tracing, str):
            tracing().uninstrument()
    assert otelbudget.current_run() is None
    assert "detach" not in caplog.text


@pytest.mark.parametrize("way", ["run", "stream"])
async def test_each_agent_that_is_handed_to_has_the_budget_of_its_name(
    setup: Setup, server: Provider, way: str
) -> None:
    server.enqueue(asks_for("search"), asks_for("transfer_to_writer"), *[asks_for("search")] * 3)
    setup(BY_NAME)
    writer = agent_of([], "writer")
    with pytest.raises(BudgetExceeded, match="budget 'one'"):
        await ask(agent_of([], "researcher", handoffs=[writer]), way, plain=True)
    assert server.requests == 3


async def test_after_setup_alone_hooks_of_the_user_go_on(setup: Setup, three_at_once: Provider) -> None:
    seen: list[str] = []

    class Theirs(RunHooks):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append(tool.name)

        async def on_agent_end(self, *args: Any) -> None:
            seen.append("end")

    setup()
    with otelbudget.run(RunBudget(max_tool_calls=3)) as run:
        await ask(agent_of([]), "run", Theirs(), plain=True)
    assert seen == ["search", "search", "search", "end"]
    assert run.usage.tool_calls == 3


async def test_tools_of_an_agent_that_is_a_tool_are_nested(setup: Setup, server: Provider) -> None:
    server.enqueue(asks_for("research"), asks_for("search"), Reply(text="no"), Reply(text="done"))
    ran: list[str] = []
    research = agent_of(ran).as_tool("research", "Have something searched.", parameters=Asked)
    setup()
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
        result = await ask(agent_of([], tools=[research]), "run", plain=True)
    assert (ran, run.usage.tool_calls, result.final_output) == ([], 1, "done")


async def test_a_tool_with_a_schema_for_its_output_may_be_refused(setup: Setup) -> None:
    @function_tool(output_type=Found)
    async def search(query: str) -> Found:
        """Search for something."""
        return Found(title=query)

    calls: list[Any] = [
        ResponseFunctionToolCall(name="search", arguments='{"query": "x"}', call_id=call_id, type="function_call")
        for call_id in "12"
    ]
    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)):
        result = await ask(Agent(name="agent", model=Asking(calls), tools=[search]), "run", plain=True)
    assert (sum("Not run" in str(said) for said in outputs(result)), result.final_output) == (1, "done")


@pytest.mark.parametrize("theirs", [None, BudgetHooks])
async def test_a_refused_tool_of_another_kind_raises(setup: Setup, theirs: type[RunHooks] | None) -> None:
    setup()
    ran: list[str] = []

    async def shell(request: Any) -> str:
        ran.append(str(request))
        return "found"

    call = {"commands": ["ls"], "timeout_ms": None, "max_output_length": None}
    calls: list[Any] = [
        ResponseFunctionShellToolCall(id=call_id, call_id=call_id, action=call, status="completed", type="shell_call")
        for call_id in "12"
    ]
    agent = Agent(name="agent", model=Asking(calls), tools=[ShellTool(executor=shell)])
    with pytest.raises(BudgetExceeded, match="tool_calls"), otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        await ask(agent, "run", theirs and theirs(), plain=True)
    assert len(ran) == run.usage.tool_calls == 1


def test_after_shutdown_the_sdk_is_as_it_was(setup: Setup, three_at_once: Provider) -> None:
    def there() -> list[Any]:
        spans = [one for span in (SpanImpl, NoOpSpan) for one in (span.start, span.finish)]
        return [one.__code__ for one in (AgentRunner.run, AgentRunner.run_streamed, *spans)]

    before = there()
    for _ in range(2):
        setup()
        budget_agents()
        assert not any(one == two for one, two in zip(there(), before, strict=True))
        otelbudget.shutdown()
        assert there() == before
    ran: list[str] = []
    Runner.run_sync(agent_of(ran), "Go on.")
    assert len(ran) == 3


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("openai-agents", "openai_agents.BudgetHooks", lambda: ask(agent_of([]), "run")) == 1


def test_after_setup_alone_of_three_tool_calls_one_is_made(
    setup: Setup, three_at_once: Provider, row: Callable[..., int]
) -> None:
    setup()
    ran: list[str] = []
    agent = agent_of(ran)
    limits = {"budget": RunBudget(max_tool_calls=1), "wanted": "3 tool calls", "sent": lambda: len(ran)}
    assert row("openai-agents", "setup() alone", lambda: Runner.run_sync(agent, "Go on.").final_output, **limits) == 1
