"""LangChain agents end with a message, run no refused tool, and have the budget of their name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, ClassVar

import pytest
from conftest import asks_for
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, interrupt
from openinference.instrumentation.langchain import LangChainInstrumentor as OpenInference
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from provider import Provider, Reply

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.langchain import BudgetMiddleware
from otelbudget.integrations.langchain_core import budget_tools
from otelbudget.integrations.langgraph import budget_graphs

Setup = Callable[..., otelbudget.BudgetManager]
LOOP = asyncio.Runner()
INSTRUMENTORS = (LangChainInstrumentor, LangchainInstrumentor, OpenInference)
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


@pytest.fixture(autouse=True)
def _outside_of_every_span() -> Iterator[None]:
    """OpenLLMetry leaves some of its own attached."""
    token = attach(Context())
    yield
    detach(token)


class Agent:
    """One with `BudgetMiddleware`, or a *plain* one, which has nothing of ours."""

    def __init__(
        self,
        *,
        name: str | None = None,
        before: tuple[AgentMiddleware, ...] = (),
        after: tuple[AgentMiddleware, ...] = (),
        plain: bool = False,
        tool: BaseTool | None = None,
        **options: Any,
    ) -> None:
        self.ran: list[str] = []

        def search(query: str) -> str:
            """Search for something."""
            self.ran.append(query)
            return "found"

        middleware = [*before, *([] if plain else [BudgetMiddleware(**options)]), *after]
        model = ChatOpenAI(model="demo-small", max_retries=0)
        self._agent = create_agent(model, [tool or search], name=name, middleware=middleware)

    def ask(self, way: str = "sync") -> list[Any]:
        asked: Any = {"messages": [{"role": "user", "content": "Go on."}]}
        if way == "sync":
            return self._agent.invoke(asked)["messages"]
        if way == "stream":
            return list(self._agent.stream(asked, stream_mode="values"))[-1]["messages"]
        return LOOP.run(self._agent.ainvoke(asked), context=copy_context())["messages"]


# Before any instrumentation is put in: OpenLLMetry's goes on telling of graphs when it is taken out.
def test_a_graph_that_the_configuration_names_has_its_budget_and_nothing_of_it_is_left_between_its_chunks(
    setup: Setup, insatiable: Provider
) -> None:
    setup(BY_NAME)
    model = ChatOpenAI(model="demo-small", max_retries=0)
    graph = StateGraph(MessagesState)
    for name in "abc":
        graph.add_node(name, lambda state: {"messages": [model.invoke(state["messages"][:1])]})
    graph.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c")
    asked: Any = {"messages": [("user", "Go on.")]}
    chunks = graph.compile(name="researcher").stream(asked)
    for name in "ab":
        assert list(next(chunks)) == [name]
        assert trace.get_current_span() is trace.INVALID_SPAN
    with pytest.raises(BudgetExceeded, match="budget 'two'"):
        next(chunks)
    graph.compile(name="other").invoke(asked)
    assert insatiable.requests == 5


def test_graphs_without_a_name_are_nobodys_work_of_their_own(setup: Setup, insatiable: Provider) -> None:
    setup("default_budget: {max_steps: 2}\nquotas:\n  agents: {'*': [{steps: 9, per: day}]}\n")
    model = ChatOpenAI(model="demo-small", max_retries=0)
    graph = StateGraph(MessagesState).add_node("a", lambda state: {"messages": [model.invoke("Go on.")]})
    loop = graph.add_edge(START, "a").compile()
    for _ in range(2):
        loop.invoke({"messages": []})
    with pytest.raises(BudgetExceeded, match="2 of 2"):
        loop.invoke({"messages": []})
    assert insatiable.requests == 2


@pytest.mark.parametrize("way", ["sync", "async"])
def test_tasks_of_the_functional_interface_give_what_they_give(setup: Setup, server: Provider, way: str) -> None:
    setup()
    model = ChatOpenAI(model="demo-small", max_retries=0)

    @task
    def ask() -> str:
        return model.invoke("Go on.").text

    @task
    async def aask() -> str:
        return (await model.ainvoke("Go on.")).text

    @entrypoint()
    def once(_: str) -> str:
        return ask().result()

    @entrypoint()
    async def aonce(_: str) -> str:
        return await aask()

    server.enqueue(Reply(text="done"))
    assert (once.invoke("x") if way == "sync" else LOOP.run(aonce.ainvoke("x"))) == "done"


def test_an_agent_that_pauses_or_hands_over_has_not_failed(setup: Setup, server: Provider) -> None:
    @tool
    def ask(query: str) -> str:
        """Ask a person."""
        return interrupt(query)

    @tool
    def hand_over(query: str) -> Command[str]:
        """Let another agent do it."""
        return Command(graph=Command.PARENT, goto="other", update={"messages": []})

    exporter = InMemorySpanExporter()
    setup()
    otelbudget.shutdown()
    otelbudget.setup(exporter=exporter, metrics_port=None, instrument=False)
    server.enqueue(asks_for("ask"), asks_for("hand_over"))
    for given in (ask, hand_over):
        agent = create_agent(ChatOpenAI(model="demo-small", max_retries=0), [given], name="researcher")
        graph = StateGraph(MessagesState).add_node("agent", agent).add_node("other", lambda _: {"messages": []})
        graph.add_edge(START, "agent").compile(checkpointer=InMemorySaver()).invoke(
            {"messages": [("user", "Go on.")]}, {"configurable": {"thread_id": given.name}}
        )
    spans = [span for span in exporter.get_finished_spans() if span.name == "invoke_agent researcher"]
    assert [span.status.status_code for span in spans] == [trace.StatusCode.UNSET] * 2


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
@pytest.mark.parametrize("plain", [False, True])
def test_beside_an_instrumentation_each_call_is_charged_once(
    setup: Setup, three_at_once: Provider, plain: bool, instrumentor: type[Any], way: str
) -> None:
    setup()
    instrumentor().instrument()
    agent = Agent(plain=plain)
    try:
        with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
            agent.ask(way)
    finally:
        instrumentor().uninstrument()
    assert len(agent.ran) == run.usage.tool_calls == 3
    assert three_at_once.requests == run.usage.steps == 2


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
@pytest.mark.parametrize("instrumentor", INSTRUMENTORS)
@pytest.mark.parametrize("named", ["name", "agent"])
def test_beside_an_instrumentation_agents_have_their_budgets(
    setup: Setup, insatiable: Provider, named: str, instrumentor: type[Any], way: str
) -> None:
    setup(BY_NAME)
    instrumentor().instrument()
    try:
        answers = [Agent(**{named: "researcher"}).ask(way)[-1].text for _ in range(2)]
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


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
@pytest.mark.parametrize("first", ["agent", "setup"])
def test_after_setup_alone_one_of_three_tools_runs_and_the_model_is_told_of_the_others(
    setup: Setup, three_at_once: Provider, first: str, way: str
) -> None:
    agent = Agent(plain=True)
    setup()
    agent = agent if first == "agent" else Agent(plain=True)
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        messages = agent.ask(way)
    assert len(agent.ran) == run.usage.tool_calls == 1
    tools = [message for message in messages if message.type == "tool"]
    assert sorted(message.status for message in tools) == ["error", "error", "success"]
    assert sum(message.text.startswith("Not run: budget of run") for message in tools) == 2
    assert messages[-1].text == "done"


@pytest.mark.parametrize("way", ["sync", "stream", "async"])
@pytest.mark.parametrize("instrumentor", [None, *INSTRUMENTORS])
@pytest.mark.parametrize("first", ["agent", "setup"])
def test_after_setup_alone_agents_have_the_budget_of_their_name_and_raise(
    setup: Setup, insatiable: Provider, first: str, instrumentor: type[Any] | None, way: str
) -> None:
    agent = Agent(name="researcher", plain=True)
    setup(BY_NAME)
    agent = agent if first == "agent" else Agent(name="researcher", plain=True)
    if instrumentor is not None:
        instrumentor().instrument()
    try:
        for sent in (2, 4):
            with pytest.raises(BudgetExceeded, match="budget 'two'"):
                agent.ask(way)
            assert insatiable.requests == sent
    finally:
        if instrumentor is not None:
            instrumentor().uninstrument()
    assert otelbudget.current_run() is None


class Flaky(BaseTool):
    name: str = "search"
    description: str = "Search for something."
    attempts: int = 0

    def _run(self, query: str) -> str:
        self.attempts += 1
        if self.attempts == 2:
            raise LookupError("try again")
        return "found"


@pytest.mark.parametrize("by_model", [True, False])
def test_a_refused_tool_raises_where_no_model_asked_for_it(setup: Setup, by_model: bool) -> None:
    setup()
    search, call = Flaky(), {"name": "search", "args": {"query": "x"}, "id": "1", "type": "tool_call"}
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        assert search.invoke({"query": "x"}) == "found"
        if by_model:
            assert search.invoke(call).status == "error"
        else:
            with pytest.raises(BudgetExceeded, match="tool_calls"):
                search.invoke({"query": "x"})
            run.acknowledge()
    assert search.attempts == run.usage.tool_calls == 1


def test_a_tool_in_a_block_of_its_name_is_that_tool_call(setup: Setup) -> None:
    setup()
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run, run.tool_call("search"):
        Flaky().invoke({"query": "x"})
    assert run.usage.tool_calls == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_another_attempt_inside_of_the_middleware_is_the_same_tool_call(
    setup: Setup, server: Provider, way: str
) -> None:
    server.enqueue(asks_for("search"), asks_for("search"), Reply(text="done"))
    setup()
    agent = Agent(after=(ToolRetryMiddleware(max_retries=2, initial_delay=0),), tool=(search := Flaky()))
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
        agent.ask(way)
    assert (search.attempts, run.usage.tool_calls) == (3, 2)


def test_after_shutdown_langchain_is_as_it_was(setup: Setup, three_at_once: Provider) -> None:
    def there() -> list[Any]:
        return [inspect.unwrap(one).__code__ for one in (BaseTool.run, BaseTool.arun, Pregel.stream, Pregel.astream)]

    before = there()
    for _ in range(2):
        setup()
        budget_tools()
        budget_graphs()
        assert not any(one == two for one, two in zip(there(), before, strict=True))
        otelbudget.shutdown()
        assert there() == before
    agent = Agent(plain=True)
    agent.ask()
    assert len(agent.ran) == 3


def test_of_five_calls_one_is_made(setup: Setup, five: Provider, row: Callable[..., int]) -> None:
    setup()
    assert row("langchain", "langchain.BudgetMiddleware", lambda: Agent().ask()[-1].text) == 1


def test_after_setup_alone_of_three_tool_calls_one_is_made(
    setup: Setup, three_at_once: Provider, row: Callable[..., int]
) -> None:
    setup()
    agent = Agent(plain=True)
    limits = {"budget": RunBudget(max_tool_calls=1), "wanted": "3 tool calls", "sent": lambda: len(agent.ran)}
    assert row("langchain", "setup() alone", lambda: agent.ask()[-1].text, **limits) == 1
