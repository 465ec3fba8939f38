"""The SDKs: what made each, and which dialects its endpoints speak."""

from __future__ import annotations

from typing import Final, NamedTuple

from otelbudget.guards.dialects import (
    Endpoints,
    anthropic,
    bedrock,
    cohere,
    gemini,
    groq,
    litellm,
    mistral,
    ollama,
    openai,
)


class Sdk(NamedTuple):
    """One SDK.

    Args:
        name: What spans, ``setup()`` and its log call it.
        module: What applications import.
        provider: Who answers if the client does not say, see `providers`.
        endpoints: Ends of paths, the first that fits, and what goes there.
        function: With Stainless, the innermost method of its base clients that every logical call passes once.
        slow: Importing it takes seconds and asks the network, so that only applications do it.
    """

    name: str
    module: str
    provider: str
    endpoints: Endpoints
    function: str = "request"
    slow: bool = False


STAINLESS: Final = (
    Sdk("openai", "openai", "openai", openai.ENDPOINTS),
    # Its ``request`` opens the SDK's own span and calls ``_request``, which leaves a denial on that span.
    Sdk("anthropic", "anthropic", "anthropic", anthropic.ENDPOINTS, "_request"),
    Sdk("groq", "groq", "groq", groq.ENDPOINTS),
    Sdk("together", "together", "together", openai.ENDPOINTS),
    Sdk("cerebras", "cerebras.cloud.sdk", "cerebras", openai.ENDPOINTS),
)
SPEAKEASY: Final = (
    Sdk("mistralai", "mistralai.client", "mistral_ai", mistral.ENDPOINTS),
    Sdk("mistralai.azure", "mistralai.azure.client", "azure.ai.inference", mistral.ENDPOINTS),
    Sdk("mistralai.gcp", "mistralai.gcp.client", "gcp.vertex_ai", mistral.ENDPOINTS),
)
GOOGLE: Final = Sdk("google_genai", "google.genai", "gcp.gemini", gemini.ENDPOINTS)
FERN: Final = (Sdk("cohere", "cohere", "cohere", cohere.ENDPOINTS),)
OLLAMA: Final = Sdk("ollama", "ollama", "ollama", ollama.ENDPOINTS)
BEDROCK: Final = Sdk("bedrock", "botocore.client", "aws.bedrock", bedrock.ENDPOINTS)
LITELLM: Final = Sdk("litellm", "litellm", "litellm", litellm.ENDPOINTS, slow=True)
