"""What a guarded call is charged, whatever its answer looks like: figures where they are, prices, unknown ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai_ways import CHAT
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.config import Estimates
from otelbudget.engine import context as contexts
from otelbudget.guards import GUARDS
from otelbudget.guards.dialects import anthropic, dialect_of, gemini
from otelbudget.guards.dialects import openai as openai_dialect
from otelbudget.guards.providers import provider_of
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price, Prices

FIGURES = {"prompt_tokens": 80, "completion_tokens": 20}


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def manager(config: Config) -> Iterator[BudgetManager]:
    manager = BudgetManager(config)
    contexts.activate(manager.engine)
    GUARDS["openai"].install()
    yield manager
    GUARDS["openai"].uninstall()
    contexts.deactivate(manager.engine)


def _events(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps({"id": "c", "model": "m"} | event).encode() + b"\n\n" for event in events)


def _delta(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None} | more]}


@pytest.mark.parametrize(
    "last",
    [
        _delta("", finish_reason="stop", usage=FIGURES),
        _delta("", finish_reason="stop") | {"x_groq": {"usage": FIGURES}},
        _delta("", finish_reason="stop") | {"usage": FIGURES},
        {"choices": [], "usage": FIGURES},
    ],
)
def test_the_usage_of_a_stream_is_found_wherever_its_last_chunk_has_it(
    last: dict[str, Any], manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer["make"] = lambda _: (200, _events(_delta("Hi"), last) + b"data: [DONE]\n\n")
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        list(client.chat.completions.create(**CHAT, stream=True))
    assert (run.usage.input_tokens, run.usage.output_tokens) == (80, 20)


def test_a_stream_that_breaks_off_amid_usages_so_far_is_not_charged_the_first_of_them(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    so_far = {"prompt_tokens": 80, "completion_tokens": 1}
    chunks = [_delta("many words " * 30) | {"usage": so_far} for _ in range(3)]
    answer["make"] = lambda _: (200, _events(*chunks))
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(iter(stream))
        stream.close()
    assert run.usage.input_tokens == 80
    assert (run.usage.output_tokens or 0) > 30


def test_a_stream_of_plain_completions_is_asked_for_its_usage(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[tuple[str, dict[str, Any]]]
) -> None:
    text = {"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}
    answer["make"] = lambda _: (200, _events(text, {"choices": [], "usage": FIGURES}) + b"data: [DONE]\n\n")
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        chunks = list(client.completions.create(model="m", prompt="Say it.", stream=True))
    assert served[0][1]["stream_options"] == {"include_usage": True}
    assert [chunk.choices[0].text for chunk in chunks] == ["Hi"], "the usage that nobody asked for is hidden"
    assert (run.usage.input_tokens, run.usage.output_tokens) == (80, 20)


# --- prices

PROD = {"prod-chat": Price(input=7, output=7)}


@pytest.mark.parametrize(
    "config",
    [Config(prices=PROD), Config(prices={"prod-*": Price(input=7, output=7), "gpt-4o": Price(input=1, output=1)})],
)
def test_what_the_file_says_of_the_requested_name_comes_before_the_one_that_answered(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    used = {"prompt_tokens": 900_000, "completion_tokens": 100_000}
    answer["make"] = lambda _: (200, {"id": "c", "model": "gpt-4o-2024-08-06", "choices": [], "usage": used})
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        client.chat.completions.create(model="prod-chat", messages=CHAT["messages"])
    assert run.usage.cost_usd == 7


@pytest.mark.parametrize("config", [Config(prices=PROD)])
def test_what_comes_late_of_a_stream_costs_that_too(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    used = {"prompt_tokens": 900_000, "completion_tokens": 100_000}
    chunks = [one | {"model": "gpt-4o"} for one in (_delta("Hi"), {"choices": [], "usage": used})]
    answer["make"] = lambda _: (200, _events(*chunks) + b"data: [DONE]\n\n")
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        stream = client.chat.completions.create(model="prod-chat", messages=CHAT["messages"], stream=True)
        for _ in stream:
            break
        assert run.usage.steps == 1
        list(stream)
    assert run.usage.cost_usd == 7


@pytest.mark.parametrize("config", [Config(prices={"m": Price(input=1, output=2, tiers={"priority": 2})})])
def test_the_tier_that_answered_has_its_own_price(manager: BudgetManager, gateway: str, answer: dict[str, Any]) -> None:
    used = {"prompt_tokens": 500_000, "completion_tokens": 250_000}
    tiers = ["default", "priority", None]
    answer["make"] = lambda _: (
        200,
        {"id": "c", "model": "m", "choices": [], "usage": used, "service_tier": tiers.pop(0)},
    )
    costs = []
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client:
        for _ in range(3):
            with manager.run() as run:
                client.chat.completions.create(model="m", messages=CHAT["messages"])
            costs.append(run.usage.cost_usd)
    assert costs == [1, 2, 1]


@pytest.mark.parametrize("config", [Config(prices={"m": Price(input=0, output=2, tiers={"priority": 2})})])
def test_the_tier_that_is_asked_for_is_held_and_charged_unless_the_answer_says_another(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    used = {"prompt_tokens": 10, "completion_tokens": 1_000}
    answer["make"] = lambda _: (200, {"id": "c", "model": "m", "choices": [], "usage": used})
    asked: dict[str, Any] = {**CHAT, "model": "m", "max_completion_tokens": 1_000, "service_tier": "priority"}
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client:
        with manager.run(RunBudget(max_cost_usd=0.003), reraise=False), pytest.raises(BudgetExceeded):
            client.chat.completions.create(**asked)
        with manager.run(RunBudget(max_cost_usd=0.004)) as run:
            client.chat.completions.create(**asked)
    assert str(run.usage.cost_usd) == "0.004"


@pytest.mark.parametrize(
    ("base_url", "model", "per_million"),
    [
        ("https://openrouter.ai/api/v1", "openai/gpt-4o", 2_500),
        ("https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", 880),
        ("https://api.together.ai/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", 880),
        ("https://api.cerebras.ai/v1", "llama3.1-8b", 100),
        ("https://api.x.ai/v1", "grok-4", 3_000),
        ("https://mine.openai.azure.com/openai/v1", "gpt-4o", 2_500),
        ("https://router.huggingface.co/groq/openai/v1", "openai/gpt-oss-120b", 150),
        ("https://gateway.example/v1", "openai/gpt-4o", 2_500),
        ("https://gateway.example/v1", "anthropic/claude-sonnet-4-5", 3_000),
        ("https://us-central1-aiplatform.googleapis.com/v1/endpoints/openapi", "google/gemini-2.5-flash", 300),
    ],
)
def test_the_price_is_that_of_the_address_that_is_called(base_url: str, model: str, per_million: int) -> None:
    with OpenAI(base_url=base_url, api_key="none") as client:
        known = Prices().known(model, provider_of(client, "openai"))
    assert known is not None
    assert known.rates.input == per_million * known.rates.scale


# --- unknown ends

DEAR = {"demo-small": Price(input=0, output=10)}
ASKED = {**CHAT, "max_tokens": 4_000}


@pytest.mark.parametrize(
    ("config", "sent", "spent"),
    [
        (Config(prices=DEAR), 9, "0"),
        (Config(prices=DEAR, estimates=Estimates(on_unknown="full")), 5, "0.2"),
    ],
)
def test_calls_that_nobody_waited_for_are_charged_as_the_file_says(
    config: Config, sent: int, spent: str, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    for _ in range(9):
        server.enqueue(Reply(fault="hang"))
    with manager.run(RunBudget(max_cost_usd=0.2), reraise=False) as run:
        for _ in range(9):
            with pytest.raises((openai.APITimeoutError, BudgetExceeded)):
                client.chat.completions.create(**ASKED, timeout=0.6)
    assert (server.requests, str(run.usage.cost_usd)) == (sent, spent)


# --- nonsense

WRONG = (None, "12", 1.5, -3, True, 1e30, 2**63, [], {})


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"])
def test_an_answer_whose_usage_makes_no_sense_is_charged_and_never_raises(
    name: str, manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    usages = [{**FIGURES, "total_tokens": 100, name: wrong} for wrong in WRONG]
    usages += [{"prompt_tokens": one, "completion_tokens": two, name: two} for one, two in product(WRONG, WRONG)]
    left = list(usages)
    answer["make"] = lambda _: (200, {"id": "c", "model": "m", "choices": [], "usage": left.pop(0)})
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        for _ in usages:
            before = run.usage
            client.chat.completions.create(**CHAT, max_completion_tokens=30)
            assert (run.usage.input_tokens or 0) > (before.input_tokens or 0)
            assert (run.usage.output_tokens or 0) > (before.output_tokens or 0)
    assert run.usage.steps == len(usages)
    assert run._state.account.holds == 0


# --- what is paid by the piece

PIECES = {"painter": Price(input=0, image=0.04), "voice": Price(input=0, request=0.5), "m": Price(input=0, search=0.01)}


@pytest.mark.parametrize("config", [Config(prices=PIECES)])
@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(0, 0, images=2, model="painter"), "0.08"),
        (Usage(0, 0, model="voice"), "0.5"),
        (Usage(0, 0, searches=3, model="m"), "0.03"),
    ],
)
def test_what_is_paid_by_the_piece_costs_that_without_any_token(
    usage: Usage, cost: str, manager: BudgetManager
) -> None:
    with manager.run() as run:
        run.record(usage)
        assert str(run.usage.cost_usd) == cost
        run.reserve(cost_usd=9, model=usage.model).commit(usage)
        assert run.usage.cost_usd == 2 * Decimal(cost)


@pytest.mark.parametrize("config", [Config(prices=PIECES)])
def test_a_guarded_picture_is_held_and_charged_at_its_price_by_how_many_are_asked_for(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer["make"] = lambda _: (200, {"created": 1, "data": [{"url": "x"}, {"url": "y"}]})
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client:
        with manager.run(RunBudget(max_cost_usd=0.08)) as run:
            client.images.generate(model="painter", prompt="A budget.", n=2)
        assert str(run.usage.cost_usd) == "0.08"
        with manager.run(RunBudget(max_cost_usd=0.07), reraise=False) as run, pytest.raises(BudgetExceeded):
            client.images.generate(model="painter", prompt="A budget.", n=2)
        answer["make"] = lambda _: (400, {"error": {"message": "no"}})
        with manager.run() as run, pytest.raises(openai.BadRequestError):
            client.images.generate(model="painter", prompt="A budget.")
        assert (run.usage.steps, run.usage.cost_usd) == (1, 0)


@pytest.mark.parametrize("config", [Config(prices={"m": Price(input=0, search=0.01)})])
def test_searches_are_held_as_far_as_a_request_bounds_them(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    answer["make"] = lambda _: (200, {"id": "r", "model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}})
    tools: Any = [{"type": "web_search"}]
    client = OpenAI(base_url=gateway, api_key="none", max_retries=0)
    with client, manager.run(RunBudget(max_cost_usd=0.03), reraise=False) as run:
        client.responses.create(model="m", input="Find it.", tools=tools, max_tool_calls=3)
        client.responses.create(model="m", input="Find it.", max_tool_calls=4)
        with pytest.raises(BudgetExceeded):
            client.responses.create(model="m", input="Find it.", tools=tools, max_tool_calls=4)
    assert (len(served), run.usage.cost_usd) == (2, 0)


@pytest.mark.parametrize(
    ("endpoints", "path", "body", "searches"),
    [
        (anthropic.ENDPOINTS, "/v1/messages", {"tools": [{"type": "web_search_20250305", "max_uses": 5}]}, 5),
        (anthropic.ENDPOINTS, "/v1/messages", {"tools": [{"type": "web_search_20250305"}, {"name": "x"}]}, 0),
        (openai_dialect.ENDPOINTS, "/v1/responses", {"tools": [{"type": "file_search"}], "max_tool_calls": 5}, 0),
        (openai_dialect.ENDPOINTS, "/v1/responses", {"tools": "all", "max_tool_calls": 5}, 0),
        (gemini.ENDPOINTS, "m:generateContent", {"model": "gemini-2.5-pro", "tools": [{"googleSearch": {}}]}, 1),
        (gemini.ENDPOINTS, "m:generateContent", {"model": "models/gemini-3-pro", "tools": [{"googleSearch": {}}]}, 0),
        (gemini.ENDPOINTS, "m:generateContent", {"model": "gemini-2.5-pro", "tools": [{"codeExecution": {}}, 1]}, 0),
    ],
)
def test_each_provider_bounds_its_searches_in_its_own_way(endpoints: Any, path: str, body: Any, searches: int) -> None:
    found = dialect_of(endpoints, "post", path)
    assert found is not None
    assert found.searches(body) == searches


@pytest.mark.parametrize("config", [Config(prices={"m": Price(input=0, search=0.01, image=0.04)})])
@pytest.mark.parametrize("stream", [False, True])
def test_searches_and_pictures_of_hosted_tools_are_charged(
    stream: bool, manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    output: Any = [
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}}
    ]
    output = [*output, *output, {"type": "image_generation_call", "id": "i", "status": "completed", "result": "x"}]
    whole = {"id": "r", "model": "m", "output": output, "usage": {"input_tokens": 9, "output_tokens": 1}}
    done = b"data: " + json.dumps({"type": "response.completed", "response": whole}).encode() + b"\n\n"
    answer["make"] = lambda _: (200, done if stream else whole)
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        for _ in client.responses.create(model="m", input="Find it.", tools=[{"type": "web_search"}], stream=stream):
            pass
    assert str(run.usage.cost_usd) == "0.06"
