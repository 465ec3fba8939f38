"""The guard of ``litellm``: outermost, so that its retries, its fallbacks and its ``Router`` are one call.

It sits in the functions that applications call and those of the Router: a row of `_FUNCTIONS` each. What goes out
inside, through another guarded SDK or another function of litellm, is a part of that call, see `held`. A denial is
nothing that litellm ever sees.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any, Final, NamedTuple

from opentelemetry.context import get_current

from otelbudget.engine.context import HELD
from otelbudget.errors import BudgetExceeded
from otelbudget.guards import exchange, patching, readers
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts, never_sent
from otelbudget.guards.framing import Framing
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.litellm_results import caching, is_stream, was_cached
from otelbudget.guards.watch import Watch, follow, watch_of

#: Function, of which there is an asynchronous twin -> the path that OpenAI has for it, and its first parameters.
_FUNCTIONS: Final = {
    "completion": ("/chat/completions", ("model", "messages")),
    "text_completion": ("/completions", ("prompt", "model")),
    "embedding": ("/embeddings", ("model", "input")),
    "responses": ("/responses", ("input", "model")),
    "anthropic_messages": ("/messages", ("max_tokens", "messages", "model")),
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
}
#: What the Router has other first parameters for.
_ROUTER: Final = {
    "text_completion": ("model", "prompt"),
    "transcription": ("file", "model"),
    "moderation": ("model", "input"),
}
#: How a function is told that its twin calls it, beside the twin's name: it gives a coroutine.
_OF_TWIN: Final = ("async_call", "aimg_generation")
#: Where those come from that others put theirs in the place of, the outermost first.
_HOMES: Final = (
    *("chat_completions.dispatch", "embeddings.dispatch", "responses.dispatch"),
    *("main", "responses.main", "images.main"),
)
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


class LitellmGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        (router,) = self._classes()
        for name, (_, leading) in _FUNCTIONS.items():
            for spelled in (name, f"a{name}"):
                for depth, function in enumerate(self._functions(spelled)):
                    self._take_function(function, name, leading, below=depth > 0)
                method = patching.innermost(getattr(router, spelled, None))
                self._take_function(method, name, ("self", *_ROUTER.get(name, leading)))
        handler = import_module("litellm.caching.caching_handler").LLMCachingHandler
        self._notes += patching.take_over(vars(handler).get("_convert_cached_result_to_model_response"), caching)

    def _take_function(self, function: Any, name: str, leading: tuple[str, ...], *, below: bool = False) -> None:
        if not isinstance(function, FunctionType):
            return
        guard = partial(self._acall if patching.is_coroutine(function) else self._call, name, leading)
        self._calls.append(patching.Takeover(function, partial(_below, guard) if below else guard))

    def _functions(self, name: str) -> Iterable[Any]:
        """Those of litellm's own, the outermost first: others may have wrapped it, or put theirs where it was."""
        places = [import_module(self._sdk.module), *(sys.modules.get(f"litellm.{home}") for home in _HOMES)]
        functions = (self._own(getattr(place, name, None)) for place in places)
        return {id(found): found for found in functions if found is not None}.values()

    @staticmethod
    def _own(found: Any) -> Any:
        """What of litellm's is in *found*, under wrappers that show it."""
        while found is not None and not str(getattr(found, "__module__", "")).startswith("litellm."):
            found = getattr(found, "__wrapped__", None)
        while type(found).__name__.endswith("FunctionWrapper"):  # wrapt's, which has the module of what it wraps
            found = found.__wrapped__
        return found

    def _classes(self) -> tuple[Any, ...]:
        return (import_module(self._sdk.module).Router,)

    def _taken(self) -> tuple[str, ...]:
        return ("completion", "acompletion")

    def unreached(self) -> list[str]:
        """The functions that applications call and that do not pass the guard."""
        made = import_module(self._sdk.module)
        names = [spelled for name in _FUNCTIONS for spelled in (name, f"a{name}") if hasattr(made, spelled)]
        return [f"litellm.{name}" for name in names if not any(map(self._takes, self._functions(name)))]

    def _call(self, name: str, leading: tuple[str, ...], original: Callable[..., Any], *args: Any, **how: Any) -> Any:
        asked = _Asked(name, args, how, leading)
        if any(how.get(flag) is True for flag in (f"a{name}", *_OF_TWIN)):
            return original(*args, **how)
        return carried(self._plan(asked), asked, partial(self._send, original))

    async def _acall(
        self, name: str, leading: tuple[str, ...], original: Callable[..., Awaitable[Any]], *args: Any, **how: Any
    ) -> Any:
        asked = _Asked(name, args, how, leading)
        try:
            return await acarried(self._plan(asked), asked, partial(self._asend, original))
        except BudgetExceeded as denial:
            vars(denial)["num_retries"] = 0  # some routes of the Router have no method of their own, and would retry
            raise

    def _plan(self, asked: _Asked) -> Any:
        return plan(self._sdk, _WIRE, asked, asked, stream=asked.how.get("stream") is True)

    def _send(self, original: Callable[..., Any], asked: _Asked) -> Any:
        return self._hearing(asked, _ATTEMPTS.one(original, *asked.args, **asked.in_time()))

    async def _asend(self, original: Callable[..., Awaitable[Any]], asked: _Asked) -> Any:
        return self._hearing(asked, await _ATTEMPTS.aone(original, *asked.args, **asked.in_time()))

    def _hearing(self, asked: _Asked, result: Any) -> Any:
        """Hear of what is read of *result*, if it is a stream; a class made for one call goes with it."""
        if asked.name != "embedding" and was_cached(result):
            exchange.spared()  # embeddings may come from litellm's cache in part
        elif is_stream(result):
            with self._lock:
                self._hear(type(result))
            _set_free(result)
        return result

    def _hear(self, cls: type) -> None:
        for name, guard in _READING.items():
            function = patching.innermost(getattr(cls, name, None))
            if function is None or not function.__module__.startswith("litellm."):
                continue
            if not any(note.takes(function) for note in self._notes):
                note = patching.Takeover(function, guard)
                if "<locals>" not in function.__qualname__:
                    self._notes.append(note)


class _Asked(NamedTuple):
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
        named = {**dict(zip(self.leading, self.args, strict=False)), **self.how}
        return {**named, "model": self.resolved(named)[0]}

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


def _changed(asked: _Asked, values: Mapping[str, Any]) -> _Asked:
    return asked._replace(how={**asked.how, **values})


def _below(guard: Callable[..., Any], original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Of what litellm's own functions end in, which some call by itself."""
    held = HELD.of(get_current())
    return (original if held is not None and not held.call.settled else partial(guard, original))(*args, **how)


# --- streams, which are read as iterators of their own


def _next(original: Callable[..., Any], stream: Any) -> Any:
    watch: Any = watch_of(stream)
    if watch is None or watch.busy:
        return original(stream)
    with watch.charge.holding():  # some send their request when they are first read
        return watch.take(partial(original, stream))


async def _anext(original: Callable[..., Awaitable[Any]], stream: Any) -> Any:
    watch: Any = watch_of(stream)
    if watch is None or watch.busy:
        return await original(stream)
    with watch.charge.holding():  # some send their request when they are first read
        return await watch.atake(partial(original, stream))


_READING: Final = {"__next__": _next, "__anext__": _anext, "__iter__": readers.reading, "__aiter__": readers.areading}


def _set_free(stream: Any) -> None:
    """Leave *stream* to who reads it: a copy is what litellm's log keeps, which the stream has, in a circle."""
    said = getattr(getattr(stream, "logging_obj", None), "model_call_details", {})
    if said.get("original_response") is stream:
        said["original_response"] = copy.copy(stream)


def _status(error: Exception) -> object:
    """What the server has answered; litellm gives a status to errors of the connection as well."""
    classes = (*type(error).__mro__, *type(exchange.http_error(error)).__mro__)
    lost = never_sent(error) or any(cls.__name__ in ("APITimeoutError", "TransportError") for cls in classes)
    return None if lost else getattr(error, "status_code", None)


def _answer(result: Any) -> Answer:
    return Answer(200, unread=result if is_stream(result) else None)


def _attach(answer: Answer, watch: Watch) -> None:
    follow(answer.unread, watch)


def _data(chunk: Any) -> bytes:
    """What a chunk says; its usage may be where only litellm looks."""
    usage = getattr(chunk, "usage", None) or (getattr(chunk, "_hidden_params", None) or {}).get("usage")
    said = {**_plain(chunk), **({} if usage is None else {"usage": usage})}
    return json.dumps(said, default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else getattr(value, "__dict__", {})


_CHUNKS: Final = Framing(lambda kept, chunk: ([chunk], kept), _data)
_ATTEMPTS: Final = Attempts(_status, _answer)
_WIRE: Final = Wire(
    endpoint=lambda asked: ("POST", _FUNCTIONS[asked.name][0]),
    body=_Asked.body,
    changed=_changed,
    open=lambda _: True,
    framing=lambda _: _CHUNKS,
    attach=_attach,
    provider=lambda asked, _: asked.resolved({**dict(zip(asked.leading, asked.args, strict=False)), **asked.how})[1],
    holds=True,
)
