from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor
from world import World, said

from otelbudget import BudgetExceeded, BudgetManager, Config, ConfigError, RunBudget, Usage, current_run
from otelbudget.calls.model_call import ModelRequest, begin

CLASSIC = RunBudget(max_steps=5, max_tokens=2000, max_seconds=10, max_nested_tool_calls=2)
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo"}


def test_the_classic_form_needs_nothing_else() -> None:
    manager = BudgetManager(CLASSIC)
    manager.check()
    manager.record_call(350)
    remaining = manager.remaining()
    assert (remaining["steps"], remaining["tokens"], remaining["nested_tool_calls"]) == (4, 1650, 2)
    assert 9 < remaining["seconds"] <= 10
    manager.record(Usage(100, 50, steps=4))
    assert not manager.can_proceed()
    with pytest.raises(BudgetExceeded, match="share one process-wide run"):
        manager.check()
    manager.reset()
    assert manager.remaining()["steps"] == 5


def test_the_process_wide_run_never_raises_again_and_its_reset_ends_it(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=0))
    with pytest.raises(BudgetExceeded):
        world.manager.check()
    first = world.manager.current()
    assert first._state.kind == "ambient"
    world.manager.reset()
    assert (first.state, world.manager.current() == first) == ("closed", False)
    outcomes = {o for cell in world.engine.meters.snapshot().tenants for _, o in cell.runs}
    assert outcomes == {"exhausted"}


def test_inside_a_run_the_managers_methods_mean_that_run(world: World) -> None:
    with world.run() as run:
        world.manager.record_call(5)
        assert world.manager.current() == run
        assert run.usage.tokens == 5
    assert world.manager.current() is not run


def test_without_setup_an_agents_span_on_the_managers_provider_is_its_run(world: World) -> None:
    attributes = {"gen_ai.operation.name": "invoke_agent"}
    with world.tracer.start_as_current_span("a", attributes=attributes):
        run = world.manager.current()
        assert (run._state.kind, current_run()) == ("implicit", None)


def test_a_run_of_another_manager_is_not_this_ones(make_world: Callable[..., World]) -> None:
    one, other = make_world(), make_world()
    with one.run() as run:
        assert other.manager.current() is not run


def test_managers_of_one_engine_share_what_they_know_of_open_spans(world: World) -> None:
    assert BudgetManager(engine=world.engine).live_spans is world.manager.live_spans


@pytest.mark.parametrize("given", [5, [1], {"max_steps": 5}])
def test_a_manager_says_what_it_takes(given: Any) -> None:
    with pytest.raises(ConfigError, match="takes a RunBudget, a Config or the path"):
        BudgetManager(given)


def test_a_manager_takes_a_config_or_a_file(tmp_path: Path) -> None:
    config = Config({"quick": RunBudget(max_steps=5)}, default_budget="quick")
    assert BudgetManager(config).remaining()["steps"] == 5
    path = tmp_path / "budgets.yaml"
    path.write_text("budgets: {quick: {max_steps: 5}}\ndefault_budget: quick\n")
    for given in (path, str(path)):
        manager = BudgetManager(given, tenant="acme")
        assert manager.remaining()["steps"] == 5
        with manager.run("quick") as run:
            assert (run.tenant, run.budget.name) == ("acme", "quick")


def test_an_unknown_budget_name_is_an_error_that_names_the_known(world: World) -> None:
    manager = BudgetManager(Config({"quick": RunBudget()}))
    with pytest.raises(ConfigError, match="quick"):
        manager.run("quik")


def test_a_second_task_or_thread_on_the_process_wide_run_is_warned_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.manager.record_call(1)
    world.manager.record_call(1)
    assert caplog.text == ""
    for _ in range(2):
        thread = threading.Thread(target=world.manager.record_call, args=(1,))
        thread.start()
        thread.join()
    assert caplog.text.count("share the process-wide run") == 1


def test_two_tasks_on_the_process_wide_run_are_warned_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def both() -> None:
        async def one() -> None:
            world.manager.record_call(1)

        await asyncio.create_task(one())
        assert caplog.text == ""
        await asyncio.create_task(one())

    asyncio.run(both())
    assert caplog.text.count("share the process-wide run") == 1


def test_a_call_outside_every_run_while_runs_are_open_is_warned_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=1)

    def lost() -> None:
        call = begin(request)
        assert call is not None
        call.commit(Usage(1, 1))
        span = world.tracer.start_span("chat", attributes=CHAT)
        span.end()

    with world.run(), ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(lost).result()
    assert caplog.text.count("its context was lost") == 1


def test_events_of_the_process_wide_run_go_to_the_span_that_is_current(world: World) -> None:
    with world.tracer.start_as_current_span("bare loop"):
        world.manager.check()
        world.manager.record_call(5)
    assert [name for name, _ in said(world.span("bare loop"))] == ["otelbudget.check", "otelbudget.record"]


def test_the_bounds_of_the_configuration_reach_the_metrics(make_world: Callable[..., World]) -> None:
    from otelbudget.config import TelemetryConfig

    world = make_world(config=Config(telemetry=TelemetryConfig(max_tenants=2, max_models=1)))
    for name in "abcd":
        with world.run(tenant=name) as run:
            run.record(Usage(1, 1, model=f"model-{name}"))
    snapshot = world.engine.meters.snapshot()
    assert {cell.tenant for cell in snapshot.spends} == {"a", "b", "other"}
    assert {cell.model for cell in snapshot.spends} >= {"model-a", "other"}


def test_a_refused_span_has_its_check_event_and_is_left_open(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_steps=0))
    seen: list[Any] = []

    class Watching(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            seen.append(span)

    world.provider._active_span_processor._span_processors = (
        Watching(),
        *world.provider._active_span_processor._span_processors,
    )
    with pytest.raises(BudgetExceeded):
        world.tracer.start_span("chat", attributes=CHAT)
    (span,) = seen
    assert span.is_recording()
    assert [(n, a["otelbudget.decision"]) for n, a in said(span)] == [("otelbudget.check", "deny")]
    assert world.manager.force_flush()
