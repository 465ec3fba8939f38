"""Streams: settled once at exhaustion, error, close or drop; grown, cut, and charged with what was read."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI, Stream
from openai_ways import ANSWER, CHAT, RESPONSE
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.guards.watch import settle_dropped
from otelbudget.manager import BudgetManager

THREE = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=35)
INPUT = count_input(CHAT)


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


def _words(chunk: Any) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def _read_until(chunks: Any, word: str) -> None:
    for chunk in chunks:
        if word in _words(chunk):
            return


# --- what the application sees


def test_the_usage_chunk_is_asked_for_and_hidden(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run():
        stream = client.chat.completions.create(**CHAT, stream=True)
        assert type(stream) is Stream
        chunks = list(stream)
    assert server.recent[-1].body["stream_options"] == {"include_usage": True}
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(map(_words, chunks)) == "one two three"


def test_a_caller_who_asks_for_the_usage_gets_it(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (80, 35)
    assert _charged(run) == (1, 80, 35)


@pytest.mark.parametrize("options", [{"include_obfuscation": False}, None])
def test_other_stream_options_are_kept(options: Any, server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    given = dict(options or {})
    with manager.run():
        list(client.chat.completions.create(**CHAT, stream=True, stream_options=options))
        list(client.chat.completions.create(**CHAT, stream=True, extra_body={"stream_options": options, "top_k": 1}))
    assert server.recent[-2].body["stream_options"] == {**given, "include_usage": True}
    assert server.recent[-1].body["stream_options"] == {**given, "include_usage": True}
    assert server.recent[-1].body["top_k"] == 1
    assert options in (None, given)


def test_a_caller_who_wants_no_usage_is_charged_an_estimate(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": False}))
    assert server.recent[-1].body["stream_options"] == {"include_usage": False}
    assert all(chunk.choices for chunk in chunks)
    assert _charged(run) == (1, INPUT, estimate_tokens("one two three"))


FOUR = b'data: {"choices": [{"index": 0, "delta": {"content": "four"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Unrecognized request argument supplied: stream_options"),
        (400, "Bad Request"),
        (400, "streamOptions is not supported by this deployment"),
        (404, "Not Found"),
        (422, "Extra inputs are not permitted"),
        (500, "unexpected keyword argument 'stream_options'"),
    ],
)
def test_a_server_that_refuses_the_question_is_not_asked_again(
    status: int,
    message: str,
    manager: BudgetManager,
    gateway: str,
    answer: dict[str, Any],
    served: list[tuple[str, dict[str, Any]]],
) -> None:
    def make(body: dict[str, Any]) -> tuple[int, Any]:
        if "stream_options" in body and body["model"] == CHAT["model"]:
            return status, {"error": {"message": message}}
        return 200, FOUR

    answer["make"] = make
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run(RunBudget(max_steps=2)) as run:
        for _ in range(2):
            assert [_words(c) for c in client.chat.completions.create(**CHAT, stream=True)] == ["four"]
        assert _charged(run) == (2, 2 * INPUT, 2 * estimate_tokens("four"))
        with manager.run(mode="detached"):
            list(client.chat.completions.create(**{**CHAT, "model": "gpt-4o"}, stream=True))
    assert ["stream_options" in body for _, body in served] == [True, False, False, True]


def test_a_stream_that_is_refused_for_another_reason_is_asked_as_before(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[tuple[str, dict[str, Any]]]
) -> None:
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        answer["make"] = lambda _: (400, {"error": {"message": "context length exceeded"}})
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**CHAT, stream=True)
        answer["make"] = lambda _: (200, FOUR)
        list(client.chat.completions.create(**CHAT, stream=True))
        assert run.usage.steps == 2
    assert ["stream_options" in body for _, body in served] == [True, False, True]


def test_the_question_can_be_switched_off(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    manager.engine.config = Config(estimates=Estimates(ask_usage=False))
    with manager.run():
        list(client.chat.completions.create(**CHAT, stream=True))
    assert "stream_options" not in server.recent[-1].body


def test_events_split_anywhere_and_with_any_line_end_are_read(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    usage = '{"choices": [],\ndata: "usage": {"prompt_tokens": 8, "completion_tokens": 2}}'
    events = f': hello\n\ndata: {{"choices": [{{"index": 0, "delta": {{"content": "é"}}}}]}}\n\ndata: {usage}\n\n'
    events += "data: no json but no business of ours\n\ndata: [DONE]\n\n"
    with OpenAI(base_url=gateway, api_key="none") as client:
        for line_end in ("\n", "\r\n", "\r"):
            answer["make"] = lambda _, end=line_end: (200, b"data: {}\n\n" + events.replace("\n", end).encode())
            with (
                manager.run() as run,
                client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response,
            ):
                said = b"".join(response.iter_bytes(3)).decode()
            assert "é" in said
            assert "prompt_tokens" not in said
            assert said.endswith(f"[DONE]{line_end * 2}")
            assert _charged(run) == (1, 8, 2)


# --- the ways to stop reading


def test_break_and_close_charges_what_was_read(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        _read_until(stream, "two")
        stream.close()
        assert _charged(run) == (1, INPUT, estimate_tokens("one two "))
        stream.close()
    assert _charged(run) == (1, INPUT, estimate_tokens("one two "))
    assert server.requests == 1


def test_leaving_the_with_block_charges_what_was_read(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run() as run, client.chat.completions.create(**CHAT, stream=True) as stream:
        _read_until(stream, "one")
    assert _charged(run) == (1, INPUT, estimate_tokens("one "))


def test_leaving_a_helper_s_block_charges_what_was_read(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        with client.chat.completions.stream(**CHAT) as stream:
            next(event for event in stream if event.type == "content.delta" and event.delta)
        assert _charged(run) == (1, INPUT, estimate_tokens("one "))


def test_an_abandoned_stream_is_charged_at_once(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        _read_until(stream, "one")
        del stream
        assert _charged(run) == (1, INPUT, estimate_tokens("one "))


def test_a_stream_that_was_never_read_is_charged_its_input(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run() as run:
        client.chat.completions.create(**CHAT, stream=True)
        gc.collect()
        settle_dropped()
    assert _charged(run) == (1, INPUT, 0)


def test_an_unparsed_raw_stream_is_charged_when_it_is_closed(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run() as run:
        raw = client.chat.completions.with_raw_response.create(**CHAT, stream=True)
        assert raw.http_response.is_closed is False
        raw.http_response.close()
    assert _charged(run) == (1, INPUT, 0)


def test_a_stream_can_be_read_after_its_run(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(THREE)
    with manager.run(RunBudget(max_steps=1)) as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
    assert run._state.account.holds == 1
    assert "".join(map(_words, stream)) == "one two three"
    assert _charged(run) == (1, 80, 35)


def test_reading_on_after_the_guard_is_out_still_charges(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(THREE)
    with manager.run() as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        GUARDS["openai"].uninstall()
        list(stream)
    assert _charged(run) == (1, 80, 35)


async def test_async_break_close_and_full(server: Provider, manager: BudgetManager, aclient: AsyncOpenAI) -> None:
    server.enqueue(THREE, THREE)
    async with manager.run() as run:
        stream = await aclient.chat.completions.create(**CHAT, stream=True)
        async for chunk in stream:
            if "one" in _words(chunk):
                break
        await stream.close()
        assert _charged(run) == (1, INPUT, estimate_tokens("one "))
        chunks = [chunk async for chunk in await aclient.chat.completions.create(**CHAT, stream=True)]
        assert all(chunk.choices for chunk in chunks)
    assert _charged(run) == (2, INPUT + 80, estimate_tokens("one ") + 35)


async def test_an_async_stream_cancelled_while_it_waits(manager: BudgetManager) -> None:
    with Provider(chunk_s=5, script=lambda _: THREE) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none") as client, manager.run() as run:
            first = asyncio.Event()

            async def read() -> None:
                async for _ in await client.chat.completions.create(**CHAT, stream=True):
                    first.set()

            task = asyncio.create_task(read())
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert _charged(run) == (1, INPUT, 0)


# --- errors and growth


def test_a_dropped_stream_is_charged_what_was_read(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(Reply(chunks=("one ", "two ", "three ", "four "), fault="drop"))
    read: list[str] = []
    with manager.run() as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(
            (openai.APIConnectionError, httpx2.TransportError, httpx.TransportError)
        ):  # older releases don't wrap it
            read.extend(map(_words, stream))
        assert run._state.account.holds == 0
    assert read
    assert _charged(run) == (1, INPUT, estimate_tokens("".join(read)))


def test_a_stream_that_ends_without_usage_is_estimated(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(chunks=("one ", "two "), send_usage=False))
    with manager.run() as run:
        list(client.chat.completions.create(**CHAT, stream=True))
    assert _charged(run) == (1, INPUT, estimate_tokens("one two "))


def test_an_error_event_in_a_stream_is_charged_what_was_read(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    said = b'data: {"choices": [{"index": 0, "delta": {"content": "one"}}]}\n\n'
    answer["make"] = lambda _: (200, said + b'data: {"error": {"message": "overloaded"}}\n\n')
    with OpenAI(base_url=gateway, api_key="none") as client, manager.run() as run:
        with pytest.raises(openai.APIError, match="overloaded"):
            list(client.chat.completions.create(**CHAT, stream=True))
        assert _charged(run) == (1, INPUT, estimate_tokens("one"))


LONG = Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900)


def test_a_stream_that_outgrows_the_budget_is_cut(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(LONG)
    read: list[str] = []
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(BudgetExceeded) as caught:
            read.extend(map(_words, stream))
        assert (caught.value.resource, caught.value.__cause__) == ("output_tokens", None)
        assert stream.response.is_closed
        assert run._state.account.holds == 0
    steps, given, made = _charged(run)
    assert (steps, given) == (1, INPUT)
    assert 500 < (made or 0) < 600 + 10
    assert abs((made or 0) - estimate_tokens("".join(read))) < 20


def test_what_is_raised_in_place_of_a_denial_cuts_a_stream_too(
    server: Provider, manager: BudgetManager, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception): ...

    def stop(*_: object) -> bool:
        raise Stop

    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # an error of our own would be swallowed
    server.enqueue(LONG)
    with manager.run(RunBudget(max_output_tokens=600, on_exhausted=stop), reraise=False) as run:
        stream = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(Stop):
            list(stream)
        assert stream.response.is_closed
        assert run._state.account.holds == 0
    assert 500 < (_charged(run)[2] or 0) < 600 + 10


async def test_an_async_stream_that_outgrows_the_budget_is_cut(
    server: Provider, manager: BudgetManager, aclient: AsyncOpenAI
) -> None:
    server.enqueue(LONG, LONG)
    async with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(BudgetExceeded):
            async for _ in await aclient.chat.completions.create(**CHAT, stream=True):
                pass
        assert run._state.account.holds == 0
    async with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        async with aclient.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
            with pytest.raises(BudgetExceeded):
                async for _ in response.iter_lines():
                    pass
            assert response.is_closed
        assert run._state.account.holds == 0


def test_a_responses_stream_grows_too(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(LONG, LONG)
    with manager.run(RunBudget(max_output_tokens=600), reraise=False), pytest.raises(BudgetExceeded):
        list(client.responses.create(**RESPONSE, stream=True))
    with manager.run() as run:
        list(client.responses.create(**RESPONSE, stream=True))
    assert _charged(run) == (1, 10, 900)


def test_a_stream_within_its_own_maximum_is_never_cut(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    """The estimate of what was seen may be too high; the maximum that is held bounds it."""
    server.enqueue(Reply(chunks=("x y z " * 50, "x y z " * 50), input_tokens=10, output_tokens=20))
    with manager.run(RunBudget(max_output_tokens=20)) as run:
        list(client.chat.completions.create(**CHAT, stream=True, max_completion_tokens=20))
    assert _charged(run) == (1, 10, 20)


def test_tool_calls_in_a_stream_are_output(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(Reply(tool_calls=[("search", {"query": "a long query about budgets"})], send_usage=False))
    with manager.run() as run:
        list(client.chat.completions.create(**CHAT, stream=True))
    assert (_charged(run)[2] or 0) > 5


def test_a_streaming_response_left_unread_is_charged_its_input(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(text=ANSWER))
    with manager.run() as run:
        with client.chat.completions.with_streaming_response.create(**CHAT) as response:
            assert response.status_code == 200
        assert run._state.account.holds == 0
    assert _charged(run) == (1, INPUT, 0)
