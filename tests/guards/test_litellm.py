"""The guard of litellm, outermost: its retries, its fallbacks and its Router are one call, and a denial is nobody's."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from kits import charged
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
#: Of litellm itself, which leaves clients and tasks of its own behind, and warns of what it serializes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)
SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}], "max_tokens": 100}


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture
def litellm() -> Iterator[Any]:
    litellm = pytest.importorskip("litellm")
    # A stream that nobody reads is in a cycle with its generator. If the collector closes that while this thread is in
    # the connection pool of httpcore, it waits for itself.
    gc.disable()
    yield litellm
    gc.enable()
    litellm.in_memory_llm_clients_cache.flush_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it closes nothing
        gc.collect()


@pytest.fixture(params=["alone", "with openai's"])
def inner(request: pytest.FixtureRequest, manager: BudgetManager) -> Iterator[None]:
    """Whether the SDKs that litellm sends through are guarded as well."""
    if request.param != "alone":
        GUARDS["openai"].install()
    yield
    GUARDS["openai"].uninstall()


def _routes(server: Provider) -> dict[str, dict[str, Any]]:
    key = {"api_key": "none"}
    return {
        "openai": {"model": "openai/gpt-4o-mini", "api_base": server.base_url, **key},
        "anthropic": {"model": "anthropic/claude-haiku-4-5", "api_base": server.root_url, **key},
        "groq": {"model": "groq/llama-3.3-70b-versatile", "api_base": f"{server.root_url}/openai/v1", **key},
        "mistral": {"model": "mistral/mistral-small-latest", "api_base": f"{server.root_url}/mistral/v1", **key},
    }


async def _acollect(made: Any) -> None:
    await _acount(made)


async def _acount(made: Any) -> int:
    return await _all(await made)


async def _all(stream: Any) -> int:
    return len([part async for part in stream])


WAYS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "sync": lambda made, how: made.completion(**SAY, **how),
    "stream": lambda made, how: list(made.completion(**SAY, **how, stream=True)),
    "async": lambda made, how: asyncio.run(made.acompletion(**SAY, **how)),
    "async stream": lambda made, how: asyncio.run(_acollect(made.acompletion(**SAY, **how, stream=True))),
}


def _five(ask: Callable[[], object]) -> list[object]:
    """What became of five calls."""
    seen: list[object] = []
    for _ in range(5):
        try:
            ask()
            seen.append("answered")
        except BudgetExceeded as denial:
            seen.append(denial.__cause__)
    return seen


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ["openai", "anthropic", "groq", "mistral"])
def test_denied_from_the_start_no_request_and_one_step_of_five_is_one(
    route: str, way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = _routes(server)[route]
    for steps in (0, 1):
        server.enqueue(*[USED] * steps)
        with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
            assert _five(lambda: WAYS[way](litellm, how)) == ["answered"] * steps + [None] * (5 - steps)
            assert charged(run) == (steps, 80 * steps, 20 * steps)
        assert server.requests == steps


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("way", WAYS)
def test_the_router_s_retries_are_one_call_and_a_denial_is_not_retried(
    way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    params = _routes(server)["openai"]
    router = litellm.Router(
        model_list=[{"model_name": "mine", "litellm_params": params}],
        num_retries=2,
        retry_after=0,
        disable_cooldowns=True,
    )
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        server.enqueue(Reply(status=500), *[USED] * 3)
        assert _five(lambda: WAYS[way](router, {"model": "mine"})) == ["answered"] + [None] * 4
        assert charged(run) == (1, 80, 20)
    assert server.requests == 2


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("way", ["sync", "async"])
def test_fallbacks_and_retries_are_one_call(way: str, server: Provider, manager: BudgetManager, litellm: Any) -> None:
    routes = _routes(server)
    server.enqueue(Reply(status=400), USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        WAYS[way](litellm, {**routes["openai"], "fallbacks": [routes["anthropic"]]})
        assert charged(run) == (1, 80, 20)
    assert server.requests == 2


@pytest.mark.usefixtures("inner")
def test_embeddings_responses_and_texts_are_guarded_too(server: Provider, manager: BudgetManager, litellm: Any) -> None:
    how = _routes(server)["openai"]
    embed = {**how, "model": "openai/text-embedding-3-small"}
    asks: dict[str, Callable[[], object]] = {
        "embedding": lambda: litellm.embedding(input=["Say it."], **embed),
        "aembedding": lambda: asyncio.run(litellm.aembedding(input=["Say it."], **embed)),
        "responses": lambda: litellm.responses(input="Say it.", **how),
        "responses stream": lambda: list(litellm.responses(input="Say it.", **how, stream=True)),
        "aresponses": lambda: asyncio.run(litellm.aresponses(input="Say it.", **how)),
        "aresponses stream": lambda: asyncio.run(_acollect(litellm.aresponses(input="Say it.", **how, stream=True))),
    }
    for name, ask in asks.items():
        before = server.requests
        server.enqueue(USED)
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            assert _five(ask) == ["answered"] + [None] * 4, name
            assert charged(run) == (1, 80, 0 if "embedding" in name else 20), name
        assert server.requests == before + 1


@pytest.mark.usefixtures("inner")
def test_a_stream_that_outgrows_the_budget_is_cut_and_one_left_early_lets_go(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = {"messages": SAY["messages"], **_routes(server)["openai"], "stream": True}
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            list(litellm.completion(**how))
        assert caught.value.__cause__ is None
        assert 500 < (charged(run)[2] or 0) < 610
    server.enqueue(*[USED] * 8)
    with manager.run(RunBudget(max_tokens=1000)) as run:
        for _ in range(8):
            for _ in litellm.completion(**how):
                break
            assert run._state.account.holds == 0


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("way", ["completion", "acompletion", "responses", "router"])
def test_a_stream_that_is_dropped_unread_lets_go_without_the_collector(
    way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = {**_routes(server)["openai"], "stream": True}
    router = litellm.Router([{"model_name": "m", "litellm_params": how}], num_retries=0)
    opened: dict[str, Callable[[], object]] = {
        "completion": lambda: litellm.completion(**SAY, **how),
        "acompletion": lambda: asyncio.run(litellm.acompletion(**SAY, **how)),
        "responses": lambda: litellm.responses(input="Say it.", max_output_tokens=100, **how),
        "router": lambda: router.completion("m", **SAY),
    }
    server.enqueue(*[USED] * 8)
    with manager.run(RunBudget(max_tokens=1000)) as run:
        for _ in range(8):
            opened[way]()
            assert run._state.account.holds == 0


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_stream_that_was_cut_is_at_its_end(kind: str, server: Provider, manager: BudgetManager, litellm: Any) -> None:
    how = {"messages": SAY["messages"], **_routes(server)["openai"], "stream": True}
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))

    async def read_on() -> int:
        stream = await litellm.acompletion(**how)
        with pytest.raises(BudgetExceeded):
            await _all(stream)
        return await _all(stream)

    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        if kind == "async":
            assert asyncio.run(read_on()) == 0
        else:
            stream = litellm.completion(**how)
            with pytest.raises(BudgetExceeded):
                list(stream)
            assert list(stream) == []
        assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.usefixtures("inner")
def test_an_async_stream_that_is_left_costs_the_output_seen(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = {"messages": SAY["messages"], **_routes(server)["openai"], "stream": True}
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(90)), input_tokens=10, output_tokens=90))

    async def leave() -> None:
        seen = 0
        async for _ in await litellm.acompletion(**how):
            seen += 1
            if seen == 40:
                break

    with manager.run() as run:
        asyncio.run(leave())
        assert 40 < (charged(run)[2] or 0) < 130


@pytest.mark.usefixtures("inner")
@pytest.mark.parametrize("way", ["text_completion", "atext_completion"])
def test_a_stream_of_text_completions_is_charged_what_it_says(
    way: str, gateway: str, answer: dict[str, Any], manager: BudgetManager, litellm: Any
) -> None:
    chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    said = [{**chunk, "choices": [{"index": 0, "text": word, "finish_reason": None}]} for word in ("one ", "two ")]
    said += [{**chunk, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}]
    said += [{**chunk, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}]
    lines = [f"data: {json.dumps(one)}\n\n" for one in said]
    answer["make"] = lambda _: (200, "".join([*lines, "data: [DONE]\n\n"]).encode())
    how = {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "api_base": gateway, "api_key": "none"}
    made = getattr(litellm, way)
    with manager.run() as run:
        if way == "text_completion":
            assert list(made(prompt="Say", stream=True, **how))
        else:
            assert asyncio.run(_acount(made(prompt="Say", stream=True, **how)))
        assert charged(run) == (1, 7, 2)


def test_retries_through_a_guarded_sdk_end_with_the_run_s_time(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    GUARDS["openai"].install()
    try:
        server.enqueue(*[Reply(status=500, headers={"retry-after": "30"})] * 9)
        with (
            pytest.raises(BudgetExceeded) as caught,
            manager.run(RunBudget(max_seconds=20)) as run,
        ):
            litellm.completion(**SAY, **_routes(server)["openai"], max_retries=2)
        assert caught.value.reason == "deadline"
        assert charged(run) == (1, 0, 0)
        assert server.requests == 1
    finally:
        GUARDS["openai"].uninstall()


@pytest.mark.parametrize("begins", ["inside", "after"])
def test_a_task_that_outlives_the_call_it_began_in_is_paid_for(
    begins: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    GUARDS["openai"].install()
    import openai

    tasks = []
    over = asyncio.Event()

    class Handler(litellm.CustomLLM):  # type: ignore[misc, name-defined]
        async def acompletion(self, *_: Any, **__: Any) -> Any:
            tasks.append(asyncio.create_task(go_on()))
            while begins == "inside" and not server.requests:
                await asyncio.sleep(0.01)
            return litellm.mock_completion("gpt-4o-mini", SAY["messages"], mock_response="Said.")

    async def go_on() -> None:
        if begins == "after":
            await over.wait()
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            await client.chat.completions.create(model="gpt-4o-mini", **SAY)

    async def all_of_it() -> None:
        await router.acompletion(model="mine", **SAY)
        over.set()
        await tasks[0]

    litellm.custom_provider_map = [{"provider": "mine", "custom_handler": Handler()}]
    litellm.utils.custom_llm_setup()
    router = litellm.Router(model_list=[{"model_name": "mine", "litellm_params": {"model": "mine/one"}}])
    server.enqueue(replace(USED, latency_s=0.3))
    try:
        with manager.run() as run:
            asyncio.run(all_of_it())
            steps, given, made = charged(run)
            assert steps == (2 if begins == "after" else 1)
            assert (given or 0) >= 80
            assert (made or 0) >= 20
    finally:
        litellm.custom_provider_map = []
        GUARDS["openai"].uninstall()


@pytest.mark.parametrize("config", [Config()])
def test_what_is_called_inside_is_a_part_and_what_comes_after_is_not(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    GUARDS["openai"].install()
    try:
        import openai

        client = openai.OpenAI(base_url=server.base_url, api_key="none")
        server.enqueue(USED, USED)
        with manager.run() as run:
            litellm.completion(**SAY, **_routes(server)["openai"])
            client.chat.completions.create(model="gpt-4o-mini", **SAY)
            assert charged(run) == (2, 160, 40)
        client.close()
    finally:
        GUARDS["openai"].uninstall()


@pytest.mark.parametrize("name", ["completion", "embedding", "responses"])
def test_a_function_that_another_has_put_in_its_place_does_not_hide_it(
    name: str, server: Provider, manager: BudgetManager, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    GUARDS["litellm"].uninstall()
    theirs = getattr(litellm, name)
    monkeypatch.setattr(litellm, name, lambda **how: theirs(**how))
    GUARDS["litellm"].install()
    assert GUARDS["litellm"].unreached() == []
    asked: dict[str, Any] = {"completion": SAY, "embedding": {"input": ["Say it."]}, "responses": {"input": "Say it."}}
    with manager.run(RunBudget(max_steps=0), reraise=False), pytest.raises(BudgetExceeded) as caught:
        getattr(litellm, name)(**asked[name], **_routes(server)["openai"])
    assert (caught.value.__cause__, server.requests) == (None, 0)


BELOW: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "main.completion": lambda litellm, how: litellm.main.completion(**SAY, **how),
    "main.acompletion": lambda litellm, how: asyncio.run(litellm.main.acompletion(**SAY, **how)),
    "completion_with_retries": lambda litellm, how: litellm.completion_with_retries(**SAY, **how),
}


@pytest.mark.parametrize("name", BELOW)
@pytest.mark.parametrize("route", ["openai", "anthropic"])
def test_what_its_functions_end_in_is_guarded_where_it_is_called_by_itself(
    name: str, route: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = _routes(server)[route]
    server.enqueue(USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        assert _five(lambda: BELOW[name](litellm, how)) == ["answered", *[None] * 4]
        assert charged(run) == (1, 80, 20)
    assert server.requests == 1


@pytest.fixture
def cached(litellm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """litellm has a cache, in memory."""
    from litellm.caching import caching_handler

    monkeypatch.setattr(litellm, "cache", litellm.caching.caching.Cache())
    # This one imports litellm's proxy, which wants more packages.
    monkeypatch.setattr(
        caching_handler, "_should_defer_streaming_cache_hit_callbacks", lambda **_: False, raising=False
    )


@pytest.mark.parametrize("owner", ["litellm", "router"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ["openai", "anthropic"])
@pytest.mark.usefixtures("inner", "cached")
def test_an_answer_from_its_cache_costs_nothing(
    owner: str, way: str, route: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = _routes(server)[route]
    made, how = (litellm, how) if owner == "litellm" else (
        litellm.Router([{"model_name": "mine", "litellm_params": how}]), {"model": "mine"}
    )  # fmt: skip
    server.enqueue(USED)
    with manager.run() as run:
        for _ in range(3):
            WAYS[way](made, {**how, "caching": True})
        assert charged(run) == (1, 80, 20)
    assert server.requests == 1


@pytest.mark.parametrize("owner", ["litellm", "router"])
@pytest.mark.usefixtures("inner", "cached")
def test_embeddings_cost_what_of_them_is_not_in_its_cache(
    owner: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = {**_routes(server)["openai"], "model": "openai/text-embedding-3-small"}
    made, how = (litellm, how) if owner == "litellm" else (
        litellm.Router([{"model_name": "mine", "litellm_params": how}]), {"model": "mine"}
    )  # fmt: skip

    async def ask() -> None:
        for texts in (["One."], ["One.", "Two."], ["One.", "Two."]):
            await made.aembedding(input=texts, caching=True, **how)
            while len(litellm.cache.cache.cache_dict) < len(texts):  # it is written beside
                await asyncio.sleep(0.01)

    server.enqueue(USED, USED)
    with manager.run() as run:
        asyncio.run(ask())
        assert charged(run) == (2, 160, 0)
    assert server.requests == 2


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.usefixtures("inner", "cached")
def test_an_attempt_before_an_answer_from_its_cache_is_charged(
    way: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    routes = _routes(server)
    router = litellm.Router(
        [
            {"model_name": "first", "litellm_params": {**routes["openai"], "timeout": 0.6, "max_retries": 0}},
            {"model_name": "second", "litellm_params": routes["groq"]},
        ],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )
    server.enqueue(USED, Reply(fault="hang"))
    with manager.run(RunBudget(max_steps=2)) as run:
        WAYS[way](router, {"model": "second", "caching": True})
        before = charged(run)
        WAYS[way](router, {"model": "first", "caching": True})
        assert before == (1, 80, 20)
        assert charged(run)[0] == 2
        assert charged(run)[1] > 80
    assert server.requests == 2


@pytest.mark.parametrize("owner", ["litellm", "router"])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.usefixtures("cached")
def test_no_provider_can_say_that_its_answer_came_from_there(
    owner: str, caching: bool, gateway: str, answer: dict[str, Any], manager: BudgetManager, litellm: Any
) -> None:
    usage = {"prompt_tokens": 80, "completion_tokens": 20, "total_tokens": 100}
    said = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi."}}]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": said, "usage": usage}
    lie = {"cache_hit": True}
    answer["make"] = lambda _: (200, {**body, "hidden_params": lie, "_hidden_params": lie})
    how = {"model": "mistral/mistral-small-latest", "api_base": gateway, "api_key": "none"}
    made, how = (litellm, how) if owner == "litellm" else (
        litellm.Router([{"model_name": "mine", "litellm_params": how}]), {"model": "mine"}
    )  # fmt: skip
    with manager.run() as run:
        WAYS["sync"](made, {**how, "caching": caching})
        assert charged(run) == (1, 80, 20)


def test_litellm_is_as_before_when_the_guard_is_out(server: Provider, manager: BudgetManager, litellm: Any) -> None:
    guard: Any = GUARDS["litellm"]
    list(litellm.completion(**SAY, **_routes(server)["openai"], stream=True))
    changed = [takeover.function for takeover in (*guard._calls, *guard._notes)]
    assert guard.unreached() == []
    guard.uninstall()
    assert len(changed) > 12
    assert all(function.__module__.startswith("litellm.") for function in changed)
    assert not [f for f in changed if "_otelbudget_guard" in (f.__kwdefaults__ or {})]
    assert "messages" in inspect.signature(litellm.completion).parameters
    assert guard.unreached()
    with manager.run(RunBudget(max_steps=0)) as run:
        litellm.completion(**SAY, **_routes(server)["openai"])
        assert charged(run) == (0, 0, 0)


def test_litellms_own_budget_is_no_denial_of_ours_and_costs_nothing(
    litellm: Any, manager: BudgetManager, server: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "max_budget", 0.01)
    monkeypatch.setattr(litellm, "_current_cost", 1.0)
    with manager.run(RunBudget(max_steps=1)) as run, pytest.raises(litellm.BudgetExceededError):
        litellm.completion(**SAY, **_routes(server)["openai"])
    assert (run.usage.steps, run.usage.tokens, server.requests) == (0, 0, 0)
