"""Ways to make one model call with google-genai, over each of its HTTP clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpx2
import pytest
from provider.gemini import MODEL

SAY = "Say it."


def gemini(url: str, *, vertexai: bool = False, **options: Any) -> Any:
    options = {"base_url": url, **options}
    return import_module("google.genai").Client(api_key="none", vertexai=vertexai, http_options=options)


def _httpx(url: str, **options: Any) -> Any:
    return gemini(url, httpx_async_client=httpx2.AsyncClient(), **options)


def _stream(client: Any) -> None:
    assert "".join(one.text or "" for one in client.models.generate_content_stream(model=MODEL, contents=SAY))


async def _astream(client: Any) -> None:
    found = [one.text async for one in await client.aio.models.generate_content_stream(model=MODEL, contents=SAY)]
    assert len(found) == 3


def in_a_loop(ask: Callable[[Any], Any]) -> Callable[[Any], object]:
    async def all_of_it(client: Any) -> None:
        try:
            await ask(client)
        finally:
            await client.aio.aclose()
            if (given := client._api_client._http_options.httpx_async_client) is not None:
                await given.aclose()

    return lambda client: asyncio.run(all_of_it(client))


async def _ask(client: Any) -> None:
    await client.aio.models.generate_content(model=MODEL, contents=SAY)


WAYS: dict[str, tuple[Callable[..., Any], Callable[[Any], object]]] = {
    "sync": (gemini, lambda c: c.models.generate_content(model=MODEL, contents=SAY)),
    "stream": (gemini, _stream),
    "aiohttp": (gemini, in_a_loop(_ask)),
    "aiohttp stream": (gemini, in_a_loop(_astream)),
    "httpx": (_httpx, in_a_loop(_ask)),
    "chat": (gemini, lambda c: c.chats.create(model=MODEL).send_message(SAY)),
    "chat stream": (gemini, lambda c: list(c.chats.create(model=MODEL).send_message_stream(SAY))),
    "httpx stream": (_httpx, in_a_loop(_astream)),
}


def call(way: str, url: str, **options: Any) -> None:
    make, ask = WAYS[way]
    if "aiohttp" in way:
        pytest.importorskip("aiohttp")
    made = make(url, **options)
    try:
        ask(made)
    finally:
        made.close()
