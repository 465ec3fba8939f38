from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import use_span
from world import World, said, used

from otelbudget import BudgetExceeded, RunBudget, Usage
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.runs.run import BudgetRun


def tool_span(world: World, name: str, call_id: str | None = None) -> trace.Span:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    if call_id is not None:
        attributes["gen_ai.tool.call.id"] = call_id
    return world.tracer.start_span(f"execute_tool {name}", attributes=attributes)


def counts(run: BudgetRun) -> tuple[int, int]:
    return used(run)[5], used(run)[6]


def test_a_tool_is_charged_when_it_starts_and_stays_charged_when_it_fails(world: World) -> None:
    with world.run() as run:
        with pytest.raises(ValueError, match="broken"), run.tool_call("t"):  # noqa: PT012 - what is left at the end of the block raises
            assert counts(run) == (1, 0)
            raise ValueError("broken")
        assert counts(run) == (1, 0)
    assert world.spent()[3] == 1
    assert world.counted() == {("tool", "allow", ""): 1}


@pytest.mark.parametrize(("name", "call_id"), [("", None), (5, None), (None, None), (("a", "id"), None), ("a", 5)])
def test_what_is_no_name_is_an_error_before_anything_is_charged(world: World, name: Any, call_id: Any) -> None:
    with world.run() as run:
        with pytest.raises(TypeError, match="a tool call needs a name, and a call id that is text or None, got"):
            run.tool_call(name, call_id=call_id)
        assert counts(run) == (0, 0)


def test_a_tool_inside_a_tool_is_nested_and_refused_on_its_own_limit(world: World) -> None:
    with world.run(RunBudget(max_nested_tool_calls=1), reraise=False) as run:
        with run.tool_call("a"), run.tool_call("a"):
            with pytest.raises(BudgetExceeded) as denied:
                run.tool_call("c").__enter__()
            assert denied.value.resource == "nested_tool_calls"
        with run.tool_call("d"):
            pass
        assert counts(run) == (3, 1)


async def test_the_enclosing_call_is_that_of_the_own_context(world: World) -> None:
    async with world.run() as run:

        async def tool(name: str, inner: bool) -> None:
            async with run.tool_call(name):
                await asyncio.sleep(0)
                if inner:
                    async with run.tool_call("inner"):
                        await asyncio.sleep(0)

        await asyncio.gather(tool("a", True), tool("b", False), tool("c", True))
        assert counts(run) == (5, 2)


def test_a_child_runs_tool_inside_its_parents_tool_is_nested_for_both(world: World) -> None:
    with world.run() as run, run.tool_call("a"), run.child() as child, child.tool_call("b"):
        assert (counts(run), counts(child)) == ((2, 1), (1, 1))


def test_a_tool_of_a_detached_run_is_not_nested(world: World) -> None:
    with world.run() as run, run.tool_call("a"), world.run(mode="detached") as own, own.tool_call("b"):
        assert (counts(run), counts(own)) == ((1, 0), (1, 0))


def test_a_tool_call_object_is_entered_once_at_a_time(world: World) -> None:
    with world.run() as run:
        call = run.tool_call("t")
        with call, pytest.raises(RuntimeError, match="entered before"):
            call.__enter__()
        assert counts(run) == (1, 0)


# --- spans and blocks see the same call


@pytest.mark.parametrize(
    ("outer", "inner", "same"),
    [
        (("t", None), ("t", None), True),
        (("t", "1"), ("t", "1"), True),
        (("t", "1"), ("u", "1"), True),
        (("t", "1"), ("t", "2"), False),
        (("t", None), ("u", None), False),
        (("t", "1"), ("t", None), True),
    ],
)
@pytest.mark.parametrize("block_outside", [True, False])
def test_a_span_and_a_block_directly_inside_one_another_are_one_call(
    world: World, outer: Any, inner: Any, same: bool, block_outside: bool
) -> None:
    with world.run() as run:
        if block_outside:
            with run.tool_call(outer[0], call_id=outer[1]), use_span(tool_span(world, *inner), end_on_exit=True):
                pass
        else:
            with use_span(tool_span(world, *outer), end_on_exit=True), run.tool_call(inner[0], call_id=inner[1]):
                pass
        assert counts(run) == ((1, 0) if same else (2, 1))


def test_two_spans_of_one_call_are_one_and_a_second_equal_one_inside_is_another(world: World) -> None:
    with world.run() as run, use_span(tool_span(world, "t"), end_on_exit=True):
        for charged in ((1, 0), (2, 1)):
            with use_span(tool_span(world, "t"), end_on_exit=True):
                assert counts(run) == charged


@pytest.mark.parametrize(("call_id", "charged"), [(None, (2, 1)), ("1", (1, 0))])
def test_a_model_call_between_makes_an_equal_tool_another_call_unless_its_id_says_otherwise(
    world: World, call_id: str | None, charged: tuple[int, int]
) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=1, max_output_tokens=1)
    with world.run() as run, use_span(tool_span(world, "t", call_id), end_on_exit=True):
        call = begin(request)
        assert call is not None
        call.commit()
        with use_span(tool_span(world, "t", call_id), end_on_exit=True):
            assert counts(run) == charged


async def test_parallel_siblings_are_not_nested_whoever_tells_of_them(world: World) -> None:
    async with world.run(RunBudget(max_nested_tool_calls=0)) as run:

        async def block(name: str) -> None:
            async with run.tool_call(name):
                await asyncio.sleep(0)

        async def span(name: str) -> None:
            with use_span(tool_span(world, name), end_on_exit=True):
                await asyncio.sleep(0)

        await asyncio.gather(*(tool(name) for name in ("a", "a", "b") for tool in (block, span)))
        assert counts(run) == (6, 0)


@pytest.mark.parametrize("reason", ["frozen", "deadline", "closed"])
def test_what_stops_a_run_stops_its_tools_and_unpriced_spend_does_not(world: World, reason: str) -> None:
    scope = world.run(RunBudget(max_seconds=5, max_cost_usd=1), reraise=False)
    run = scope.__enter__()
    run.record(Usage(5, 5, model="mystery"))
    with run.tool_call("t"):
        pass
    if reason == "frozen":
        run.freeze()
    elif reason == "deadline":
        world.advance(5)
    else:
        scope.__exit__(None, None, None)
    with pytest.raises(BudgetExceeded) as denied:
        run.tool_call("t").__enter__()
    assert (denied.value.reason, counts(run)) == (reason, (1, 0))
    scope.__exit__(None, None, None)


def test_no_tools_left_stops_tools_only_and_no_steps_left_stops_no_tool(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=0, max_steps=1), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            run.tool_call("t").__enter__()
        run.check()
        run.record_call()
        run.acknowledge()
    with world.run(RunBudget(max_tool_calls=1, max_steps=0), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            run.check()
        with run.tool_call("t"):
            assert counts(run) == (1, 0)
        run.acknowledge()


def test_the_innermost_of_blocks_and_spans_encloses(world: World) -> None:
    with world.run() as run, run.tool_call("a"), use_span(tool_span(world, "b"), end_on_exit=True):
        assert counts(run) == (2, 1)
        with run.tool_call("b"):  # the span's own call, seen by the code as well
            assert counts(run) == (2, 1)
            with run.tool_call("c"):
                assert counts(run) == (3, 2)


def test_a_denied_tool_span_carries_the_check_and_the_tool_does_not_run(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=0, name="b"), reraise=False) as run:
        with pytest.raises(BudgetExceeded, match="tool_calls"):
            tool_span(world, "t")
        assert counts(run) == (0, 0)


def test_a_tool_span_carries_its_check_and_whose_it_is(world: World) -> None:
    with (
        world.run(RunBudget(max_tool_calls=5), tenant="acme") as run,
        use_span(tool_span(world, "t"), end_on_exit=True),
    ):
        pass
    span = world.span("execute_tool")
    assert said(span) == [
        (
            "otelbudget.check",
            {
                "otelbudget.decision": "allow",
                "otelbudget.resource": "tool_calls",
                "otelbudget.remaining": 4.0,
                "gen_ai.tool.name": "t",
            },
        )
    ]
    ours = {key: value for key, value in (span.attributes or {}).items() if key.startswith("otelbudget.")}
    assert ours == {
        "otelbudget.run.id": run.run_id,
        "otelbudget.tenant": "acme",
        "otelbudget.decision": "allow",
    }


def test_an_explicit_check_inside_a_tool_span_is_an_event_of_that_span(world: World) -> None:
    with world.run() as run, use_span(tool_span(world, "t"), end_on_exit=True):
        run.check(steps=1, tokens=1)
        run.record_call(5)
        with world.tracer.start_as_current_span("plain"):
            run.check(steps=1, tokens=1)
    assert [n for n, _ in said(world.span("execute_tool"))] == ["otelbudget.check"] * 2 + ["otelbudget.record"]
    assert said(world.span("plain")) == []
    assert [n for n, _ in said(world.span("otelbudget.run"))] == ["otelbudget.check"]


# --- several tools in one response


def test_tools_that_run_all_or_not_at_all_are_reserved_together(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as denied:
            run.reserve(tool_calls=3)
        assert (denied.value.reason, denied.value.resource, denied.value.requested) == ("limit", "tool_calls", 3)
        assert counts(run) == (0, 0)
        run.check(steps=1)  # a refused tool never blocks a model call
        run.acknowledge()


def test_tools_that_are_entered_one_by_one_run_as_long_as_they_fit(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2), reraise=False) as run:
        for name in ("a", "b"):
            with run.tool_call(name):
                pass
        with pytest.raises(BudgetExceeded):
            run.tool_call("c").__enter__()
        assert counts(run) == (2, 0)


def test_a_check_of_a_tool_says_which_one(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=1), reraise=False) as run:
        with run.tool_call("search"):
            pass
        with pytest.raises(BudgetExceeded), run.tool_call("fetch"):
            pass
    events = said(world.span("otelbudget.run"))
    checks = [(a["otelbudget.decision"], a["gen_ai.tool.name"]) for name, a in events if name == "otelbudget.check"]
    assert checks == [("allow", "search"), ("deny", "fetch")]
