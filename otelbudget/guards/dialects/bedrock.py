"""What Bedrock's runtime speaks: Converse, the same for all models, and each model's own body inside InvokeModel.

Requests are read as boto3 takes them. Of an invoked model Bedrock tells the usage in headers, and in the last chunk
of a stream (``amazon-bedrock-invocationMetrics``); a body of Claude's knows its cache too. Counting tokens is no call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otelbudget.guards.dialects import Dialect, Endpoints, anthropic, count, get, spoken
from otelbudget.model.reported import part_of
from otelbudget.model.usage import Usage

METRICS: Final = "amazon-bedrock-invocationMetrics"
#: Names of the maximum in the bodies of models; those of Titan and Nova are one level down.
_MAXIMA: Final = ("max_tokens", "max_completion_tokens", "max_tokens_to_sample", "max_gen_len", "maxTokens")
_INNER: Final = (("textGenerationConfig", "maxTokenCount"), ("inferenceConfig", "maxTokens"))


class Converse(Dialect):
    """``converse`` and ``converse_stream``."""

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        return part_of({"metadata": event.get("metadata")})

    def words(self, event: Mapping[str, Any]) -> str:
        parts = [get(event.get("contentBlockStart"), "start"), get(event.get("contentBlockDelta"), "delta")]
        return "".join(spoken(parts))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        return usage is not None and "metadata" in event


class Invoke(anthropic.Messages):
    """``invoke_model`` and ``invoke_model_with_response_stream``, whatever the model."""

    def max_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        inner = (count(get(body.get(outer), name)) for outer, name in _INNER)
        return next((n for n in inner if n is not None), super().max_output_tokens(body))

    def maximum_keys(self, body: Mapping[str, Any], provider: str) -> tuple[str, ...]:
        """Where it has one: which name another model knows can't be told."""
        found = super().maximum_keys(body, provider)
        return tuple(key for key in found if body.get(key) is not None)

    def usage(self, answer: object, provider: str) -> Usage | None:
        """That of Claude's body, else Bedrock's own."""
        told = super().usage(answer, provider)
        metrics = get(answer, METRICS)
        given, made = (count(get(metrics, name)) or 0 for name in ("inputTokenCount", "outputTokenCount"))
        return told or (Usage(given, made, provider=provider) if given or made else None)

    def part(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """What Claude says of its message, or Bedrock's own at the end."""
        metrics = event.get(METRICS)
        if metrics is None:
            return super().part(event)
        counts = {"input_tokens": get(metrics, "inputTokenCount"), "output_tokens": get(metrics, "outputTokenCount")}
        return {"usage": counts}

    def words(self, event: Mapping[str, Any]) -> str:
        """Claude's, else those of other models' chunks."""
        if "type" in event:
            return super().words(event)
        inner = get(event.get("contentBlockDelta"), "delta")
        return "".join(spoken([inner, *(event.get(key) for key in ("outputText", "generation", "text", "choices"))]))

    def ends(self, event: Mapping[str, Any], usage: Usage | None) -> bool:
        return METRICS in event or super().ends(event, usage)


_CONVERSE: Final = Converse("chat", ("maxTokens",), inside="inferenceConfig")
_INVOKE: Final = Invoke("chat", _MAXIMA)
#: Ends of model and operation.
ENDPOINTS: Final[Endpoints] = (
    ("/Converse", _CONVERSE),
    ("/ConverseStream", _CONVERSE),
    ("embed*/InvokeModel", Invoke("embeddings")),
    *((f"{kind}*/InvokeModel", Invoke("image_generation", fee=True)) for kind in ("stability.", "image", "canvas")),
    ("rerank*/InvokeModel", Invoke("rerank", fee=True)),
    ("/StartAsyncInvoke", Invoke("batch", fee=True)),
    ("/*Guardrail*", Invoke("moderation", fee=True)),
    ("/InvokeModel", _INVOKE),
    ("/InvokeModelWithResponseStream", _INVOKE),
)
