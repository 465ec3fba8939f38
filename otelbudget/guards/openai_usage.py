"""OpenAI's protocol read: what a request asks for, and what an answer says it used.

Bodies are mappings, answers are mappings or the SDK's models; a value that makes no sense is taken as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from otelbudget.model.amounts import nanousd, usd
from otelbudget.model.usage import Usage


class Endpoint(NamedTuple):
    """One kind of request."""

    operation: str
    maxima: tuple[str, ...] = ()  # keys of the request's own maximum output, the first one given counts
    asks_usage: bool = False  # streams say their usage only if ``stream_options`` asks


#: Ends of the path -> what it is; the first that fits. Azure and gateways put more in front.
_ENDPOINTS: Final = (
    ("/chat/completions", Endpoint("chat", ("max_completion_tokens", "max_tokens"), asks_usage=True)),
    ("/completions", Endpoint("text_completion", ("max_tokens",))),
    ("/responses", Endpoint("chat", ("max_output_tokens",))),
    ("/responses/compact", Endpoint("chat")),
    ("/embeddings", Endpoint("embeddings")),
)

#: Ends of host names -> provider, in the names of the GenAI semantic conventions (``gen_ai.provider.name``).
_PROVIDERS: Final = (
    (".openai.azure.com", "azure.ai.openai"),
    (".models.ai.azure.com", "azure.ai.inference"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".amazonaws.com", "aws.bedrock"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.anthropic.com", "anthropic"),
    ("api.cohere.ai", "cohere"),
    ("api.cohere.com", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
)

#: Providers of chat completions that know ``max_tokens`` and not its successor, by their own documentation.
_OLD_MAXIMUM: Final = frozenset({"azure.ai.inference", "cohere", "deepseek", "mistral_ai", "perplexity"})


def endpoint_of(method: str, url: str) -> Endpoint | None:
    """What a request to *url* (a path or a whole URL) is, or None if it makes no tokens that we count."""
    if method.lower() != "post":
        return None
    path = "/" + url.partition("?")[0].rstrip("/")
    return next((endpoint for end, endpoint in _ENDPOINTS if path.endswith(end)), None)


def provider_of(client: object) -> str:
    """Who answers *client*: by its class, else by the host it talks to, else ``openai``."""
    names = {cls.__name__ for cls in type(client).__mro__}
    if "BaseAzureClient" in names:
        return "azure.ai.openai"
    if "BedrockOpenAI" in names or "AsyncBedrockOpenAI" in names:
        return "aws.bedrock"
    host = str(getattr(getattr(client, "base_url", None), "host", ""))
    return next((provider for end, provider in _PROVIDERS if host.endswith(end)), "openai")


def body_of(json_data: object, extra: object, content: object) -> Mapping[str, Any]:
    """The body that will be sent: the SDK's own with ``extra_body`` over it, or JSON given as bytes; else empty."""
    raw = content if isinstance(content, bytes | bytearray) else json_data
    if isinstance(raw, bytes | bytearray):
        try:
            json_data = json.loads(raw)
        except ValueError:
            return {}
    body = json_data if isinstance(json_data, Mapping) else {}
    return {**body, **extra} if isinstance(extra, Mapping) else body


def max_output_tokens(endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
    """The most that the request allows to be made, over all its choices and prompts; 0 for embeddings, None if open."""
    if endpoint.operation == "embeddings":
        return 0
    maximum = next((n for key in endpoint.maxima if (n := _count(body.get(key)))), None)
    return None if maximum is None else maximum * answers_of(body)


def answers_of(body: Mapping[str, Any]) -> int:
    """How many answers are made, each up to the maximum: choices times prompts."""
    choices = max(_count(body.get("n")) or 1, _count(body.get("best_of")) or 1)
    return choices * _prompts(body.get("prompt"))


def maximum_keys(endpoint: Endpoint, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:
    """Where the request has its maximum, or would: ``max_completion_tokens`` in a chat, but for a few providers."""
    given = tuple(key for key in endpoint.maxima if body.get(key) is not None)
    if not given and provider in _OLD_MAXIMUM and "max_tokens" in endpoint.maxima:
        return ("max_tokens",)
    return given or endpoint.maxima[:1]


def _prompts(prompt: object) -> int:
    """How many prompts a completion has: a list of texts or of token lists is several, a list of tokens one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def answer_usage(answer: object, provider: str) -> Usage | None:
    """The usage that *answer* (a completion, a response, an embedding, a chunk of a stream) reports, or None."""
    reported = _get(answer, "usage")
    given, made, total = _split(reported)
    if not (given or made or total):
        return None  # nothing costs nothing: a server that does not count
    details = _get(reported, "prompt_tokens_details") or _get(reported, "input_tokens_details")
    made_details = _get(reported, "completion_tokens_details") or _get(reported, "output_tokens_details")
    return Usage(
        input_tokens=given,
        output_tokens=made,
        tokens=total if given is None and made is None else None,
        cache_read_tokens=min(_count(_get(details, "cached_tokens")) or 0, given or 0),
        cache_write_tokens=min(_count(_get(details, "cache_write_tokens")) or 0, given or 0),
        reasoning_tokens=min(_count(_get(made_details, "reasoning_tokens")) or 0, made or 0),
        model=text_of(answer, "model"),
        provider=provider,
        response_id=text_of(answer, "id"),
        reported_cost_usd=cost_of(_get(reported, "cost")),
    )


def cost_of(value: object) -> Decimal | None:
    """The amount of USD that a response reports, as a number or in a header; None if it is no amount."""
    if value is None:
        return None
    try:
        return usd(nanousd("cost", Decimal(value) if isinstance(value, str) else value))
    except (ValueError, ArithmeticError):
        return None


def _split(reported: object) -> tuple[int | None, int | None, int | None]:
    """Input, output and total as reported, one of the first two completed from the others."""
    given = _first(reported, "prompt_tokens", "input_tokens")
    made = _first(reported, "completion_tokens", "output_tokens")
    total = _first(reported, "total_tokens")
    if total is not None and given is not None:
        made = max(total - given, made or 0)  # reasoning that some leave out of the output; none of an embedding
    elif total is not None and made is not None and total >= made:
        given = total - made
    return given, made, total


def text_of(answer: object, name: str) -> str | None:
    """The text that *answer* has under *name*, or None."""
    value = _get(answer, name)
    return value if isinstance(value, str) and value else None


def spoken(delta: object) -> Iterable[str]:
    """All text in a piece of a stream that the model has made: words, refusals, reasoning, tool names and arguments."""
    if isinstance(delta, str):
        yield delta
    elif isinstance(delta, Mapping):
        for key, value in delta.items():
            if key not in ("id", "role", "type", "index", "logprobs", "data"):
                yield from spoken(value)
    elif isinstance(delta, list):
        for value in delta:
            yield from spoken(value)


def _get(holder: object, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _first(holder: object, *names: str) -> int | None:
    return next((n for name in names if (n := _count(_get(holder, name))) is not None), None)


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**53 else None
