"""Ways to make one model call with mistralai: each takes a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

CHAT: dict[str, Any] = {
    "model": "mistral-small-latest",
    "messages": [{"role": "user", "content": "Say it."}],
    "max_tokens": 100,
}


def mistral(url: str, **options: Any) -> Any:
    return import_module("mistralai.client").Mistral(api_key="none", server_url=f"{url}/mistral", **options)


def text(events: Any) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in events)


def _stream(client: Any) -> None:
    assert text(client.chat.stream(**CHAT)) == "one two three"


def _stream_with(client: Any) -> None:
    with client.chat.stream(**CHAT) as events:
        assert text(events) == "one two three"


async def _astream(client: Any) -> None:
    async for _ in await client.chat.stream_async(**CHAT):
        pass


def in_a_loop(ask: Callable[[Any], Any]) -> Callable[[Any], object]:
    async def all_of_it(client: Any) -> None:
        async with client:
            await ask(client)

    return lambda client: asyncio.run(all_of_it(client))


FIM = {"model": "codestral-latest", "prompt": "def f(", "suffix": "return", "max_tokens": 100}
AGENT = {"agent_id": "ag_1", "messages": CHAT["messages"], "max_tokens": 100}
WAYS: dict[str, Callable[[Any], object]] = {
    "sync": lambda c: c.chat.complete(**CHAT),
    "stream": _stream,
    "async": in_a_loop(lambda c: c.chat.complete_async(**CHAT)),
    "async stream": in_a_loop(_astream),
    "stream with": _stream_with,
    "fim": lambda c: c.fim.complete(**FIM),
    "fim stream": lambda c: list(c.fim.stream(**FIM)),
    "agents": lambda c: c.agents.complete(**AGENT),
}
