"""The names in which usages are told: those of answers; spans have theirs in `spans.conventions`.

To add a provider's, add a `Names` to `SPLIT`, before a kind whose names it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

#: The parts that make up a whole, where it leaves them out.
CACHED: Final = ("cache_read_tokens", "cache_write_tokens")
REASONING: Final = "reasoning_tokens"
SEEN: Final = ("audio_input_tokens", "image_input_tokens", "video_input_tokens")
#: What of the former was read from a cache.
READ: Final = {"cache_audio_read_tokens": SEEN[0], "cache_image_read_tokens": SEEN[1]}
MADE: Final = ("audio_output_tokens", "image_output_tokens", "video_output_tokens")


class Names(NamedTuple):
    """Where a kind of usage has what, as paths (``details.cached_tokens``).

    Args:
        input, output, total: The wholes; of several paths the first that has a number counts.
        parts: Field of `Usage` -> paths, or sums of them, of which the greatest number counts.
        apart: Whether the input leaves out what a cache had to do with, by its definition.
        more_input, more_output: What comes on top of the input and of the output.
        marks: Only what has one of these is of this kind; if empty, what has an input or an output.
    """

    input: tuple[str, ...]
    output: tuple[str, ...]
    total: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = {}
    apart: bool = False
    more_input: tuple[str, ...] = ()
    more_output: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


def _by_kind(given: str, made: str, cached: str, *, upper: bool = False) -> dict[str, tuple[str, ...]]:
    """The parts that are sound, pictures and films: where input, output and cached input tell of them, with the name of
    the kind, which may be in *upper* case, in place of each ``{}``."""
    parts = {}
    for kind in ("audio", "image", "video"):
        told = {f"{kind}_input_tokens": given, f"{kind}_output_tokens": made, f"cache_{kind}_read_tokens": cached}
        for field, paths in told.items():
            if field in (*SEEN, *MADE, *READ):
                parts[field] = tuple(paths.replace("{}", kind.upper() if upper else kind).split())
    return parts


_CHAT: Final = Names(
    ("prompt_tokens",),
    ("completion_tokens",),
    ("total_tokens",),
    {
        # OpenAI and most others; litellm; DeepSeek; Moonshot
        "cache_read_tokens": (
            "prompt_tokens_details.cached_tokens",
            "cache_read_input_tokens",
            "prompt_cache_hit_tokens",
            "cached_tokens",
        ),
        "cache_write_tokens": (
            "prompt_tokens_details.cache_write_tokens",
            "prompt_tokens_details.cache_creation_tokens",
            "cache_creation_input_tokens",
        ),
        REASONING: ("completion_tokens_details.reasoning_tokens", "reasoning_tokens"),
        **_by_kind(
            "prompt_tokens_details.{}_tokens",
            "completion_tokens_details.{}_tokens",
            "prompt_tokens_details.cached_tokens_details.{}_tokens",
        ),
        "searches": ("num_search_queries", "server_tool_use.web_search_requests"),
    },
    more_input=("citation_tokens",),  # Perplexity's: what its research has read
)
_RESPONSES: Final = Names(
    ("input_tokens",),
    ("output_tokens",),
    ("total_tokens", "tokens"),
    {
        # OpenAI's Responses, and its sound; LangChain's usage_metadata; pydantic-ai's and our own names
        "cache_read_tokens": (
            "input_tokens_details.cached_tokens",
            "input_token_details.cached_tokens",
            "input_token_details.cache_read",
            "cache_read_tokens",
        ),
        "cache_write_tokens": (
            "input_tokens_details.cache_write_tokens",
            "input_token_details.cache_creation",
            "input_token_details.ephemeral_5m_input_tokens+input_token_details.ephemeral_1h_input_tokens",
            "cache_write_tokens",
        ),
        REASONING: (
            "output_tokens_details.reasoning_tokens",
            "output_tokens_details.thinking_tokens",
            "output_token_details.reasoning",
            "reasoning_tokens",
        ),
        **_by_kind(
            "input_tokens_details.{}_tokens input_token_details.{}_tokens input_token_details.{}"
            " input_{}_tokens {}_input_tokens",
            "output_tokens_details.{}_tokens output_token_details.{}_tokens output_token_details.{}"
            " output_{}_tokens {}_output_tokens",
            "input_token_details.cached_tokens_details.{}_tokens input_tokens_details.cached_tokens_details.{}_tokens"
            " cache_{}_read_tokens",
        ),
        "cache_write_1h_tokens": (
            "cache_creation.ephemeral_1h_input_tokens",
            "input_token_details.ephemeral_1h_input_tokens",
        ),
        "searches": ("server_tool_use.web_search_requests", "searches"),
    },
)
_CREATED: Final = ("cache_creation.ephemeral_5m_input_tokens", "cache_creation.ephemeral_1h_input_tokens")
#: Its input is what no cache had anything to do with.
_ANTHROPIC: Final = _RESPONSES._replace(
    parts={
        **_RESPONSES.parts,
        "cache_read_tokens": ("cache_read_input_tokens",),
        "cache_write_tokens": ("cache_creation_input_tokens", "+".join(_CREATED)),
    },
    apart=True,
    marks=("cache_read_input_tokens", "cache_creation_input_tokens", *_CREATED),
)
_GEMINI: Final = Names(
    ("promptTokenCount", "prompt_token_count"),
    (
        *("candidatesTokenCount", "candidates_token_count"),
        *("responseTokenCount", "response_token_count"),  # Gemini Live's
        "generation_token_count",  # Llama's on Bedrock
    ),
    ("totalTokenCount", "total_token_count"),
    {
        "cache_read_tokens": ("cachedContentTokenCount", "cached_content_token_count"),
        REASONING: ("thoughtsTokenCount", "thoughts_token_count"),
        **_by_kind(
            "promptTokensDetails.{} prompt_tokens_details.{}",
            "candidatesTokensDetails.{} candidates_tokens_details.{}"
            " responseTokensDetails.{} response_tokens_details.{}",
            "cacheTokensDetails.{} cache_tokens_details.{}",
            upper=True,
        ),
    },
    more_input=("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
    more_output=("thoughtsTokenCount", "thoughts_token_count"),
)
_INTERACTIONS: Final = Names(
    ("total_input_tokens",),
    ("total_output_tokens",),
    ("total_tokens",),
    {
        "cache_read_tokens": ("total_cached_tokens",),
        REASONING: ("total_thought_tokens",),
        **_by_kind("input_tokens_by_modality.{}", "output_tokens_by_modality.{}", "cached_tokens_by_modality.{}"),
    },
    more_input=("total_tool_use_tokens",),
    more_output=("total_thought_tokens",),
)
_BEDROCK: Final = Names(
    ("inputTokens",),
    ("outputTokens",),
    ("totalTokens",),
    {
        "cache_read_tokens": ("cacheReadInputTokens", "cacheReadInputTokenCount"),
        "cache_write_tokens": ("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
        "cache_write_1h_tokens": ("cacheDetails.1h",),
    },
    apart=True,
)
_COHERE: Final = Names(
    ("tokens.input_tokens", "billed_units.input_tokens"),
    ("tokens.output_tokens", "billed_units.output_tokens"),
    parts={"cache_read_tokens": ("cached_tokens",)},
    more_input=("billed_units.image_tokens",),
)
_OLLAMA: Final = Names(("prompt_eval_count",), ("eval_count",))
_TITAN: Final = Names(("inputTextTokenCount",), ("results.0.tokenCount", "totalOutputTextTokenCount"))

#: The first that fits is it; a total alone says least.
SPLIT: Final = (_CHAT, _ANTHROPIC, _RESPONSES, _GEMINI, _INTERACTIONS, _BEDROCK, _COHERE, _OLLAMA, _TITAN)
KINDS: Final = (*SPLIT, *(kind._replace(marks=kind.total) for kind in SPLIT if kind.total))
ROOTS: Final = frozenset(
    path.partition(".")[0] for kind in KINDS for path in (*kind.input, *kind.output, *kind.total, *kind.marks)
)
#: Where an answer, a message or an event has its usage; else it is one.
PLACES: Final = (
    *("usage", "usage_metadata", "usageMetadata", "x_groq.usage", "choices.0.usage", "meta"),
    *("response.usage", "message.usage", "delta.usage", "response.meta", "metadata.usage", "interaction.usage"),
    *("response_metadata.token_usage", "response_metadata.usage", "llm_output.token_usage", "message.usage_metadata"),
)
MODEL: Final = (
    *("model", "response.model", "message.model", "modelVersion", "model_version", "interaction.model"),
    *("response_metadata.model_name", "response_metadata.model"),
    *("message.response_metadata.model_name", "message.response_metadata.model"),
)
#: LangChain's messages have the provider's id in their metadata; else theirs may be one of its own, which begins so.
ID: Final = (
    *("response_metadata.id", "message.response_metadata.id", "id", "response.id", "message.id"),
    *("responseId", "response_id", "interaction.id"),
)
OWN_IDS: Final = ("run-", "lc_run-")
TIER: Final = (
    *("service_tier", "usage.service_tier", "response.service_tier", "response_metadata.service_tier"),
    *("serviceTier", "serviceTier.type", "metadata.serviceTier.type"),  # Gemini asks so; Bedrock's
    *("usageMetadata.serviceTier", "usage_metadata.service_tier"),
)
#: Where Vertex AI says as what it has served a request, and the tiers of that.
TRAFFIC: Final = ("usageMetadata.trafficType", "usage_metadata.traffic_type")
TRAFFIC_TIERS: Final = {"ON_DEMAND_PRIORITY": "priority", "ON_DEMAND_FLEX": "flex"}
#: Where OpenAI's Responses say how often they have searched the web.
REQUESTS: Final = ("tool_usage.web_search.num_requests", "response.tool_usage.web_search.num_requests")
#: Where Gemini lists what it has searched for, and the models whose searches cost the same however many they are.
QUERIES: Final = ("groundingMetadata.webSearchQueries", "grounding_metadata.web_search_queries")
PAID_ONCE: Final = ("gemini-1", "gemini-2")
COST: Final = ("cost", "cost.total_cost")
