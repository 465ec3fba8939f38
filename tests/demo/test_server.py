"""The demo server speaks OpenAI's protocol well enough for OpenAI's own client, counts truly and fails on demand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from otelbudget.demo import DemoServer, Reply
from otelbudget.demo.tokens import count_tokens

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
    assert server.requests_by_path == {"/v1/chat/completions": 2}
    assert server.requests_by_user == {"acme": 1}
    assert server.recent[0].body["model"] == "demo-small"


def test_maximum_output_cuts_the_answer(client):
    answer = client.chat.completions.create(model="m", messages=ASK, max_completion_tokens=7, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert count_tokens(answer.choices[0].message.content) == 7
    assert answer.usage.completion_tokens == 14


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


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream_sends_usage_only_if_asked(client, include_usage):
    stream = client.chat.completions.create(
        model="m", messages=ASK, stream=True, **({"stream_options": {"include_usage": True}} if include_usage else {})
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = client.chat.completions.create(model="m", messages=ASK)
    assert text == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if include_usage else [])


def test_responses_plain_and_streamed_agree(server, client):
    plain = client.responses.create(model="m", input=ASK[0]["content"])
    events = list(client.responses.create(model="m", input=ASK[0]["content"], stream=True))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == plain.output_text
    assert events[-1].response.usage == plain.usage
    assert plain.usage.output_tokens == count_tokens(plain.output_text)
    short = client.responses.create(model="m", input=ASK[0]["content"], max_output_tokens=5)
    assert (short.status, short.usage.output_tokens) == ("incomplete", 5)
    called = client.responses.create(model="m", input="x", tools=[{"type": "function", "name": "weather"}])
    assert (called.output[0].type, called.output[0].name) == ("function_call", "weather")
    assert server.requests_by_path == {"/v1/responses": 4}


def test_embeddings_are_near_for_texts_that_share_words(client):
    answer = client.embeddings.create(model="demo-embed", input=["token bucket rate", "rate of a token bucket", "fish"])
    same, near, far = (item.embedding for item in answer.data)
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    assert dot(same, near) > 0.9 > abs(dot(same, far))
    assert answer.usage.prompt_tokens == 9
    assert "demo-small" in [model.id for model in client.models.list()]


def test_prescribed_usage_and_text(server, client):
    server.enqueue(Reply(text="Yes.", input_tokens=80, output_tokens=20, cached_tokens=10), Reply(send_usage=False))
    answer = client.chat.completions.create(model="m", messages=ASK)
    assert answer.choices[0].message.content == "Yes."
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (80, 20)
    assert answer.usage.prompt_tokens_details.cached_tokens == 10
    assert client.chat.completions.create(model="m", messages=ASK).usage is None
    server.enqueue(Reply(chunks=["a ", "b ", "c"]))
    stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
    assert [c.choices[0].delta.content for c in stream if c.choices[0].delta.content] == ["a ", "b ", "c"]


def test_prescribed_failures(server, client):
    ask = lambda **more: client.chat.completions.create(model="m", messages=ASK, **more)  # noqa: E731
    server.enqueue(Reply(status=429, error="slow down", headers={"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        ask()
    assert caught.value.response.headers["retry-after"] == "7"
    for fault in ("reset", "reset_after_headers", "drop"):
        server.enqueue(Reply(fault=fault))
        with pytest.raises(openai.APIConnectionError):
            ask()
    server.enqueue(Reply(fault="hang"))
    with pytest.raises(openai.APITimeoutError):
        ask(timeout=0.2)
    assert server.requests == 5


def test_a_dropped_stream_gives_half_and_then_fails(server, client):
    server.enqueue(Reply(chunks=["one ", "two ", "three ", "four "], fault="drop"))
    stream = iter(client.chat.completions.create(model="m", messages=ASK, stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "one ", "two "]
    with pytest.raises(openai.APIConnectionError):
        next(stream)


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
    assert len(server.requests_by_user) == 100


def test_script_may_be_a_callable_and_close_ends_waiting_clients():
    def script(request):
        return Reply(fault="hang") if request.user == "slow" else None

    server = DemoServer(script=script)
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        assert client.chat.completions.create(model="m", messages=ASK).choices
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.chat.completions.create, model="m", messages=ASK, user="slow")
            while server.requests < 2:
                pass
            server.close()
            with pytest.raises(openai.APIConnectionError):
                waiting.result(5)


JUNK = [None, True, 0, -1, 5, 1.5, "5", [], {}, [5], [None], {"a": []}, 10**12]


@pytest.mark.parametrize("path", ["chat/completions", "responses", "embeddings"])
@pytest.mark.parametrize("stream", [False, True])
def test_values_of_a_wrong_kind_are_answered_and_never_drop_the_connection(server, path, stream):
    good = {"model": "m", "messages": ASK, "input": "text"}
    names = ["model", "messages", "input", "tools", "tool_choice", "stream_options", "user", "instructions"]
    names += ["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "dimensions", "encoding_format"]
    with httpx2.Client(base_url=server.base_url) as http:
        for name in names:
            for value in JUNK:
                answer = http.post(path, json=good | {"stream": stream, name: value})
                assert answer.status_code in (200, 400), (name, value)
        for body in ("[1]", "5", "null", '"text"', "{", ""):
            assert http.post(path, content=body).status_code == 400


@pytest.mark.parametrize("wrong", [{"max_tokens": "5"}, {"n": 0}, {"max_completion_tokens": -1}, {"n": 129}])
def test_a_number_that_is_none_is_a_bad_request_that_says_so(server, client, wrong):
    with pytest.raises(openai.BadRequestError, match=f"{next(iter(wrong))} must be a whole number from 1"):
        client.chat.completions.create(model="m", messages=ASK, **wrong)
    assert server.requests == 1
