"""Every way to make one model call with the ``anthropic`` SDK, as `openai_ways` has them for ``openai``."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message
from pydantic import BaseModel

from otelbudget.guards.watch import settle_dropped

CHAT: dict[str, Any] = {
    "model": "claude-demo",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Say it."}],
}


class Said(BaseModel):
    """What `messages.parse` makes of the answer."""

    word: str


#: An answer that both a reader of text and `Said` can take.
ANSWER = '{"word": "it"}'


def client(url: str, **options: Any) -> Anthropic:
    return Anthropic(base_url=url, api_key="none", max_retries=0, **options)


def aclient(url: str, **options: Any) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0, **options)


def words(event: Any) -> str:
    return event.delta.text if event.type == "content_block_delta" else ""


def _stream(client: Anthropic) -> None:
    assert "".join(map(words, client.messages.create(**CHAT, stream=True))) == ANSWER


def _stream_with(client: Anthropic) -> None:
    with client.messages.create(**CHAT, stream=True) as stream:
        assert "".join(map(words, stream)) == ANSWER


def _stream_helper(client: Anthropic) -> None:
    with client.messages.stream(**CHAT) as stream:
        assert "".join(stream.text_stream) == ANSWER
        assert stream.get_final_message().usage.output_tokens


def _stream_final(client: Anthropic) -> None:
    with client.messages.stream(**CHAT) as stream:
        assert stream.get_final_text() == ANSWER


def _raw_stream(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**CHAT, stream=True)
    assert "".join(map(words, raw.parse())) == ANSWER


def _streaming_response(client: Anthropic) -> None:
    with client.messages.with_streaming_response.create(**CHAT) as response:
        assert response.parse().content[0].text == ANSWER


def _streaming_response_lines(client: Anthropic) -> None:
    with client.messages.with_streaming_response.create(**CHAT, stream=True) as response:
        assert any("message_stop" in line for line in response.iter_lines())


WAYS: dict[str, Callable[[Anthropic], object]] = {
    "messages": lambda c: c.messages.create(**CHAT),
    "messages.parse": lambda c: c.messages.parse(**CHAT, output_format=Said),
    "messages.raw": lambda c: c.messages.with_raw_response.create(**CHAT).parse(),
    "messages.with_options": lambda c: c.with_options(timeout=30).messages.create(**CHAT),
    "messages.extra_body": lambda c: c.messages.create(**CHAT, extra_body={"top_k": 3}),
    "messages.low_level": lambda c: c.post("/v1/messages", cast_to=Message, body=CHAT),
    "messages.streaming_response": _streaming_response,
    "messages.stream": _stream,
    "messages.stream.with": _stream_with,
    "messages.stream.helper": _stream_helper,
    "messages.stream.final": _stream_final,
    "messages.stream.raw": _raw_stream,
    "messages.stream.streaming_response.lines": _streaming_response_lines,
    "beta": lambda c: c.beta.messages.create(**CHAT),
    "beta.stream": lambda c: list(c.beta.messages.create(**CHAT, stream=True)),
}


def _first_words(events: Any) -> None:
    for event in events:
        if words(event):
            return


def _stop_by_close(client: Anthropic) -> None:
    stream = client.messages.create(**CHAT, stream=True)
    _first_words(stream)
    stream.close()


def _stop_by_block(client: Anthropic) -> None:
    with client.messages.create(**CHAT, stream=True) as stream:
        _first_words(stream)


def _stop_by_helper(client: Anthropic) -> None:
    with client.messages.stream(**CHAT) as stream:
        next(stream.text_stream)


def _stop_by_leaving_it(client: Anthropic) -> None:
    stream = client.messages.create(**CHAT, stream=True)
    _first_words(stream)
    del stream
    gc.collect()
    settle_dropped()


#: Ways to stop reading after the first words.
STOPS: dict[str, Callable[[Anthropic], object]] = {
    "close": _stop_by_close,
    "block": _stop_by_block,
    "helper": _stop_by_helper,
    "abandoned": _stop_by_leaving_it,
}


async def _astream(client: AsyncAnthropic) -> None:
    assert "".join([words(event) async for event in await client.messages.create(**CHAT, stream=True)]) == ANSWER


async def _astream_with(client: AsyncAnthropic) -> None:
    async with await client.messages.create(**CHAT, stream=True) as stream:
        assert "".join([words(event) async for event in stream]) == ANSWER


async def _astream_helper(client: AsyncAnthropic) -> None:
    async with client.messages.stream(**CHAT) as stream:
        assert "".join([text async for text in stream.text_stream]) == ANSWER


async def _araw(client: AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(**CHAT)
    assert (await raw.parse()).content[0].text == ANSWER


async def _araw_stream(client: AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(**CHAT, stream=True)
    assert "".join([words(event) async for event in await raw.parse()]) == ANSWER


async def _astreaming_response(client: AsyncAnthropic) -> None:
    async with client.messages.with_streaming_response.create(**CHAT) as response:
        assert (await response.parse()).content[0].text == ANSWER


ASYNC_WAYS: dict[str, Callable[[AsyncAnthropic], Awaitable[object]]] = {
    "messages": lambda c: c.messages.create(**CHAT),
    "messages.raw": _araw,
    "messages.streaming_response": _astreaming_response,
    "messages.stream": _astream,
    "messages.stream.with": _astream_with,
    "messages.stream.helper": _astream_helper,
    "messages.stream.raw": _araw_stream,
}
