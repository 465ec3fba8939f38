"""The guard of google-genai: stopped before it is sent, and charged what it used, over each of its HTTP clients."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from google_ways import SAY, WAYS, call, gemini, in_a_loop
from kits import charged
from provider import Provider, Reply
from provider.gemini import MODEL

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price

genai = pytest.importorskip("google.genai")
from google.genai import errors, types  # noqa: E402 - they need the SDK

#: Warnings of the SDK itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

GUARD = GUARDS["google_genai"]
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20, reasoning_tokens=5, cached_tokens=30)
BODY = {"contents": [{"role": "user", "parts": [{"text": SAY}]}]}
INPUT = count_input(BODY)


@pytest.fixture
def sdk() -> str:
    return "google_genai"


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Any]:
    made = gemini(server.root_url)
    yield made
    made.close()


def test_a_call_costs_what_the_list_says_its_thoughts_and_its_cache_included(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    """Gemini 2.5 Flash: $0.30 a million in, $2.50 out, $0.03 read from a cache."""
    pytest.importorskip("genai_prices")
    server.enqueue(Reply(text="one", input_tokens=1000, output_tokens=100, reasoning_tokens=60, cached_tokens=500))
    with manager.run() as run:
        client.models.generate_content(model=MODEL, contents=SAY)
    assert run.usage.cost_usd == Decimal("0.00015") + Decimal("0.000015") + Decimal("0.00025")


def test_embeddings_of_vertex_ai_are_charged_the_tokens_of_each_text(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    texts = [{"embeddings": {"values": [0.1], "statistics": {"token_count": count}}} for count in (6, 5)]
    answer["make"] = lambda _: (200, {"predictions": texts, "metadata": {"billableCharacterCount": 40}})
    client = gemini(gateway, vertexai=True)
    asked: dict[str, Any] = {"model": "text-embedding-005", "contents": ["How are you?", "Fine, but for my left knee."]}
    with manager.run(RunBudget(max_tokens=30), reraise=False) as run:
        client.models.embed_content(**asked)
        with pytest.raises(BudgetExceeded):
            client.models.embed_content(**asked)
        assert charged(run) == (1, 11, 0)
    client.close()
    assert len(served) == 1


def test_function_calling_by_itself_is_a_step_for_each_request(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"fine in {city}"

    server.enqueue(Reply(tool_calls=[("weather", {"city": "Oslo"})], input_tokens=10, output_tokens=5), USED)
    asked = types.GenerateContentConfig(tools=[weather])
    with manager.run(RunBudget(max_steps=2), reraise=False) as run:
        client.models.generate_content(model=MODEL, contents=SAY, config=asked)
        assert charged(run) == (2, 90, 25)


def test_the_maximum_of_the_request_is_held(server: Provider, manager: BudgetManager, client: Any) -> None:
    asked = types.GenerateContentConfig(max_output_tokens=51, candidate_count=2)
    with manager.run(RunBudget(max_output_tokens=100), reraise=False), pytest.raises(BudgetExceeded) as caught:
        client.models.generate_content(model=MODEL, contents=SAY, config=asked)
    assert caught.value.requested == 102
    assert server.requests == 0


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_what_is_sent(server: Provider, manager: BudgetManager, client: Any) -> None:
    asked = types.GenerateContentConfig(max_output_tokens=100, temperature=0.5)
    with manager.run(RunBudget(max_output_tokens=40), reraise=False):
        client.models.generate_content(model=MODEL, contents=SAY, config=asked)
    assert server.recent[-1].body["generationConfig"] == {"maxOutputTokens": 40, "temperature": 0.5}


def test_counting_and_models_pass(server: Provider, manager: BudgetManager, client: Any) -> None:
    with manager.run(RunBudget(max_steps=0)) as run:
        for other in (
            lambda: client.models.count_tokens(model=MODEL, contents=SAY),
            lambda: client.models.get(model=MODEL),
        ):
            with pytest.raises(errors.ClientError, match="404"):
                other()
        assert charged(run) == (0, 0, 0)


def test_a_stream_left_early_is_charged_the_input_it_told_and_the_output_seen(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    server.enqueue(USED, USED)
    for leave in (lambda chunks: chunks.close(), lambda _: None):
        with manager.run() as run:
            chunks = client.models.generate_content_stream(model=MODEL, contents=SAY)
            assert next(chunks).text == "one "
            leave(chunks)
            del chunks
            assert charged(run) == (1, 80, estimate_tokens("one "))


@pytest.mark.parametrize("way", ["aiohttp stream", "httpx stream"])
def test_an_async_stream_left_early_is_charged_what_was_read(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(USED)

    async def leave(client: Any) -> None:
        chunks = await client.aio.models.generate_content_stream(model=MODEL, contents=SAY)
        async for _ in chunks:
            break
        await chunks.aclose()

    client = WAYS[way][0](server.root_url)
    with manager.run() as run:
        in_a_loop(leave)(client)
        gc.collect()
        client.close()
        GUARD.uninstall()  # settles what was dropped
        assert charged(run) == (1, 80, estimate_tokens("one "))


async def _of_a_chat(client: Any) -> Any:
    return await client.aio.chats.create(model=MODEL).send_message_stream(SAY)


async def _of_the_models(client: Any) -> Any:
    return await client.aio.models.generate_content_stream(model=MODEL, contents=SAY)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["aiohttp stream", "httpx stream"])
@pytest.mark.parametrize("opened", [_of_a_chat, _of_the_models])
def test_an_async_stream_that_is_dropped_is_over_before_the_loop_goes_on(
    opened: Any, way: str, server: Provider, manager: BudgetManager
) -> None:
    async def leave(client: Any) -> None:
        for steps in (1, 2):
            async for _ in await opened(client):
                break
            assert charged(run)[0] == steps

    server.enqueue(USED, USED)
    client = WAYS[way][0](server.root_url)
    with manager.run() as run:
        in_a_loop(leave)(client)
    client.close()


LONG = Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900)


@pytest.mark.parametrize("way", ["stream", "aiohttp stream", "httpx stream"])
def test_a_stream_that_outgrows_the_budget_is_cut(way: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(LONG)
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            call(way, server.root_url)
        assert caught.value.__cause__ is None
        assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.parametrize("way", ["sync", "stream", "aiohttp", "aiohttp stream", "httpx", "httpx stream"])
def test_retries_of_the_sdk_are_one_step_and_each_lost_attempt_costs_its_input(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    retrying = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.001, jitter=0.001)
    lost = Reply(fault="reset" if "aiohttp" in way else "hang")  # what the SDK tries again over this client
    cases: tuple[tuple[tuple[Reply, ...], tuple[int, int, int]], ...] = (
        ((Reply(status=429), Reply(status=500), USED), (1, 80, 20)),
        ((Reply(status=500),) * 3, (1, 0, 0)),
        ((lost, USED), (1, 80 + INPUT, 20)),
        ((Reply(status=400),), (1, 0, 0)),
    )
    for replies, owed in cases:
        server.enqueue(*replies)
        manager.engine.learned = type(manager.engine.learned)()
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                call(way, server.root_url, retry_options=retrying, timeout=1_000)
            except errors.APIError:
                assert owed[2] == 0
            assert charged(run) == owed
    assert server.requests == sum(len(replies) for replies, _ in cases)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(("most_s", "requests", "owed"), [(9, 2, (1, 80 + INPUT, 20)), (1, 1, (1, INPUT, 0))])
@pytest.mark.parametrize("way", ["aiohttp", "aiohttp stream"])
def test_what_is_sent_again_over_a_new_connection_pays_for_both_and_not_after_the_deadline(
    way: str,
    most_s: int,
    requests: int,
    owed: tuple[int, ...],
    server: Provider,
    manager: BudgetManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.randint", lambda *_: -1)  # by how many seconds more than one it waits
    server.enqueue(Reply(fault="reset"), USED)
    with manager.run(RunBudget(max_seconds=most_s), reraise=False) as run:
        with suppress(BudgetExceeded):
            call(way, server.root_url)
        assert (charged(run), server.requests) == (owed, requests)
        assert run.receipt().denials == 2 - requests


@pytest.mark.parametrize("way", ["sync", "stream", "aiohttp", "aiohttp stream", "httpx", "httpx stream"])
def test_what_never_left_is_given_back_and_a_timeout_after_sending_charges_the_input(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    once = types.HttpRetryOptions(attempts=1)
    with manager.run() as run:
        with pytest.raises(Exception, match=r"refused|Cannot connect|attempts failed"):
            call(way, nobody, retry_options=once)
        assert charged(run) == (0, 0, 0)
    server.enqueue(Reply(fault="hang"))
    with manager.run() as run:
        with pytest.raises((httpx2.ReadTimeout, TimeoutError)):
            call(way, server.root_url, retry_options=once, timeout=1_000)
        assert charged(run) == (1, INPUT, 0)


def test_pictures_are_counted_as_pictures() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "A" * 90_000}}
    sound = {"inlineData": {"mimeType": "audio/wav", "data": "A" * 3_000_000}}
    for part, least, most in ((picture, 1_500, 1_520), (sound, 3_000, 3_020), ({"fileData": {}}, 1_500, 1_520)):
        assert least <= count_input({"contents": [{"role": "user", "parts": [part]}]}) <= most


def test_vertex_ai_is_guarded_too(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    usage = {"promptTokenCount": 70, "toolUsePromptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 100}
    said = {"candidates": [{"content": {"role": "model", "parts": [{"text": "one"}]}}], "usageMetadata": usage}
    answer["make"] = lambda _: (200, said)
    client = genai.Client(vertexai=True, api_key="none", http_options={"base_url": gateway})
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        client.models.generate_content(model=MODEL, contents=SAY)
        assert charged(run) == (1, 80, 20)
        with pytest.raises(BudgetExceeded):
            client.models.generate_content(model=MODEL, contents=SAY)
    client.close()
    assert len(served) == 1


@pytest.mark.parametrize("config", [Config(prices={MODEL: Price(input=0, output=2, tiers={"priority": 2})})])
def test_a_tier_has_its_price(server: Provider, manager: BudgetManager, client: Any) -> None:
    server.enqueue(Reply(text="one", output_tokens=1_000))
    asked = types.GenerateContentConfig(max_output_tokens=1_000, service_tier=types.ServiceTier.PRIORITY)
    with manager.run() as run:
        client.models.generate_content(model=MODEL, contents=SAY, config=asked)
    assert str(run.usage.cost_usd) == "0.004"
