"""What is sent inside a call of litellm: its own attempts are that call, what its callbacks send is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from kits import charged
from provider import Provider, Reply
from sdks import beside_openai

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}], "max_tokens": 100}
FIRST = Reply(chunks=("one ", "two"), input_tokens=80, output_tokens=20)
SECOND = Reply(chunks=("one ", "two"), input_tokens=800, output_tokens=10)


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture
def litellm(manager: BudgetManager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    litellm = pytest.importorskip("litellm")
    kinds = ("callbacks", "input_callback", "success_callback", "_async_success_callback", "failure_callback")
    for kind in (*kinds, "_async_failure_callback"):
        monkeypatch.setattr(litellm, kind, [])
    with beside_openai(litellm):
        yield litellm


def _route(route: str, server: Provider) -> dict[str, Any]:
    urls = {"openai/gpt-4o-mini": server.base_url, "anthropic/claude-haiku-4-5": server.root_url}
    model = next(model for model in urls if model.startswith(route))
    return {"model": model, "api_base": urls[model], "api_key": "none"}


async def _streamed(made: Any) -> None:
    async for _ in await made:
        ...
    await import_module("litellm").close_litellm_async_clients()


WAYS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "sync": lambda made, how: made.completion(**(SAY | how)),
    "stream": lambda made, how: list(made.completion(**(SAY | how), stream=True)),
    "async": lambda made, how: asyncio.run(made.acompletion(**(SAY | how))),
    "async stream": lambda made, how: asyncio.run(_streamed(made.acompletion(**(SAY | how), stream=True))),
}


class _Calling:
    """Sends one call with *send*, the first time that it is asked; *became* of it."""

    def __init__(self, send: Callable[[], Any]) -> None:
        self._send = send
        self.became: list[str] = []

    def __call__(self) -> None:
        if self.became:
            return
        self.became.append("sent")
        try:
            self._send()
        except BudgetExceeded:
            self.became[0] = "denied"


def _callback(litellm: Any, hook: str, calling: _Calling) -> Any:
    """A callback whose *hook* calls before litellm has given its answer."""

    def asked(self: Any, *_: Any, **__: Any) -> None:
        calling()

    async def prepared(self: Any, kwargs: Any, _: Any) -> Any:
        calling()
        return kwargs

    base = litellm.integrations.custom_logger.CustomLogger
    return type("Callback", (base,), {hook: prepared if hook.startswith("async") else asked})()


@pytest.mark.parametrize(
    ("hook", "way"),
    [
        *((hook, way) for hook in ("log_pre_api_call", "log_post_api_call") for way in WAYS),
        *(("async_pre_call_deployment_hook", way) for way in WAYS if "async" in way),  # is asked for these alone
    ],
)
@pytest.mark.parametrize("route", ["openai", "anthropic"])
@pytest.mark.parametrize("steps", [1, 2])
def test_what_a_callback_sends_is_a_call_of_its_own(
    steps: int, hook: str, route: str, way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    calling = _Calling(lambda: litellm.completion(**SAY, **_route("openai", server)))
    litellm.callbacks.append(_callback(litellm, hook, calling))
    server.enqueue(FIRST, SECOND)
    with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
        WAYS[way](litellm, _route(route, server))
        assert charged(run) == ((2, 880, 30) if steps == 2 else (1, 80, 20))
    assert (server.requests, calling.became) == (steps, ["sent" if steps == 2 else "denied"])


@pytest.mark.parametrize("elsewhere", ["task", "thread"])
@pytest.mark.parametrize("route", ["openai", "anthropic"])
@pytest.mark.parametrize("steps", [1, 2])
def test_what_a_callback_sends_from_a_task_or_a_thread_is_a_call_of_its_own(
    steps: int, route: str, elsewhere: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    calling = _Calling(lambda: litellm.completion(**SAY, **_route("openai", server)))

    async def ask() -> None:
        calling()

    async def prepared(self: Any, kwargs: Any, _: Any) -> Any:
        await (asyncio.create_task(ask()) if elsewhere == "task" else asyncio.to_thread(calling))
        return kwargs

    hooks = {"async_pre_call_deployment_hook": prepared}
    litellm.callbacks.append(type("Callback", (litellm.integrations.custom_logger.CustomLogger,), hooks)())
    server.enqueue(FIRST, SECOND)
    with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
        WAYS["async"](litellm, _route(route, server))
        assert charged(run) == ((2, 880, 30) if steps == 2 else (1, 80, 20))
    assert (server.requests, calling.became) == (steps, ["sent" if steps == 2 else "denied"])


@pytest.mark.parametrize("route", ["openai", "anthropic"])
def test_what_its_cache_and_a_function_for_its_log_send_are_calls_of_their_own(
    route: str, server: Provider, manager: BudgetManager, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litellm.caching.in_memory_cache import InMemoryCache

    def embed() -> None:
        how = {**_route("openai", server), "model": "openai/text-embedding-3-small"}
        litellm.embedding(input=["Say it."], cache={"no-cache": True, "no-store": True}, **how)

    embedding = _Calling(embed)
    logging = _Calling(lambda: litellm.completion(**SAY, **_route("openai", server)))

    class Semantic(InMemoryCache):  # type: ignore[misc]  # without types
        def get_cache(self, *_: Any, **__: Any) -> None:
            embedding()

    monkeypatch.setattr(litellm, "cache", litellm.caching.caching.Cache())
    litellm.cache.cache = Semantic()
    server.enqueue(*[FIRST] * 3)
    with manager.run(RunBudget(max_steps=3)) as run:
        litellm.completion(**SAY, **_route(route, server), caching=True, logger_fn=lambda _: logging())
        assert charged(run) == (3, 240, 40)
    assert (server.requests, embedding.became, logging.became) == (3, ["sent"], ["sent"])


def test_what_a_callback_sends_past_the_public_function_is_guarded_too(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    calling = _Calling(lambda: litellm.main.completion(**SAY, **_route("anthropic", server)))
    litellm.callbacks.append(_callback(litellm, "log_pre_api_call", calling))
    server.enqueue(FIRST)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        WAYS["sync"](litellm, _route("anthropic", server))
        assert charged(run) == (1, 80, 20)
    assert (server.requests, calling.became) == (1, ["denied"])


@pytest.mark.parametrize("together", [True, False])
def test_a_provider_of_ones_own_is_paid_one_answer_by_the_call_and_the_next_by_itself(
    together: bool, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    import openai

    became: list[str] = []

    async def ask(client: Any) -> None:
        try:
            await client.chat.completions.create(model="gpt-4o-mini", **SAY)
            became.append("answered")
        except BudgetExceeded:
            became.append("denied")

    class Handler(litellm.CustomLLM):  # type: ignore[misc, name-defined]
        async def acompletion(self, *_: Any, **__: Any) -> Any:
            async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
                if together:
                    await asyncio.gather(*[ask(client) for _ in range(3)])
                else:
                    for _ in range(3):
                        await ask(client)
            return litellm.mock_completion("gpt-4o-mini", SAY["messages"], mock_response="Said.")

    litellm.custom_provider_map = [{"provider": "mine", "custom_handler": Handler()}]
    litellm.utils.custom_llm_setup()
    server.enqueue(*[FIRST] * 3)
    try:
        with manager.run(RunBudget(max_steps=2), reraise=False) as run:
            asyncio.run(litellm.acompletion("mine/one", **SAY))
            assert charged(run) == (2, 160, 40)
        assert (server.requests, sorted(became)) == (2, ["answered", "answered", "denied"])
    finally:
        litellm.custom_provider_map = []


@pytest.mark.parametrize("way", WAYS)
def test_a_part_that_was_thought_lost_costs_what_it_says_in_the_end(
    way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    """litellm takes a new reader for each event of a stream, and each that goes might have been the last."""
    said = {"messages": [{"role": "user", "content": "Say it. " * 99}], **_route("openai", server)}
    server.enqueue(Reply(chunks=("one ", "two"), input_tokens=8, output_tokens=2))
    with manager.run() as run:
        WAYS[way](litellm, said)
        assert charged(run) == (1, 8, 2)
        assert not run.usage.estimated
