"""Who answers a client, in the names of the GenAI semantic conventions (``gen_ai.provider.name``)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from otelbudget.pricing.listed import listed_provider

#: Client class -> provider, whatever host it talks to.
_BY_CLASS: Final = {
    "BaseAzureClient": "azure.ai.openai",
    "BedrockOpenAI": "aws.bedrock",
    "AsyncBedrockOpenAI": "aws.bedrock",
    "BaseBedrockClient": "aws.bedrock",
    "BaseMantleClient": "aws.bedrock",
    "BaseVertexClient": "gcp.vertex_ai",
}
#: Ends of host names -> provider.
_BY_HOST: Final = (
    (".openai.azure.com", "azure.ai.openai"),
    (".models.ai.azure.com", "azure.ai.inference"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".amazonaws.com", "aws.bedrock"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.anthropic.com", "anthropic"),
    ("api.cerebras.ai", "cerebras"),
    ("api.cohere.ai", "cohere"),
    ("api.cohere.com", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.fireworks.ai", "fireworks"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.moonshot.cn", "moonshot_ai"),
    ("api.novita.ai", "novita"),
    ("api.perplexity.ai", "perplexity"),
    ("openrouter.ai", "openrouter"),
    ("api.together.ai", "together"),
    ("api.together.xyz", "together"),
    ("api.x.ai", "x_ai"),
    ("api.z.ai", "zai"),
)


def provider_of(client: object, default: str) -> str:
    """Who answers *client*: by its class, else by the address it talks to, else *default*."""
    for cls in type(client).__mro__:
        if cls.__name__ in _BY_CLASS:
            return _BY_CLASS[cls.__name__]
    if getattr(client, "vertexai", None) is True:  # google-genai's
        return "gcp.vertex_ai"
    url = getattr(client, "base_url", None)
    return (provider_at(str(url)) if getattr(url, "host", None) else None) or default


def provider_at(base_url: str) -> str | None:
    """Who answers at an address, else whose it is by the price list; None if it is nobody known."""
    host = urlsplit(base_url).hostname or ""
    return next((provider for end, provider in _BY_HOST if host.endswith(end)), None) or listed_provider(base_url)
