"""The guard of boto3's bedrock-runtime: its retries and streams, models' own bodies, and AWS's other services."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kits import CONVERSE, INVOKE, USED, bedrock, charged
from provider import Provider, Reply
from provider.bedrock import LLAMA

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price

exceptions = pytest.importorskip("botocore.exceptions")
GIVEN = count_input(CONVERSE)
LONG = Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900)
LLAMA_BODY = {"prompt": "Say it.", "max_gen_len": 100}


@pytest.fixture
def sdk() -> str:
    return "bedrock"


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Any]:
    client = bedrock(server.root_url)
    yield client
    client.close()


def test_the_usage_of_any_model_is_in_headers_and_its_answer_can_still_be_read(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    counts = {"x-amzn-bedrock-input-token-count": "80", "x-amzn-bedrock-output-token-count": "20"}
    for body in (json.dumps(LLAMA_BODY), json.dumps(LLAMA_BODY).encode(), io.BytesIO(json.dumps(LLAMA_BODY).encode())):
        server.enqueue(Reply(text="one two", headers=counts))
        with manager.run() as run:
            answer = client.invoke_model(modelId=LLAMA, body=body)
            assert charged(run) == (1, 80, 20)
            assert json.load(answer["body"]) == {"generation": "one two"}


@pytest.mark.parametrize("kind", [str, str.encode, lambda body: bytearray(body.encode())])
def test_a_model_without_any_usage_is_charged_what_was_held(
    kind: Any, server: Provider, manager: BudgetManager, client: Any
) -> None:
    with manager.run() as run:
        client.invoke_model(modelId=LLAMA, body=kind(json.dumps(LLAMA_BODY)))
        assert charged(run) == (1, count_input(LLAMA_BODY), 100)


GUARDRAIL: dict[str, Any] = {
    "guardrailIdentifier": "arn:aws:bedrock:us-east-1:1:guardrail/no-secrets",
    "guardrailVersion": "1",
    "source": "INPUT",
    "content": [{"text": {"text": "Say it."}}],
}


@pytest.mark.parametrize("config", [Config(prices={"no-secrets": Price(input=0, output=0, request=0.001)})])
def test_a_guardrail_is_a_step_at_its_price_and_is_not_asked_without_one(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    answer["make"] = lambda _: (200, {"action": "NONE", "outputs": [], "usage": {"contentPolicyUnits": 1}})
    client = bedrock(gateway)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        client.apply_guardrail(**GUARDRAIL)
        with pytest.raises(BudgetExceeded):
            client.apply_guardrail(**GUARDRAIL)
        assert charged(run) == (1, 0, 0)
        assert str(run.usage.cost_usd) == "0.001"
    assert len(served) == 1


def test_what_a_cache_had_is_input_too(server: Provider, manager: BudgetManager, client: Any) -> None:
    server.enqueue(Reply(text="one", input_tokens=80, output_tokens=20, cached_tokens=60))
    with manager.run() as run:
        client.converse(**CONVERSE)
        assert charged(run) == (1, 80, 20)


@pytest.mark.parametrize("way", ["converse", "llama"])
def test_a_stream_left_early_is_charged_what_was_read(
    way: str, server: Provider, manager: BudgetManager, client: Any
) -> None:
    given = GIVEN if way == "converse" else count_input(LLAMA_BODY)
    for leave in (lambda stream: stream.close(), lambda _: None):
        server.enqueue(USED)
        with manager.run() as run:
            stream = _stream(client, way)
            next(event for event in stream if "one " in str(event) or "chunk" in event)
            leave(stream)
            del stream
            assert charged(run) == (1, given, estimate_tokens("one "))


def _stream(client: Any, way: str, **more: Any) -> Any:
    if way == "converse":
        return client.converse_stream(**{**CONVERSE, **more})["stream"]
    return client.invoke_model_with_response_stream(modelId=LLAMA, body=json.dumps({**LLAMA_BODY, **more}))["body"]


@pytest.mark.parametrize("way", ["converse", "llama"])
def test_a_stream_that_outgrows_the_budget_is_cut(
    way: str, server: Provider, manager: BudgetManager, client: Any
) -> None:
    server.enqueue(LONG)
    more: dict[str, Any] = {"inferenceConfig": {}} if way == "converse" else {"max_gen_len": None}
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            list(_stream(client, way, **more))
        assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_what_is_sent(server: Provider, manager: BudgetManager, client: Any) -> None:
    for ask, inside in (
        (lambda: client.converse(**CONVERSE), lambda body: body["inferenceConfig"]["maxTokens"]),
        (lambda: client.invoke_model(**INVOKE), lambda body: body["max_tokens"]),
        (lambda: client.invoke_model(modelId=LLAMA, body=json.dumps(LLAMA_BODY)), lambda body: body["max_gen_len"]),
    ):
        with manager.run(RunBudget(max_output_tokens=40), reraise=False):
            ask()
        assert inside(server.recent[-1].body) == 40
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 50}}
    with manager.run(RunBudget(max_output_tokens=40), reraise=False), pytest.raises(BudgetExceeded):
        client.converse(**CONVERSE, additionalModelRequestFields=thinking)  # which it has to stay above


def test_retries_of_the_sdk_are_one_step_and_each_lost_attempt_costs_its_input(
    server: Provider, manager: BudgetManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    cases: tuple[tuple[tuple[Reply, ...], tuple[int, int, int]], ...] = (
        ((Reply(status=500), Reply(status=503), USED), (1, 80, 20)),
        ((Reply(fault="hang"), USED), (1, 80 + GIVEN, 20)),
        ((Reply(status=400),), (1, 0, 0)),
    )
    for replies, owed in cases:
        server.enqueue(*replies)
        manager.engine.learned = type(manager.engine.learned)()
        client = bedrock(server.root_url, retries={"max_attempts": 2}, read_timeout=0.6)
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                client.converse(**CONVERSE)
            except exceptions.ClientError:
                assert owed[2] == 0
            assert charged(run) == owed
        client.close()
    assert server.requests == sum(len(replies) for replies, _ in cases)


def test_embeddings_hold_no_output_and_counting_and_other_services_pass(
    gateway: str, answer: dict[str, Any], served: list[Any], manager: BudgetManager
) -> None:
    import boto3

    answer["make"] = lambda body: (200, {"embedding": [0.0], "inputTokens": 1, "QueueUrl": "q"})
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    model, other = bedrock(gateway), boto3.client("sqs", endpoint_url=gateway, **keys)
    with manager.run(RunBudget(max_output_tokens=0), reraise=False) as run:
        model.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=json.dumps({"inputText": "Say it."}))
        assert run.usage.steps == 1
        converse = {"messages": CONVERSE["messages"]}
        assert model.count_tokens(modelId="m", input={"converse": converse})["inputTokens"] == 1
        assert other.create_queue(QueueName="q")["QueueUrl"] == "q"
        assert charged(run)[0] == 1
    model.close()
    other.close()
    assert len(served) == 3


@pytest.mark.parametrize("config", [Config(prices={"*": Price(input=0, output=2, tiers={"priority": 2})})])
@pytest.mark.parametrize("method", ["converse", "converse_stream"])
def test_a_tier_has_its_price(method: str, server: Provider, manager: BudgetManager, client: Any) -> None:
    server.enqueue(Reply(text="one", output_tokens=1_000))
    asked = {**CONVERSE, "inferenceConfig": {"maxTokens": 1_000}, "serviceTier": {"type": "priority"}}
    with manager.run() as run:
        list(getattr(client, method)(**asked).get("stream", ()))
    assert str(run.usage.cost_usd) == "0.004"
