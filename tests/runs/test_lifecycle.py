from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from world import World, said

import otelbudget
from otelbudget import BudgetExceeded, ConfigError, RunBudget, Usage
from otelbudget.runs.run import BudgetRun

NONE = RunBudget(max_steps=0, name="none")


def swallowed(run: BudgetRun, **asked: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(**asked)
    return denied.value


def test_leaving_without_an_exception_raises_the_first_pending_denial_itself(world: World) -> None:
    first: list[BudgetExceeded] = []

    def work() -> None:
        with world.run(RunBudget(max_steps=0, max_tool_calls=0)) as run:
            first.append(swallowed(run))
            swallowed(run, tool_calls=1)

    with pytest.raises(BudgetExceeded) as again:
        work()
    assert again.value is first[0]


def test_a_budget_exceeded_passes_unchanged(world: World) -> None:
    mine = BudgetExceeded("mine")
    with pytest.raises(BudgetExceeded) as passed, world.run(NONE) as run:  # noqa: PT012 - what is left at the end of the block raises
        swallowed(run)
        raise mine
    assert passed.value is mine
    assert passed.value.__cause__ is None


@pytest.mark.parametrize("way", ["cause", "context", "group", "group in a cause"])
def test_an_exception_that_a_denial_caused_becomes_budget_exceeded_from_it(world: World, way: str) -> None:
    wrapped: list[BaseException] = []

    def work() -> None:
        with world.run(NONE) as run:
            try:
                run.check()
            except BudgetExceeded as denied:
                if way == "cause":
                    wrapped.append(ValueError("wrapped"))
                    raise wrapped[0] from denied
                if way == "context":
                    wrapped.append(ValueError("wrapped"))
                    raise wrapped[0]  # noqa: B904 - this is the case
                group = ExceptionGroup("several", [KeyError("x"), denied])
                if way == "group":
                    wrapped.append(group)
                    raise group from None
                wrapped.append(ValueError("wrapped"))
                raise wrapped[0] from group

    with pytest.raises(BudgetExceeded, match="steps") as raised:
        work()
    assert raised.value.__cause__ is wrapped[0]
    assert (raised.value.resource, raised.value.reason) == ("steps", "limit")
    chain, one = [], raised.value  # type: tuple[list[BaseException], BaseException | None]
    while one is not None:
        assert one not in chain, "a cycle of causes"
        chain.append(one)
        one = one.__cause__
    traceback.format_exception(raised.value)


@pytest.mark.parametrize("error", [ValueError("other"), TimeoutError("late"), ExceptionGroup("g", [ValueError()])])
def test_any_other_exception_passes_with_a_note(world: World, error: Exception) -> None:
    with pytest.raises(type(error)) as passed, world.run(NONE) as run:  # noqa: PT012 - what is left at the end of the block raises
        with contextlib.suppress(BudgetExceeded):
            run.check()
        raise error
    assert passed.value is error
    assert ["In this run a call was refused before: " in note for note in error.__notes__] == [True]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_steers_the_program_passes_without_a_word(world: World, kind: type[BaseException]) -> None:
    error = kind()
    with pytest.raises(kind) as passed, world.run(NONE) as run:  # noqa: PT012 - what is left at the end of the block raises
        with contextlib.suppress(BudgetExceeded):
            run.check()
        raise error
    assert passed.value is error
    assert not hasattr(error, "__notes__")


def test_a_group_with_an_interrupt_in_it_is_not_turned_into_a_denial(world: World) -> None:
    error = BaseExceptionGroup("several", [KeyboardInterrupt(), BudgetExceeded("x")])
    with pytest.raises(BaseExceptionGroup) as passed, world.run(NONE):
        raise error
    assert passed.value is error


def test_overage_without_a_denied_call_never_raises(world: World) -> None:
    with world.run(RunBudget(max_steps=1, max_tokens=1)) as run:
        run.record(Usage(100, 100, steps=5))


def test_reraise_false_turns_it_off(world: World) -> None:
    with world.run(NONE, reraise=False) as run:
        swallowed(run)
    with pytest.raises(ValueError, match="wrapped") as passed, world.run(NONE, reraise=False) as run:
        raise ValueError("wrapped") from swallowed(run)
    assert not hasattr(passed.value, "__notes__")


def test_busy_ends_with_the_next_admitted_call_at_every_level(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run, run.child() as child:
        hold = run.reserve()
        assert swallowed(child).reason == "busy"
        hold.release()
        child.reserve().release()


def test_a_probe_does_not_end_a_pending_busy(world: World) -> None:
    with pytest.raises(BudgetExceeded, match="busy"), world.run(RunBudget(max_steps=1)) as run:  # noqa: PT012 - what is left at the end of the block raises
        hold = run.reserve()
        swallowed(run)
        hold.release()
        assert run.can_proceed()


def test_a_childs_own_limit_is_pending_on_the_child_only(world: World) -> None:
    with world.run() as run, pytest.raises(BudgetExceeded), run.child(NONE) as child:
        swallowed(child)
    assert run._state.refused.pending is None


def test_an_ancestors_limit_is_pending_on_both(world: World) -> None:
    with world.run(NONE, reraise=False) as run, run.child(reraise=False) as middle, middle.child() as leaf:
        swallowed(leaf)
        assert [bool(one._state.refused.pending) for one in (run, middle, leaf)] == [True, False, True]
        assert leaf._state.first_pending() is not None
        run.acknowledge()
        assert leaf._state.first_pending() is None


def test_what_the_ancestor_deals_with_is_not_raised_by_its_child_either(world: World) -> None:
    with world.run(RunBudget(max_steps=1)) as run:
        run.record_call()
        with run.child() as child:
            swallowed(child)
            run.extend(steps=5)
            assert child.check()


def test_a_run_is_entered_once_and_left_once(world: World) -> None:
    scope = world.run()
    with scope, pytest.raises(RuntimeError, match="entered before"):
        scope.__enter__()
    scope.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="entered before"):
        scope.__enter__()


def test_after_its_end_a_run_refuses_and_still_charges_flagged_late(world: World) -> None:
    with world.run(RunBudget(max_tokens=100)) as run:
        pass
    assert swallowed(run).reason == "closed"
    run.record(Usage(5, 6))
    run.record_call(7)
    assert run.usage.tokens == 18
    denied, *late = world.spans("otelbudget.record")
    assert said(denied) == [
        (
            "otelbudget.check",
            {"otelbudget.decision": "deny", "otelbudget.reason": "closed", "otelbudget.scope": "run"},
        )
    ]
    assert [said(span) for span in late] == [
        [
            (
                "otelbudget.record",
                {
                    "otelbudget.tokens.input": given,
                    "otelbudget.tokens.output": made,
                    "otelbudget.cost.usd": 0.0,
                    "otelbudget.late": True,
                },
            )
        ]
        for given, made in [(5, 6), (7, 0)]
    ]
    run_span = world.span("otelbudget.run")
    for span in late:
        assert span.parent is not None
        assert span.parent.span_id == run_span.context.span_id
        assert (span.attributes or {})["otelbudget.run.id"] == run.run_id
    assert (run_span.attributes or {})["otelbudget.outcome"] == "completed"


def test_who_hammers_a_closed_run_makes_no_flood_of_spans(world: World) -> None:
    with world.run() as run:
        pass
    for _ in range(50):
        swallowed(run)
    assert len(world.spans("otelbudget.record")) == 8
    assert world.counted() == {("check", "deny", "closed"): 50}


def test_a_child_is_of_its_parents_tenant_and_user(world: World) -> None:
    with world.run(tenant="acme", user="u") as run:
        with run.child() as child:
            assert (child.tenant, child.user, child.parent) == ("acme", "u", run)
        for other in ({"tenant": "evil"}, {"user": "v"}):
            with pytest.raises(ValueError, match="mode='detached'"):
                world.run(**other).__enter__()
        with world.run(tenant="acme", user="u") as same:
            assert same.parent == run
        with world.run(tenant="evil", mode="detached") as own:
            assert (own.parent, own.tenant) == (None, "evil")
            own.record_call(5)
        assert run.usage.tokens == 0


def test_a_run_inside_a_run_of_another_manager_is_its_own_root(make_world: Callable[..., World]) -> None:
    first, second = make_world(), make_world()
    with first.run(tenant="a"), second.run(tenant="b") as run:
        assert (run.parent, run.tenant) == (None, "b")


def test_a_child_deeper_than_any_ancestor_allows_is_refused(world: World) -> None:
    with world.run(RunBudget(max_depth=1), reraise=False) as run, run.child() as child:
        with pytest.raises(BudgetExceeded, match="Raise max_depth") as denied:
            child.child().__enter__()
        assert (denied.value.resource, denied.value.reason) == ("depth", "limit")
        child.acknowledge()
        assert child.check()
    assert world.counted() == {("check", "allow", ""): 1, ("check", "deny", "limit"): 1}


def test_a_budget_that_warns_or_a_manager_that_only_observes_lets_a_deep_child_in(
    make_world: Callable[..., World],
) -> None:
    for world, warn in ((make_world(), "warn"), (make_world(enforce=False), "raise")):
        with world.run(RunBudget(max_depth=0, on_exhausted=warn)) as run, run.child() as child:  # type: ignore[arg-type]
            assert child.parent == run
        assert world.counted() == {("check", "warn", "limit"): 1}


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"mode": "own"}, ValueError), ({"tenant": 5}, TypeError), ({"user": b"u"}, TypeError)],
)
def test_options_that_mean_nothing_are_errors(world: World, options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="must be"):
        world.run(**options)


def test_an_unknown_budget_is_an_error_before_the_block(world: World) -> None:
    with pytest.raises(ConfigError):
        world.run("quick")
    with pytest.raises(ConfigError, match="a name or a RunBudget"):
        world.run(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "outcome", "status"),
    [
        ("quiet", "completed", StatusCode.UNSET),
        ("denied", "exhausted", StatusCode.ERROR),
        ("acknowledged", "exhausted", StatusCode.UNSET),
        ("error", "error", StatusCode.ERROR),
        ("cancelled", "error", StatusCode.UNSET),
        ("busy", "completed", StatusCode.UNSET),
        ("frozen", "completed", StatusCode.UNSET),
        ("wrapped", "exhausted", StatusCode.ERROR),
    ],
)
def test_the_run_span_says_how_it_ended(world: World, ends: str, outcome: str, status: StatusCode) -> None:
    with (
        contextlib.suppress(ValueError, BudgetExceeded, asyncio.CancelledError),
        world.run(RunBudget(max_steps=1)) as run,
    ):
        if ends == "busy":
            run.reserve().release()
            hold = run.reserve()
            swallowed(run)
            hold.release()
            run.check()
        elif ends == "frozen":
            run.freeze()
            swallowed(run)
            run.acknowledge()
        elif ends in ("denied", "acknowledged", "wrapped"):
            error = swallowed(run, steps=2)
            if ends == "acknowledged":
                run.acknowledge()
            if ends == "wrapped":
                raise ValueError from error
        elif ends == "error":
            raise ValueError
        elif ends == "cancelled":
            raise asyncio.CancelledError
    span = world.span("otelbudget.run")
    assert ((span.attributes or {})["otelbudget.outcome"], span.status.status_code) == (outcome, status)
    kind = (span.attributes or {}).get("error.type")
    assert kind == {"denied": "otelbudget.BudgetExceeded", "error": "ValueError", "wrapped": "ValueError"}.get(ends)


def test_a_run_before_setup_uses_a_default_manager_in_memory(world: World) -> None:
    from otelbudget.engine import context

    assert context.active_engine() is None
    with otelbudget.run(RunBudget(max_steps=2), tenant="acme") as run:
        assert otelbudget.current_run() == run
        run.record_call(100)
        assert run.remaining()["steps"] == 1
        first = context.active_engine()
        assert first is run._state.engine
    with otelbudget.run() as run:
        assert run._state.engine is first
    context.deactivate(run._state.engine)
    assert otelbudget.current_run() is None


async def test_tasks_left_behind_keep_the_closed_run(world: World) -> None:
    world.activate()
    go = asyncio.Event()

    async def straggler() -> str:
        await go.wait()
        run = otelbudget.current_run()
        assert run is not None
        return swallowed(run).reason

    async with world.run(RunBudget(max_steps=5)):
        task = asyncio.create_task(straggler())
        await asyncio.sleep(0)
    go.set()
    assert await task == "closed"


async def test_cancellation_passes_through_a_run_with_a_pending_denial(world: World) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with world.run(NONE) as run:
            swallowed(run)
            started.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_wrap_carries_the_run_into_a_plain_thread_and_a_coroutine(world: World) -> None:
    import threading

    world.activate()
    seen: list[object] = []

    async def look() -> None:
        await asyncio.sleep(0)
        seen.append(otelbudget.current_run())

    with world.run() as run:
        wrapped = otelbudget.wrap(lambda: seen.append(otelbudget.current_run()))
        awrapped = otelbudget.wrap(look)
    thread = threading.Thread(target=wrapped)
    thread.start()
    thread.join()
    asyncio.run(awrapped())
    assert seen == [run, run]


def test_leaving_in_another_context_still_ends_the_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    import contextvars

    scope = world.run()
    run = contextvars.copy_context().run(scope.__enter__)
    with caplog.at_level(logging.CRITICAL, "opentelemetry"):
        scope.__exit__(None, None, None)
    assert run.state == "closed"
    assert world.span("otelbudget.run")


# --- exceptions of the application


class Unusual(Exception):
    """An application's exception that can be neither hashed nor compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise LookupError("not comparable")

    def __bool__(self) -> bool:
        raise LookupError("neither true nor false")

    def add_note(self, note: str) -> None:
        raise LookupError("no notes")


@pytest.mark.parametrize("refused", [True, False])
def test_an_exception_of_an_unusual_class_passes_unchanged(world: World, refused: bool) -> None:
    error = Unusual()
    passed: BaseException | None = None
    try:
        with world.run(RunBudget(max_steps=0 if refused else 1)) as run:
            with contextlib.suppress(BudgetExceeded):
                run.check()
            raise error
    except BaseException as found:  # noqa: BLE001 - whatever it has become
        passed = found
    assert passed is error
    assert otelbudget.is_budget_exceeded(error) is False


def test_a_denial_is_found_behind_an_exception_of_an_unusual_class(world: World) -> None:
    denied: list[BudgetExceeded] = []
    with pytest.raises(BudgetExceeded) as raised, world.run(NONE) as run:  # noqa: PT012 - the block raises
        try:
            run.check()
        except BudgetExceeded as error:
            denied.append(error)
            raise Unusual from error
    assert str(raised.value) == str(denied[0])
    assert type(raised.value.__cause__) is Unusual
