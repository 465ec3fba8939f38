"""What people have in hand is read as a `Usage`: every dialect, parts and wholes, and what makes no sense."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, used

from otelbudget import RunBudget, Usage

CACHED = {"prompt_tokens": 2, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 9_842}}


def split(usage: Usage) -> tuple[int | None, int | None, int, int]:
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens


@pytest.mark.parametrize(
    "reported",
    [
        CACHED,
        {**CACHED, "total_tokens": 9_894},
        {**CACHED, "total_tokens": 52},
        {"input_tokens": 2, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 9_842}},
        {
            "input_tokens": 2,
            "output_tokens": 50,
            "input_tokens_details": {"cached_tokens": 9_842},
            "total_tokens": 9894,
        },
        {"input_tokens": 2, "output_tokens": 50, "cache_read_input_tokens": 9_842},
        {"inputTokens": 2, "outputTokens": 50, "cacheReadInputTokens": 9_842, "totalTokens": 9_894},
        {"prompt_tokens": 2, "completion_tokens": 50, "cache_read_input_tokens": 9_842},
        {"prompt_tokens": 2, "completion_tokens": 50, "prompt_cache_hit_tokens": 9_842},
        {"promptTokenCount": 9_844, "candidatesTokenCount": 50, "cachedContentTokenCount": 9_842},
    ],
)
def test_a_part_above_its_whole_proves_that_the_whole_leaves_it_out(reported: dict[str, Any]) -> None:
    assert split(Usage.of({"usage": reported})) == (9_844, 50, 9_842, 0)
    assert split(Usage.of(reported)) == (9_844, 50, 9_842, 0)


def test_a_usage_that_leaves_its_parts_out_is_the_same_as_one_that_has_them() -> None:
    assert Usage(2, 50, cache_read_tokens=9_842) == Usage(9_844, 50, cache_read_tokens=9_842)
    assert Usage(10, 1_499, reasoning_tokens=2_809) == Usage(10, 4_308, reasoning_tokens=2_809)
    assert Usage(2, 50, tokens=52, cache_write_tokens=100).tokens == 152
    assert Usage(2, 50, tokens=152, cache_write_tokens=100).tokens == 152
    with pytest.raises(ValueError, match="tokens \\(153\\) is not"):
        Usage(2, 50, tokens=153, cache_write_tokens=100)
    assert Usage(10, 5, audio_input_tokens=100, audio_output_tokens=90) == Usage(
        110, 95, audio_input_tokens=100, audio_output_tokens=90
    )
    assert Usage(10, 5, image_output_tokens=1_290).output_tokens == 1_295
    assert Usage(10, 5, image_input_tokens=1_290).input_tokens == 1_300
    assert Usage(2, 50, cache_write_1h_tokens=100) == Usage(102, 50, cache_write_tokens=100, cache_write_1h_tokens=100)
    assert Usage(500, 50, cache_write_tokens=20, cache_write_1h_tokens=100).cache_write_tokens == 120


def test_sound_and_pictures_above_their_whole_are_left_out_of_it() -> None:
    sound = {"prompt_tokens_details": {"audio_tokens": 100}, "completion_tokens_details": {"audio_tokens": 90}}
    assert split(Usage.of({"prompt_tokens": 10, "completion_tokens": 5, **sound})) == (110, 95, 0, 0)
    whole = {"prompt_tokens": 110, "completion_tokens": 95, "total_tokens": 205}
    assert split(Usage.of(whole | sound)) == (110, 95, 0, 0)


def test_a_total_proves_which_part_its_wholes_leave_out() -> None:
    def of(total: int) -> tuple[int | None, int | None]:
        usage = Usage.of({**told, "total_tokens": total})
        return usage.input_tokens, usage.output_tokens

    told: dict[str, Any] = {
        "prompt_tokens": 500,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 300},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    assert of(550) == (500, 50)
    assert of(850) == (800, 50), "the prompt leaves its cached part out"
    assert of(590) == (500, 90), "the completion leaves its reasoning out"
    assert of(890) == (800, 90), "both do"
    assert of(100) == (500, 50), "a total below its parts is wrong"


@pytest.mark.parametrize("total", [{}, {"total_tokens": 4_408}])
def test_reasoning_beside_the_completion_is_output(total: dict[str, int]) -> None:
    reported = {
        "prompt_tokens": 100,
        "completion_tokens": 1_499,
        "completion_tokens_details": {"reasoning_tokens": 2_809},
        **total,
    }
    assert split(Usage.of(reported)) == (100, 4_308, 0, 2_809)


IN_HAND: dict[str, tuple[Any, Usage]] = {
    "chat": (
        {"id": "c", "model": "m", "usage": {"prompt_tokens": 8, "completion_tokens": 2}, "service_tier": "flex"},
        Usage(8, 2, model="m", response_id="c", tier="flex"),
    ),
    "responses": (
        {
            "id": "r",
            "model": "m",
            "usage": {
                "input_tokens": 8,
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 13,
            },
        },
        Usage(8, 5, reasoning_tokens=3, model="m", response_id="r"),
    ),
    "sound": (
        {
            "prompt_tokens": 8,
            "completion_tokens": 5,
            "prompt_tokens_details": {"audio_tokens": 6},
            "completion_tokens_details": {"audio_tokens": 4},
        },
        Usage(8, 5, audio_input_tokens=6, audio_output_tokens=4),
    ),
    "anthropic": (
        {
            "id": "msg",
            "model": "m",
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 2,
                "cache_read_input_tokens": 3,
                "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
                "output_tokens": 4,
                "server_tool_use": {"web_search_requests": 5},
                "service_tier": "priority",
            },
        },
        Usage(
            6,
            4,
            cache_read_tokens=3,
            cache_write_tokens=2,
            cache_write_1h_tokens=1,
            searches=5,
            model="m",
            response_id="msg",
            tier="priority",
        ),
    ),
    "anthropic, without what was written in all": (
        {
            "input_tokens": 900,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
            "output_tokens": 4,
        },
        Usage(1_200, 4, cache_write_tokens=300, cache_write_1h_tokens=200),
    ),
    "perplexity's research": (
        {
            "prompt_tokens": 33,
            "completion_tokens": 7_163,
            "total_tokens": 7_196,
            "citation_tokens": 20_016,
            "num_search_queries": 18,
            "reasoning_tokens": 73_997,
        },
        Usage(20_049, 81_160, reasoning_tokens=73_997, searches=18),
    ),
    "gemini": (
        {
            "modelVersion": "m",
            "responseId": "g",
            "usageMetadata": {
                "promptTokenCount": 8,
                "toolUsePromptTokenCount": 2,
                "candidatesTokenCount": 3,
                "thoughtsTokenCount": 4,
                "totalTokenCount": 17,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 3},
                    {"modality": "AUDIO", "tokenCount": 5},
                ],
            },
        },
        Usage(10, 7, reasoning_tokens=4, audio_input_tokens=5, model="m", response_id="g"),
    ),
    "gemini's sdk": (
        SimpleNamespace(
            model_version="m",
            response_id="g",
            usage_metadata=SimpleNamespace(
                prompt_token_count=8, candidates_token_count=3, thoughts_token_count=None, total_token_count=11
            ),
        ),
        Usage(8, 3, model="m", response_id="g"),
    ),
    "bedrock": (
        {"usage": {"inputTokens": 8, "outputTokens": 2, "totalTokens": 13, "cacheWriteInputTokens": 3}},
        Usage(11, 2, cache_write_tokens=3),
    ),
    "cohere": (
        {"id": "c", "usage": {"billed_units": {"input_tokens": 8.0, "output_tokens": 2.0}}},
        Usage(8, 2, response_id="c"),
    ),
    "cohere's pictures": (
        {"meta": {"billed_units": {"images": 1.0, "input_tokens": 8.0, "image_tokens": 900.0}}},
        Usage(908),
    ),
    "ollama": ({"model": "m", "prompt_eval_count": 8, "eval_count": 2}, Usage(8, 2, model="m")),
    "groq's stream": (
        {"id": "c", "x_groq": {"usage": {"prompt_tokens": 8, "completion_tokens": 2}}},
        Usage(8, 2, response_id="c"),
    ),
    "moonshot's stream": ({"choices": [{"usage": {"prompt_tokens": 8, "completion_tokens": 2}}]}, Usage(8, 2)),
    "a transcription": (
        {
            "usage": {
                "type": "tokens",
                "input_tokens": 9,
                "output_tokens": 2,
                "total_tokens": 11,
                "input_token_details": {"text_tokens": 1, "audio_tokens": 8},
            }
        },
        Usage(9, 2, audio_input_tokens=8),
    ),
    "an edited picture": (
        {
            "usage": {
                "input_tokens": 300,
                "output_tokens": 1_000,
                "total_tokens": 1_300,
                "input_tokens_details": {"text_tokens": 50, "image_tokens": 250},
                "output_tokens_details": {"image_tokens": 1_000},
            }
        },
        Usage(300, 1_000, image_input_tokens=250, image_output_tokens=1_000),
    ),
    "a realtime answer": (
        {
            "response": {
                "usage": {
                    "input_tokens": 9,
                    "output_tokens": 6,
                    "input_token_details": {"text_tokens": 5, "audio_tokens": 4, "cached_tokens": 3},
                    "output_token_details": {"text_tokens": 1, "audio_tokens": 5},
                }
            }
        },
        Usage(9, 6, cache_read_tokens=3, audio_input_tokens=4, audio_output_tokens=5),
    ),
    "a realtime answer that says what was cached of which": (
        # As published: community.openai.com/t/help-me-understand-the-realtime-usage-block/1060242
        {
            "total_tokens": 821,
            "input_tokens": 789,
            "output_tokens": 32,
            "input_token_details": {
                "text_tokens": 313,
                "audio_tokens": 476,
                "cached_tokens": 640,
                "cached_tokens_details": {"text_tokens": 256, "audio_tokens": 384},
            },
            "output_token_details": {"text_tokens": 9, "audio_tokens": 23},
        },
        Usage(
            789,
            32,
            cache_read_tokens=640,
            audio_input_tokens=476,
            cache_audio_read_tokens=384,
            audio_output_tokens=23,
        ),
    ),
    "gemini's cache of sound and pictures": (
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "candidatesTokenCount": 3,
                "cachedContentTokenCount": 80,
                "promptTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 60},
                    {"modality": "IMAGE", "tokenCount": 30},
                    {"modality": "TEXT", "tokenCount": 10},
                ],
                "cacheTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 50},
                    {"modality": "IMAGE", "tokenCount": 20},
                    {"modality": "TEXT", "tokenCount": 10},
                ],
            }
        },
        Usage(
            100,
            3,
            cache_read_tokens=80,
            audio_input_tokens=60,
            image_input_tokens=30,
            cache_audio_read_tokens=50,
            cache_image_read_tokens=20,
        ),
    ),
    "gemini live": (
        # As published: discuss.ai.google.dev/t/188765
        {
            "usageMetadata": {
                "promptTokenCount": 522,
                "responseTokenCount": 42,
                "totalTokenCount": 564,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 332},
                    {"modality": "AUDIO", "tokenCount": 165},
                ],
                "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 42}],
                "thoughtsTokenCount": 136,
            }
        },
        Usage(522, 178, reasoning_tokens=136, audio_input_tokens=165, audio_output_tokens=42),
    ),
    "gemini's films": (
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "candidatesTokenCount": 30,
                "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 60}],
                "candidatesTokensDetails": [{"modality": "VIDEO", "tokenCount": 20}],
            }
        },
        Usage(100, 30, video_input_tokens=60, video_output_tokens=20),
    ),
    "gemini's interactions": (
        {
            "usage": {
                "total_input_tokens": 100,
                "total_output_tokens": 9,
                "total_cached_tokens": 80,
                "input_tokens_by_modality": [
                    {"modality": "audio", "tokens": 60},
                    {"modality": "text", "tokens": 40},
                ],
                "cached_tokens_by_modality": [{"modality": "audio", "tokens": 50}],
                "output_tokens_by_modality": [{"modality": "image", "tokens": 8}],
            }
        },
        Usage(
            100,
            9,
            cache_read_tokens=80,
            audio_input_tokens=60,
            cache_audio_read_tokens=50,
            image_output_tokens=8,
        ),
    ),
    "a cache that only says what of it was sound": (
        {
            "input_tokens": 9,
            "output_tokens": 1,
            "input_token_details": {"cached_tokens_details": {"audio_tokens": 4}},
        },
        Usage(9, 1, cache_read_tokens=4, audio_input_tokens=4, cache_audio_read_tokens=4),
    ),
    "gemini's tier": (
        SimpleNamespace(
            usage_metadata=SimpleNamespace(prompt_token_count=8, candidates_token_count=3, service_tier="flex")
        ),
        Usage(8, 3, tier="flex"),
    ),
    "bedrock's tier and cache": (
        {
            "serviceTier": {"type": "priority"},
            "usage": {
                "inputTokens": 1,
                "outputTokens": 2,
                "cacheWriteInputTokens": 5,
                "cacheDetails": [{"ttl": "5m", "inputTokens": 3}, {"ttl": "1h", "inputTokens": 2}],
            },
        },
        Usage(6, 2, cache_write_tokens=5, cache_write_1h_tokens=2, tier="priority"),
    ),
    "bedrock's stream": ({"metadata": {"usage": {"inputTokens": 8, "outputTokens": 2}}}, Usage(8, 2)),
    "llama on bedrock": ({"generation": "x", "prompt_token_count": 8, "generation_token_count": 2}, Usage(8, 2)),
    "langchain's claude": (
        {
            "input_tokens": 90,
            "output_tokens": 5,
            "input_token_details": {
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 30,
                "ephemeral_1h_input_tokens": 40,
            },
        },
        Usage(90, 5, cache_write_tokens=70, cache_write_1h_tokens=40),
    ),
    "embeddings": ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(8, 0)),
    "langchain": (
        {
            "input_tokens": 9,
            "output_tokens": 5,
            "total_tokens": 14,
            "input_token_details": {"cache_read": 6, "cache_creation": 1},
            "output_token_details": {"reasoning": 2},
        },
        Usage(9, 5, cache_read_tokens=6, cache_write_tokens=1, reasoning_tokens=2),
    ),
    "an AIMessage": (
        SimpleNamespace(
            id="run-1",
            usage_metadata={"input_tokens": 9, "output_tokens": 5, "total_tokens": 14},
            response_metadata={"model_name": "m", "id": "c"},
        ),
        Usage(9, 5, model="m", response_id="c"),
    ),
    "a usage": (Usage(1, 2, model="m"), Usage(1, 2, model="m")),
}


@pytest.mark.parametrize("name", IN_HAND)
def test_what_people_have_in_hand_is_read(name: str) -> None:
    in_hand, usage = IN_HAND[name]
    assert Usage.of(in_hand) == usage


def test_record_and_commit_take_what_people_have_in_hand(world: World) -> None:
    answer = SimpleNamespace(
        model="demo", usage=SimpleNamespace(prompt_tokens=100, completion_tokens=50, total_tokens=150)
    )
    with world.run() as run:
        run.record(answer)
        run.record({"input_tokens": 10, "output_tokens": 5})
        run.reserve(tokens=500, model="demo").commit(answer)
        assert used(run)[:5] == [3, 315, 210, 105, 2 * 200_000]
        with pytest.raises(TypeError, match="found no usage in this str"):
            run.record("words")


WRONG = (None, "12", 1.5, -3, True, 1e30, 2**63, float("nan"), [], {})


@pytest.mark.parametrize(("first", "second"), list(product(WRONG, WRONG)))
def test_what_makes_no_sense_is_unknown_and_never_zero(first: object, second: object) -> None:
    for given_name, made_name in (
        ("prompt_tokens", "completion_tokens"),
        ("input_tokens", "output_tokens"),
        ("promptTokenCount", "candidatesTokenCount"),
        ("inputTokens", "outputTokens"),
    ):
        assert Usage.reported({"usage": {given_name: first, made_name: second, "total_tokens": first}}) is None
        half = Usage.reported({"usage": {given_name: 7, made_name: second}})
        assert half is not None
        assert (half.input_tokens, half.output_tokens) == (7, None)


junk = st.recursive(
    st.sampled_from(WRONG) | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("usage", "choices", "meta", "prompt_tokens", "completion_tokens", "total_tokens", "iterations"),
                    *("input_tokens", "output_tokens", "prompt_tokens_details", "cached_tokens", "type", "cost"),
                    *("cache_read_input_tokens", "promptTokensDetails", "thoughtsTokenCount", "promptTokenCount"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(junk)
def test_nothing_that_is_reported_raises_or_takes_back(answer: object) -> None:
    usage = Usage.reported(answer)
    if usage is not None:
        assert (usage.tokens or usage.input_tokens or usage.output_tokens or 0) > 0


class _Hostile:
    """Whose attributes can't be read, as of an SDK's object that has been closed."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") and name != "__index__" else RuntimeError(name)


class _Unreadable(dict[str, Any]):
    def get(self, *_: Any) -> Any:
        raise RuntimeError

    def __contains__(self, _: object) -> bool:
        raise RuntimeError


@pytest.mark.parametrize("hostile", [_Hostile(), _Unreadable(usage=1), [_Hostile()], [_Unreadable(a=1)]])
@pytest.mark.parametrize(
    "where", [None, "usage", "generations", "iterations", "output", "candidates", "promptTokensDetails"]
)
def test_what_can_not_be_looked_into_is_unknown(hostile: Any, where: str | None, world: World) -> None:
    usage = {"promptTokenCount": 8, "candidatesTokenCount": 2}
    answer = hostile if where is None else {"usageMetadata": usage | {where: hostile}, where: hostile}
    assert Usage.reported(answer) in (None, Usage(8, 2))
    with world.run() as run, pytest.raises(TypeError, match="found no usage"):
        run.record(hostile)


class _Opaque:
    """Of which not even the class can be read."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_what_is_opaque_or_leads_to_itself_is_unknown_and_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    endless: dict[str, Any] = {}
    endless["generations"] = [[endless]]
    with world.run(RunBudget()) as run:
        for answer in (_Opaque(), {"usage": _Opaque()}, endless):
            assert Usage.reported(answer) is None
            with pytest.raises(TypeError, match="found no usage"):
                run.record(answer)
            with pytest.raises(TypeError, match="reports a usage"):
                run.reserve(tokens=9).commit(answer)
    told = [record.getMessage() for record in caplog.records]
    assert [said.split(",")[0] for said in told if "_Opaque" in said] == ["the usage of a _Opaque is taken as unknown"]


def web(*actions: str | None) -> list[dict[str, Any]]:
    return [{"type": "web_search_call", **({"action": {"type": one}} if one else {})} for one in actions]


def test_searches_in_files_and_pictures_of_a_hosted_tool_are_counted_apart() -> None:
    kinds = ["file_search_call", "file_search_call", "image_generation_call"]
    shown = {"output": [*({"type": kind} for kind in kinds), *web("search")]}
    usage = Usage.of({"usage": {"input_tokens": 8, "output_tokens": 2}} | shown)
    assert (usage.searches, usage.file_searches, usage.images) == (1, 2, 1)
    assert Usage.of({"usage": {"input_tokens": 8, "output_tokens": 2}, "file_searches": 3}).file_searches == 3


@pytest.mark.parametrize(
    ("traffic", "tier"),
    [("ON_DEMAND_PRIORITY", "priority"), ("ON_DEMAND_FLEX", "flex"), ("ON_DEMAND", None), ("PROVISIONED", None)],
)
def test_the_traffic_of_vertex_ai_is_a_tier(traffic: str, tier: str | None) -> None:
    told = {"promptTokenCount": 8, "candidatesTokenCount": 2, "totalTokenCount": 10, "trafficType": traffic}
    assert Usage.of({"usageMetadata": told}).tier == tier
    assert Usage.of({"usage_metadata": {"prompt_token_count": 8, "traffic_type": traffic}}).tier == tier


def generation(given: int, made: int) -> SimpleNamespace:
    """A ``ChatGeneration`` of LangChain's."""
    metadata = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
    about = {"model_name": "m", "id": "r"}
    return SimpleNamespace(message=SimpleNamespace(usage_metadata=metadata, response_metadata=about, id="run-1"))


def test_a_generation_of_langchain_is_read_and_a_result_is_the_sum_over_its_prompts() -> None:
    assert Usage.of(generation(8, 2)) == Usage(8, 2, model="m", response_id="r")
    one = SimpleNamespace(generations=[[generation(8, 2), generation(8, 2)]], llm_output=None)
    assert Usage.of(one) == Usage(8, 2, model="m", response_id="r")
    two = SimpleNamespace(generations=[[generation(8, 2)], [generation(5, 1)]], llm_output=None)
    assert Usage.of(two) == Usage(13, 3, model="m", response_id="r")
    tokens = {"prompt_tokens": 9, "completion_tokens": 1}
    of_text = SimpleNamespace(generations=[[SimpleNamespace(text="Hi")]], llm_output={"token_usage": tokens})
    assert Usage.of(of_text) == Usage(9, 1)


def test_a_body_of_titan_is_read() -> None:
    whole = {"inputTextTokenCount": 5, "results": [{"tokenCount": 7, "outputText": "Hi"}]}
    last = {"outputText": "", "inputTextTokenCount": 5, "totalOutputTextTokenCount": 7}
    assert Usage.of(whole) == Usage.of(last) == Usage(5, 7)
    assert Usage.of({"embedding": [0.1], "inputTextTokenCount": 5}).input_tokens == 5


@pytest.mark.parametrize(
    ("answer", "searches"),
    [
        ({"output": [*web("search", "open_page", "search", None), {"type": "message"}]}, 3),
        ({"response": {"output": web("search")}}, 1),
        ({"output": web("search"), "tool_usage": {"web_search": {"num_requests": 3}}}, 3),
        ({"output": web("search"), "tool_usage": {"web_search": {"num_requests": None}}}, 1),
        ({"modelVersion": "gemini-3-pro", "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]}, 2),
        (
            {"modelVersion": "gemini-2.5-pro", "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]},
            1,
        ),
        ({"model_version": "gemini-3-pro", "candidates": [SimpleNamespace(grounding_metadata=None)]}, 0),
        ({"output": [None, "web_search_call", 5], "candidates": [{"groundingMetadata": {"webSearchQueries": 5}}]}, 0),
        ({"output": "web", "candidates": {}}, 0),
    ],
)
def test_searches_that_an_answer_shows_and_its_usage_leaves_out_are_counted(
    answer: dict[str, Any], searches: int
) -> None:
    usage = {"input_tokens": 8, "output_tokens": 2}
    assert Usage.of({"usage": usage} | answer).searches == searches
    assert Usage.of({"usage": usage | {"server_tool_use": {"web_search_requests": 9}}} | answer).searches == 9
