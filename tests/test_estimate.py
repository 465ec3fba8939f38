"""Estimates are near what tokenizers count, rather above than below, never nothing for a call, and never in the way."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from otelbudget.demo.library import Library
from otelbudget.demo.tokens import count_tokens
from otelbudget.estimate import tokens as estimate
from otelbudget.estimate.tokens import count_input, estimate_tokens

# Counted with o200k_base (gpt-tokenizer 3 from npm).
COUNTED = [
    (
        74,
        "A token bucket holds a number of tokens and refills at a steady rate. Each request takes one token; when the "
        "bucket is empty, requests wait or are refused. The size of the bucket decides how large a burst may be, and "
        "the refill rate decides the average. Unlike a fixed window, it does not allow twice the limit around the "
        "boundary between two windows.",
    ),
    (
        58,
        "def reserve(accounts: Sequence[Account], amount: int) -> Account | None:\n"
        "    for account in accounts:\n"
        "        if account.used + account.reserved + amount > account.limit:\n"
        "            return account\n"
        "    for account in accounts:\n"
        "        account.reserved += amount\n"
        "    return None\n",
    ),
    (
        93,
        '{"id": "inv_20931", "customer": {"name": "Acme Ltd", "email": "billing@acme.example"}, "lines": '
        '[{"sku": "A-113", "quantity": 4, "price": 12.50}, {"sku": "B-207", "quantity": 1, "price": 99.00}], '
        '"paid": false, "due": "2026-03-31"}',
    ),
    (
        97,
        "2026-03-14T09:26:53.589Z WARN [worker-7] request_id=9f86d081 path=/api/v1/orders/1187 status=503 ms=2214 "
        "retry=2\n2026-03-14T09:26:55.120Z INFO [worker-7] request_id=9f86d081 path=/api/v1/orders/1187 status=200 "
        "ms=311 retry=3\n",
    ),
    (
        44,
        "Ein Kontingent legt fest, wie viele Anfragen ein Mandant innerhalb eines Zeitraums stellen darf. Ist es "
        "aufgebraucht, werden weitere Anfragen abgelehnt, bis das nächste Zeitfenster beginnt.",
    ),
    (
        44,
        "令牌桶以固定的速率补充令牌，每个请求消耗一个令牌。当桶为空时，请求必须等待或者被拒绝。桶的大小决定了允许的突发量。",
    ),
    (
        57,
        "トークンバケットは一定の速度でトークンを補充し、リクエストごとに一つのトークンを消費します。"
        "バケットが空のとき、リクエストは待つか拒否されます。",
    ),
    (
        43,
        "토큰 버킷은 일정한 속도로 토큰을 채우고 요청마다 하나의 토큰을 소비합니다. "
        "버킷이 비어 있으면 요청은 기다리거나 거부됩니다.",
    ),
    (
        40,
        "Корзина токенов пополняется с постоянной скоростью, и каждый запрос забирает один токен. Если корзина пуста, "
        "запросы ждут или отклоняются.",
    ),
    (
        52,
        "टोकन बकेट एक स्थिर दर से टोकन भरता है और प्रत्येक अनुरोध एक टोकन लेता है। जब बकेट खाली होता है, तो अनुरोध "
        "प्रतीक्षा करते हैं या अस्वीकार किए जाते हैं।",
    ),
]
ASK = {"role": "user", "content": "How does a token bucket limit requests?"}
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 10_000


@pytest.mark.parametrize(("counted", "text"), COUNTED)
def test_texts_of_many_kinds_are_estimated_near_and_not_below_a_real_tokenizer(counted: int, text: str) -> None:
    assert counted <= estimate_tokens(text) <= 1.8 * counted


def test_the_documents_of_the_demo_are_not_estimated_below_what_its_server_counts() -> None:
    for document in Library.packaged().search("limit", limit=50):
        assert 1.0 <= estimate_tokens(document.text) / count_tokens(document.text) <= 1.4


def test_only_nothing_is_estimated_at_nothing() -> None:
    assert [estimate_tokens(value) for value in ("", None, [], {}, b"")] == [0, 0, 0, 0, 0]
    assert all(estimate_tokens(value) >= 1 for value in (" ", "a", "\0", "\ud800", 0, False, [None], {"": None}, b"x"))
    assert all(count_input(body) >= 1 for body in ({}, {"model": "m"}, {"messages": []}, {"input": ""}, None, "", 7))


def test_a_longer_text_is_never_estimated_lower() -> None:
    text = COUNTED[0][1] + COUNTED[5][1]
    counts = [estimate_tokens(text[:end]) for end in range(len(text))]
    assert counts == sorted(counts)


def test_a_very_long_text_is_estimated_from_samples_as_if_it_were_counted_whole() -> None:
    part = "".join(text for _, text in COUNTED)
    whole = estimate_tokens(part) * 4_000
    assert estimate_tokens(part * 4_000) == pytest.approx(whole, rel=0.02)


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
        without + estimate.PER_IMAGE
    )


def test_a_picture_at_low_detail_counts_less() -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
    ):
        body = {"input": [{"role": "user", "content": [part]}]}
        assert count_input(body) == estimate.PER_SMALL_IMAGE + estimate.PER_MESSAGE + estimate.PER_REQUEST


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


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_counted(value: Any) -> None:
    assert estimate_tokens(value) >= (1 if value not in ("", None, [], {}) else 0)
    assert count_input({"messages": value, "input": value, "tools": value}) >= 1


@settings(max_examples=200, deadline=None)
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


def test_what_the_model_reads_as_text_is_text_whatever_it_looks_like() -> None:
    assert count_input({"messages": [{"role": "user", "content": "iVBORw0KGgo" * 10_000}]}) > 20_000
