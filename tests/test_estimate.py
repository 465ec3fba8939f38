"""Estimates are near what tokenizers count, rather above than below, never nothing for a call, and never in the way."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from otelbudget.demo.library import Library
from otelbudget.demo.writer import count_tokens
from otelbudget.estimate import tokens as estimate
from otelbudget.estimate.media import PER_IMAGE, PER_SMALL_IMAGE
from otelbudget.estimate.tokens import count_input, estimate_tokens

ASK = {"role": "user", "content": "How does a token bucket limit requests?"}
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 10_000


def test_the_documents_of_the_demo_are_estimated_near_what_its_server_counts() -> None:
    for document in Library.packaged().search("limit", limit=50):
        assert 0.9 <= estimate_tokens(document.text) / count_tokens(document.text) <= 1.1


def test_only_nothing_is_estimated_at_nothing() -> None:
    assert [estimate_tokens(value) for value in ("", None, [], {}, b"")] == [0, 0, 0, 0, 0]
    assert all(estimate_tokens(value) >= 1 for value in (" ", "a", "\0", "\ud800", 0, False, [None], {"": None}, b"x"))
    assert all(count_input(body) >= 1 for body in ({}, {"model": "m"}, {"messages": []}, {"input": ""}, None, "", 7))


def test_messages_count_their_texts_names_and_a_few_tokens_each() -> None:
    one = count_input({"messages": [ASK]})
    two = count_input({"messages": [ASK, ASK]})
    assert one == estimate_tokens(ASK["content"]) + estimate.PER_MESSAGE + estimate.PER_REQUEST
    assert two - one == pytest.approx(estimate_tokens(ASK["content"]) + estimate.PER_MESSAGE, abs=1)
    assert count_input({"messages": [ASK | {"name": "someone"}]}) > one
    assert estimate_tokens([ASK]) == one - estimate.PER_REQUEST
    assert estimate_tokens({"messages": [ASK]}) == one


def test_parts_of_a_message_count_as_one_text() -> None:
    parts = [{"type": "text", "text": ASK["content"]}]
    assert count_input({"messages": [{"role": "user", "content": parts}]}) == count_input({"messages": [ASK]})


def test_an_answer_of_the_sdk_put_back_into_the_messages_counts_as_its_mapping_does() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query": "bucket"}'}}
    message = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    )
    as_mapping = count_input({"messages": [ASK, message.model_dump(exclude_none=True)]})
    assert count_input({"messages": [ASK, message]}) == pytest.approx(as_mapping, abs=3)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "image", "source": {"type": "base64", "data": PICTURE}},
    ],
)
def test_a_picture_counts_the_same_however_large_its_data_is(part: dict[str, Any]) -> None:
    without = count_input({"messages": [ASK]})
    assert count_input({"messages": [ASK | {"content": [{"type": "text", "text": ASK["content"]}, part]}]}) == (
        without + PER_IMAGE
    )


def test_a_picture_at_low_detail_counts_less() -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
    ):
        body = {"input": [{"role": "user", "content": [part]}]}
        assert count_input(body) == PER_SMALL_IMAGE + estimate.PER_MESSAGE + estimate.PER_REQUEST


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"])
def test_a_picture_is_as_many_tokens_as_its_model_takes_it_for(model: str) -> None:
    def counted(model: str | None, **detail: str) -> int:
        part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", **detail}}
        return count_input({"messages": [{"role": "user", "content": [part]}]}, model)

    around = counted(None) - PER_IMAGE
    assert counted(model) == 48_169 + around
    assert counted(model, detail="low") == 2_833 + around
    assert counted("gpt-4o") == counted(None)


def test_sound_that_is_as_long_as_a_picture_is_none() -> None:
    def counted(model: str | None) -> int:
        part = {"type": "input_audio", "input_audio": {"data": "A" * 84_500, "format": "wav"}}
        return count_input({"messages": [{"role": "user", "content": [part]}]}, model)

    assert counted(None) - estimate.PER_MESSAGE - estimate.PER_REQUEST == PER_SMALL_IMAGE
    assert counted("gpt-4o-mini") == counted(None)


def test_sound_and_files_count_by_the_length_of_their_data() -> None:
    def counted(part: dict[str, Any]) -> int:
        return count_input({"messages": [{"role": "user", "content": [part]}]})

    ten_seconds = {"type": "input_audio", "input_audio": {"data": "A" * 640_000, "format": "wav"}}
    assert 100 <= counted(ten_seconds) <= 1_000
    pages = {"type": "file", "file": {"file_data": "A" * 400_000, "filename": "report.pdf"}}
    assert counted({"type": "input_file", "file_id": "file-1"}) < counted(pages) < 50_000
    assert counted({"type": "input_file", "file_data": "A" * 400_000}) == counted(pages)


def test_responses_count_instructions_items_tools_and_schemas() -> None:
    body: dict[str, Any] = {"model": "m", "input": ASK["content"]}
    counts = [count_input(body)]
    for more in (
        {"instructions": "Answer in one sentence."},
        {"input": [ASK, {"type": "function_call", "name": "search", "arguments": '{"query": "bucket"}'}]},
        {"tools": [{"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}}]},
        {"text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}}},
    ):
        body |= more
        counts.append(count_input(body))
    assert counts == sorted(set(counts))
    assert count_input(body | {"user": "x" * 1000, "metadata": {"a": "b" * 1000}, "temperature": 1}) == counts[-1]


def test_tools_count_about_what_their_json_does() -> None:
    schema = {"type": "object", "properties": {"query": {"type": "string", "description": "What to look for."}}}
    tools = [{"type": "function", "function": {"name": f"tool_{i}", "parameters": schema}} for i in range(20)]
    counted = count_input({"tools": tools})
    assert 0.6 <= counted / estimate_tokens(json.dumps(tools)) <= 1.1


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4, 5]], 5),
        (list(range(1_000_000)), 1_000_000),
        ("one text", estimate_tokens("one text")),
        (["one text", "one text"], 2 * estimate_tokens("one text")),
    ],
)
def test_embedding_inputs_count_texts_and_token_ids(given: Any, tokens: int) -> None:
    assert count_input({"model": "m", "input": given}) == pytest.approx(tokens + estimate.PER_REQUEST, abs=1)


def test_values_that_lead_back_to_themselves_come_to_an_end() -> None:
    circle: dict[str, Any] = {"role": "user"}
    circle["content"] = [circle, "text"]
    assert count_input({"messages": [circle]}) >= 1


class Hostile:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Hostile
        raise RuntimeError(name)


class HostileMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("items")


@pytest.mark.parametrize(
    "junk",
    [Hostile(), HostileMapping(type="x"), object(), len, ..., 1j, {1: 2}, {"type": []}, b"\xff", iter([1]), type],
    ids=lambda junk: type(junk).__name__,
)
def test_junk_never_raises_and_is_never_free(junk: Any) -> None:
    for body in ({"messages": junk}, {"messages": [junk]}, {"input": [{"content": junk}]}, {"tools": junk}):
        assert count_input(body) > 1
    assert count_input(junk) >= 1
    assert estimate_tokens([junk]) >= 1


def test_any_mapping_will_do() -> None:
    assert count_input(MappingProxyType({"messages": (ASK,)})) == count_input({"messages": [ASK]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["type", "role", "content"]), inner),
    max_leaves=20,
)


@settings(max_examples=200)
@given(JSON)
def test_any_json_is_counted(value: Any) -> None:
    assert estimate_tokens(value) >= (1 if value not in ("", None, [], {}) else 0)
    assert count_input({"messages": value, "input": value, "tools": value}) >= 1


@settings(max_examples=200)
@given(st.text(), st.text())
def test_two_texts_are_about_as_much_as_their_parts(first: str, second: str) -> None:
    together = estimate_tokens(first + second)
    assert abs(together - estimate_tokens(first) - estimate_tokens(second)) <= 4


@pytest.mark.parametrize(
    "item",
    [
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PICTURE}},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "file-1"}},
        {"type": "image_generation_call", "id": "ig_1", "result": "iVBORw0KGgo" * 200_000},
        {"type": "function_call_output", "output": [{"type": "input_image", "image_url": PICTURE}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklG" * 500_000}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": "UklG" * 500_000}]},
        {"role": "assistant", "content": "", "audio": {"id": "a", "data": "data:audio/wav;base64," + "UklG" * 500_000}},
        {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]},
        {"role": "user", "content": "What is it?", "images": ["/9j/" * 500_000]},
        {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n" * 300_000}}}]},
        {"role": "tool", "content": [{"type": "some_new_thing", "blob": "iVBORw0KGgo" * 200_000}]},
    ],
)
def test_data_is_never_text_in_any_item(item: dict[str, Any]) -> None:
    tokens = count_input({"input": [item]})
    assert 1_000 < tokens < 5_000


THOUGHT = "First I need to find out which country the user is from, then I can say its largest city. " * 40


def sealed(overhead: int) -> str:
    return b64encode(Random(1).randbytes(overhead + len(THOUGHT))).decode()


@pytest.mark.parametrize(
    "item",
    [
        # By OpenAI's Codex 650 bytes of it are no text; of Anthropic's about 230.
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed(650)},
        {"type": "compaction", "encrypted_content": sealed(650)},
        {"type": "reasoning.encrypted", "data": sealed(650)},
        {"type": "redacted_thinking", "data": sealed(230)},
        {"type": "thinking", "thinking": "", "signature": sealed(230)},
        {"type": "thinking", "thinking": THOUGHT, "signature": sealed(230)},
        {"type": "thinking", "thinking": THOUGHT[:400], "signature": sealed(230)},
        {"reasoningContent": {"reasoningText": {"text": THOUGHT, "signature": sealed(230)}}},
        {"reasoningContent": {"redactedContent": b64decode(sealed(230))}},
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": sealed(0)},
    ],
)
def test_reasoning_that_its_provider_has_sealed_counts_as_the_text_it_stands_for(item: dict[str, Any]) -> None:
    counted = count_input({"input": [item]}) - count_input({"input": [{"type": item.get("type", "")}]})
    assert counted == pytest.approx(estimate_tokens(THOUGHT), rel=0.25)


def test_a_field_that_is_called_like_a_seal_is_text() -> None:
    given = {"signature": "def search(query: str, limit: int = 5) -> list[Document]: ..." * 9}
    assert count_input({"input": [{"type": "tool_use", "input": given}]}) > 100


def test_what_the_model_reads_as_text_is_text_whatever_it_looks_like() -> None:
    assert count_input({"messages": [{"role": "user", "content": "iVBORw0KGgo" * 10_000}]}) > 20_000


def test_pictures_beside_the_prompt_are_pictures() -> None:
    for images in ([PICTURE], ["/9j/" * 500_000]):
        assert count_input({"prompt": "Draw.", "images": images * 2}) == pytest.approx(2 * PER_IMAGE, rel=0.02)


def test_a_picture_in_a_tool_is_a_picture() -> None:
    tool = {"type": "image_generation", "input_image_mask": {"image_url": PICTURE}}
    assert estimate_tokens({"input": "Draw.", "tools": [tool]}) < 1_600


SCHEMA = {"type": "object", "description": "A word " * 1_000}


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"name": "look", "input_schema": SCHEMA}]},
        {"toolConfig": {"tools": [{"toolSpec": {"name": "look", "inputSchema": {"json": SCHEMA}}}]}},
        {"generationConfig": {"responseSchema": SCHEMA}},
        {"generationConfig": {"responseJsonSchema": SCHEMA, "temperature": 1}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"inputText": SCHEMA["description"]},
    ],
)
def test_what_a_model_reads_beside_the_messages_is_counted_in_every_dialect(body: dict[str, Any]) -> None:
    assert 2_000 <= count_input({"messages": [], **body}) < 2_700


@pytest.mark.parametrize("wrong", [None, 3, "x" * 9, [1], [None], {}])
def test_settings_of_another_form_are_no_obstacle(wrong: object) -> None:
    for name in ("toolConfig", "generationConfig", "output_config", "tools"):
        assert count_input({"messages": [], name: wrong}) < 20
