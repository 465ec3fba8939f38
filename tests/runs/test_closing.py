from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from world import World

from otelbudget import BudgetExceeded, RunBudget, Usage, semconv
from otelbudget.calls.model_call import ModelRequest, begin

STREAM = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=10, max_output_tokens=50)


def ended(world: World) -> dict[str, int]:
    """outcome -> runs in the histograms."""
    found: dict[str, int] = {}
    for cell in world.engine.meters.snapshot().tenants:
        for (metric, outcome), histogram in cell.runs.items():
            if metric == semconv.M_RUN_TOKENS:
                found[outcome] = found.get(outcome, 0) + sum(histogram.counts)
    return found


def active(world: World) -> int:
    return sum(cell.active for cell in world.engine.meters.snapshot().tenants)


def totals(world: World, prefix: str = "otelbudget.run") -> dict[str, Any]:
    return dict(world.span(prefix).attributes or {})


def test_a_run_with_open_streams_ends_with_the_last_of_them(world: World) -> None:
    world.activate()
    with world.run() as run:
        first, second = begin(STREAM), begin(STREAM)
    assert first is not None
    assert second is not None
    with pytest.raises(BudgetExceeded, match="has ended"):
        run.check()
    world.advance(3)
    first.commit(Usage(10, 20))
    assert (world.spans("otelbudget.run"), active(world), ended(world)) == ([], 1, {})
    second.commit(Usage(10, 30))
    assert totals(world)["otelbudget.used.tokens"] == 70
    assert totals(world)["otelbudget.used.seconds"] == 0.0
    assert (active(world), ended(world)) == (0, {"completed": 1})


def test_a_parent_waits_for_the_streams_of_its_children(world: World) -> None:
    world.activate()
    with world.run(RunBudget(name="root")) as root, root.child(RunBudget(name="leaf")):
        call = begin(STREAM)
    assert call is not None
    assert world.spans("otelbudget.run") == []
    call.commit(Usage(10, 20))
    assert [span.name for span in world.spans("otelbudget.run")] == ["otelbudget.run leaf", "otelbudget.run root"]
    assert totals(world, "otelbudget.run root")["otelbudget.used.tokens"] == 30
    assert totals(world, "otelbudget.run root")["otelbudget.used.direct.tokens"] == 0


@pytest.mark.parametrize("keeps", [True, False])
def test_a_stream_that_is_never_heard_of_ends_its_run_after_ttl_and_grace(world: World, keeps: bool) -> None:
    world.activate()
    with world.run():
        calls = [begin(STREAM)]
    if not keeps:
        calls.clear()
        gc.collect()
    world.advance(64)
    world.manager.force_flush()
    assert world.spans("otelbudget.run") == []
    world.advance(2)
    with world.run(RunBudget(name="next")):
        pass
    (span, _) = world.spans("otelbudget.run")
    assert (span.attributes or {})["otelbudget.used.tokens"] == (0 if keeps else 10)
    assert active(world) == 0


def test_a_commit_after_the_span_has_ended_is_charged_and_told_by_a_short_span(world: World) -> None:
    world.activate()
    with world.run() as run:
        call = begin(STREAM)
    assert call is not None
    call.own_span.end()  # type: ignore[union-attr]  # as an instrumentor does on break
    world.manager.shutdown()
    assert world.spans("otelbudget.run")
    call.commit(Usage(10, 20))
    late = world.span("otelbudget.record")
    assert run.usage.tokens == 30
    assert (late.events[0].attributes or {})["otelbudget.late"] is True


def test_shutdown_finishes_every_closed_run(world: World) -> None:
    world.activate()
    with world.run():
        calls = [begin(STREAM) for _ in range(3)]
    world.manager.shutdown()
    assert len(world.spans("otelbudget.run")) == 1
    for call in calls:
        assert call is not None
        call.release()
    assert ended(world) == {"completed": 1}


def test_outcomes_and_active_runs_are_counted_once(world: World) -> None:
    with world.run():
        assert active(world) == 1
    with pytest.raises(ValueError, match="x"), world.run():
        raise ValueError("x")
    with pytest.raises(BudgetExceeded), world.run(RunBudget(max_steps=0)) as run:
        run.check()
    assert (active(world), ended(world)) == (0, {"completed": 1, "error": 1, "exhausted": 1})


def test_a_denial_after_the_end_does_not_change_how_the_run_ended(world: World) -> None:
    world.activate()
    with world.run() as run:
        call = begin(STREAM)
    with pytest.raises(BudgetExceeded):
        run.check()
    assert call is not None
    call.commit(Usage(1, 1))
    assert totals(world)["otelbudget.outcome"] == "completed"
    assert run.receipt().outcome == "completed"


def test_a_finished_run_lets_go_of_its_context(world: World) -> None:
    import weakref

    with world.run() as run:
        run.check()
    ghost = weakref.ref(run._state)
    del run
    gc.collect()
    assert ghost() is None


# --- a run that ends over a limit of its own, and nothing was refused


def test_a_run_that_ends_over_its_limit_without_a_denial_is_exhausted_by_overage(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, name="small"), tenant="acme") as run:
        run.record_call(2_000)
    receipt = run.receipt()
    assert (receipt.outcome, receipt.reason, receipt.resource, receipt.denials) == ("exhausted", "overage", "tokens", 0)
    assert receipt.message == (
        "budget 'small' of run (tenant 'acme'): over its limit, though no call was refused: tokens used 2000 of 10."
    )
    assert (totals(world)["otelbudget.outcome"], totals(world)["otelbudget.reason"]) == ("exhausted", "overage")
    assert ended(world) == {"exhausted": 1}


def test_spending_exactly_the_limit_completes(world: World) -> None:
    with world.run(RunBudget(max_tokens=10, max_steps=1)) as run:
        run.record_call(10)
    assert (run.receipt().outcome, run.receipt().reason) == ("completed", None)
    assert ended(world) == {"completed": 1}


def test_what_comes_after_the_block_counts_for_how_the_run_ended(world: World) -> None:
    world.activate()
    with world.run(RunBudget(max_tokens=100)) as run:
        call = begin(STREAM)
    assert call is not None
    call.commit(Usage(10, 200))
    assert (run.receipt().outcome, run.receipt().reason) == ("exhausted", "overage")
    assert ended(world) == {"exhausted": 1}


def test_a_denial_says_more_than_the_overage_it_came_with(world: World) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        run.record_call(2_000)
        with pytest.raises(BudgetExceeded):
            run.check()
    assert (run.receipt().outcome, run.receipt().reason) == ("exhausted", "limit")


def test_a_denial_that_passed_by_itself_does_not_hide_an_overage(world: World) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        run.freeze()
        with pytest.raises(BudgetExceeded):
            run.check()
        run.unfreeze()
        run.record_call(2_000)
    assert (run.receipt().outcome, run.receipt().reason) == ("exhausted", "overage")


def test_a_run_that_fails_over_its_limit_is_exhausted_as_one_with_a_denial_is(world: World) -> None:
    @world.run(RunBudget(max_tokens=10))
    def agent() -> None:
        world.manager.record_call(2_000)
        raise KeyError("the application's")

    with pytest.raises(KeyError):
        agent()
    said = totals(world)
    assert (said["otelbudget.outcome"], said["otelbudget.reason"], said["error.type"]) == (
        "exhausted",
        "overage",
        "KeyError",
    )


def test_a_limit_that_was_raised_in_time_is_not_run_over(world: World) -> None:
    with world.run(RunBudget(max_tokens=10)) as run:
        run.record_call(12)
        run.extend(tokens=2)
    assert run.receipt().outcome == "completed"


def test_time_over_the_limit_alone_is_no_overage(world: World) -> None:
    with world.run(RunBudget(max_seconds=1)) as run:
        world.advance(2)
    assert run.receipt().outcome == "completed"


def test_what_is_over_a_limit_of_others_is_theirs(world: World) -> None:
    with world.run(RunBudget(max_tokens=10)) as parent, parent.child(RunBudget(max_tokens=5_000)) as child:
        child.record_call(2_000)
    assert child.receipt().outcome == "completed"
    assert parent.receipt().outcome == "exhausted"


def test_a_budget_that_only_warns_is_run_over_as_well(world: World) -> None:
    with world.run(RunBudget(max_steps=1, on_exhausted="warn")) as run:
        for _ in range(2):
            run.check()
            run.record_call(1)
    assert (run.receipt().outcome, run.receipt().reason, run.receipt().denials) == ("exhausted", "overage", 0)


def test_an_agents_span_says_at_once_that_its_run_is_over_its_limit(make_world: Callable[..., World]) -> None:
    world = make_world(RunBudget(max_tokens=10))
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"}
    with world.tracer.start_as_current_span("invoke_agent a", attributes=agent):
        world.manager.record_call(2_000)
    said = totals(world, "invoke_agent")
    assert (said["otelbudget.outcome"], said["otelbudget.reason"]) == ("exhausted", "overage")
    assert ended(world) == {"exhausted": 1}
