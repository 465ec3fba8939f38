"""Calls that their guard charges and that the application records as well: each is charged once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import AsyncOpenAI, InternalServerError, OpenAI
from openai_ways import CHAT

from otelbudget import Config, Quota, Quotas, QuotaService, RunBudget, Usage
from otelbudget.engine import recent
from otelbudget.errors import IdempotencyError
from otelbudget.manager import BudgetManager

TOTAL = 15


@pytest.fixture
def call(gateway: str, answer: dict[str, Any], manager: BudgetManager) -> Callable[[], Any]:
    ids = iter(range(100))
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": TOTAL}
    answer["make"] = lambda _: (200, {"id": f"chatcmpl-{next(ids):029}", "model": "m", "choices": [], "usage": usage})
    client = OpenAI(base_url=gateway, api_key="none", max_retries=0)
    return lambda: client.chat.completions.create(**CHAT)


@pytest.mark.parametrize(
    "record",
    [
        lambda run, said: run.record_call(said.usage.total_tokens),
        lambda run, said: run.record(said),
        lambda run, said: run.record(said.usage),
        lambda run, said: run.record(Usage(10, 5, cost_usd=1)),
        lambda run, said: run.record(said, idempotency_key=said.id),
        lambda run, said: run.reserve(steps=1).commit(said.usage.total_tokens),
        lambda run, said: run.reserve(tokens=9, cost_usd=3).commit(said),
    ],
)
def test_a_guarded_call_that_is_recorded_too_is_charged_once_and_warned_of_once(
    record: Callable[[Any, Any], Any], manager: BudgetManager, call: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with manager.run(RunBudget(max_tokens=100_000)) as run:
        for _ in range(3):
            record(run, call())
    assert (run.usage.steps, run.usage.tokens, run.usage.cost_usd) == (3, 3 * TOTAL, 0)
    assert [one.levelno for one in caplog.records if "charged already" in one.getMessage()] == [logging.WARNING]


QUOTAS = Config(quotas=Quotas(default=[Quota(tokens=100_000, steps=100_000)]))


def test_an_answer_that_is_recorded_several_times_and_by_another_thread_is_charged_once(
    manager: BudgetManager, call: Callable[[], Any]
) -> None:
    with manager.run(RunBudget()) as run, ThreadPoolExecutor(1) as pool:
        first, second = call(), call()
        assert all(run.record(said).replayed for said in (first, second, first, second, first))
        assert pool.submit(run.record, first).result().replayed
        run.reserve(tokens=9).commit(second)
    assert (run.usage.steps, run.usage.tokens) == (2, 2 * TOTAL)


@pytest.mark.parametrize("config", [QUOTAS])
@pytest.mark.parametrize(
    "consume",
    [
        lambda service, said: service.consume_quota("acme", said.usage.total_tokens),
        lambda service, said: service.consume_quota("acme", said.usage.total_tokens, user="u", steps=1),
        lambda service, said: service.consume_quota("acme", Usage.of(said), idempotency_key=said.id),
        lambda service, said: service.reserve("acme", 50).commit(said),
    ],
)
def test_a_guarded_call_that_is_consumed_from_a_quota_too_is_charged_once_and_warned_of_once(
    consume: Callable[[Any, Any], Any],
    manager: BudgetManager,
    call: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = QuotaService(store=manager)
    with manager.run(RunBudget(), tenant="acme", user="u"):
        for _ in range(3):
            service.check_quota("acme", 50)
            consume(service, call())
    assert [(one.resource, one.used) for one in service.usage("acme").lines] == [("steps", 3), ("tokens", 3 * TOTAL)]
    assert [one.levelno for one in caplog.records if "charged already" in one.getMessage()] == [logging.WARNING]


@pytest.mark.parametrize("config", [QUOTAS])
def test_a_block_of_a_quota_around_a_guarded_call_of_the_tenant_ends_with_it(
    manager: BudgetManager, call: Callable[[], Any]
) -> None:
    service = QuotaService(store=manager)
    with manager.run(RunBudget(), tenant="acme"), service.reserve("acme", 500):
        call()
    assert [one.used for one in service.usage("acme").lines if one.resource == "tokens"] == [TOTAL]


@pytest.mark.parametrize("config", [QUOTAS])
def test_what_is_consumed_by_another_or_in_another_service_is_charged(
    manager: BudgetManager, call: Callable[[], Any]
) -> None:
    here, elsewhere = QuotaService(store=manager), QuotaService(100_000, store="memory")
    with manager.run(RunBudget(), tenant="acme", user="u"):
        call()
        here.consume_quota("globex", TOTAL)
        here.consume_quota("acme", TOTAL, user="another")
        elsewhere.consume_quota("acme", TOTAL)
        here.consume_quota("acme", TOTAL + 1)
    used = {
        (service, tenant): sum(one.used for one in service.usage(tenant).lines if one.resource == "tokens")
        for service, tenant in ((here, "acme"), (here, "globex"), (elsewhere, "acme"))
    }
    assert list(used.values()) == [3 * TOTAL + 1, TOTAL, TOTAL]


def test_in_a_run_above_it_is_the_same_call(manager: BudgetManager, call: Callable[[], Any]) -> None:
    with manager.run(RunBudget()) as run:
        with run.child():
            said = call()
        run.record(said)
    assert run.usage.tokens == TOTAL


async def test_a_coroutine_records_what_it_awaited(
    manager: BudgetManager, gateway: str, call: Callable[[], Any]
) -> None:
    async with AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        said = await client.chat.completions.create(**CHAT)
        await run.arecord_call(said.usage.total_tokens)
    assert run.usage.tokens == TOTAL


@pytest.mark.parametrize(
    "other",
    [
        Usage(tokens=TOTAL + 1),
        Usage(5, 10),
        Usage(10, 5, steps=2),
        Usage(10, 5, tool_calls=1),
        Usage(10, 5, response_id="another"),
        Usage(0, 0),
    ],
)
def test_another_call_is_charged(other: Usage, manager: BudgetManager, call: Callable[[], Any]) -> None:
    with manager.run(RunBudget()) as run:
        call()
        run.record(other)
    assert run.usage.steps == 1 + other.steps
    assert run.usage.tokens == TOTAL + (other.tokens or 0)


def test_a_second_call_of_the_same_size_is_charged(manager: BudgetManager, call: Callable[[], Any]) -> None:
    with manager.run(RunBudget()) as run:
        call()
        for _ in range(3):
            run.record_call(TOTAL)
    assert run.usage.tokens == 3 * TOTAL


def test_calls_of_a_server_that_names_all_alike_are_charged_once_each(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    client = OpenAI(base_url=gateway, api_key="none", max_retries=0)
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    for name in ("always-1", ""):
        answer["make"] = lambda _, name=name: (200, {"id": name, "model": "m", "choices": [], "usage": usage})
        with manager.run(RunBudget()) as run:
            for said in [client.chat.completions.create(**CHAT) for _ in range(2 if name else 1)]:
                run.record(said)
            run.record(Usage(tokens=100, response_id=name))  # of a call that nobody has guarded
        assert run.usage.tokens == (2 * TOTAL if name else TOTAL) + 100


@pytest.mark.parametrize(
    "own", ["run-0b2f2a0e-0000-4000-8000-000000000000", "lc_run--0b2f2a0e-0000-4000-8000-000000000000"]
)
def test_a_message_that_has_only_an_id_of_its_framework_is_known_by_its_tokens(
    own: str, manager: BudgetManager, call: Callable[[], Any]
) -> None:
    with manager.run(RunBudget()) as run:
        call()
        assert run.record({"id": own, "usage_metadata": {"input_tokens": 10, "output_tokens": 5}}).replayed
    assert run.usage.steps == 1


def test_what_has_the_short_name_of_a_guarded_call_stands_for_one_of_as_many_tokens(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    said = {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    answer["make"] = lambda _: (200, said)
    unguarded = [said, said, {**said, "usage": {"prompt_tokens": 10, "completion_tokens": 6}}]
    with manager.run(RunBudget()) as run:
        OpenAI(base_url=gateway, api_key="none", max_retries=0).chat.completions.create(**CHAT)
        assert [run.record(one).replayed for one in [*unguarded, said]] == [True, False, False, False]
    assert run.usage.steps == 4


def test_of_two_threads_that_record_under_a_short_name_one_is_charged_wherever_they_meet(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    said = {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    answer["make"] = lambda _: (200, said)
    client = OpenAI(base_url=gateway, api_key="none", max_retries=0)
    lines: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        met = True
        while met:
            met = False
            with manager.run(RunBudget()) as run:
                client.chat.completions.create(**CHAT)

                def other(frame: Any, event: str, _: Any, run: Any = run) -> Any:
                    """Comes at a line where it has not come before."""
                    nonlocal met
                    if frame.f_code.co_filename != recent.__file__:
                        return None
                    if event == "line" and not met and frame.f_lineno not in lines:
                        met = True
                        lines.add(frame.f_lineno)
                        pool.submit(run.record, said).result()
                    return other

                before = sys.gettrace()
                sys.settrace(other)
                try:
                    run.record(said)
                finally:
                    sys.settrace(before)
            assert run.usage.steps == 1 + met
    assert len(lines) > 5


def test_a_call_of_another_run_is_charged(manager: BudgetManager, call: Callable[[], Any]) -> None:
    with manager.run(RunBudget()):
        said = call()
    with manager.run(RunBudget()) as run:
        run.record(said)
    assert run.usage.tokens == TOTAL


def test_the_same_answer_recorded_again_under_its_key_is_replayed(
    manager: BudgetManager, call: Callable[[], Any]
) -> None:
    with manager.run(RunBudget()) as run:
        said = call()
        assert [run.record(said, idempotency_key="k").replayed for _ in range(2)] == [False, True]
        with pytest.raises(IdempotencyError):
            run.record(Usage(tokens=1), idempotency_key="k")
    assert run.usage.tokens == TOTAL


def test_a_commit_of_it_may_come_twice(manager: BudgetManager, call: Callable[[], Any]) -> None:
    with manager.run(RunBudget()) as run:
        said, held = call(), run.reserve(tokens=100)
        assert [held.commit(said).replayed for _ in range(2)] == [False, True]
        with pytest.raises(IdempotencyError):
            held.commit(TOTAL + 1)
    assert run.usage.tokens == TOTAL


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_block_around_a_guarded_call_ends_with_it(
    error: type[Exception] | None, manager: BudgetManager, call: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with manager.run(RunBudget()) as run, contextlib.suppress(RuntimeError), run.reserve(tokens=500):
        call()
        if error is not None:
            raise error
    assert (run.usage.steps, run.usage.tokens) == (1, TOTAL)
    assert not caplog.records


async def test_so_does_an_asynchronous_one(manager: BudgetManager, call: Callable[[], Any]) -> None:
    async with manager.run(RunBudget()) as run:
        async with await run.areserve(tokens=500):
            call()
        async with await run.areserve(tokens=500):
            pass
    assert (run.usage.steps, run.usage.tokens) == (2, TOTAL + 500)


def test_a_block_after_a_guarded_call_is_charged_and_so_are_its_tools(
    manager: BudgetManager, call: Callable[[], Any]
) -> None:
    with manager.run(RunBudget()) as run:
        call()
        with run.reserve(tokens=500):
            pass
        with run.reserve(tokens=500, tool_calls=2):
            call()
    assert (run.usage.steps, run.usage.tokens, run.usage.tool_calls) == (3, 2 * TOTAL + 500, 2)


@pytest.mark.parametrize(("raises", "tokens"), [(True, 0), (False, 500)])
def test_a_block_around_a_guarded_call_that_failed_is_charged_where_it_goes_on(
    raises: bool, tokens: int, manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer["make"] = lambda _: (500, {"error": {"message": "no"}})
    client = OpenAI(base_url=gateway, api_key="none", max_retries=0)
    with manager.run(RunBudget()) as run, contextlib.suppress(InternalServerError), run.reserve(tokens=500):
        try:
            client.chat.completions.create(**CHAT)
        except InternalServerError:
            if raises:
                raise
    assert run.usage.tokens == tokens
