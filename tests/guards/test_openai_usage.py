"""Requests and answers of OpenAI's protocol."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, OpenAI

from otelbudget.guards.openai_usage import answer_usage, body_of, endpoint_of, max_output_tokens, provider_of, spoken
from otelbudget.model.usage import Usage


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("/chat/completions", "chat"),
        ("/completions", "text_completion"),
        ("/responses", "chat"),
        ("/responses?beta=true", "chat"),
        ("/responses/compact", "chat"),
        ("/embeddings", "embeddings"),
        ("embeddings", "embeddings"),
        ("/deployments/my-gpt/chat/completions", "chat"),
        ("https://gateway.example/v1/chat/completions?api-version=1", "chat"),
    ],
)
def test_model_endpoints_are_known_wherever_they_live(url: str, operation: str) -> None:
    endpoint = endpoint_of("post", url)
    assert endpoint is not None
    assert endpoint.operation == operation


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("get", "/chat/completions"),
        ("get", "/responses/resp_1"),
        ("post", "/responses/resp_1/cancel"),
        ("post", "/responses/input_tokens"),
        ("post", "/chat/completions/chatcmpl-1"),
        ("post", "/images/generations"),
        ("post", "/audio/transcriptions"),
        ("post", "/files"),
        ("post", "/moderations"),
        ("get", "/models"),
    ],
)
def test_other_endpoints_are_none_of_our_business(method: str, url: str) -> None:
    assert endpoint_of(method, url) is None


@pytest.mark.parametrize(
    ("url", "body", "maximum"),
    [
        ("/chat/completions", {}, None),
        ("/chat/completions", {"max_tokens": 50}, 50),
        ("/chat/completions", {"max_tokens": 50, "max_completion_tokens": 40, "n": 3}, 120),
        ("/chat/completions", {"max_tokens": None, "n": 2}, None),
        ("/chat/completions", {"max_tokens": "50"}, None),
        ("/completions", {"max_tokens": 10, "prompt": "one"}, 10),
        ("/completions", {"max_tokens": 10, "prompt": ["one", "two"], "best_of": 2}, 40),
        ("/completions", {"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ("/completions", {"max_tokens": 10, "prompt": [[1, 2], [3]]}, 20),
        ("/responses", {"max_output_tokens": 64, "max_tokens": 1}, 64),
        ("/embeddings", {"input": "text"}, 0),
    ],
)
def test_the_maximum_covers_all_choices_and_prompts(url: str, body: dict[str, Any], maximum: int | None) -> None:
    endpoint = endpoint_of("POST", url)
    assert endpoint is not None
    assert max_output_tokens(endpoint, body) == maximum


def test_the_body_is_what_will_be_sent() -> None:
    assert body_of({"model": "a", "n": 1}, {"n": 2}, None) == {"model": "a", "n": 2}
    assert body_of(None, {"n": 2}, None) == {"n": 2}
    assert body_of(None, None, b'{"model": "a"}') == {"model": "a"}
    assert body_of(b'{"model": "a"}', None, None) == {"model": "a"}
    assert body_of(None, None, b"no json") == {}
    assert body_of(None, None, b"[1]") == {}


def test_cached_and_reasoning_tokens_are_parts() -> None:
    chat = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-mini-2024-07-18",
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 30,
            "total_tokens": 130,
            "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
    }
    expected = Usage(
        100,
        30,
        cache_read_tokens=64,
        cache_write_tokens=10,
        reasoning_tokens=20,
        model="gpt-4o-mini-2024-07-18",
        provider="openai",
        response_id="chatcmpl-1",
    )
    assert answer_usage(chat, "openai") == expected
    usage = chat["usage"]
    assert isinstance(usage, dict)
    response = {
        **chat,
        "usage": {
            "input_tokens": 100,
            "output_tokens": 30,
            "total_tokens": 130,
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens_details": usage["completion_tokens_details"],
        },
    }
    assert answer_usage(response, "openai") == expected
    parsed = SimpleNamespace(**{**response, "usage": SimpleNamespace(**response["usage"])})
    assert answer_usage(parsed, "openai") == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}, (10, 30)),
        ({"prompt_tokens": 10}, (10, None)),
        ({"completion_tokens": 5, "total_tokens": 15}, (10, 5)),
        ({"completion_tokens": 5}, (None, 5)),
        ({"total_tokens": 15}, (15, 0)),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, (10, 5)),
    ],
)
def test_dialects_of_usage(usage: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    read = answer_usage({"usage": usage}, "openai")
    assert read is not None
    assert (read.input_tokens, read.output_tokens) == expected


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": "5"}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 1.5}},
    ],
)
def test_no_usage_or_nonsense_is_unknown_not_zero(answer: object) -> None:
    assert answer_usage(answer, "openai") is None


def test_everything_that_the_model_says_is_output() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q"'}}
    delta = {"role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "Hm", "tool_calls": [call]}
    assert list(spoken(delta)) == ["Hi", "Hm", "search", '{"q"']


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("http://127.0.0.1:8000/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gcp.gemini"),
    ],
)
def test_the_provider_is_the_one_that_answers(base_url: str, provider: str) -> None:
    with OpenAI(base_url=base_url, api_key="none") as client:
        assert provider_of(client) == provider


async def test_an_azure_client_talks_to_azure_whatever_its_url() -> None:
    async with AsyncAzureOpenAI(azure_endpoint="http://gateway", api_key="none", api_version="1") as client:
        assert provider_of(client) == "azure.ai.openai"
