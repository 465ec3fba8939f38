"""A guarded call inside a reservation's block takes over what is held: it never waits for its own reservation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError, AsyncOpenAI, InternalServerError, OpenAI
from openai_ways import CHAT
from opentelemetry.sdk.trace import TracerProvider
from provider import Provider
from provider.script import Reply

from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget, Usage
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.engine import context as contexts
from otelbudget.errors import IdempotencyError
from otelbudget.manager import BudgetManager

SIZE = 500
TIGHT = RunBudget(max_tokens=SIZE, max_steps=1)
ANSWERED = Reply(input_tokens=10, output_tokens=5)
TOTAL = 15


def call(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**CHAT, **more)


def spent(run: Any) -> tuple[int, int, int]:
    """Steps and tokens charged, and how many holds are open."""
    return run.usage.steps, run.usage.tokens, len(list(contexts.active_engine().ledger.open))  # type: ignore[union-attr]


@pytest.mark.parametrize("more", [{}, {"max_tokens": 100}])
@pytest.mark.parametrize("commits", [False, True])
def test_a_call_takes_over_a_reservation_that_is_all_there_is(
    commits: bool, more: dict[str, Any], manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED)
    with manager.run(TIGHT) as run, run.reserve(tokens=SIZE) as held:
        said = call(client, **more)
        assert spent(run) == (1, TOTAL, 0)
        if commits:
            held.commit(said.usage)
            assert held.commit(said.usage).replayed
            with pytest.raises(IdempotencyError):
                held.commit(TOTAL + 1)
    assert spent(run) == (1, TOTAL, 0)
    assert server.requests == 1


def test_a_commit_of_another_number_charges_nothing_more(
    manager: BudgetManager, server: Provider, client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    server.enqueue(ANSWERED)
    with manager.run(TIGHT) as run, run.reserve(tokens=SIZE) as held:
        call(client)
        held.commit(400)
    assert spent(run) == (1, TOTAL, 0)
    assert not caplog.records


@pytest.mark.parametrize("how", ["reserve", "areserve"])
async def test_so_do_coroutines(how: str, manager: BudgetManager, server: Provider, aclient: AsyncOpenAI) -> None:
    server.enqueue(ANSWERED)
    async with manager.run(TIGHT) as run:
        asked = getattr(run, how)(tokens=SIZE)
        async with await asked if how == "areserve" else asked:
            await aclient.chat.completions.create(**CHAT)
    assert spent(run) == (1, TOTAL, 0)


@pytest.mark.parametrize("inside", [True, False])
def test_so_do_streams_wherever_they_are_read(
    inside: bool, manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED)
    with manager.run(TIGHT) as run:
        with run.reserve(tokens=SIZE) as held:
            stream = call(client, stream=True)
            if inside:
                list(stream)
            held.commit(3)
        list(stream)
        assert spent(run) == (1, TOTAL, 0)


async def test_so_do_streams_of_coroutines(manager: BudgetManager, server: Provider, aclient: AsyncOpenAI) -> None:
    server.enqueue(ANSWERED)
    async with manager.run(TIGHT) as run:
        async with await run.areserve(tokens=SIZE):
            stream = await aclient.chat.completions.create(**CHAT, stream=True)
        assert [one async for one in stream]
        assert spent(run) == (1, TOTAL, 0)


def test_a_second_call_in_the_block_is_one_of_its_own(manager: BudgetManager, server: Provider, client: OpenAI) -> None:
    server.enqueue(ANSWERED, ANSWERED)
    with manager.run(RunBudget(max_steps=2)) as run, run.reserve(tokens=SIZE):
        call(client)
        call(client)
        with pytest.raises(BudgetExceeded):
            call(client)
        run.acknowledge()
    assert spent(run) == (2, 2 * TOTAL, 0)


async def test_of_parallel_calls_one_takes_it_over(
    manager: BudgetManager, server: Provider, aclient: AsyncOpenAI
) -> None:
    server.enqueue(*[ANSWERED] * 4)
    async with manager.run(RunBudget(max_steps=4, max_tokens=4 * SIZE)) as run, await run.areserve(tokens=SIZE):
        await asyncio.gather(*(aclient.chat.completions.create(**CHAT) for _ in range(4)))
    assert spent(run) == (4, 4 * TOTAL, 0)


def test_a_call_that_needs_more_than_there_is_is_refused_and_costs_nothing(
    manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    with manager.run(TIGHT) as run:
        with pytest.raises(BudgetExceeded) as denied, run.reserve(tokens=SIZE):
            call(client, max_tokens=SIZE)
        run.acknowledge()
    assert (denied.value.reason, denied.value.resource) == ("limit", "tokens")
    assert spent(run) == (0, 0, 0)
    assert not server.requests


@pytest.mark.parametrize("stop", [lambda run: run.freeze(), lambda run: run.extend(to={"seconds": 0})])
def test_what_stops_a_run_stops_such_a_call_too(
    stop: Callable[[Any], Any], manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    with manager.run(RunBudget(max_steps=1, max_seconds=1_000)) as run, run.reserve(tokens=SIZE) as held:
        stop(run)
        with pytest.raises(BudgetExceeded):
            call(client)
        run.acknowledge()
        held.release()
    assert not server.requests


def test_the_last_call_of_a_run_may_be_made_in_a_reservation(
    manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED, ANSWERED)
    with manager.run(RunBudget(max_steps=2, max_tokens=1_000, wrap_up={"tokens": SIZE})) as run:
        call(client)
        with pytest.raises(BudgetExceeded):
            call(client)
        with run.wrap_up(), run.reserve(tokens=100):
            call(client, max_tokens=50)
            with pytest.raises(BudgetExceeded):
                call(client, max_tokens=50)
        run.acknowledge()
    assert spent(run) == (2, 2 * TOTAL, 0)


def test_what_is_known_to_have_failed_is_charged_a_step_and_what_was_never_sent_nothing(
    manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(Reply(status=500))
    with manager.run(TIGHT) as run, contextlib.suppress(InternalServerError), run.reserve(tokens=SIZE):
        call(client)
    assert spent(run) == (1, 0, 0)
    nobody = client.with_options(base_url="http://127.0.0.1:9/v1")
    with manager.run(TIGHT) as run, contextlib.suppress(APIConnectionError), run.reserve(tokens=SIZE):
        call(nobody)
    assert spent(run) == (0, 0, 0)


@pytest.mark.parametrize(
    ("settle", "tokens"),
    [(lambda held: held.commit(40), 40), (lambda held: held.release(), 0), (lambda held: None, SIZE)],
)
def test_after_a_call_without_an_answer_the_reservation_is_for_what_comes_instead(
    settle: Callable[[Any], Any], tokens: int, manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(Reply(status=500))
    with manager.run(RunBudget(max_tokens=SIZE)) as run, run.reserve(tokens=SIZE) as held:
        with contextlib.suppress(InternalServerError):
            call(client)
        settle(held)
    assert spent(run)[1:] == (tokens, 0)


def test_a_retry_of_the_applications_own_is_charged_once(
    manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(Reply(status=500), ANSWERED)
    with manager.run(RunBudget(max_tokens=SIZE)) as run, run.reserve(tokens=SIZE) as held:
        with contextlib.suppress(InternalServerError):
            call(client)
        held.commit(call(client).usage)
    assert spent(run) == (2, TOTAL, 0)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_reservation_without_a_step_stays_without(
    steps: int, manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED)
    with manager.run(RunBudget(max_steps=steps)) as run, run.reserve(tokens=SIZE, steps=steps):
        call(client)
    assert spent(run) == (steps, TOTAL, 0)


def test_calls_of_other_runs_and_models_leave_it_alone(
    manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED, ANSWERED)
    with manager.run(RunBudget()) as run, run.reserve(tokens=SIZE, model="another") as held:
        call(client)
        with run.child() as child:
            call(client)
        assert child.usage.tokens == TOTAL
        assert held.held["tokens"] == SIZE
        held.release()
    assert spent(run) == (2, 2 * TOTAL, 0)


def test_outside_its_block_nothing_takes_it_over(manager: BudgetManager, server: Provider, client: OpenAI) -> None:
    server.enqueue(ANSWERED)
    with manager.run(RunBudget()) as run:
        with pytest.raises(RuntimeError), run.reserve(tokens=SIZE, on_unknown="open") as held:
            raise RuntimeError
        call(client)
        assert held.held["tokens"] == SIZE
        held.release()
    assert spent(run) == (1, TOTAL, 0)


def test_the_span_of_a_client_that_nothing_guards_takes_it_over_and_a_guard_inside_after_it(
    manager: BudgetManager,
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(manager)
    tracer = provider.get_tracer("somebody")
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.max_tokens": 100}
    for guarded in (False, True):
        with manager.run(TIGHT) as run, run.reserve(tokens=SIZE):
            with tracer.start_as_current_span("chat m", attributes=asked) as span:
                if guarded:
                    request = ModelRequest(provider="p", operation="chat", model="m", input_tokens=10)
                    begin(request).commit(Usage(10, 5))
                span.set_attributes({"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5})
            assert spent(run) == (1, TOTAL, 0)
        assert spent(run) == (1, TOTAL, 0)
    provider.shutdown()


def test_the_quota_of_a_store_is_charged_once(
    tmp_path: Path, manager: BudgetManager, server: Provider, client: OpenAI
) -> None:
    server.enqueue(ANSWERED, Reply(status=500), ANSWERED)
    quotas = Quotas(default=[Quota(tokens=SIZE, per="day")])
    stored = BudgetManager(Config(quotas=quotas, store=f"sqlite:///{tmp_path}/quotas.db"))
    contexts.activate(stored.engine)
    try:
        with stored.run(tenant="acme") as run:
            with run.reserve(tokens=SIZE):
                call(client)
            assert run.remaining(fresh=True)["tokens"] == SIZE - TOTAL
            with run.reserve(tokens=SIZE - TOTAL) as held:
                with contextlib.suppress(InternalServerError):
                    call(client)
                held.commit(40)
            assert run.remaining(fresh=True)["tokens"] == SIZE - TOTAL - 40
    finally:
        stored.shutdown()
        contexts.activate(manager.engine)
