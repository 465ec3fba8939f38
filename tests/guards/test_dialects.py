"""Requests and answers of each wire format, and who answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, OpenAI

from otelbudget.guards.dialects import Dialect, anthropic, dialect_of, openai, spoken
from otelbudget.guards.framing import framing_of
from otelbudget.guards.providers import provider_of
from otelbudget.guards.stainless import body_of
from otelbudget.model.usage import Usage


def openai_of(url: str) -> Dialect:
    found = dialect_of(openai.ENDPOINTS, "POST", url)
    assert found is not None
    return found


CHAT = openai_of("/chat/completions")


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
    assert openai_of(url).operation == operation


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("get", "/chat/completions"),
        ("get", "/responses/resp_1"),
        ("post", "/responses/resp_1/cancel"),
        ("post", "/responses/input_tokens"),
        ("post", "/chat/completions/chatcmpl-1"),
        ("post", "/files"),
        ("get", "/models"),
    ],
)
def test_other_endpoints_are_none_of_our_business(method: str, url: str) -> None:
    assert dialect_of(openai.ENDPOINTS, method, url) is None


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
    assert openai_of(url).max_output_tokens(body) == maximum


def test_the_body_is_what_will_be_sent() -> None:
    def body(json_data: object, extra: object, content: object) -> object:
        return body_of(SimpleNamespace(json_data=json_data, extra_json=extra, content=content))

    assert body({"model": "a", "n": 1}, {"n": 2}, None) == {"model": "a", "n": 2}
    assert body(None, {"n": 2}, None) == {"n": 2}
    assert body(None, None, b'{"model": "a"}') == {"model": "a"}
    assert body(b'{"model": "a"}', None, None) == {"model": "a"}
    assert body(None, None, b"no json") == {}
    assert body(None, None, b"[1]") == {}


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
    assert CHAT.usage(chat, "openai") == expected
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
    assert CHAT.usage(response, "openai") == expected
    parsed = SimpleNamespace(**{**response, "usage": SimpleNamespace(**response["usage"])})
    assert CHAT.usage(parsed, "openai") == expected


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
    read = CHAT.usage({"usage": usage}, "openai")
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
    assert CHAT.usage(answer, "openai") is None


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
        assert provider_of(client, "openai") == provider


async def test_an_azure_client_talks_to_azure_whatever_its_url() -> None:
    async with AsyncAzureOpenAI(azure_endpoint="http://gateway", api_key="none", api_version="1") as client:
        assert provider_of(client, "openai") == "azure.ai.openai"


# --- Anthropic's

MESSAGES = anthropic.ENDPOINTS[0][1]


@pytest.mark.parametrize(
    ("url", "counted"),
    [
        ("/v1/messages", True),
        ("/v1/messages?beta=true", True),
        ("/v1/messages/count_tokens", False),
        ("/v1/messages/batches", False),
        ("/v1/models", False),
        ("/v1/files", False),
    ],
)
def test_claude_s_messages_are_model_calls_and_nothing_else(url: str, counted: bool) -> None:
    assert (dialect_of(anthropic.ENDPOINTS, "post", url) is MESSAGES) is counted
    assert dialect_of(anthropic.ENDPOINTS, "get", url) is None


def test_what_caches_had_to_do_with_comes_on_top_of_claude_s_input() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 25},
    }
    message = {"id": "msg_1", "model": "claude-demo", "usage": usage}
    expected = Usage(
        100,
        40,
        cache_read_tokens=60,
        cache_write_tokens=30,
        reasoning_tokens=25,
        model="claude-demo",
        provider="anthropic",
        response_id="msg_1",
    )
    assert MESSAGES.usage(message, "anthropic") == expected
    parsed = SimpleNamespace(**{**message, "usage": SimpleNamespace(**usage)})
    assert MESSAGES.usage(parsed, "anthropic") == expected


def test_what_claude_s_provider_does_beside_a_message_is_charged_with_it() -> None:
    used = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 4}
    iterations = [{"type": kind, **used} for kind in ("message", "compaction", "advisor_message")]
    usage = MESSAGES.usage({"usage": {**used, "iterations": iterations}}, "anthropic")
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (45, 15, 12)


@pytest.mark.parametrize(
    "answer", [None, {}, {"usage": None}, {"usage": {"input_tokens": "9", "output_tokens": -1}}, {"usage": {}}]
)
def test_a_message_without_usage_is_unknown_not_zero(answer: object) -> None:
    assert MESSAGES.usage(answer, "anthropic") is None


def test_all_that_claude_says_in_a_stream_is_output() -> None:
    events = [
        {"type": "message_start", "message": {"id": "msg_1", "content": []}},
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm. "}},
        {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "AAAA"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi "}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "t", "name": "search"}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"q"'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    ]
    assert [MESSAGES.words(event) for event in events] == ["", "", "Hm. ", "", "Hi ", "search", '{"q"', ""]


# --- Groq's


def test_groq_tells_the_usage_of_a_stream_beside_the_chunk() -> None:
    dialect = dialect_of(openai.GROQ, "post", "/openai/v1/chat/completions")
    assert dialect is not None
    assert not dialect.asks_usage
    chunk = {"id": "c", "model": "m", "choices": [], "x_groq": {"id": "r", "usage": {"prompt_tokens": 9}}}
    assert dialect.usage(dialect.part(chunk), "groq") == Usage(9, provider="groq", model="m", response_id="c")
    for other in ({"x_groq": {"id": "r"}}, {"x_groq": None}, {}):
        assert dialect.usage(dialect.part(other), "groq") is None


# --- how streams are cut


def _message(payload: bytes, headers: bytes = b"") -> bytes:
    size = 16 + len(headers) + len(payload)
    return size.to_bytes(4) + len(headers).to_bytes(4) + b"sum." + headers + payload + b"sum."


def test_messages_of_aws_are_cut_whole_wherever_they_arrive() -> None:
    framing = framing_of("application/vnd.amazon.eventstream")
    said = [_message(b'{"bytes": "aGk="}', b"header"), _message(b"{}"), _message(b"no json"), _message(b'{"bytes": 1}')]
    for size in (1, 3, 1000):
        body, kept, found = b"".join(said), b"", list[bytes]()
        while body:
            chunk, body = body[:size], body[size:]
            pieces, kept = framing.cut(kept, chunk)
            found += pieces
        assert (found, kept) == (said, b"")
    assert [framing.data(piece) for piece in said] == [b"hi", b"", b"", b""]


@pytest.mark.parametrize("length", [0, 15, 1 << 30])
def test_what_is_no_message_of_aws_is_passed_on_at_once(length: int) -> None:
    framing, junk = framing_of("application/vnd.amazon.eventstream"), length.to_bytes(4) + b"junk"
    assert framing.cut(b"", _message(b"{}") + junk) == ([_message(b"{}"), junk], b"")
    assert framing.data(junk) == b""
