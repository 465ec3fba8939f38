"""What the guard of openai learns from answers, the maximum that it lowers, and the cost that an answer reports."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from openai_ways import CHAT, RESPONSE
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.config import Estimates
from otelbudget.engine import context as contexts
from otelbudget.estimate.tokens import count_input
from otelbudget.guards import GUARDS
from otelbudget.guards.dialects import cost_of, dialect_of
from otelbudget.guards.dialects.openai import ENDPOINTS
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price, Prices

INPUT = count_input(CHAT)
ROOM = RunBudget(max_tokens=INPUT + 40)
CLAMP = Config(estimates=Estimates(clamp=True, min_output_tokens=8))
TRUST = Config(prices=Prices({"priced": Price(input=1, output=2)}, listed=False), trust_reported_cost=True)

Served = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def config() -> Config:
    return CLAMP


@pytest.fixture
def manager(config: Config) -> Iterator[BudgetManager]:
    manager = BudgetManager(config)
    contexts.activate(manager.engine)
    GUARDS["openai"].install()
    yield manager
    GUARDS["openai"].uninstall()
    contexts.deactivate(manager.engine)


def _asking(input_tokens: int) -> dict[str, Any]:
    """A chat that is counted as exactly *input_tokens*."""
    message = {"role": "user", "content": ""}
    while count_input({"messages": [message]}) < input_tokens:
        message["content"] += "a b c "[len(message["content"]) % 6]
    assert count_input({"messages": [message]}) == input_tokens
    return {"model": "demo-small", "messages": [message]}


# --- scenario 6: cumulative tokens

TURNS = ((60, 25), (120, 30), (160, 25), (190, 30), (220, 30))


def _converse(server: Provider, client: OpenAI) -> None:
    for input_tokens, output_tokens in TURNS:
        server.enqueue(Reply(text="word " * 50, input_tokens=input_tokens, output_tokens=output_tokens))
        client.chat.completions.create(**_asking(input_tokens), max_completion_tokens=output_tokens)


@pytest.mark.parametrize("config", [Config()])
@pytest.mark.parametrize(
    ("limits", "served", "used"),
    [({"max_tokens": 600}, 3, 420), ({"max_output_tokens": 600}, 5, 890), ({"max_input_tokens": 600}, 4, 640)],
)
def test_a_call_that_does_not_fit_is_denied_before_it_is_sent(
    server: Provider, manager: BudgetManager, client: OpenAI, limits: dict[str, int], served: int, used: int
) -> None:
    with manager.run(RunBudget(**limits), reraise=False) as run:
        if served < len(TURNS):
            with pytest.raises(BudgetExceeded):
                _converse(server, client)
        else:
            _converse(server, client)
    assert (server.requests, run.usage.tokens) == (served, used)


def test_with_clamp_the_fourth_goes_out_with_what_is_left(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run(RunBudget(max_tokens=620), reraise=False) as run, pytest.raises(BudgetExceeded) as denied:
        _converse(server, client)
    assert [request.body["max_completion_tokens"] for request in server.recent] == [25, 30, 25, 10]
    assert (run.usage.tokens, denied.value.used, denied.value.requested) == (620, 620, 250)


# --- the maximum that is sent


def _sent(server: Provider) -> dict[str, Any]:
    return {name: value for name, value in server.recent[-1].body.items() if name.startswith("max_") or name == "n"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"max_completion_tokens": 40}),
        ({"max_completion_tokens": 41}, {"max_completion_tokens": 40}),
        ({"max_completion_tokens": 40}, {"max_completion_tokens": 40}),
        ({"max_completion_tokens": 39}, {"max_completion_tokens": 39}),
        ({"max_tokens": 100}, {"max_tokens": 40}),
        ({"max_tokens": 90, "max_completion_tokens": 100}, {"max_tokens": 40, "max_completion_tokens": 40}),
        ({"extra_body": {"max_tokens": 100}}, {"max_tokens": 40}),
        ({"max_tokens": 10, "extra_body": {"max_tokens": 100}}, {"max_tokens": 40}),
        ({"max_tokens": 100, "n": 3}, {"max_tokens": 13, "n": 3}),
        ({"n": 2}, {"max_completion_tokens": 20, "n": 2}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_sent_with_the_lowered_maximum_under_its_own_name(
    server: Provider,
    manager: BudgetManager,
    client: OpenAI,
    given: dict[str, Any],
    sent: dict[str, Any],
    stream: bool,
) -> None:
    server.enqueue(Reply(text="word " * 100, input_tokens=INPUT))
    with manager.run(ROOM) as run:
        answer = client.chat.completions.create(**CHAT, **given, stream=stream)
        if stream:
            list(answer)
    assert _sent(server) == sent
    assert run.usage.tokens <= INPUT + 40
    assert run._state.account.holds == 0


async def test_async_clients_too(server: Provider, manager: BudgetManager, aclient: AsyncOpenAI) -> None:
    async with manager.run(ROOM):
        await aclient.chat.completions.create(**CHAT, max_tokens=100)
    assert _sent(server) == {"max_tokens": 40}


@pytest.mark.parametrize("given", [{}, {"max_output_tokens": 100}])
def test_responses_have_a_name_of_their_own_for_it(
    server: Provider, manager: BudgetManager, client: OpenAI, given: dict[str, Any]
) -> None:
    with manager.run(RunBudget(max_tokens=count_input(RESPONSE) + 40)):
        client.responses.create(**RESPONSE, **given)
    assert _sent(server) == {"max_output_tokens": 40}


def test_completions_of_several_prompts_share_what_is_left(
    manager: BudgetManager, gateway: str, served: Served
) -> None:
    prompt = ["Say it.", "Say it again."]
    room = RunBudget(max_tokens=count_input({"prompt": prompt}) + 40)
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run(room):
        client.completions.create(model="m", prompt=prompt)
    assert served[0][1]["max_tokens"] == 20


def test_the_options_of_the_application_stay_as_they_are(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    body = {**CHAT, "max_completion_tokens": 100}
    extra = {"top_k": 3}
    before = copy.deepcopy((body, extra))
    with manager.run(ROOM):
        client.post("/chat/completions", cast_to=ChatCompletion, body=body, options={"extra_json": extra})
    assert (body, extra) == before
    assert (_sent(server), server.recent[-1].body["top_k"]) == ({"max_completion_tokens": 40}, 3)


def test_a_server_that_refuses_to_tell_the_usage_is_asked_again_with_the_lowered_maximum(
    manager: BudgetManager, gateway: str, served: Served, answer: dict[str, Any]
) -> None:
    refusal = {"error": {"message": "unknown field stream_options"}}
    answer["make"] = lambda body: (400, refusal) if "stream_options" in body else (200, b"data: [DONE]\n\n")
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run(ROOM):
        list(client.chat.completions.create(**CHAT, max_tokens=100, stream=True))
    assert [(body["max_tokens"], "stream_options" in body) for _, body in served] == [(40, True), (40, False)]


def test_a_body_made_of_bytes_is_refused_since_nothing_can_be_put_into_it(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    body = json.dumps(CHAT | {"max_tokens": 100}).encode()
    with manager.run(ROOM, reraise=False), pytest.raises(BudgetExceeded):
        client.post("/chat/completions", cast_to=ChatCompletion, content=body)
    assert server.requests == 0


def test_embeddings_and_calls_that_fit_are_sent_as_they_are(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run(ROOM):
        client.embeddings.create(model="m", input="Say it.")
        assert _sent(server) == {}
    with manager.run():
        client.chat.completions.create(**CHAT)
        assert _sent(server) == {}


def test_a_stream_is_taken_to_have_made_no_more_than_the_lowered_maximum(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(text="wörd " * 100, send_usage=False))
    with manager.run(ROOM) as run:
        list(client.chat.completions.create(**CHAT, stream=True, max_tokens=400))
    assert (run.usage.input_tokens, run.usage.output_tokens) == (INPUT, 40)


@pytest.mark.parametrize(
    ("url", "body", "provider", "keys"),
    [
        ("/chat/completions", {}, "openai", ("max_completion_tokens",)),
        ("/chat/completions", {}, "mistral_ai", ("max_tokens",)),
        ("/chat/completions", {"max_completion_tokens": 5}, "mistral_ai", ("max_completion_tokens",)),
        ("/chat/completions", {"max_tokens": None}, "openai", ("max_completion_tokens",)),
        ("/chat/completions", {"max_tokens": 99, "thinking": {"budget_tokens": 50}}, "openai", ()),
        ("/chat/completions", {"reasoning": {"max_tokens": 50}}, "openrouter", ()),
        ("/completions", {}, "mistral_ai", ("max_tokens",)),
        ("/responses", {}, "mistral_ai", ("max_output_tokens",)),
        ("/responses/compact", {}, "openai", ()),
        ("/embeddings", {}, "openai", ()),
    ],
)
def test_the_names_that_a_maximum_goes_under(url: str, body: Any, provider: str, keys: tuple[str, ...]) -> None:
    dialect = dialect_of(ENDPOINTS, "post", url)
    assert dialect is not None
    assert dialect.maximum_keys(body, provider) == keys


# --- what answers teach


@pytest.mark.parametrize("config", [Config()])
def test_answers_teach_how_much_is_held_for_the_next(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    with manager.run():
        for stream in (False, True, False, True, False):
            server.enqueue(Reply(text="word " * 20, input_tokens=2 * INPUT, output_tokens=20))
            answer = client.chat.completions.create(**CHAT, stream=stream)
            if stream:
                list(answer)
    with manager.run(RunBudget(max_tokens=2 * INPUT + 24), reraise=False), pytest.raises(BudgetExceeded) as denied:
        client.chat.completions.create(**CHAT)
    assert denied.value.requested == 2 * INPUT + 25


@pytest.mark.parametrize("config", [Config()])
def test_a_lost_attempt_is_charged_at_the_corrected_estimate_and_teaches_nothing(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    again = client.with_options(max_retries=1)
    with manager.run() as run:
        server.enqueue(Reply(input_tokens=2 * INPUT, output_tokens=5))
        again.chat.completions.create(**CHAT)
        for _ in range(2):
            server.enqueue(Reply(fault="reset"), Reply(input_tokens=7 * INPUT, output_tokens=5))
            again.chat.completions.create(**CHAT)
        assert run.usage.input_tokens == (2 + 2 * (2 + 7)) * INPUT


# --- the cost that an answer reports


def _costing(cost: object, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "cost": cost}
    return {"id": "any-1", "model": "m", "choices": [], "usage": usage, **more}


@pytest.mark.parametrize("config", [TRUST])
@pytest.mark.parametrize("stream", [False, True])
def test_the_cost_of_a_usage_is_charged_where_no_price_is_configured(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], stream: bool
) -> None:
    def make(body: dict[str, Any]) -> tuple[int, object]:
        said = _costing(0.00042, model=body["model"])
        return 200, f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode() if stream else said

    answer["make"] = make
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        for model, cost in (("mystery", Decimal("0.00042")), ("priced", Decimal("0.00002"))):
            before = run.usage.cost_usd
            made = client.chat.completions.create(model=model, messages=CHAT["messages"], stream=stream)
            if stream:
                list(made)
            assert run.usage.cost_usd - before == cost


@pytest.mark.parametrize("config", [TRUST])
@pytest.mark.parametrize("way", ["plain", "raw", "streaming_response"])
def test_the_cost_in_a_proxys_header_is_charged_where_the_usage_has_none(
    server: Provider, manager: BudgetManager, client: OpenAI, way: str
) -> None:
    header = {"x-litellm-response-cost": "0.0005"}
    server.enqueue(Reply(input_tokens=10, output_tokens=5, headers=header))
    chat = client.chat.completions
    with manager.run() as run:
        if way == "plain":
            chat.create(**CHAT)
        elif way == "raw":
            chat.with_raw_response.create(**CHAT)
        else:
            with chat.with_streaming_response.create(**CHAT) as response:
                response.parse()
    assert run.usage.cost_usd == Decimal("0.0005")


@pytest.mark.parametrize("config", [TRUST])
def test_a_lost_attempt_is_as_dear_for_each_token_as_the_answer(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    header = {"x-litellm-response-cost": "0.03"}
    server.enqueue(Reply(fault="reset"), Reply(input_tokens=20, output_tokens=10, headers=header))
    with manager.run() as run:
        client.with_options(max_retries=1).chat.completions.create(**CHAT)
        assert run.usage.cost_usd == Decimal("0.03") + INPUT * Decimal("0.001")


@pytest.mark.parametrize("config", [TRUST])
def test_an_answer_that_should_have_said_its_cost_and_did_not_is_the_last(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run(RunBudget(max_cost_usd=1), reraise=False):
        client.chat.completions.create(**CHAT)
        with pytest.raises(BudgetExceeded, match="no price is known"):
            client.chat.completions.create(**CHAT)
    assert server.requests == 1


@pytest.mark.parametrize(
    "junk", [None, True, -1, "-1", "", "a lot", "nan", "inf", float("nan"), 1e300, "1e999999999", [], {}, object()]
)
def test_a_cost_that_is_none_is_not_there(junk: object) -> None:
    assert cost_of(junk) is None


def test_a_cost_may_be_a_number_or_a_text() -> None:
    assert [cost_of(value) for value in (0, 0.05, " 0.05 ", "5e-2")] == [0, *[Decimal("0.05")] * 3]
    assert Usage(1, 1, reported_cost_usd=cost_of("1e-30")).reported_cost_usd == 0
