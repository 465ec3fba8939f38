"""A stream lets go of its hold when its reader lets go of it, before the next request is judged; nobody collects."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from google_ways import MODEL
from google_ways import WAYS as GOOGLE
from kits import COHERE_CHAT, CONVERSE, OLLAMA_CHAT, bedrock, charged, cohere, ollama
from mistral_ways import CHAT, mistral
from provider import Provider, Reply
from sdks import MODELS, kit

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.config import Estimates
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price

SHORT = Reply(chunks=("one ", "two ", "three"), input_tokens=10, output_tokens=3)
#: Each stream holds a hundred tokens and more, and leaves some ten.
LIMIT = RunBudget(max_tokens=1000)


def _stainless(sdk: str) -> Callable[..., Any]:
    def opener(url: str, asynchronous: bool) -> Any:
        made = kit(sdk, url)
        return lambda: made.create(made.aclient if asynchronous else made.client, stream=True)

    return opener


def _mistral(url: str, asynchronous: bool) -> Any:
    client = mistral(url)
    return lambda: (client.chat.stream_async if asynchronous else client.chat.stream)(**CHAT)


def _ollama(url: str, asynchronous: bool) -> Any:
    client = ollama("AsyncClient" if asynchronous else "Client")(url)
    return lambda: client.chat(**OLLAMA_CHAT, stream=True)


def _cohere(url: str, asynchronous: bool) -> Any:
    client = cohere("AsyncClientV2" if asynchronous else "ClientV2")(url)
    return lambda: _given(client.chat_stream(**COHERE_CHAT)) if asynchronous else client.chat_stream(**COHERE_CHAT)


def _google(url: str, asynchronous: bool) -> Any:
    client = GOOGLE["httpx stream" if asynchronous else "stream"][0](url)
    asked: dict[str, Any] = {"model": MODEL, "contents": "Say it.", "config": {"max_output_tokens": 100}}
    return lambda: (client.aio if asynchronous else client).models.generate_content_stream(**asked)


async def _given(stream: Any) -> Any:
    return stream


def _bedrock(url: str, _: bool) -> Any:
    client = bedrock(url)
    return lambda: client.converse_stream(**CONVERSE)["stream"]


OPENERS: dict[str, Callable[..., Any]] = {
    **{sdk: _stainless(sdk) for sdk in MODELS},
    "mistralai": _mistral,
    "ollama": _ollama,
    "cohere": _cohere,
    "google_genai": _google,
    "bedrock": _bedrock,
}
#: Whose streams are generators, which are the reader themselves and send their request when they are first read.
GENERATORS = ("ollama", "cohere", "google_genai")
EVERY = pytest.mark.parametrize("sdk", OPENERS)
#: Of the SDKs themselves; and connections that nobody closes, as nobody does here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _nobody_collects() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def _leave_the_loop(stream: Any) -> None:
    for _ in stream:
        break


LEAVINGS: dict[str, Callable[[Any], object]] = {
    "break": _leave_the_loop,
    "next(iter())": lambda stream: next(iter(stream)),
    "dropped": lambda _: None,
}


@EVERY
@pytest.mark.parametrize("leaving", LEAVINGS)
def test_twenty_streams_that_are_left_after_one_event_fit_where_five_are_held(
    sdk: str, leaving: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(*[SHORT] * 20)
    with manager.run(LIMIT) as run:
        opened = OPENERS[sdk](server.root_url, False)
        for _ in range(20):
            LEAVINGS[leaving](opened())
        assert charged(run)[0] == (0 if leaving == "dropped" and sdk in GENERATORS else 20)


@pytest.mark.parametrize("sdk", [sdk for sdk in OPENERS if sdk not in GENERATORS])
def test_a_loop_that_is_left_lets_go_though_the_stream_is_kept(
    sdk: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(SHORT)
    with manager.run(LIMIT) as run:
        stream = OPENERS[sdk](server.root_url, False)()
        _leave_the_loop(stream)
        assert charged(run)[0] == 1


#: boto3 has no asynchronous client.
@pytest.mark.parametrize("sdk", [sdk for sdk in OPENERS if sdk != "bedrock"])
@pytest.mark.parametrize("way", ["break", "cancelled"])
def test_asynchronous_streams_too_and_when_their_task_is_cancelled(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    async def read_one(opened: Callable[[], Any], ready: asyncio.Event) -> None:
        async for _ in await opened():
            ready.set()
            if way == "break":
                break
            await asyncio.sleep(60)

    async def all_of_it() -> None:
        opened = OPENERS[sdk](server.root_url, True)
        for _ in range(12):
            ready = asyncio.Event()
            task = asyncio.ensure_future(read_one(opened, ready))
            await ready.wait()
            if way == "cancelled":
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    server.enqueue(*[SHORT] * 12)
    with manager.run(LIMIT) as run:
        asyncio.run(all_of_it())
        assert run.usage.steps == 12


@pytest.mark.parametrize("sdk", ["ollama"])
def test_an_asynchronous_generator_that_is_closed_is_over_though_it_is_kept(
    sdk: str, server: Provider, manager: BudgetManager
) -> None:
    async def read_one() -> None:
        stream = await OPENERS[sdk](server.root_url, True)()
        async for _ in stream:
            break
        await stream.aclose()
        assert charged(run)[0] == 1

    server.enqueue(SHORT)
    with manager.run(LIMIT) as run:
        asyncio.run(read_one())


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "mistralai", "bedrock"])
def test_who_goes_on_reading_is_charged_the_rest_late(sdk: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(SHORT)
    with manager.run(LIMIT) as run:
        stream = OPENERS[sdk](server.root_url, False)()
        _leave_the_loop(stream)
        assert charged(run)[2] != 3 or sdk == "anthropic"
        for _ in stream:
            pass
        steps, _, made = charged(run)
        assert (steps, made) == (1, 3)


@pytest.mark.parametrize("config", [Config(prices={"*": Price(input=10, output=0, cache_read=1)})])
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "mistralai", "bedrock"])
def test_what_comes_late_costs_what_its_parts_do(sdk: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(replace(SHORT, input_tokens=90_000, cached_tokens=60_000))
    with manager.run() as run:
        stream = OPENERS[sdk](server.root_url, False)()
        _leave_the_loop(stream)
        for _ in stream:
            pass
    assert run.usage.input_tokens == 90_000
    assert 0.36 <= float(run.usage.cost_usd or 0) < 0.361


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "mistralai", "bedrock"])
@pytest.mark.parametrize("config", [Config(estimates=Estimates(on_unknown="full"))])
def test_who_goes_on_reading_what_was_charged_in_full_is_charged_nothing_more(
    sdk: str, config: Config, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(chunks=("one ", "two ", "three"), input_tokens=1, output_tokens=3))
    with manager.run(RunBudget()) as run:
        stream = OPENERS[sdk](server.root_url, False)()
        _leave_the_loop(stream)
        full = charged(run)
        assert full[2] == 100
        _leave_the_loop(stream)
        list(stream)
        assert charged(run) == full


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "mistralai", "bedrock"])
def test_who_goes_on_reading_is_stopped_where_nothing_is_left(
    sdk: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(80)), input_tokens=10, output_tokens=90))
    with manager.run(RunBudget(max_tokens=130), reraise=False) as run:
        stream = OPENERS[sdk](server.root_url, False)()
        _leave_the_loop(stream)
        run.record(Usage(tokens=100))
        with pytest.raises(BudgetExceeded):
            list(stream)
        assert charged(run)[0] == 2
        assert run.usage.tokens < 160


@pytest.mark.parametrize("sdk", ["openai", "groq", "mistralai", "bedrock"])
def test_a_stream_that_is_read_whole_has_its_events_and_its_usage(
    sdk: str, server: Provider, manager: BudgetManager
) -> None:
    assert GUARDS[sdk].unreached() == []
    server.enqueue(SHORT)
    with manager.run(LIMIT) as run:
        seen = str(list(OPENERS[sdk](server.root_url, False)()))
        assert all(word in seen for word in ("one ", "two ", "three"))
        assert charged(run) == (1, 10, 3)
