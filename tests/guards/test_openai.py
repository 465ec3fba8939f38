"""The guard of openai: every way of calling is admitted once, charged once, and stopped before it is sent."""

from __future__ import annotations

import asyncio
import gc
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai._base_client import AsyncAPIClient, SyncAPIClient
from openai_ways import ANSWER, ASYNC_WAYS, CHAT, WAYS
from provider import Provider, Reply

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.engine import context as contexts
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

USED = Reply(text=ANSWER, input_tokens=80, output_tokens=20)


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


def _expected(way: str) -> tuple[int, int, int]:
    return (1, 80, 0) if way.startswith("embeddings") else (1, 80, 20)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_charged_once_with_its_usage(
    way: str, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(USED)
    with manager.run() as run:
        WAYS[way](client)
    assert _charged(run) == _expected(way)
    assert server.requests == 1
    assert run._state.account.holds == 0


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_stopped_before_it_is_sent(
    way: str, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run(RunBudget(max_steps=0), reraise=False) as run, pytest.raises(BudgetExceeded) as caught:
        WAYS[way](client)
    assert type(caught.value) is BudgetExceeded
    assert (caught.value.__cause__, caught.value.resource) == (None, "steps")
    assert server.requests == 0
    assert _charged(run) == (0, 0, 0)


@pytest.mark.parametrize("way", ASYNC_WAYS)
async def test_each_async_way_is_charged_once_with_its_usage(
    way: str, server: Provider, manager: BudgetManager, aclient: AsyncOpenAI
) -> None:
    server.enqueue(USED)
    async with manager.run() as run:
        await ASYNC_WAYS[way](aclient)
    assert _charged(run) == _expected(way)
    assert server.requests == 1
    assert run._state.account.holds == 0


@pytest.mark.parametrize("way", ASYNC_WAYS)
async def test_each_async_way_is_stopped_before_it_is_sent(
    way: str, server: Provider, manager: BudgetManager, aclient: AsyncOpenAI
) -> None:
    async with manager.run(RunBudget(max_steps=0), reraise=False):
        with pytest.raises(BudgetExceeded) as caught:
            await ASYNC_WAYS[way](aclient)
    assert type(caught.value) is BudgetExceeded
    assert server.requests == 0


def test_the_request_s_own_maximum_is_held(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    with manager.run(RunBudget(max_output_tokens=100), reraise=False):
        with pytest.raises(BudgetExceeded) as caught:
            client.chat.completions.create(**CHAT, max_completion_tokens=51, n=2)
        assert (caught.value.resource, caught.value.requested) == ("output_tokens", 102)
        assert server.requests == 0


def test_embeddings_hold_no_output(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    with manager.run(RunBudget(max_output_tokens=0)) as run:
        WAYS["embeddings"](client)
    assert run.usage.steps == 1


def test_an_answer_without_usage_is_charged_at_its_estimate(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(text=ANSWER, send_usage=False))
    with manager.run() as run:
        client.chat.completions.create(**CHAT, max_completion_tokens=30)
    steps, given, made = _charged(run)
    assert (steps, made) == (1, 30)
    assert given


def test_other_endpoints_pass_untouched(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    with manager.run(RunBudget(max_steps=0, max_tokens=0)) as run:
        assert [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            client.files.list()
    assert _charged(run) == (0, 0, 0)


@pytest.mark.parametrize("hook", ["request", "response"])
def test_what_is_asked_in_a_hook_of_its_http_client_is_no_attempt_of_it(
    hook: str, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(USED)
    hooks = {"event_hooks": {hook: [lambda _: client.models.list()]}}
    with (
        openai.DefaultHttpxClient(**hooks) as http,
        OpenAI(base_url=server.base_url, api_key="none", max_retries=0, http_client=http) as asking,
        manager.run() as run,
    ):
        asking.chat.completions.create(**CHAT)
        assert (_charged(run), run.usage.estimated) == ((1, 80, 20), False)


def test_nothing_happens_while_nothing_is_set_up(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    contexts.deactivate(manager.engine)
    WAYS["chat"](client)
    assert "stream_options" not in _streamed_body(server, client)
    assert server.requests == 2


def _streamed_body(server: Provider, client: OpenAI, **more: Any) -> Any:
    list(client.chat.completions.create(**CHAT, stream=True, **more))
    return server.recent[-1].body


def test_twenty_threads_never_pass_the_limit(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    with manager.run(RunBudget(max_steps=25), reraise=False) as run, ThreadPoolExecutor(20) as pool:
        from opentelemetry.context import attach, detach, get_current

        context = get_current()

        def call(_: int) -> bool:
            token = attach(context)
            try:
                WAYS["chat"](client)
            except BudgetExceeded:
                return False
            finally:
                detach(token)
            return True

        admitted = sum(pool.map(call, range(60)))
    assert admitted == server.requests == run.usage.steps == 25


async def test_tasks_never_pass_the_limit(server: Provider, manager: BudgetManager, aclient: AsyncOpenAI) -> None:
    async with manager.run(RunBudget(max_steps=7), reraise=False) as run:
        answers = await asyncio.gather(*(ASYNC_WAYS["chat"](aclient) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, BudgetExceeded) for answer in answers) == 13
    assert server.requests == run.usage.steps == 7


def test_subclasses_and_module_clients_are_guarded(server: Provider, manager: BudgetManager) -> None:
    class Fallback(OpenAI):
        """Asks twice, as clients that fall back to another model do."""

        def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
            super().request(cast_to, options, **how)
            return super().request(cast_to, options, **how)

    with manager.run() as run, Fallback(base_url=server.base_url, api_key="none") as client:
        WAYS["chat"](client)
    assert run.usage.steps == server.requests == 2
    assert GUARDS["openai"].unreached() == []


def test_a_client_class_that_goes_its_own_way_is_named(manager: BudgetManager) -> None:
    class Own(OpenAI):
        def request(self, *args: Any, **how: Any) -> Any:
            return None

    assert [name.rpartition(".")[2] for name in GUARDS["openai"].unreached()] == ["Own"]
    del Own
    gc.collect()  # a class is in a cycle with itself
    assert GUARDS["openai"].unreached() == []


def test_clients_made_before_the_guard_are_guarded(server: Provider, manager: BudgetManager) -> None:
    GUARDS["openai"].uninstall()
    with OpenAI(base_url=server.base_url, api_key="none") as client:
        raw = client.chat.completions.with_raw_response  # the SDK caches what it wraps here
        bound = client.request
        WAYS["chat"](client)
        GUARDS["openai"].install()
        with manager.run(RunBudget(max_steps=0), reraise=False):
            with pytest.raises(BudgetExceeded):
                raw.create(**CHAT)
            with pytest.raises(BudgetExceeded):
                WAYS["chat"](client)
        client.request = bound  # as instrumentations of an instance do
        with manager.run(RunBudget(max_steps=0), reraise=False), pytest.raises(BudgetExceeded):
            WAYS["chat"](client)
    assert server.requests == 1


def test_the_sdk_is_as_before_when_the_guard_is_out() -> None:
    classes = (openai.OpenAI, openai.AsyncOpenAI, SyncAPIClient, AsyncAPIClient)
    functions = [vars(c)[n] for c in classes for n in ("request", "_send_request") if n in vars(c)]
    attributes = [dict(vars(c)) for c in classes]
    before = [(f.__code__, f.__kwdefaults__, dict(vars(f)), inspect.signature(f)) for f in functions]
    GUARDS["openai"].install()
    GUARDS["openai"].install()
    assert [dict(vars(c)) for c in classes] == attributes
    assert [inspect.signature(f) for f in functions] == [signature for *_, signature in before]
    GUARDS["openai"].uninstall()
    GUARDS["openai"].uninstall()
    assert [(f.__code__, f.__kwdefaults__, dict(vars(f)), inspect.signature(f)) for f in functions] == before
    assert GUARDS["openai"].unreached()


def test_azure_and_legacy_completions_are_guarded(
    manager: BudgetManager, gateway: str, served: list[tuple[str, dict[str, Any]]]
) -> None:
    azure = AzureOpenAI(azure_endpoint=gateway, api_key="none", api_version="2024-10-21", max_retries=0)
    plain = OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0)
    with azure, plain, manager.run(RunBudget(max_steps=3), reraise=False) as run:
        azure.chat.completions.create(**CHAT)
        azure.embeddings.create(model="e", input="Say it.")
        plain.completions.create(model="m", prompt="Say it.", max_tokens=7)
        for refused in (
            lambda: azure.chat.completions.create(**CHAT),
            lambda: plain.completions.create(model="m", prompt="Say it."),
        ):
            with pytest.raises(BudgetExceeded):
                refused()
    assert [path.partition("?")[0] for path, _ in served] == [
        "/openai/deployments/demo-small/chat/completions",
        "/openai/deployments/e/embeddings",
        "/v1/completions",
    ]
    assert _charged(run) == (3, 30, 15)


def test_decisions_are_guarded(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[tuple[str, dict[str, Any]]]
) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    answer["make"] = lambda _: (200, {"model": "m", "answers": [], "usage": usage})
    with OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        if not hasattr(client, "decisions"):
            pytest.skip("this openai has none")
        asked: dict[str, Any] = {
            "model": "m",
            "input": "It.",
            "questions": [{"type": "predicate", "instructions": "?"}],
        }
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            client.decisions.create(**asked)
            with pytest.raises(BudgetExceeded):
                client.decisions.create(**asked)
    assert (len(served), _charged(run)) == (1, (1, 10, 5))
