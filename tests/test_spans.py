"""What a span says, in every dialect that was seen on live spans."""

from __future__ import annotations

from typing import Any

import pytest

from otelbudget.model.usage import Usage
from otelbudget.spans import conventions as spans
from otelbudget.spans.conventions import Kind


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "chat"}, Kind.MODEL),
        ({"gen_ai.operation.name": "text_completion"}, Kind.MODEL),
        ({"gen_ai.operation.name": "generate_content"}, Kind.MODEL),
        ({"gen_ai.operation.name": "embeddings"}, Kind.MODEL),
        ({"gen_ai.operation.name": "execute_tool"}, Kind.TOOL),
        ({"gen_ai.operation.name": "invoke_agent"}, Kind.AGENT),
        ({"gen_ai.operation.name": "invoke_workflow"}, Kind.AGENT),
        ({"gen_ai.operation.name": "create_agent"}, None),
        ({"gen_ai.operation.name": "retrieval"}, None),
        ({"openinference.span.kind": "LLM"}, Kind.MODEL),
        ({"openinference.span.kind": "EMBEDDING"}, Kind.MODEL),
        ({"openinference.span.kind": "TOOL"}, Kind.TOOL),
        ({"openinference.span.kind": "AGENT"}, Kind.AGENT),
        ({"openinference.span.kind": "CHAIN"}, None),
        ({"traceloop.span.kind": "tool"}, Kind.TOOL),
        ({"traceloop.span.kind": "agent"}, Kind.AGENT),
        ({"traceloop.span.kind": "workflow"}, Kind.AGENT),
        ({"traceloop.span.kind": "task"}, None),
        ({"llm.request.type": "chat"}, Kind.MODEL),
        ({"llm.request.type": "completion"}, Kind.MODEL),
        ({"llm.request.type": "embedding"}, Kind.MODEL),
        ({"llm.request.type": "rerank"}, None),
        ({"http.request.method": "POST"}, None),
        ({"gen_ai.operation.name": ["chat"]}, None),
        ({"gen_ai.operation.name": 3}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_span_is_a_model_a_tool_an_agent_or_none_of_them(attributes: Any, kind: Kind | None) -> None:
    assert spans.classify("x", attributes, "scope") is kind


def test_the_standard_operation_wins_over_other_dialects() -> None:
    attributes = {"gen_ai.operation.name": "execute_tool", "openinference.span.kind": "LLM"}
    assert spans.classify("x", attributes) is Kind.TOOL


def test_an_unknown_operation_leaves_the_word_to_the_other_dialects() -> None:
    attributes = {"gen_ai.operation.name": "acompletion", "llm.request.type": "chat"}
    assert spans.classify("x", attributes) is Kind.MODEL


def test_openllmetry_starts_its_responses_span_without_any_attribute() -> None:
    scope = "opentelemetry.instrumentation.openai.v1"
    assert spans.classify("openai.response", {}, scope) is Kind.MODEL
    assert spans.classify("openai.response", {}, "mine") is None


@pytest.mark.parametrize(
    ("scope", "sdk"),
    [
        ("opentelemetry.instrumentation.genai.openai", "openai"),
        ("opentelemetry.instrumentation.openai_v2", "openai"),
        ("opentelemetry.instrumentation.openai.v1", "openai"),
        ("openinference.instrumentation.openai", "openai"),
        ("logfire.openai", "openai"),
        ("com.anthropic.sdk.python", "anthropic"),
        ("opentelemetry.instrumentation.genai.anthropic", "anthropic"),
        ("opentelemetry.instrumentation.anthropic", "anthropic"),
        ("openinference.instrumentation.anthropic", "anthropic"),
        ("logfire.anthropic", "anthropic"),
        ("opentelemetry.instrumentation.google_genai", "google_genai"),
        ("opentelemetry.instrumentation.google_generativeai", "google_genai"),
        ("openinference.instrumentation.google_genai", "google_genai"),
        ("litellm", "litellm"),
        ("openinference.instrumentation.together", "together"),
        ("openinference.instrumentation.cohere", "cohere"),
        ("openinference.instrumentation.ollama", "ollama"),
        ("opentelemetry.instrumentation.genai.bedrock", "bedrock"),
        ("opentelemetry.instrumentation.botocore.bedrock-runtime", "bedrock"),
        ("opentelemetry.instrumentation.botocore", None),
        ("openinference.instrumentation.langchain", None),
        ("pydantic-ai", None),
        ("", None),
        (None, None),
    ],
)
def test_a_client_instrumentation_is_known_by_its_scope(scope: str | None, sdk: str | None) -> None:
    assert spans.covered_sdk(scope) == sdk


CASES: dict[str, tuple[dict[str, Any], Usage]] = {
    "official": (
        {
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.usage.cache_write.input_tokens": 2,
            "gen_ai.usage.reasoning.output_tokens": 2,
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024",
            "gen_ai.provider.name": "openai",
            "gen_ai.response.id": "chatcmpl-1",
        },
        Usage(
            10,
            5,
            cache_read_tokens=3,
            cache_write_tokens=2,
            reasoning_tokens=2,
            model="gpt-4o-2024",
            provider="openai",
            response_id="chatcmpl-1",
        ),
    ),
    "cache creation": (
        {
            "gen_ai.usage.input_tokens": 15,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.total_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.usage.cache_creation.input_tokens": 2,
        },
        Usage(15, 5, cache_read_tokens=3, cache_write_tokens=2),
    ),
    "older names": (
        {
            "gen_ai.usage.prompt_tokens": 7,
            "gen_ai.usage.completion_tokens": 4,
            "llm.usage.total_tokens": 11,
            "gen_ai.usage.cache_read_input_tokens": 1,
            "gen_ai.usage.cache_creation_input_tokens": 2,
            "gen_ai.usage.reasoning_tokens": 3,
            "gen_ai.system": "openai",
        },
        Usage(7, 4, cache_read_tokens=1, cache_write_tokens=2, reasoning_tokens=3, provider="openai"),
    ),
    "openinference": (
        {
            "llm.token_count.prompt": 15,
            "llm.token_count.completion": 5,
            "llm.token_count.total": 20,
            "llm.token_count.prompt_details.cache_read": 3,
            "llm.token_count.prompt_details.cache_write": 2,
            "llm.token_count.completion_details.reasoning": 4,
            "llm.model_name": "claude-3",
            "llm.provider": "anthropic",
        },
        Usage(
            15, 5, cache_read_tokens=3, cache_write_tokens=2, reasoning_tokens=4, model="claude-3", provider="anthropic"
        ),
    ),
    "embeddings have no output": (
        {"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 7},
        Usage(7, 0),
    ),
    "openinference embeddings": (
        {"openinference.span.kind": "EMBEDDING", "llm.token_count.prompt": 7, "embedding.model_name": "e"},
        Usage(7, 0, model="e"),
    ),
    "pydantic-ai's sound": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 9,
            "gen_ai.usage.details.cache_read_tokens": 80,
            "gen_ai.usage.details.input_audio_tokens": 60,
            "gen_ai.usage.details.cache_audio_read_tokens": 50,
            "gen_ai.usage.details.output_audio_tokens": 8,
        },
        Usage(100, 9, cache_read_tokens=80, audio_input_tokens=60, cache_audio_read_tokens=50, audio_output_tokens=8),
    ),
    "thinking only in the total": (
        {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 19},
        Usage(10, 9),
    ),
    "total below its parts": (
        {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 3},
        Usage(10, 5),
    ),
    "only a total": ({"llm.usage.total_tokens": 12}, Usage(tokens=12)),
    "total and output": ({"gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 12}, Usage(7, 5)),
    "only input": ({"gen_ai.usage.input_tokens": 10}, Usage(10)),
    "cached counted apart": (
        {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 90},
        Usage(91, 5, cache_read_tokens=90),
    ),
    "reasoning counted apart": (
        {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.reasoning_tokens": 90},
        Usage(1, 95, reasoning_tokens=90),
    ),
    "junk is absent": (
        {
            "gen_ai.usage.input_tokens": "ten",
            "gen_ai.usage.prompt_tokens": 6,
            "gen_ai.usage.output_tokens": -1,
            "llm.token_count.completion": 2,
            "gen_ai.usage.cache_read.input_tokens": 1.5,
            "gen_ai.usage.reasoning_tokens": True,
            "gen_ai.request.model": 4,
            "gen_ai.response.id": "",
        },
        Usage(6, 2),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_usage_is_read_in_every_dialect(case: str) -> None:
    attributes, usage = CASES[case]
    assert spans.usage_from(attributes) == usage


@pytest.mark.parametrize(
    "attributes",
    [
        None,
        {},
        {"gen_ai.usage.input_tokens": float("nan")},
        {"gen_ai.usage.output_tokens": 2**60},
        {"gen_ai.usage.cache_read.input_tokens": 5},
        {"gen_ai.aggregated_usage.input_tokens": 5},
        {"gen_ai.usage.input_tokens": (1, 2)},
    ],
)
def test_no_usage_is_none_and_never_an_error(attributes: Any) -> None:
    assert spans.usage_from(attributes) is None


def test_names_are_read_in_every_dialect() -> None:
    assert spans.agent_name({"gen_ai.agent.name": "a", "agent.name": "b"}) == "a"
    assert spans.agent_name({"agent.name": "b"}) == "b"
    assert spans.agent_name({"traceloop.entity.name": "c"}) == "c"
    assert spans.tool_name({"gen_ai.tool.name": "t"}) == "t"
    assert spans.tool_name({"tool.name": "u"}) == "u"
    assert spans.tool_call_id({"gen_ai.tool.call.id": "1"}) == "1"
    assert spans.tool_call_id({"tool.id": "2"}) == "2"
    assert spans.provider_name({"gen_ai.system": "openai"}) == "openai"
    assert spans.response_id({"gen_ai.response.id": "r"}) == "r"
    assert spans.max_output_tokens({"gen_ai.request.max_tokens": 5}) == 5
    for reader in (spans.agent_name, spans.tool_name, spans.tool_call_id, spans.model_name, spans.response_id):
        assert reader(None) is None


@pytest.mark.parametrize(
    ("attributes", "operation"),
    [
        ({"gen_ai.operation.name": "generate_content"}, "generate_content"),
        ({"openinference.span.kind": "LLM"}, "chat"),
        ({"openinference.span.kind": "EMBEDDING"}, "embeddings"),
        ({"llm.request.type": "embedding"}, "embeddings"),
        ({"llm.request.type": "completion"}, "text_completion"),
        (None, "chat"),
    ],
)
def test_the_operation_of_a_model_span(attributes: Any, operation: str) -> None:
    assert spans.operation(attributes) == operation
