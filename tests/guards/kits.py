"""Ways to make one model call with each SDK that has a guard of a mechanism of its own, against one server.

Each way takes the root URL of a `Provider`, whose answer is to be `USED`, and has a client of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import google_ways
import mistral_ways
import pytest
from provider import Reply
from provider.bedrock import CLAUDE

USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)
SAY: list[dict[str, str]] = [{"role": "user", "content": "Say it."}]
Way = Callable[[str], object]


def charged(run: Any) -> tuple[int, int | None, int | None]:
    """Steps, input and output tokens of a run that holds nothing any more."""
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


class Kit(NamedTuple):
    """What a test needs to know of one SDK: *holders* have the functions that the guard *changes*."""

    ways: dict[str, Way]
    holders: Callable[[], list[Any]]
    changes: set[str]


def _in_a_loop(make: Callable[[str], Any], ask: Callable[[Any], Awaitable[object]]) -> Way:
    async def all_of_it(url: str) -> None:
        async with make(url) as client:
            await ask(client)

    return lambda url: asyncio.run(all_of_it(url))


def _with(make: Callable[[str], Any], ask: Callable[[Any], object]) -> Way:
    def all_of_it(url: str) -> None:
        with make(url) as client:
            ask(client)

    return all_of_it


async def _all(stream: Any) -> int:
    return len([part async for part in stream])


# --- cohere

COHERE_CHAT: dict[str, Any] = {"model": "command-a-03-2025", "messages": SAY, "max_tokens": 100}
COHERE_OLD: dict[str, Any] = {"model": "command-a-03-2025", "message": "Say it.", "max_tokens": 100}


def cohere(cls: str, **options: Any) -> Callable[[str], Any]:
    return lambda url: getattr(import_module("cohere"), cls)(api_key="none", base_url=f"{url}/cohere", **options)


_sync, _async, _old, _aold = (
    cohere("ClientV2"),
    cohere("AsyncClientV2"),
    cohere("Client", thread_pool_executor=None),
    cohere("AsyncClient", thread_pool_executor=None),
)
COHERE: dict[str, Way] = {
    "sync": _with(_sync, lambda c: c.chat(**COHERE_CHAT)),
    "stream": _with(_sync, lambda c: list(c.chat_stream(**COHERE_CHAT))),
    "async": _in_a_loop(_async, lambda c: c.chat(**COHERE_CHAT)),
    "async stream": _in_a_loop(_async, lambda c: _all(c.chat_stream(**COHERE_CHAT))),
    "raw": _with(_sync, lambda c: c.with_raw_response.chat(**COHERE_CHAT)),
    "v1": _with(_old, lambda c: c.chat(**COHERE_OLD)),
    "v1 stream": _with(_old, lambda c: list(c.chat_stream(**COHERE_OLD))),
    "v1 async": _in_a_loop(_aold, lambda c: c.chat(**COHERE_OLD)),
    "v1 async stream": _in_a_loop(_aold, lambda c: _all(c.chat_stream(**COHERE_OLD))),
}


def _cohere_holders() -> list[Any]:
    module = import_module("cohere.core.http_client")
    return [module, module.HttpClient, module.AsyncHttpClient]


# --- ollama

OLLAMA_CHAT: dict[str, Any] = {"model": "llama3.2", "messages": SAY, "options": {"num_predict": 100}}
OLLAMA_TEXT: dict[str, Any] = {"model": "llama3.2", "prompt": "Say it.", "options": {"num_predict": 100}}


def ollama(cls: str, **options: Any) -> Callable[[str], Any]:
    return lambda url: getattr(import_module("ollama"), cls)(host=url, **options)


async def _ollama_stream(client: Any) -> None:
    await _all(await client.chat(**OLLAMA_CHAT, stream=True))


_client, _aclient = ollama("Client"), ollama("AsyncClient")
OLLAMA: dict[str, Way] = {
    "sync": _with(_client, lambda c: c.chat(**OLLAMA_CHAT)),
    "stream": _with(_client, lambda c: list(c.chat(**OLLAMA_CHAT, stream=True))),
    "async": _in_a_loop(_aclient, lambda c: c.chat(**OLLAMA_CHAT)),
    "async stream": _in_a_loop(_aclient, _ollama_stream),
    "generate": _with(_client, lambda c: c.generate(**OLLAMA_TEXT)),
    "generate stream": _with(_client, lambda c: list(c.generate(**OLLAMA_TEXT, stream=True))),
}


def _ollama_holders() -> list[Any]:
    module = import_module("ollama._client")
    return [module.BaseClient, module.Client, module.AsyncClient]


# --- bedrock

CONVERSE: dict[str, Any] = {
    "modelId": CLAUDE,
    "messages": [{"role": "user", "content": [{"text": "Say it."}]}],
    "inferenceConfig": {"maxTokens": 100},
}
_CLAUDE = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": SAY}
INVOKE: dict[str, Any] = {"modelId": CLAUDE, "body": json.dumps(_CLAUDE)}


def bedrock(url: str, **options: Any) -> Any:
    pytest.importorskip("boto3")
    config = import_module("botocore.config").Config(**{"retries": {"max_attempts": 0}, **options})
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    service = "bedrock-runtime"
    return import_module("boto3.session").Session(**keys).client(service, endpoint_url=url, config=config)


def _boto(ask: Callable[[Any], object]) -> Way:
    def all_of_it(url: str) -> None:
        with closing(bedrock(url)) as client:
            ask(client)

    return all_of_it


BEDROCK: dict[str, Way] = {
    "converse": _boto(lambda c: c.converse(**CONVERSE)),
    "converse stream": _boto(lambda c: list(c.converse_stream(**CONVERSE)["stream"])),
    "invoke": _boto(lambda c: c.invoke_model(**INVOKE)["body"].read()),
    "invoke stream": _boto(lambda c: list(c.invoke_model_with_response_stream(**INVOKE)["body"])),
}


def _bedrock_holders() -> list[Any]:
    names = ("client.BaseClient", "endpoint.Endpoint", "eventstream.EventStream")
    found = [name.rpartition(".") for name in names]
    return [getattr(import_module(f"botocore.{inside}"), name) for inside, _, name in found]


# --- mistralai, google-genai


def _mistral_holders() -> list[Any]:
    module = import_module("mistralai.client")
    names = (
        "utils.eventstreaming.EventStream",
        "utils.eventstreaming.EventStreamAsync",
        "basesdk.BaseSDK",
        "_hooks.sdkhooks.SDKHooks",
        "utils.retries.TemporaryError",
    )
    found = [name.rpartition(".") for name in names]
    return [getattr(import_module(f"{module.__name__}.{inside}"), name) for inside, _, name in found]


def _google_holders() -> list[Any]:
    names = ("_api_client.BaseApiClient", "models.AsyncModels", "chats.AsyncChat")
    found = [name.rpartition(".") for name in names]
    return [getattr(import_module(f"google.genai.{inside}"), name) for inside, _, name in found]


def _mistral(ask: Callable[[Any], object]) -> Way:
    return lambda url: ask(mistral_ways.mistral(url))


KITS: dict[str, Kit] = {
    "mistralai": Kit(
        {name: _mistral(ask) for name, ask in mistral_ways.WAYS.items()},
        _mistral_holders,
        {"do_request", "do_request_async", "before_request", "after_error", "__init__", "__iter__", "__aiter__"},
    ),
    "google_genai": Kit(
        {name: partial(google_ways.call, name) for name in google_ways.WAYS},
        _google_holders,
        {
            *("_request", "_async_request", "_request_once", "_async_request_once", "_ensure_aiohttp_ssl_ctx"),
            *("generate_content_stream", "send_message_stream"),
        },
    ),
    "cohere": Kit(COHERE, _cohere_holders, {"request", "stream", "_should_retry", "_retry_timeout_from_retries"}),
    "bedrock": Kit(BEDROCK, _bedrock_holders, {"_make_api_call", "_send", "__iter__"}),
    "ollama": Kit(OLLAMA, _ollama_holders, {"_request", "_request_raw"}),
}
