"""The SDKs of the matrix: what calls each, and what can be switched on beside it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import kits
import sdks
from kits import COHERE, KITS, SAY, Way
from provider import Reply

kits.bedrock = cache(kits.bedrock)  # it reads the description of the service whenever it is made
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
#: What the server says that every call has used.
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)
#: What one call is charged: steps, input and output tokens.
EXACT = [1, 80, 20]


class Cell(NamedTuple):
    """An SDK: its package, what applications import, ways to make one call, and the instrumentations for it.

    A *native* instrumentation begins by itself as soon as there is a tracer provider.
    """

    package: str
    module: str
    ways: dict[str, Way]
    beside: tuple[str, ...] = ()
    native: bool = False

    def there(self) -> list[str]:
        """The instrumentations of it that are installed."""
        return [one for one in self.beside if all(map(version_of, needs(one)))]


def needs(instrumentation: str) -> tuple[str, ...]:
    """The packages of an instrumentation: that of its module, and what follows.

    It is ``module:what:another package``, where *what* is an instrumentor, a function of Logfire or a callback of
    litellm.
    """
    module, _, *more = instrumentation.split(":")
    return (re.sub("[._]", "-", module), *more)


@cache
def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def does_not_load(instrumentation: str) -> str:
    """Why it does not load with the SDK that is here; empty if it does."""
    try:
        import_module(instrumentation.partition(":")[0])
    except ImportError as error:
        return str(error)
    return ""


def label(instrumentation: str) -> str:
    """Whose it is, with its version."""
    package = needs(instrumentation)[0]
    found = version_of(package) or ""
    family = {"openinference": "OpenInference", "logfire": "Logfire", "litellm": "native"}.get(package.split("-")[0])
    if family is None:  # all of OpenLLMetry's have one version, and the official ones are betas
        family = "official" if "b" in found else "OpenLLMetry"
    return f"{family} {found}"


def _otel(*names: str) -> tuple[str, ...]:
    return tuple(f"opentelemetry.instrumentation.{name}" for name in names)


# --- made by Stainless


def _stainless(sdk: str) -> dict[str, Way]:
    return {name: partial(_kit_call, sdk, way) for name, way in sdks.WAYS.items()}


def _kit_call(sdk: str, way: Callable[[sdks.Kit], object], url: str) -> None:
    kit = sdks.kit(sdk, url)
    with kit.client:
        way(kit)


_RESPONSE = {"model": "gpt-4o-mini", "input": "Say it.", "max_output_tokens": 100}


async def _responses(stream: bool, kit: sdks.Kit) -> None:
    async with kit.aclient as client:
        answer = await client.responses.create(**_RESPONSE, stream=stream)
        if stream:
            _ = [event async for event in answer]


def _openai() -> dict[str, Way]:
    ways: dict[str, Callable[[sdks.Kit], object]] = {
        "responses sync": lambda kit: kit.client.responses.create(**_RESPONSE),
        "responses stream": lambda kit: list(kit.client.responses.create(**_RESPONSE, stream=True)),
        "responses async": lambda kit: asyncio.run(_responses(False, kit)),
        "responses async stream": lambda kit: asyncio.run(_responses(True, kit)),
    }
    return {**_stainless("openai"), **{name: partial(_kit_call, "openai", way) for name, way in ways.items()}}


# --- litellm


def _litellm(model: str, base: str) -> dict[str, Way]:
    def how(url: str) -> dict[str, Any]:
        return {"model": model, "api_base": f"{url}{base}", "api_key": "none", "max_tokens": 100, "messages": SAY}

    def made() -> Any:
        return import_module("litellm")

    async def astream(url: str) -> None:
        _ = [part async for part in await made().acompletion(**how(url), stream=True)]

    route = model.partition("/")[0]
    return {
        f"{route} sync": lambda url: made().completion(**how(url)),
        f"{route} stream": lambda url: list(made().completion(**how(url), stream=True)),
        f"{route} async": lambda url: asyncio.run(made().acompletion(**how(url))),
        f"{route} async stream": lambda url: asyncio.run(astream(url)),
    }


CELLS: dict[str, Cell] = {
    "openai": Cell(
        "openai",
        "openai",
        _openai(),
        (
            *_otel("genai.openai:OpenAIInstrumentor", "openai_v2:OpenAIInstrumentor", "openai:OpenAIInstrumentor"),
            "openinference.instrumentation.openai:OpenAIInstrumentor",
            "logfire:instrument_openai",
        ),
    ),
    "anthropic": Cell(
        "anthropic",
        "anthropic",
        _stainless("anthropic"),
        (
            *_otel("genai.anthropic:AnthropicInstrumentor", "anthropic:AnthropicInstrumentor"),
            "openinference.instrumentation.anthropic:AnthropicInstrumentor",
            "logfire:instrument_anthropic",
        ),
        native=True,
    ),
    "google-genai": Cell(
        "google-genai",
        "google.genai",
        KITS["google_genai"].ways,
        (
            *_otel("google_genai:GoogleGenAiSdkInstrumentor", "google_generativeai:GoogleGenerativeAiInstrumentor"),
            "openinference.instrumentation.google_genai:GoogleGenAIInstrumentor",
            "logfire:instrument_google_genai:opentelemetry-instrumentation-google-genai",
        ),
    ),
    "mistralai": Cell(
        "mistralai",
        "mistralai.client",
        KITS["mistralai"].ways,
        (
            *_otel("mistralai:MistralAiInstrumentor"),
            "openinference.instrumentation.mistralai:MistralAIInstrumentor",
        ),
        native=True,
    ),
    "groq": Cell(
        "groq",
        "groq",
        _stainless("groq"),
        (*_otel("groq:GroqInstrumentor"), "openinference.instrumentation.groq:GroqInstrumentor"),
    ),
    "together": Cell(
        "together",
        "together",
        _stainless("together"),
        (*_otel("together:TogetherAiInstrumentor"), "openinference.instrumentation.together:TogetherInstrumentor"),
    ),
    "cerebras": Cell("cerebras-cloud-sdk", "cerebras.cloud.sdk", _stainless("cerebras")),
    "cohere": Cell(
        "cohere",
        "cohere",
        COHERE,
        (*_otel("cohere:CohereInstrumentor"), "openinference.instrumentation.cohere:CohereInstrumentor"),
    ),
    "ollama": Cell(
        "ollama",
        "ollama",
        KITS["ollama"].ways,
        (*_otel("ollama:OllamaInstrumentor"), "openinference.instrumentation.ollama:OllamaInstrumentor"),
    ),
    "bedrock": Cell(
        "boto3",
        "botocore.client",
        KITS["bedrock"].ways,
        (
            *_otel("genai.bedrock:BedrockInstrumentor", "botocore:BotocoreInstrumentor", "bedrock:BedrockInstrumentor"),
            "openinference.instrumentation.bedrock:BedrockInstrumentor",
        ),
    ),
    "litellm": Cell(
        "litellm",
        "litellm",
        {**_litellm("openai/gpt-4o-mini", "/v1"), **_litellm("anthropic/claude-haiku-4-5", "")},
        (
            "litellm:otel",
            *_otel("litellm:LiteLLMInstrumentor"),
            "openinference.instrumentation.litellm:LiteLLMInstrumentor",
            "logfire:instrument_litellm",
        ),
    ),
}
