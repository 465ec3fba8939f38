"""Bedrock through aiobotocore, whose botocore is not boto3's of the other groups."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from provider import Provider, Reply
from provider.bedrock import CLAUDE

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.guards import GUARDS

PACKAGE, SAW = "aiobotocore", "BudgetExceeded"
Setup = Callable[..., otelbudget.BudgetManager]
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)
CONVERSE: dict[str, Any] = {
    "modelId": CLAUDE,
    "messages": [{"role": "user", "content": [{"text": "Say it."}]}],
    "inferenceConfig": {"maxTokens": 100},
}
SAY = [{"role": "user", "content": "Say it."}]
BODY = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": SAY}
INVOKE: dict[str, Any] = {"modelId": CLAUDE, "body": json.dumps(BODY)}


@pytest.fixture
def session() -> type:
    return AIOHTTPSession


@pytest.fixture
async def client(session: type, setup: Setup, server: Provider) -> AsyncIterator[Any]:
    setup()
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    config = AioConfig(retries={"max_attempts": 0}, http_session_cls=session)
    made = get_session().create_client("bedrock-runtime", endpoint_url=server.root_url, config=config, **keys)
    async with made as client:
        yield client


async def _read(stream: Any, most: int = 1_000) -> int:
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == most:
            break
    return seen


async def _converse_stream(client: Any) -> None:
    await _read((await client.converse_stream(**CONVERSE))["stream"])


async def _invoke(client: Any) -> None:
    answer = await client.invoke_model(**INVOKE)
    body = answer["body"]
    first, rest = await body.read(5), await body.read()
    assert json.loads(first + rest)["usage"]["input_tokens"] == 80
    assert await body.read() == b""


async def _invoke_stream(client: Any) -> None:
    await _read((await client.invoke_model_with_response_stream(**INVOKE))["body"])


WAYS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "converse": lambda client: client.converse(**CONVERSE),
    "converse stream": _converse_stream,
    "invoke": _invoke,
    "invoke stream": _invoke_stream,
}


def _charged(run: Any) -> tuple[int, int, int]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [0, 1])
async def test_of_five_calls_as_many_are_sent_as_there_are_steps(
    steps: int, way: str, server: Provider, client: Any, sent: dict[int, list[int]]
) -> None:
    server.enqueue(*[USED] * steps)
    became = []
    with otelbudget.run(RunBudget(max_steps=steps), reraise=False) as run:
        for _ in range(5):
            try:
                await WAYS[way](client)
                became.append("answered")
            except BudgetExceeded as denial:
                became.append(denial.__cause__)
        assert _charged(run) == (steps, 80 * steps, 20 * steps)
        assert not run.usage.estimated
    assert became == ["answered"] * steps + [None] * (5 - steps)
    assert server.requests == steps
    sent[steps].append(server.requests)


@pytest.mark.parametrize("session", [AIOHTTPSession, HttpxSession])
@pytest.mark.parametrize("way", ["converse", "invoke"])  # with httpx its streams can't be read
async def test_an_error_costs_a_step_and_the_answer_after_it_what_it_says(
    way: str, server: Provider, client: Any
) -> None:
    server.enqueue(Reply(status=429), USED)
    with otelbudget.run(RunBudget(max_steps=2)) as run:
        with pytest.raises(ClientError):
            await WAYS[way](client)
        assert _charged(run) == (1, 0, 0)
        await WAYS[way](client)
        assert _charged(run) == (2, 80, 20)


@pytest.mark.parametrize("most", [0, 1])
async def test_a_stream_that_is_left_lets_go(most: int, server: Provider, client: Any) -> None:
    server.enqueue(USED)
    with otelbudget.run(RunBudget(max_tokens=1_000)) as run:
        answer = await client.converse_stream(**CONVERSE)
        if most:
            await _read(answer["stream"], most)
        answer["stream"].close()
        assert _charged(run)[0] == 1


async def test_a_stream_that_outgrows_the_budget_is_cut(server: Provider, client: Any) -> None:
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    wanting = {**CONVERSE, "inferenceConfig": {}}
    with otelbudget.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            await _read((await client.converse_stream(**wanting))["stream"])
        assert 500 < _charged(run)[2] < 610


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_without_an_answer_ends_with_the_run_s_time(way: str, server: Provider, client: Any) -> None:
    server.enqueue(Reply(fault="hang"))
    with otelbudget.run(RunBudget(max_seconds=0.3), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            await WAYS[way](client)
        assert caught.value.reason == "deadline"
        assert _charged(run)[0] == 1


def test_the_guards_of_both_reach_their_clients(setup: Setup) -> None:
    setup()
    assert [GUARDS[sdk].unreached() for sdk in ("bedrock", "aiobotocore")] == [[], []]
