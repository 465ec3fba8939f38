"""The guard of SDKs made by Fern, on Cohere's: its retries, its streams, its other endpoints."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from kits import COHERE, COHERE_CHAT, USED, charged, cohere
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.manager import BudgetManager

http_client = pytest.importorskip("cohere.core.http_client")
from cohere.core.api_error import ApiError  # noqa: E402 - it needs the SDK

#: A warning of the SDK itself.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")
GIVEN = count_input(COHERE_CHAT)


@pytest.fixture
def sdk() -> str:
    return "cohere"


@pytest.fixture(autouse=True)
def _retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "INITIAL_RETRY_DELAY_SECONDS", 0.0)


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Any]:
    with cohere("ClientV2")(server.root_url) as client:
        yield client


@pytest.mark.parametrize("way", ["sync", "async", "v1"])
def test_retries_of_the_sdk_are_one_step(way: str, server: Provider, manager: BudgetManager) -> None:
    cases: tuple[tuple[tuple[Reply, ...], tuple[int, int, int]], ...] = (
        ((Reply(status=429), Reply(status=500), USED), (1, 80, 20)),
        ((Reply(status=500),) * 3, (1, 0, 0)),
        ((Reply(status=400),), (1, 0, 0)),
    )
    for replies, owed in cases:
        server.enqueue(*replies)
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                COHERE[way](server.root_url)
            except ApiError:
                assert owed[2] == 0
            assert charged(run) == owed
    assert server.requests == sum(len(replies) for replies, _ in cases)


def test_an_attempt_that_was_lost_and_tried_again_costs_its_input(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    server.enqueue(Reply(fault="hang"), USED)
    again = {"retry_remote_protocol_errors": True, "timeout_in_seconds": 0.5}
    with manager.run() as run:
        with pytest.raises(Exception, match="timed out"):
            client.chat(**COHERE_CHAT, request_options=again)
        assert charged(run) == (1, GIVEN, 0)
        client.chat(**COHERE_CHAT, request_options=again)
        assert charged(run) == (2, GIVEN + 80, 20)


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_what_is_sent_and_what_is_unset_stays_so(
    server: Provider, manager: BudgetManager, client: Any
) -> None:
    more = {"additional_body_parameters": {"seed": 1, "max_tokens": 90}}
    for options in (None, more):
        with manager.run(RunBudget(max_output_tokens=40), reraise=False):
            client.chat(**COHERE_CHAT, request_options=options)
        assert server.recent[-1].body["max_tokens"] == 40
        assert server.recent[-1].body.keys() == {*COHERE_CHAT, "stream", *(["seed"] if options else [])}


def test_a_stream_left_early_is_charged_what_was_read(server: Provider, manager: BudgetManager, client: Any) -> None:
    for leave in (lambda events: events.close(), lambda _: None):
        server.enqueue(USED)
        with manager.run() as run:
            events = client.chat_stream(**COHERE_CHAT)
            next(event for event in events if event.type == "content-delta")
            leave(events)
            del events
            assert charged(run) == (1, GIVEN, estimate_tokens("one "))


def test_a_stream_that_outgrows_the_budget_is_cut(server: Provider, manager: BudgetManager, client: Any) -> None:
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            list(client.chat_stream(model="m", messages=COHERE_CHAT["messages"]))
        gc.collect()
        assert 500 < (charged(run)[2] or 0) < 610


def test_embeddings_hold_no_output_and_counting_passes(
    gateway: str, answer: dict[str, Any], served: list[Any], manager: BudgetManager
) -> None:
    billed = {"meta": {"billed_units": {"input_tokens": 7}}}
    embedded = {"id": "e", "response_type": "embeddings_by_type", "embeddings": {"float": [[0.0]]}, **billed}
    answer["make"] = lambda body: (200, {"tokens": [1], "token_strings": ["a"]} if "text" in body else embedded)
    client, old = cohere("Client")(gateway), cohere("Client")(gateway)
    with client, old, manager.run(RunBudget(max_output_tokens=0, max_steps=1), reraise=False) as run:
        client.v2.embed(model="embed-v4.0", input_type="search_query", texts=["Say it."], embedding_types=["float"])
        assert charged(run) == (1, 7, 0)
        old.tokenize(text="Say it.", model="m", offline=False)
        with pytest.raises(BudgetExceeded):
            old.embed(model="embed-v4.0", input_type="search_query", texts=["Say it."], batching=False)
    assert len(served) == 2
