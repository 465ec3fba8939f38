"""What is held for a call is the dearest that it may come to: cache writes, sound and pictures have own prices.

The prices are genai-prices', which list what `Price` has no name for; of Bedrock's model, the configuration's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from importlib import import_module
from typing import Any, NamedTuple

import openai
import pytest
from google_ways import gemini
from kits import bedrock
from provider import Provider, Reply
from provider.bedrock import CLAUDE
from provider.gemini import MODEL, PAINTER
from world import held as held_by

from otelbudget import BudgetExceeded, Config, RunBudget, wrap
from otelbudget.demo.server import Request
from otelbudget.estimate.tokens import Given, read_input
from otelbudget.manager import BudgetManager
from otelbudget.model.amounts import COST, INPUT
from otelbudget.pricing import Price

pytest.importorskip("genai_prices")
#: Warnings of google-genai itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MADE = 100
#: So long that most of the price is that of the input.
LONG = "Say it. " * 1_500
CALLS = 5
SOUND = base64.b64encode(bytes(30_000)).decode()


class Case(NamedTuple):
    """A way to ask for what is dear.

    Args:
        sdk: As `GUARDS` names it.
        client: Makes a client for a root URL.
        ask: Sends the request.
        usage: How its provider tells that as much as can be was dear.
        prices: USD per million of its text and of its sound, and of its output.
    """

    sdk: str
    client: Callable[[str], Any]
    ask: Callable[[Any], object]
    usage: Callable[[Given], dict[str, Any]]
    prices: tuple[float, float, float]


def _claude(**more: Any) -> Callable[[Any], object]:
    given = {"model": "claude-sonnet-4-5", "max_tokens": MADE, "messages": [{"role": "user", "content": LONG}]}
    return lambda client: client.messages.create(**{**given, **more})


def _anthropic(url: str) -> Any:
    return import_module("anthropic").Anthropic(base_url=url, api_key="none", max_retries=0)


def _openai(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def _chat(*content: dict[str, Any], model: str = "gpt-audio", **more: Any) -> Callable[[Any], object]:
    messages = [{"role": "user", "content": [{"type": "text", "text": LONG}, *content]}]
    return lambda c: c.chat.completions.create(model=model, messages=messages, max_completion_tokens=MADE, **more)


def _gemini(model: str, *parts: dict[str, Any], **more: Any) -> Callable[[Any], object]:
    contents = [{"role": "user", "parts": [{"text": LONG}, *parts]}]
    config = {"max_output_tokens": MADE, **more}
    return lambda client: client.models.generate_content(model=model, contents=contents, config=config)


def _converse(*, tools: bool = False, **point: str) -> Callable[[Any], object]:
    mark = {"cachePoint": {"type": "default", **point}}
    content = [{"text": LONG}, *([] if tools else [mark])]
    tool = {"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}
    more: dict[str, Any] = {"toolConfig": {"tools": [tool, mark]}} if tools else {}
    messages = [{"role": "user", "content": content}]
    return lambda c: c.converse(modelId=CLAUDE, messages=messages, inferenceConfig={"maxTokens": MADE}, **more)


def _claude_wrote(given: Given) -> dict[str, Any]:
    return {"input_tokens": 0, "cache_creation_input_tokens": given.tokens}


def _claude_wrote_for_an_hour(given: Given) -> dict[str, Any]:
    return {**_claude_wrote(given), "cache_creation": {"ephemeral_1h_input_tokens": given.tokens}}


def _bedrock_wrote(given: Given) -> dict[str, Any]:
    return {"inputTokens": 0, "cacheWriteInputTokens": given.tokens}


def _openai_wrote(given: Given) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cache_write_tokens": given.tokens}}


def _spoke(given: Given) -> dict[str, Any]:
    heard = {"prompt_tokens_details": {"audio_tokens": given.audio_tokens}}
    return {**heard, "completion_tokens_details": {"audio_tokens": MADE}}


def _painted(given: Given) -> dict[str, Any]:
    return {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": MADE}]}


def _heard(given: Given) -> dict[str, Any]:
    return {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": given.audio_tokens}]}


BLOCK = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
TOOL = {"name": "look", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
WAV: dict[str, Any] = {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}
CASES = {
    "Anthropic, 5 minutes, in a tool": Case(
        "anthropic", _anthropic, _claude(tools=[TOOL]), _claude_wrote, (3.75, 0, 15)
    ),
    "Anthropic, 5 minutes, of its own choice": Case(
        "anthropic", _anthropic, _claude(cache_control={"type": "ephemeral"}), _claude_wrote, (3.75, 0, 15)
    ),
    "Anthropic, 1 hour, in a message": Case(
        "anthropic",
        _anthropic,
        _claude(messages=[{"role": "user", "content": BLOCK}]),
        _claude_wrote_for_an_hour,
        (6, 0, 15),
    ),
    "Anthropic, 1 hour, in the system": Case(
        "anthropic", _anthropic, _claude(system=BLOCK), _claude_wrote_for_an_hour, (6, 0, 15)
    ),
    "Bedrock, in a message": Case("bedrock", bedrock, _converse(), _bedrock_wrote, (1.25, 0, 5)),
    "Bedrock, among tools": Case("bedrock", bedrock, _converse(tools=True), _bedrock_wrote, (1.25, 0, 5)),
    "OpenAI, unasked": Case("openai", _openai, _chat(model="gpt-6-luna"), _openai_wrote, (0.125, 0, 0.5)),
    "OpenAI, sound": Case("openai", _openai, _chat(WAV, modalities=["text", "audio"]), _spoke, (2.5, 32, 64)),
    "Gemini, a picture asked for": Case(
        "google_genai", gemini, _gemini(PAINTER, response_modalities=["TEXT", "IMAGE"]), _painted, (0.3, 0, 30)
    ),
    "Gemini, a picture unasked": Case("google_genai", gemini, _gemini(PAINTER), _painted, (0.3, 0, 30)),
    "Gemini, sound": Case(
        "google_genai",
        gemini,
        _gemini(MODEL, {"inline_data": {"data": SOUND, "mime_type": "audio/wav"}}),
        _heard,
        (0.3, 1, 2.5),
    ),
}


@pytest.fixture
def config() -> Config:
    return Config(prices={CLAUDE: Price(input=1, output=5, cache_write=1.25)})


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = CASES[request.param]
    return found


@pytest.fixture
def sdk(case: Case) -> str:
    return case.sdk


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_parallel_calls_whose_tokens_are_all_dear_reach_a_limit_and_never_pass_it(
    case: Case, manager: BudgetManager
) -> None:
    seen: list[Given] = []

    def used(request: Request) -> Reply:
        seen.append(given := read_input(request.body))
        usage = case.usage(given)
        return Reply(text="it", input_tokens=given.tokens, output_tokens=MADE, usage=usage, latency_s=0.3)

    def asked(client: Any) -> bool:
        try:
            case.ask(client)
        except BudgetExceeded:
            return False
        return True

    with Provider(script=used) as server:
        client = case.client(server.root_url)
        with manager.run():
            case.ask(client)
        each = _cost(seen[0], case)
        with manager.run(RunBudget(max_cost_usd=CALLS * each), reraise=False) as run, ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(wrap(asked), client) for _ in range(8)]
        assert [call.result() for call in calls].count(True) == CALLS
        client.close()
    assert run.usage.cost_usd == CALLS * each


def _cost(given: Given, case: Case) -> Decimal:
    text, sound, made = (Decimal(repr(price)) for price in case.prices)
    million = (given.tokens - given.audio_tokens) * text + given.audio_tokens * sound + MADE * made
    return (million * 1000).to_integral_value(rounding="ROUND_CEILING") / 10**9


@pytest.mark.parametrize(
    ("sdk", "client", "ask", "prices"),
    [
        ("anthropic", _anthropic, _claude(), (3, 0, 15)),
        ("bedrock", bedrock, lambda c: c.converse(modelId=CLAUDE, messages=SAY, inferenceConfig=MOST), (1, 0, 5)),
        ("openai", _openai, _chat(), (2.5, 0, 10)),
        ("google_genai", gemini, _gemini(PAINTER, response_modalities=["TEXT"]), (0.3, 0, 2.5)),
        ("google_genai", gemini, _gemini(MODEL), (0.3, 0, 2.5)),
    ],
)
def test_what_asks_for_nothing_dear_is_held_at_the_plain_price(
    client: Callable[[str], Any], ask: Callable[[Any], object], prices: tuple[float, float, float], manager: Any
) -> None:
    held: list[int] = []
    seen: list[Given] = []

    def used(request: Request) -> None:
        seen.append(read_input(request.body))
        held.append(held_by(run)[COST])

    with Provider(script=used) as server:
        made = client(server.root_url)
        with manager.run() as run:
            ask(made)
        made.close()
    assert Decimal(held[0]) / 10**9 == _cost(seen[0], Case("", client, ask, _claude_wrote, prices))


@pytest.mark.parametrize("sdk", ["google_genai"])
def test_pictures_that_are_given_are_held_at_their_price(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    held: list[list[int]] = []
    answer["make"] = lambda _: held.append(held_by(run)) or (200, {"embeddings": [{"values": [0.0]}]})
    picture = {"inline_data": {"data": PICTURE, "mime_type": "image/png"}}
    client = gemini(gateway)
    with manager.run(RunBudget()) as run:
        for part in ({"text": LONG}, picture):
            client.models.embed_content(model="gemini-embedding-2", contents=[{"parts": [part]}])
    assert [amounts[COST] / amounts[INPUT] for amounts in held] == [200, 450]


PICTURE = base64.b64encode(b"\x89PNG" + bytes(3_000)).decode()
SAY = [{"role": "user", "content": [{"text": "Say it."}]}]
MOST = {"maxTokens": MADE}
