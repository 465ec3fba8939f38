"""litellm's functions that speak Anthropic's and Gemini's formats: whole answers and streams, whoever is asked."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from kits import charged
from provider import Provider, Reply
from sdks import beside_openai

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config.settings import Estimates
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}], "max_tokens": 100}
CONTENT: dict[str, Any] = {
    "contents": [{"role": "user", "parts": [{"text": "Say it."}]}],
    "config": {"max_output_tokens": 100},
}


class _Handler:
    """What these streams import of litellm's proxy, which wants more packages: their bytes, and no log of their end."""

    @staticmethod
    async def chunk_processor(response: Any, **_: Any) -> AsyncIterator[bytes]:
        async for chunk in response.aiter_bytes():
            yield chunk

    @staticmethod
    async def route_streaming_logging_to_handler(**_: Any) -> None: ...


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture
def litellm(manager: BudgetManager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    litellm = pytest.importorskip("litellm")
    for name, cls in {"success": "PassThroughEndpointLogging", "streaming": "PassThroughStreamingHandler"}.items():
        proxied = ModuleType(f"litellm.proxy.pass_through_endpoints.{name}_handler")
        setattr(proxied, cls, _Handler)
        monkeypatch.setitem(sys.modules, proxied.__name__, proxied)
    with beside_openai(litellm):
        yield litellm


def _asked(route: str, server: Provider) -> dict[str, Any]:
    urls = {
        "openai/gpt-4o-mini": server.base_url,
        "anthropic/claude-haiku-4-5": server.root_url,
        "gemini/gemini-2.5-flash": f"{server.root_url}/v1beta",
    }
    model = next(model for model in urls if model.startswith(route))
    return {"model": model, "api_base": urls[model], "api_key": "none"}


async def _read(made: Any, most: int = 1_000) -> int:
    made = await made if inspect.isawaitable(made) else made
    seen = 0
    if hasattr(made, "__anext__"):
        async for _ in made:
            seen += 1
            if seen == most:
                break
    elif hasattr(made, "__next__"):
        seen = len([part for part, _ in zip(made, range(most), strict=False)])
    return seen


#: Who owns it, its name, what it is given. Asked of others than Gemini, a plain function's stream fails in litellm.
STREAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "messages": ("litellm", "anthropic_messages", {**MESSAGES, "stream": True}),
    "router's messages": ("router", "aanthropic_messages", {**MESSAGES, "stream": True}),
    "async content": ("google_genai", "agenerate_content_stream", CONTENT),
    "router's async content": ("router", "agenerate_content_stream", CONTENT),
}
WHOLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "messages": ("litellm", "anthropic_messages", MESSAGES),
    "content": ("google_genai", "generate_content", CONTENT),
    "async content": ("google_genai", "agenerate_content", CONTENT),
    "router's content": ("router", "generate_content", CONTENT),
    "router's async content": ("router", "agenerate_content", CONTENT),
}


def _made(litellm: Any, asked: tuple[str, str, dict[str, Any]], route: str, server: Provider) -> Callable[[], Any]:
    owner, name, given = asked
    how = _asked(route, server)
    if owner == "router":
        router = litellm.Router([{"model_name": "mine", "litellm_params": how}], num_retries=0)
        return lambda: getattr(router, name)(model="mine", **given)
    made = litellm if owner == "litellm" else litellm.google_genai
    return lambda: getattr(made, name)(**given, **how)


@pytest.mark.parametrize("route", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("kind", [*(f"{name} stream" for name in STREAMS), *WHOLE])
def test_it_is_charged_what_it_says_and_none_is_sent_without_a_step(
    kind: str, route: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    made = _made(litellm, WHOLE.get(kind) or STREAMS[kind.removesuffix(" stream")], route, server)
    server.enqueue(USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        asyncio.run(_read(made()))
        assert charged(run) == (1, 80, 20)
        assert not run.usage.estimated
        with pytest.raises(BudgetExceeded):
            asyncio.run(_read(made()))
    assert server.requests == 1


def test_a_plain_stream_of_geminis_is_charged_what_it_says(
    server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    server.enqueue(USED)
    with manager.run() as run:
        assert len(list(litellm.google_genai.generate_content_stream(**CONTENT, **_asked("gemini", server)))) > 1
        assert charged(run) == (1, 80, 20)


# The Router's messages that nobody has begun to read are in a circle of litellm's until the collector comes.
@pytest.mark.parametrize(
    ("kind", "most"), [(kind, most) for kind in STREAMS for most in range(kind == "router's messages", 3)]
)
@pytest.mark.parametrize("route", ["openai", "anthropic", "gemini"])
def test_a_stream_that_is_left_lets_go(
    kind: str, route: str, most: int, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    made = _made(litellm, STREAMS[kind], route, server)

    async def leave() -> None:
        stream = await made()
        if most:
            await _read(stream, most)
        del stream
        await litellm.close_litellm_async_clients()

    server.enqueue(USED)
    with manager.run(RunBudget(max_tokens=1_000)) as run:
        asyncio.run(leave())
        assert charged(run)[0] == 1


@pytest.mark.parametrize("route", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_outgrows_the_budget_is_cut(
    kind: str, route: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    owner, name, given = STREAMS[kind]
    wanting = given | ({"max_tokens": 9_000} if "messages" in given else {"config": {}})
    made = _made(litellm, (owner, name, wanting), route, server)
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            asyncio.run(_read(made()))
        if server.requests:
            assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True))])
@pytest.mark.parametrize("spelled", ["max_output_tokens", "maxOutputTokens"])
@pytest.mark.parametrize("by_place", [False, True])
def test_a_lowered_maximum_is_sent_in_its_config(
    spelled: str, by_place: bool, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how, config = _asked("gemini", server), {spelled: 300}
    model = how.pop("model")
    with manager.run(RunBudget(max_output_tokens=50)):
        if by_place:
            litellm.google_genai.generate_content(model, CONTENT["contents"], config, **how)
        else:
            litellm.google_genai.generate_content(model=model, contents=CONTENT["contents"], config=config, **how)
    assert server.recent[-1].body["generationConfig"] == {"maxOutputTokens": 50}
    assert config == {spelled: 300}
