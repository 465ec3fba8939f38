"""What a span says: a model call, a tool call or an agent, and what it used. Pure: plain mappings in, values out.

Every instrumentation has its own dialect; all that were seen (semconv as it is and was, OpenLLMetry, OpenInference,
pydantic-ai) are read here and nowhere else. To add one: put its names into the tables below.

Scope names and attributes were read off live spans of opentelemetry-instrumentation-genai-{openai,anthropic} 1.3b0,
-openai-v2 2.4b0, -google-genai 1.3b0, OpenLLMetry 0.62.4, OpenInference openai 0.1.66 / anthropic 3.1.0 /
google-genai 1.4.14, logfire 5.2, anthropic 2.12 (its own spans), pydantic-ai 2.68, litellm 1.106.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from otelbudget import semconv as sc
from otelbudget.model.reported import count, tokens_in
from otelbudget.model.usage import Usage
from otelbudget.model.usage_names import Names

Attributes = Mapping[str, Any]
_SPAN_KIND: Final = "openinference.span.kind"
_REQUEST_TYPE: Final = "llm.request.type"
_ENTITY: Final = "traceloop.entity.name"


class Kind(Enum):
    """What a budget sees in a span."""

    MODEL = "model"
    TOOL = "tool"
    AGENT = "agent"


#: Attribute -> its values that mean something to a budget, asked in this order. An agent is also a workflow: both are
#: units of work. ``create_agent``, tasks, chains, retrieval and reranking are none of the three.
_KINDS: Final[dict[str, dict[str, Kind]]] = {
    sc.GEN_AI_OPERATION: {
        "chat": Kind.MODEL,
        "text_completion": Kind.MODEL,
        "generate_content": Kind.MODEL,
        "embeddings": Kind.MODEL,
        "execute_tool": Kind.TOOL,
        "invoke_agent": Kind.AGENT,
        "invoke_workflow": Kind.AGENT,
    },
    _SPAN_KIND: {"LLM": Kind.MODEL, "EMBEDDING": Kind.MODEL, "TOOL": Kind.TOOL, "AGENT": Kind.AGENT},
    "traceloop.span.kind": {"tool": Kind.TOOL, "agent": Kind.AGENT, "workflow": Kind.AGENT},
    _REQUEST_TYPE: {"chat": Kind.MODEL, "completion": Kind.MODEL, "embedding": Kind.MODEL},
}

#: Model spans that start without a single attribute: (instrumentation scope, span name).
_BARE_MODEL_SPANS: Final = frozenset({("opentelemetry.instrumentation.openai.v1", "openai.response")})

#: How the semantic conventions name the span of an agent's work; ADK tells nothing else of it at its start.
AGENT_SPAN: Final = "invoke_agent "

#: More digits than any count has.
_DIGITS: Final = 20
#: What instrumentations call a client SDK -> the name of its guard. Frameworks (LangChain, pydantic-ai) are not here:
#: what they call below may have no guard.
_CLIENTS: Final[dict[str, str]] = {
    **{name: name for name in ("openai", "anthropic", "mistralai", "groq", "together", "cohere", "ollama", "litellm")},
    **dict.fromkeys(("openai_v2", "openai.v0", "openai.v1"), "openai"),
    **dict.fromkeys(("google_genai", "google_generativeai"), "google_genai"),
    **dict.fromkeys(("bedrock", "botocore.bedrock-runtime"), "bedrock"),
}
#: Whose they are: official and OpenLLMetry's, official GenAI's, OpenInference's, Logfire's.
_FAMILIES: Final = (
    "opentelemetry.instrumentation",
    "opentelemetry.instrumentation.genai",
    "openinference.instrumentation",
    "logfire",
)
#: Instrumentation scope -> the client SDK it instruments.
_CLIENT_SCOPES: Final[dict[str, str]] = {
    **{f"{family}.{name}": sdk for family in _FAMILIES for name, sdk in _CLIENTS.items()},
    # The SDKs' own, Anthropic's with the platform of its client.
    **{
        f"com.anthropic.sdk.python{platform}": "anthropic"
        for platform in ("", ".aws", ".bedrock", ".foundry", ".google_cloud", ".vertex")
    },
    "mistralai_sdk_tracer": "mistralai",
    "litellm": "litellm",
}

#: Instrumentation scope -> the framework whose tools it shows.
_TOOL_SCOPES: Final[dict[str, str]] = {
    **{f"{family}.openai_agents": "openai_agents" for family in _FAMILIES},
    "pydantic-ai": "pydantic_ai",
}

_USAGE: Final = Names(
    (sc.GEN_AI_INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    (sc.GEN_AI_OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    # OpenLLMetry leaves Gemini's thinking tokens out of the output, not out of the total.
    ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    {
        "cache_read_tokens": (
            sc.GEN_AI_CACHE_READ,
            "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.details.cache_read_tokens",
            "llm.token_count.prompt_details.cache_read",
        ),
        "cache_write_tokens": (
            sc.GEN_AI_CACHE_WRITE,
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
            "gen_ai.usage.details.cache_write_tokens",
            "llm.token_count.prompt_details.cache_write",
        ),
        "reasoning_tokens": (
            sc.GEN_AI_REASONING,
            "gen_ai.usage.reasoning_tokens",
            "llm.usage.reasoning_tokens",
            "gen_ai.usage.details.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
        ),
        "audio_input_tokens": ("llm.token_count.prompt_details.audio", "gen_ai.usage.details.input_audio_tokens"),
        "audio_output_tokens": ("llm.token_count.completion_details.audio", "gen_ai.usage.details.output_audio_tokens"),
        "cache_audio_read_tokens": ("gen_ai.usage.details.cache_audio_read_tokens",),
    },
)


def _text(*keys: str) -> Callable[[Attributes | None], str | None]:
    """What gives the first text that one of the attributes *keys* has."""

    def read(attributes: Attributes | None) -> str | None:
        for key in keys:
            value = (attributes or {}).get(key)
            if isinstance(value, str) and value:
                return value
        return None

    return read


#: The model that answered, else the one that was asked for.
model_name: Final = _text(
    sc.GEN_AI_RESPONSE_MODEL,
    sc.GEN_AI_REQUEST_MODEL,
    "llm.response.model_name",
    "llm.model_name",
    "llm.request.model_name",
    "embedding.model_name",
)
requested_model: Final = _text(sc.GEN_AI_REQUEST_MODEL, "llm.request.model_name")
#: The GenAI provider, and its id of the response.
provider_name: Final = _text(sc.GEN_AI_PROVIDER, "gen_ai.system", "llm.provider", "llm.system")
response_id: Final = _text(sc.GEN_AI_RESPONSE_ID)
#: The conversation that a span says it belongs to.
conversation: Final = _text("gen_ai.conversation.id")
#: The agent or workflow whose span this is.
agent_name: Final = _text(sc.GEN_AI_AGENT_NAME, "gen_ai.workflow.name", "agent.name", _ENTITY)
#: The tool whose call this is, and the id that the model gave to the call.
tool_name: Final = _text(sc.GEN_AI_TOOL_NAME, "tool.name", _ENTITY)
tool_call_id: Final = _text(sc.GEN_AI_TOOL_CALL_ID, "tool_call.id", "tool.id")


def classify(name: str, attributes: Attributes | None, scope_name: str | None = None) -> Kind | None:
    """What kind of call a span with these attributes is, or None if budgets don't care.

    Args:
        name: The span's name.
        attributes: What is known of it; at its start this can be very little.
        scope_name: Name of its instrumentation scope, or None if unknown.
    """
    if attributes:
        for key, kinds in _KINDS.items():
            value = attributes.get(key)
            if isinstance(value, str) and value in kinds:
                return kinds[value]
    if name.startswith(AGENT_SPAN):
        return Kind.AGENT
    return Kind.MODEL if (scope_name, name) in _BARE_MODEL_SPANS else None


def covered_sdk(scope_name: str | None) -> str | None:
    """Which client SDK an instrumentation scope instruments (the name of its guard), or None if it is another thing."""
    return None if scope_name is None else _CLIENT_SCOPES.get(scope_name)


def framework(scope_name: str | None) -> str | None:
    """The framework, one with a hook that holds its tool calls, whose tools an instrumentation scope shows, or None."""
    return None if scope_name is None else _TOOL_SCOPES.get(scope_name)


def operation(attributes: Attributes | None) -> str:
    """The GenAI operation of a model span: ``chat`` unless it says otherwise."""
    attributes = attributes or {}
    named = attributes.get(sc.GEN_AI_OPERATION)
    if isinstance(named, str) and named:
        return named
    if attributes.get(_SPAN_KIND) == "EMBEDDING" or attributes.get(_REQUEST_TYPE) == "embedding":
        return "embeddings"
    return "text_completion" if attributes.get(_REQUEST_TYPE) == "completion" else "chat"


def usage_from(attributes: Attributes | None) -> Usage | None:
    """The usage that an ended model span reports, in whatever dialect; None if it reports none.

    Never raises: what is no whole number from 0 up, as a number or in digits, is taken as absent. Totals of whole agent
    runs (``gen_ai.aggregated_usage.*``) are not read.
    """
    if not attributes:
        return None
    digits = {name: int(said) for name, said in attributes.items() if isinstance(said, str) and _is_number(said)}
    found = tokens_in({**attributes, **digits} if digits else attributes, _USAGE)
    if not found.keys() & {"input_tokens", "output_tokens", "tokens"}:
        return None
    if "input_tokens" in found and operation(attributes) == "embeddings":
        found.setdefault("output_tokens", 0)
    return Usage(
        **found, model=model_name(attributes), provider=provider_name(attributes), response_id=response_id(attributes)
    )


def _is_number(text: str) -> bool:
    return len(text) < _DIGITS and text.isascii() and text.isdecimal()


def max_output_tokens(attributes: Attributes | None) -> int | None:
    """How many output tokens the request allows itself, if the span says."""
    return count((attributes or {}).get("gen_ai.request.max_tokens")) or None  # 0 is none that a provider takes
