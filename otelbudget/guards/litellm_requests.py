"""What litellm's functions are asked: their arguments as requests of a dialect's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from otelbudget.guards import exchange

#: Function, of which there is an asynchronous twin -> the path that OpenAI has for it, and its first parameters.
FUNCTIONS: Final = {
    "completion": ("/chat/completions", ("model", "messages")),
    "completion_with_retries": ("/chat/completions", ("model", "messages")),
    "query": ("/chat/completions", ("model", "messages")),
    "text_completion": ("/completions", ("prompt", "model")),
    "embedding": ("/embeddings", ("model", "input")),
    "responses": ("/responses", ("input", "model")),
    "responses_with_retries": ("/responses", ("input", "model")),
    "anthropic_messages": ("/messages", ("max_tokens", "messages", "model")),
    "anthropic_messages_handler": ("/messages", ("max_tokens", "messages", "model")),
    "compact_responses": ("/responses/compact", ("input", "model")),
    "image_generation": ("/images/generations", ("prompt", "model", "n")),
    "image_edit": ("/images/edits", ("image", "prompt", "model")),
    "image_variation": ("/images/variations", ("image", "model", "n")),
    "speech": ("/audio/speech", ("model", "input")),
    "transcription": ("/audio/transcriptions", ("model", "file")),
    "moderation": ("/moderations", ("input", "model")),
    "rerank": ("/rerank", ("model", "query", "documents")),
    "ocr": ("/ocr", ("model", "document")),
    "video_generation": ("/videos", ("prompt", "model")),
    "video_edit": ("/videos/edits", ("video_id", "prompt")),
    "video_extension": ("/videos/extensions", ("video_id", "prompt")),
    "video_remix": ("/videos/any/remix", ("video_id", "prompt")),
    "create_batch": ("/batches", ()),
    "generate_content": (":generateContent", ("model", "contents", "config", "tools")),
    "generate_content_stream": (":streamGenerateContent", ("model", "contents", "config", "tools")),
    "create": ("/interactions", ("model", "agent", "input")),
    "decisions": ("/decisions", ("model", "input", "questions")),
    "systemone": ("/decisions", ("model", "state", "questions")),
    "extraction": ("/decisions", ("model", "fields", "state")),
}
#: What has them give a coroutine, where that isn't called as their twin is.
FLAGS: Final = {
    "text_completion": "acompletion",
    "anthropic_messages_handler": "is_async",
    "image_generation": "aimg_generation",
    **dict.fromkeys(("image_edit", "image_variation"), "async_call"),
    **dict.fromkeys(("video_generation", "video_edit", "video_extension", "video_remix"), "async_call"),
    "create": "acreate_interaction",
}
#: What the Router has other first parameters for.
ROUTER: Final = {
    "text_completion": ("model", "prompt"),
    "transcription": ("file", "model"),
    "moderation": ("model", "input"),
}
#: What ``litellm.request_timeout`` says where nobody has set it -> how long its functions wait then.
_UNSAID_S: Final = {6000: 600}
#: Names of litellm's providers that GenAI has others for.
_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "together_ai": "together",
    "vertex_ai": "gcp.vertex_ai",
    "xai": "x_ai",
}
_UNDERSCORE: Final = re.compile("_([a-z])")


class Asked(NamedTuple):
    """The arguments of a call."""

    name: str
    args: tuple[Any, ...]
    how: Mapping[str, Any]
    leading: tuple[str, ...]

    @property
    def base_url(self) -> str:
        """Who is asked, as far as it is said."""
        return f"{self.how.get('api_base')} {self.how.get('model')}"

    def body(self) -> Mapping[str, Any]:
        """By name, as OpenAI has them; with the model that a Router means, without its provider."""
        named = self.named()
        if "contents" in named:
            named["generationConfig"] = _as_sent(named.get("config") or named.get("generationConfig") or {})
        return {**named, "model": self.resolved(named)[0]}

    def named(self) -> dict[str, Any]:
        """All of them by name."""
        return {**dict(zip(self.leading, self.args, strict=False)), **self.how}

    def provider(self) -> str:
        """Who answers."""
        return self.resolved(self.named())[1]

    def changed(self, values: Mapping[str, Any]) -> Asked:
        """The same with other *values*, as its body has them."""
        if "generationConfig" in values:
            values = {"config": values["generationConfig"]}
        if values.keys() & set(self.leading[: len(self.args)]):
            return self._replace(args=self.args[len(self.leading) :], how={**self.named(), **values})
        return self._replace(how={**self.how, **values})

    def in_time(self) -> Mapping[str, Any]:
        """What goes by name, with timeouts within the time of the run; a Router's deployments have theirs."""
        if "self" in self.leading or len(self.args) > len(self.leading):
            return self.how
        unsaid = import_module("litellm").request_timeout
        own = {"timeout": self.how.get("timeout") or self.how.get("request_timeout") or _UNSAID_S.get(unsaid, unsaid)}
        if streamed := self.how.get("stream_timeout"):
            own["stream_timeout"] = streamed
        least = {name: exchange.within(each) for name, each in own.items()}
        return self.how if least == own else {**self.how, **least}

    def resolved(self, named: Mapping[str, Any]) -> tuple[str, str]:
        """Model and provider."""
        model = str(named.get("model"))
        if "self" in named:
            listed = getattr(named["self"], "model_list", None) or ()
            model = next((one["litellm_params"]["model"] for one in listed if one["model_name"] == model), model)
        try:
            found, provider, *_ = import_module("litellm").get_llm_provider(model, named.get("custom_llm_provider"))
        except Exception:  # noqa: BLE001 - litellm will say it better
            return model, "litellm"
        return found, _PROVIDERS.get(provider, provider)


def _as_sent(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with Gemini's own names, which may be written as Python's."""
    return {_UNDERSCORE.sub(lambda letter: letter[1].upper(), name): value for name, value in config.items()}
