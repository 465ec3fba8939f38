"""What hooks of frameworks ask for holds without an instrumentor, and is not doubled beside one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.demo import DemoServer
from otelbudget.integrations import HOOKS, hooks

Ask = Callable[[], str]
Setup = Callable[..., otelbudget.BudgetManager]
BY_NAME = "budgets:\n  two: {max_steps: 2}\nagents: {researcher: two}\n"


def asks(ask: Ask, times: int) -> int:
    """How many of so many calls were answered."""
    answered = 0
    for _ in range(times):
        with suppress(BudgetExceeded):
            answered += ask() == "answered"
    return answered


def test_each_piece_of_an_agents_work_has_the_budget_of_its_name(setup: Setup, ask: Ask) -> None:
    setup(BY_NAME)
    for name, sent in (("researcher", 2), ("researcher", 2), ("writer", 4)):
        with hooks.agent(name):
            assert asks(ask, 4) == sent
    with hooks.agent(None):
        assert asks(ask, 4) == 4


def test_sampling_changes_nothing_of_it(setup: Setup, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    setup(BY_NAME)
    with hooks.agent("researcher"):
        assert asks(ask, 4) == 2


class WithoutSome(Sampler):
    """Drops spans of agents and those called so."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, *_: Any
    ) -> SamplingResult:
        dropped = name.startswith("invoke_agent") or name == "dropped"
        return SamplingResult(Decision.DROP if dropped else Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "without some"


@pytest.mark.parametrize("given", ["dropped", "some dropped", "disabled", "none made"])
def test_nor_does_a_joined_provider_that_shows_no_span_of_it(
    setup: Setup, ask: Ask, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", str(given == "disabled"))
    sampler = WithoutSome() if given == "some dropped" else ALWAYS_OFF
    provider = trace.NoOpTracerProvider() if given == "none made" else TracerProvider(sampler)
    setup(BY_NAME, tracer_provider=provider)
    span = provider.get_tracer("theirs").start_as_current_span
    with span("request"), hooks.agent("boss"), hooks.agent(None):
        with hooks.agent("researcher"):
            with span("step"), span("dropped"):
                assert asks(ask, 1) == 1
            with span("dropped"), span("step"), otelbudget.run(RunBudget(max_steps=2), reraise=False):
                assert asks(ask, 4) == 1
        assert asks(ask, 4) == 4
    with otelbudget.run(reraise=False), hooks.agent("researcher"):
        assert asks(ask, 4) == 2


def test_a_provider_that_takes_no_span_processors_gets_its_spans_whole(setup: Setup, ask: Ask) -> None:
    class Deaf:
        def __init__(self) -> None:
            self.exporter = InMemorySpanExporter()
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(self.exporter))
            self.get_tracer = provider.get_tracer

    setup(BY_NAME, tracer_provider=(deaf := Deaf()))
    with pytest.raises(BudgetExceeded), hooks.agent("researcher"):
        [ask() for _ in range(3)]
    *calls, work = deaf.exporter.get_finished_spans()
    assert (work.name, work.status.is_ok) == ("invoke_agent researcher", False)
    assert {call.parent and call.parent.span_id for call in calls} == {work.context.span_id}


def test_the_quotas_of_the_agent_bind_inside_of_a_run_too(setup: Setup, ask: Ask, server: DemoServer) -> None:
    setup("quotas:\n  agents:\n    researcher: [{steps: 1, per: day}]\n")
    with otelbudget.run(RunBudget(max_steps=3), reraise=False):
        with hooks.agent("researcher"):
            assert asks(ask, 2) == 1
        assert asks(ask, 4) == 2


def test_an_instrumentors_span_of_the_agent_is_taken_for_it(setup: Setup) -> None:
    setup(BY_NAME)
    said = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "researcher"}
    with trace.get_tracer("theirs").start_as_current_span("invoke_agent", attributes=said) as theirs:
        with hooks.agent("researcher"):
            assert trace.get_current_span() is theirs
        with hooks.agent("writer"):
            assert trace.get_current_span() is not theirs


def test_an_instrumentors_span_of_a_tool_is_charged_once(setup: Setup) -> None:
    setup()
    said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": "1"}
    tracer = trace.get_tracer("theirs")
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        with tracer.start_as_current_span("tool", attributes=said), hooks.tool_call("search", "1"):
            pass
        assert run.usage.tool_calls == 1


@pytest.mark.parametrize(("any_name", "left"), [(True, 4), (False, 3)])
def test_a_span_inside_of_what_is_around_a_tool_is_the_same_call_under_any_name(
    setup: Setup, any_name: bool, left: int
) -> None:
    setup()
    said = {"openinference.span.kind": "TOOL"}
    with otelbudget.run(RunBudget(max_tool_calls=5)) as run:
        with (
            hooks.tool_call("web_search", any_name=any_name),
            trace.get_tracer("theirs").start_as_current_span("Web Search.run", attributes=said),
        ):
            pass
        assert run.remaining()["tool_calls"] == left


def test_a_span_that_begins_in_a_tool_call_with_an_earlier_context_is_that_call(setup: Setup) -> None:
    setup()
    said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run:
        earlier = get_current()
        with hooks.tool_call("search", "1"):
            trace.get_tracer("theirs").start_span("execute_tool search", earlier, attributes=said).end()
        assert run.usage.tool_calls == 1


def test_a_tool_call_outside_every_run_is_held_by_the_process_wide_one(setup: Setup) -> None:
    with hooks.tool_call("search"):
        pass  # nothing is set up
    manager = setup("default_budget: one\nbudgets:\n  one: {max_tool_calls: 1}\n")
    with hooks.tool_call("search"):
        assert manager.remaining()["tool_calls"] == 0
    with pytest.raises(BudgetExceeded) as refused, hooks.tool_call("search"):
        pass
    told = hooks.not_run(refused.value)
    assert told.startswith("Not run: budget 'one'")
    assert "extend" not in told  # no advice to developers
    assert told.endswith("answer with what you have.")


def test_of_many_threads_as_many_tools_run_as_the_limit_allows(setup: Setup) -> None:
    setup()
    ran: list[int] = []

    def work() -> None:
        with suppress(BudgetExceeded), hooks.tool_call("search"):
            ran.append(1)

    with otelbudget.run(RunBudget(max_tool_calls=5), reraise=False) as run:
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ran) == run.usage.tool_calls == 5


def test_what_was_told_is_dealt_with_in_every_run_around(setup: Setup, ask: Ask) -> None:
    setup()
    with otelbudget.run(RunBudget(max_steps=1)) as run, run.child():
        asks(ask, 2)
        hooks.acknowledge()


def told_of_a_refused_tool(reason: str) -> None:
    """What a hook does for a tool that is refused."""
    with pytest.raises(BudgetExceeded) as refused, hooks.tool_call("search"):
        pytest.fail("the tool ran")
    assert refused.value.reason == reason
    hooks.acknowledge(refused.value)


@pytest.mark.parametrize("reason", ["limit", "frozen"])
def test_what_a_model_was_told_of_a_tool_is_dealt_with_and_no_refused_model_call(
    setup: Setup, ask: Ask, reason: str
) -> None:
    def work(steps: int) -> None:
        with otelbudget.run(RunBudget(max_steps=steps)) as run, run.child(RunBudget(max_tool_calls=0)):
            asks(ask, 1)
            if reason == "frozen":
                run.freeze()
            told_of_a_refused_tool(reason)

    setup()
    work(1)
    with pytest.raises(BudgetExceeded, match="steps"):
        work(0)


def test_a_tool_call_that_is_shown_by_several_hooks_or_tried_again_is_one(setup: Setup) -> None:
    setup()
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
        with hooks.tool_call("search", "1"):
            for _ in range(2):
                with hooks.tool_call("search", "1"), hooks.tool_call("search", "1"):
                    pass
        assert run.usage.tool_calls == 1
        with run.tool_call("search"), hooks.tool_call("search", "1"):
            pass
        assert run.usage.tool_calls == 2
        for inner in (hooks.tool_call("read", "2"), hooks.tool_call("read", any_name=True)):
            with hooks.tool_call("search", any_name=True), pytest.raises(BudgetExceeded, match="nested_tool_calls"):
                inner.__enter__()
        run.acknowledge()


@pytest.mark.parametrize(("scope", "charged"), [("pydantic-ai", 0), ("theirs", 1)])
def test_where_a_hook_holds_a_frameworks_tools_the_spans_that_show_them_are_left_to_it(
    setup: Setup, scope: str, charged: int
) -> None:
    setup()
    said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": "1"}
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
        with hooks.holding("pydantic_ai"), trace.get_tracer(scope).start_as_current_span("tool", attributes=said):
            assert run.usage.tool_calls == charged
            with hooks.tool_call("search", "1"):
                assert run.usage.tool_calls == 1
        with trace.get_tracer("pydantic-ai").start_as_current_span("tool", attributes=said):
            assert run.usage.tool_calls == 2


class Paused(Exception):
    """What a framework ends a tool with, to make the call again once a person has been asked."""


@pytest.fixture(params=["memory", "sqlite:///shared.db"])
def two_a_day(request: pytest.FixtureRequest, setup: Setup) -> otelbudget.BudgetManager:
    """A quota of two tool calls, kept in this process or in a shared store."""
    return setup(f"store: {{url: '{request.param}'}}\nquotas:\n  default: [{{tool_calls: 2, per: day}}]\n")


@pytest.mark.usefixtures("two_a_day")
def test_a_tool_call_that_pauses_and_is_made_again_is_charged_once_in_one_run_or_two() -> None:
    budget = RunBudget(max_tool_calls=1)
    with otelbudget.run(budget) as run:
        for _ in range(3):
            with suppress(Paused), hooks.tool_call("search", "1", pauses=(Paused,)):
                raise Paused
            assert run.usage.tool_calls == 0
        with hooks.tool_call("search", "1", pauses=(Paused,)):
            pass
        assert run.usage.tool_calls == 1
    with otelbudget.run(budget) as run:
        with hooks.tool_call("search", "2", pauses=()) as call:
            call.pause()  # type: ignore[union-attr]
        assert run.remaining()["tool_calls"] == 1
    with otelbudget.run(budget) as run:
        with hooks.tool_call("search", "2", pauses=()):
            pass
        assert run.remaining()["tool_calls"] == 0


@pytest.mark.usefixtures("two_a_day")
def test_one_that_fails_is_charged_all_the_same() -> None:
    with otelbudget.run() as run:
        with suppress(LookupError), hooks.tool_call("search", "1", pauses=(Paused,)):
            raise LookupError
        assert (run.usage.tool_calls, run.remaining()["tool_calls"]) == (1, 1)


@pytest.mark.usefixtures("two_a_day")
def test_no_more_run_at_once_than_are_left_and_whoever_is_refused_is_told_that_none_is() -> None:
    with otelbudget.run() as run, hooks.tool_call("a", pauses=(Paused,)), hooks.tool_call("b", pauses=(Paused,)):
        for pauses in ((Paused,), None):
            with pytest.raises(BudgetExceeded, match="held 2 of 2") as refused, hooks.tool_call("c", pauses=pauses):
                pass
            assert refused.value.reason == "limit"
        run.acknowledge()


def test_one_that_is_refused_while_the_last_one_runs_does_not_fit_later_either(setup: Setup) -> None:
    setup()
    with otelbudget.run(RunBudget(max_tool_calls=1)) as run, hooks.tool_call("a", pauses=()):
        with pytest.raises(BudgetExceeded) as refused, hooks.tool_call("b", pauses=()):
            pass
        assert (refused.value.reason, refused.value.retry_after_s) == ("limit", None)
        run.acknowledge()


def test_who_can_give_more_is_asked_also_while_the_last_tool_runs(setup: Setup) -> None:
    setup()
    budget = RunBudget(max_tool_calls=1, on_exhausted=lambda _, run: run.extend(tool_calls=1) or True)
    with otelbudget.run(budget) as run, hooks.tool_call("a", pauses=(Paused,)), hooks.tool_call("b", pauses=(Paused,)):
        pass
    assert run.usage.tool_calls == 2


def test_an_id_that_a_model_gives_again_inside_of_a_tool_is_of_another_call(setup: Setup, ask: Ask) -> None:
    setup()
    with otelbudget.run() as run, hooks.tool_call("research", "call_0"), hooks.tool_call("research", "call_0"):
        ask()
        for _ in range(2):
            with hooks.tool_call("search", "call_0"):
                pass
    assert run.usage.tool_calls == 3


@pytest.mark.parametrize("shown", [True, False])
def test_an_instrumentors_span_that_says_its_agents_name_late_is_that_agents(
    setup: Setup, ask: Ask, shown: bool
) -> None:
    setup(BY_NAME)
    said = {"openinference.span.kind": "AGENT"}
    with trace.get_tracer("theirs").start_as_current_span("researcher", attributes=said) as theirs:
        ours = hooks.agent_span("researcher", theirs if shown else None)
        assert (ours is None) is shown
        assert asks(ask, 4) == (2 if shown else 4)


@pytest.mark.parametrize("hook", sorted({one for named in HOOKS.values() for one in named.split(" or ")}))
def test_each_hook_is_where_it_is_said_to_be_or_says_what_to_install(hook: str) -> None:
    module, name = hook.split(".")
    try:
        found = __import__(f"otelbudget.integrations.{module}", fromlist=[name])
    except ImportError as missing:
        assert "pip install 'otelbudget[" in str(missing)  # noqa: PT017
    else:
        assert callable(getattr(found, name))
