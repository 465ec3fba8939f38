"""Each SDK that the Stainless guard serves, and four ways to make one model call with it; litellm beside them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import pytest
from provider import Provider

from otelbudget.guards import GUARDS

SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}]}
#: A model of each that genai-prices lists.
MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "groq": "llama-3.3-70b-versatile",
    "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "cerebras": "gpt-oss-120b",
}
_MODULES = {"cerebras": "cerebras.cloud.sdk"}
_CLIENTS = {"openai": "OpenAI"}


class Kit(NamedTuple):
    """One SDK against one server; *module* is what applications import."""

    sdk: str
    module: Any
    client: Any
    aclient: Any

    @property
    def body(self) -> dict[str, Any]:
        return {"model": MODELS[self.sdk], "max_tokens": 100, **SAY}

    def create(self, client: Any, **more: Any) -> Any:
        """Asks, with the method that the SDK has for it."""
        made = client.messages if self.sdk == "anthropic" else client.chat.completions
        return made.create(**self.body, **more)

    def bases(self) -> list[type]:
        """All classes that the guard may touch."""
        inside = import_module(f"{self.module.__name__}._base_client")
        streams = import_module(f"{self.module.__name__}._streaming")
        classes = [inside.SyncAPIClient, inside.AsyncAPIClient, streams.Stream, streams.AsyncStream]
        return [*classes, inside.BaseClient, type(self.client), type(self.aclient)]


def kit(sdk: str, server: Provider | str, **options: Any) -> Kit:
    """The clients of *sdk*; skips where it is not installed."""
    module = pytest.importorskip(_MODULES.get(sdk, sdk))
    root = server if isinstance(server, str) else server.root_url
    url = f"{root}/v1" if sdk == "openai" else root
    name = _CLIENTS.get(sdk, sdk.capitalize())
    options = {"base_url": url, "api_key": "none", "max_retries": 0, **options}
    # Or it says hello from its constructor, which no test of requests wants.
    quiet = {"warm_tcp_connection": False} if sdk == "cerebras" else {}
    made = [getattr(module, cls)(**options, **quiet) for cls in (name, f"Async{name}")]
    return Kit(sdk, module, *made)


def _stream(kit: Kit) -> None:
    list(kit.create(kit.client, stream=True))


async def _astream(kit: Kit) -> None:
    async for _ in await kit.create(kit.aclient, stream=True):
        pass


async def _asking(kit: Kit) -> None:
    await kit.create(kit.aclient)


def _run(ask: Callable[[Kit], Coroutine[Any, Any, None]]) -> Callable[[Kit], object]:
    """In a loop of its own each time, and the client's connections with it."""

    async def all_of_it(kit: Kit) -> None:
        try:
            await ask(kit)
        finally:
            await kit.aclient._client.aclose()

    return lambda kit: asyncio.run(all_of_it(kit))


WAYS: dict[str, Callable[[Kit], object]] = {
    "sync": lambda kit: kit.create(kit.client),
    "stream": _stream,
    "async": _run(_asking),
    "async stream": _run(_astream),
}


@contextmanager
def beside_openai(litellm: Any, *, guarded: bool = True) -> Iterator[None]:
    """Work with *litellm*, *guarded* by the guard of openai as well, and end the clients that it leaves open."""
    if guarded:
        GUARDS["openai"].install()
    yield
    GUARDS["openai"].uninstall()
    litellm.in_memory_llm_clients_cache.flush_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it closes nothing
        gc.collect()
