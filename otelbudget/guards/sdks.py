"""The SDKs: what made each, and which dialects its endpoints speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from otelbudget.guards.dialects import Endpoints, anthropic, bedrock, cohere, gemini, litellm, mistral, ollama, openai


class Sdk(NamedTuple):
    """One SDK.

    Args:
        name: What spans, ``setup()`` and its log call it.
        module: What applications import.
        provider: Who answers if the client does not say, see `providers`.
        endpoints: Ends of paths, the first that fits, and what goes there.
        function: With Stainless, the innermost method of its base clients that every logical call passes once.
    """

    name: str
    module: str
    provider: str
    endpoints: Endpoints
    function: str = "request"


STAINLESS: Final = (
    Sdk("openai", "openai", "openai", openai.ENDPOINTS),
    # Its ``request`` opens the SDK's own span and calls ``_request``, which leaves a denial on that span.
    Sdk("anthropic", "anthropic", "anthropic", anthropic.ENDPOINTS, "_request"),
    Sdk("groq", "groq", "groq", openai.GROQ),
    Sdk("together", "together", "together", openai.ENDPOINTS),
    Sdk("cerebras", "cerebras.cloud.sdk", "cerebras", openai.ENDPOINTS),
)
SPEAKEASY: Final = (
    Sdk("mistralai", "mistralai.client", "mistral_ai", mistral.ENDPOINTS),
    Sdk("mistralai.azure", "mistralai.azure.client", "azure.ai.inference", mistral.ENDPOINTS),
    # Google's newer API has a client of its own, imported when it is first used.
    Sdk("google_genai.interactions", "google.genai._gaos", "gcp.gemini", gemini.INTERACTIONS),
    Sdk("mistralai.gcp", "mistralai.gcp.client", "gcp.vertex_ai", mistral.ENDPOINTS),
)
GOOGLE: Final = Sdk("google_genai", "google.genai", "gcp.gemini", gemini.ENDPOINTS)
FERN: Final = (Sdk("cohere", "cohere", "cohere", cohere.ENDPOINTS),)
OLLAMA: Final = Sdk("ollama", "ollama", "ollama", ollama.ENDPOINTS)
BEDROCK: Final = Sdk("bedrock", "botocore.client", "aws.bedrock", bedrock.ENDPOINTS)
AIOBEDROCK: Final = Sdk("aiobotocore", "aiobotocore.client", "aws.bedrock", bedrock.ENDPOINTS)
#: Its own client, which sends to whom its models are of.
_ALL: Final = (*openai.ENDPOINTS, *anthropic.ENDPOINTS, *gemini.ENDPOINTS)
DSPY: Final = Sdk("dspy", "dspy._vendor.lm15.transports", "openai", _ALL)
LITELLM: Final = Sdk("litellm", "litellm", "litellm", litellm.ENDPOINTS)

#: Modules of SDKs that send requests to a model and had no guard; one that gets a guard may stay here.
KNOWN: Final = (
    *("ai21", "azure.ai.inference", "claude_agent_sdk", "dashscope", "dspy", "gigachat"),
    *("fireworks.client", "google.generativeai", "huggingface_hub.inference._client", "ibm_watsonx_ai"),
    *(
        "llama_api_client",
        "openrouter",
        "perplexity",
        "portkey_ai",
        "reka",
        "replicate",
        "sambanova",
        "vertexai",
        "voyageai",
    ),
    *("volcenginesdkarkruntime", "writerai", "xai_sdk", "zai", "zhipuai"),
)

#: Module -> why nothing here can stop what it sends, and what can. What is not in `KNOWN` is imported by many who call
#: no model with it, so only `otelbudget doctor` tells of it.
WHY: Final[Mapping[str, str]] = {
    "claude_agent_sdk": "its loop is a subprocess; otelbudget.integrations.claude_agent.query gives it what is left",
    "google.genai.live": "its Live API talks over a websocket, which nobody counts; bound it with run.reserve()",
}
