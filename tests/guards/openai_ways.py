"""Every way to make one model call with the ``openai`` SDK, read to its end: name -> what does it.

All of them say the same thing to the same model, so that one prescribed usage fits all.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from otelbudget.guards.watch import settle_dropped

CHAT: dict[str, Any] = {"model": "demo-small", "messages": [{"role": "user", "content": "Say it."}]}
RESPONSE: dict[str, Any] = {"model": "demo-small", "input": "Say it."}
EMBEDDING: dict[str, Any] = {"model": "demo-embed", "input": "Say it."}


class Said(BaseModel):
    """What `chat.parse` and `responses.parse` make of the answer."""

    word: str


#: An answer that both a reader of text and `Said` can take.
ANSWER = '{"word": "it"}'


def client(root_url: str) -> OpenAI:
    return OpenAI(base_url=f"{root_url}/v1", api_key="none", max_retries=0)


def aclient(root_url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{root_url}/v1", api_key="none", max_retries=0)


def _chat_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(**CHAT) as stream:
        assert [event.type for event in stream][-1] == "content.done"


def _responses_stream_helper(client: OpenAI) -> None:
    with client.responses.stream(**RESPONSE) as stream:
        assert stream.get_final_response().output_text == ANSWER


def _text_of(chunks: Any) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def _chat_stream(client: OpenAI) -> None:
    assert _text_of(client.chat.completions.create(**CHAT, stream=True)) == ANSWER


def _chat_stream_with(client: OpenAI) -> None:
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        assert _text_of(stream) == ANSWER


def _chat_raw_stream(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT, stream=True)
    assert raw.headers["content-type"] == "text/event-stream"
    assert _text_of(raw.parse()) == ANSWER


def _chat_streaming_response(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert response.parse().choices[0].message.content == ANSWER


def _chat_streaming_response_json(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        response.json()


def _chat_streaming_response_bytes(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert ChatCompletion.model_validate_json(b"".join(response.iter_bytes(7))).choices


def _chat_streaming_response_first(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert ChatCompletion.model_validate_json(next(response.iter_bytes())).choices


def _chat_streaming_response_raw(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert ChatCompletion.model_validate_json(b"".join(response.http_response.iter_raw())).choices


def _chat_stream_response_raw(client: OpenAI) -> None:
    said = b"".join(client.chat.completions.create(**CHAT, stream=True).response.iter_raw())
    assert said.endswith(b"data: [DONE]\n\n")
    assert b'"choices": []' not in said


def _chat_streaming_response_stream(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        assert _text_of(response.parse()) == ANSWER


def _chat_streaming_response_lines(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"choices": []' not in "".join(lines)


def _low_level(client: OpenAI) -> None:
    assert client.post("/chat/completions", cast_to=ChatCompletion, body=CHAT).usage is not None


def _responses_stream(client: OpenAI) -> None:
    events = list(client.responses.create(**RESPONSE, stream=True))
    assert events[-1].type == "response.completed"


WAYS: dict[str, Callable[[OpenAI], object]] = {
    "chat": lambda c: c.chat.completions.create(**CHAT),
    "chat.parse": lambda c: c.chat.completions.parse(**CHAT, response_format=Said),
    "chat.raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT).parse(),
    "chat.raw.unparsed": lambda c: c.chat.completions.with_raw_response.create(**CHAT).text,
    "chat.with_options": lambda c: c.with_options(timeout=30).chat.completions.create(**CHAT),
    "chat.extra_body": lambda c: c.chat.completions.create(**CHAT, extra_body={"top_k": 3}),
    "chat.low_level": _low_level,
    "chat.streaming_response": _chat_streaming_response,
    "chat.streaming_response.json": _chat_streaming_response_json,
    "chat.streaming_response.bytes": _chat_streaming_response_bytes,
    "chat.streaming_response.first": _chat_streaming_response_first,
    "chat.streaming_response.raw": _chat_streaming_response_raw,
    "chat.stream": _chat_stream,
    "chat.stream.response.raw": _chat_stream_response_raw,
    "chat.stream.with": _chat_stream_with,
    "chat.stream.helper": _chat_stream_helper,
    "chat.stream.raw": _chat_raw_stream,
    "chat.stream.streaming_response": _chat_streaming_response_stream,
    "chat.stream.streaming_response.lines": _chat_streaming_response_lines,
    "responses": lambda c: c.responses.create(**RESPONSE),
    "responses.parse": lambda c: c.responses.parse(**RESPONSE, text_format=Said),
    "responses.raw": lambda c: c.responses.with_raw_response.create(**RESPONSE).parse(),
    "responses.stream": _responses_stream,
    "responses.stream.helper": _responses_stream_helper,
    "embeddings": lambda c: c.embeddings.create(**EMBEDDING),
    "embeddings.raw": lambda c: c.embeddings.with_raw_response.create(**EMBEDDING).parse(),
    "embeddings.low_level": lambda c: c.post("/embeddings", cast_to=CreateEmbeddingResponse, body=EMBEDDING),
}


def _first_words(chunks: Any) -> None:
    for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            return


def _stop_by_close(client: OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    _first_words(stream)
    stream.close()


def _stop_by_block(client: OpenAI) -> None:
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        _first_words(stream)


def _stop_by_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(**CHAT) as stream:
        next(event for event in stream if event.type == "content.delta" and event.delta)


def _stop_by_leaving_it(client: OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    _first_words(stream)
    del stream
    gc.collect()
    settle_dropped()


#: Ways to stop reading after the first words.
STOPS: dict[str, Callable[[OpenAI], object]] = {
    "close": _stop_by_close,
    "block": _stop_by_block,
    "helper": _stop_by_helper,
    "abandoned": _stop_by_leaving_it,
}


async def _atext_of(chunks: Any) -> str:
    return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])


async def _achat_stream(client: AsyncOpenAI) -> None:
    assert await _atext_of(await client.chat.completions.create(**CHAT, stream=True)) == ANSWER


async def _achat_stream_with(client: AsyncOpenAI) -> None:
    async with await client.chat.completions.create(**CHAT, stream=True) as stream:
        assert await _atext_of(stream) == ANSWER


async def _achat_stream_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**CHAT) as stream:
        assert [event.type async for event in stream][-1] == "content.done"


async def _achat_raw_stream(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(**CHAT, stream=True)
    assert await _atext_of(raw.parse()) == ANSWER


async def _achat_streaming_response(client: AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert (await response.parse()).choices[0].message.content == ANSWER


async def _achat_streaming_response_lines(client: AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"choices": []' not in "".join(lines)


async def _achat_stream_response_raw(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**CHAT, stream=True)
    said = b"".join([part async for part in stream.response.aiter_raw()])
    assert said.endswith(b"data: [DONE]\n\n")
    assert b'"choices": []' not in said


async def _achat_raw(client: AsyncOpenAI) -> object:
    return (await client.chat.completions.with_raw_response.create(**CHAT)).parse()


async def _aresponses_stream(client: AsyncOpenAI) -> None:
    events = [event async for event in await client.responses.create(**RESPONSE, stream=True)]
    assert events[-1].type == "response.completed"


async def _aresponses_stream_helper(client: AsyncOpenAI) -> None:
    async with client.responses.stream(**RESPONSE) as stream:
        assert (await stream.get_final_response()).output_text == ANSWER


ASYNC_WAYS: dict[str, Callable[[AsyncOpenAI], Awaitable[object]]] = {
    "chat": lambda c: c.chat.completions.create(**CHAT),
    "chat.parse": lambda c: c.chat.completions.parse(**CHAT, response_format=Said),
    "chat.raw": _achat_raw,
    "chat.streaming_response": _achat_streaming_response,
    "chat.stream": _achat_stream,
    "chat.stream.response.raw": _achat_stream_response_raw,
    "chat.stream.with": _achat_stream_with,
    "chat.stream.helper": _achat_stream_helper,
    "chat.stream.raw": _achat_raw_stream,
    "chat.stream.streaming_response.lines": _achat_streaming_response_lines,
    "responses": lambda c: c.responses.create(**RESPONSE),
    "responses.parse": lambda c: c.responses.parse(**RESPONSE, text_format=Said),
    "responses.stream": _aresponses_stream,
    "responses.stream.helper": _aresponses_stream_helper,
    "embeddings": lambda c: c.embeddings.create(**EMBEDDING),
}
