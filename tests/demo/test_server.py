"""The demo server speaks OpenAI's protocol well enough for OpenAI's own client, and counts truly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from otelbudget.demo import DemoServer
from otelbudget.demo.writer import count_tokens

TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
READ = {"type": "function", "function": {"name": "read_document", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "How does a token bucket limit requests?"}]


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer() as server:
        yield server


@pytest.fixture
def client(server: DemoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_chat_answers_from_the_library_and_counts_its_tokens(server, client):
    answer = client.chat.completions.create(model="demo-small", messages=ASK, user="acme")
    text = answer.choices[0].message.content
    assert "bucket" in text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == count_tokens(text)
    assert answer.usage.prompt_tokens == 3 + 4 + count_tokens(ASK[0]["content"])
    again = client.chat.completions.create(model="demo-small", messages=ASK)
    assert (again.choices[0].message.content, again.usage) == (text, answer.usage)
    assert server.requests == 2


def test_maximum_output_cuts_the_answer(client):
    answer = client.chat.completions.create(model="m", messages=ASK, max_completion_tokens=7)
    assert [choice.finish_reason for choice in answer.choices] == ["length"]
    assert count_tokens(answer.choices[0].message.content) == 7
    assert answer.usage.completion_tokens == 7


def test_research_searches_then_reads_then_answers(client):
    first = client.chat.completions.create(model="m", messages=ASK, tools=[TOOL, READ]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls[0].function.name == "search"
    call = first.message.tool_calls[0]
    messages = [
        {"role": "system", "content": "Read at least 1 document."},
        *ASK,
        first.message,
        {"role": "tool", "tool_call_id": call.id, "content": '[{"id": "token-bucket"}]'},
    ]
    second = client.chat.completions.create(model="m", messages=messages, tools=[TOOL, READ]).choices[0]
    call = second.message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("read_document", '{"id": "token-bucket"}')
    messages += [second.message, {"role": "tool", "tool_call_id": call.id, "content": "A bucket is round."}]
    third = client.chat.completions.create(model="m", messages=messages, tools=[TOOL, READ]).choices[0]
    assert (third.finish_reason, third.message.content) == ("stop", "A bucket is round.")


def test_a_hundred_clients_at_once(server):
    server.latency_s = 0.2

    def ask(number: int) -> int:
        return client.chat.completions.create(model="m", messages=ASK, user=f"u{number}").usage.total_tokens

    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(100) as pool,
    ):
        totals = list(pool.map(ask, range(100)))
    assert len(set(totals)) == 1
    assert server.requests == 100


JUNK = [None, True, 0, -1, 5, 1.5, "5", [], {}, [5], [None], {"a": []}, 10**12]


def test_values_of_a_wrong_kind_are_answered_and_never_drop_the_connection(server):
    good = {"model": "m", "messages": ASK}
    with httpx2.Client(base_url=server.base_url) as http:
        for name in ("model", "messages", "tools", "user", "max_tokens", "max_completion_tokens", "stream"):
            for value in JUNK:
                answer = http.post("chat/completions", json=good | {name: value})
                assert answer.status_code in (200, 400), (name, value)
        for body in ("[1]", "5", "null", '"text"', "{", ""):
            assert http.post("chat/completions", content=body).status_code == 400
        assert http.post("responses", json=good).status_code == 404


def test_a_stream_is_refused_with_what_to_do(client):
    with pytest.raises(openai.BadRequestError, match="leave out stream=True"):
        client.chat.completions.create(model="m", messages=ASK, stream=True)
