"""The guard of ``litellm``: outermost, so that its retries, its fallbacks and its ``Router`` are one call.

It sits in the functions that applications call and those of the Router: a row of `FUNCTIONS` each. What goes out
inside, through another guarded SDK or another function of litellm, is a part of that call (`charge.Part`); what a
callback sends is not. A denial is nothing that litellm ever sees.

What none of them sends passes: `llm_passthrough_route`, realtime sessions, assistants, agents, evals, fine-tuning and
searches. So does a function that a callback, in a task of its own, asks for a coroutine by its flag.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib import import_module
from inspect import isawaitable, iscoroutinefunction
from types import FrameType, FunctionType
from typing import Any, Final

from opentelemetry.context import get_current

from otelbudget.engine.context import HELD
from otelbudget.errors import BudgetExceeded
from otelbudget.guards import exchange, patching, readers
from otelbudget.guards.call import Wire, acarried, carried, plan
from otelbudget.guards.exchange import Answer, Attempts, never_sent
from otelbudget.guards.framing import SERVER_SENT_EVENTS, Framing
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.litellm_requests import FLAGS, FUNCTIONS, ROUTER, Asked
from otelbudget.guards.litellm_results import caching, combining, is_stream, was_cached
from otelbudget.guards.watch import Watch, follow, watch_of

#: Where those come from that others put theirs in the place of, the outermost first.
_HOMES: Final = (
    *("chat_completions.dispatch", "embeddings.dispatch", "responses.dispatch"),
    *("main", "responses.main", "images.main", "google_genai.main", "interactions.main"),
)

#: What of litellm calls functions of the application's, or sends for itself: it is not the call that is asked.
_ASIDE: Final = ("litellm.caching.", "litellm.litellm_core_utils.litellm_logging")

#: Guards of how its cache answers.
_CACHE: Final = {
    "_convert_cached_result_to_model_response": caching,
    "_process_async_embedding_cached_response": caching,
    "combine_cached_embedding_response_with_api_result": combining,
}


class LitellmGuard(SdkGuard):
    """The guard of the SDK."""

    def _take_over(self) -> None:
        router = import_module(self._sdk.module).Router
        for name, (_, leading) in FUNCTIONS.items():
            for spelled in (name, f"a{name}"):
                for depth, function in enumerate(self._functions(spelled)):
                    self._take_function(function, name, leading, below=depth > 0)
                method = patching.innermost(getattr(router, spelled, None))
                self._take_function(method, name, ("self", *ROUTER.get(name, leading)))
        handler = import_module("litellm.caching.caching_handler").LLMCachingHandler
        for name, guard in _CACHE.items():
            self._notes += patching.take_over(vars(handler).get(name), guard)
        self._note(import_module("litellm.litellm_core_utils.litellm_logging").Logging, "pre_call", _leaving)
        http = import_module("litellm.llms.custom_httpx.http_handler")
        for sender in (http.HTTPHandler, http.AsyncHTTPHandler):  # some of its routes log nothing before
            self._note(sender, "post", _leaving)

    def _take_function(self, function: Any, name: str, leading: tuple[str, ...], *, below: bool = False) -> None:
        if not isinstance(function, FunctionType):
            return
        guard = partial(self._acall if iscoroutinefunction(function) else self._call, name, leading)
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

    def unreached(self) -> list[str]:
        """The functions that applications call and that do not pass the guard."""
        made = import_module(self._sdk.module)
        names = [spelled for name in FUNCTIONS for spelled in (name, f"a{name}") if hasattr(made, spelled)]
        return [f"litellm.{name}" for name in names if not any(map(self._takes, self._functions(name)))]

    def _call(self, name: str, leading: tuple[str, ...], original: Callable[..., Any], *args: Any, **how: Any) -> Any:
        if how.get(FLAGS.get(name, f"a{name}")):  # it gives a coroutine, to its twin or to the application
            if _inside(alone=True):
                return original(*args, **how)
            return self._acall(name, leading, partial(_awaited, original), *args, **how)
        asked = Asked(name, args, how, leading)
        return carried(self._plan(asked), asked, partial(self._send, original))

    async def _acall(
        self, name: str, leading: tuple[str, ...], original: Callable[..., Awaitable[Any]], *args: Any, **how: Any
    ) -> Any:
        asked = Asked(name, args, how, leading)
        try:
            return await acarried(self._plan(asked), asked, partial(self._asend, original))
        except BudgetExceeded as denial:
            vars(denial)["num_retries"] = 0  # some routes of the Router have no method of their own, and would retry
            raise

    def _plan(self, asked: Asked) -> Any:
        return plan(self._sdk, _WIRE, asked, asked, stream=asked.how.get("stream") is True)

    def _send(self, original: Callable[..., Any], asked: Asked) -> Any:
        return self._hearing(_ATTEMPTS.one(original, *asked.args, **asked.in_time()))

    async def _asend(self, original: Callable[..., Awaitable[Any]], asked: Asked) -> Any:
        return self._hearing(await _ATTEMPTS.aone(original, *asked.args, **asked.in_time()))

    def _hearing(self, result: Any) -> Any:
        """Hear of what is read of *result*, if it is a stream; a class made for one call goes with it."""
        if was_cached(result):
            exchange.spared()
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


def _below(guard: Callable[..., Any], original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Of what litellm's own functions end in, which some call by itself."""
    return (original if _inside() else partial(guard, original))(*args, **how)


def _inside(*, alone: bool = False) -> bool:
    """Whether litellm asks itself, for a call that is under way, see `_is_own`."""
    held = HELD.of(get_current())
    return held is not None and not held.call.settled and _is_own(alone=alone)


async def _awaited(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """What *original* gives in the end, be it a coroutine or not."""
    result = original(*args, **how)
    return await result if isawaitable(result) else result


# --- streams, which are read as iterators of their own


def _next(original: Callable[..., Any], stream: Any) -> Any:
    watch: Any = watch_of(stream)
    if watch is None or watch.reading:
        return original(stream)
    with watch.charge.holding():  # some send their request when they are first read
        return watch.take(partial(original, stream))


async def _anext(original: Callable[..., Awaitable[Any]], stream: Any) -> Any:
    watch: Any = watch_of(stream)
    if watch is None or watch.reading:
        return await original(stream)
    with watch.charge.holding():  # some send their request when they are first read
        return await watch.atake(partial(original, stream))


_READING: Final = {"__next__": _next, "__anext__": _anext, "__iter__": readers.reading, "__aiter__": readers.areading}


def _set_free(stream: Any) -> None:
    """Leave *stream* to who reads it: a copy is what litellm's log keeps, which the stream has, in a circle."""
    said = getattr(getattr(stream, "logging_obj", None), "model_call_details", {})
    if said.get("original_response") is stream:
        said["original_response"] = copy.copy(stream)


def _leaving(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Of what sends a request, or logs one before it is sent."""
    if (held := HELD.of(get_current())) is not None:
        held.left = True
    return original(*args, **how)


def _status(error: Exception) -> object:
    """What the server has answered; litellm gives a status to errors of the connection and of its own as well: to what
    it doesn't send, and to answers that it doesn't understand."""
    said, status = exchange.http_error(error), getattr(error, "status_code", None)
    names = {cls.__name__ for one in (error, said) for cls in type(one).__mro__}
    if never_sent(error) or not names.isdisjoint(("APITimeoutError", "TransportError")):
        return None
    if said is None and isinstance(status, int):
        held, met = HELD.of(get_current()), [*exchange.behind(error)]
        left = held is None or held.left or import_module("litellm").custom_provider_map
        if not left or any(map(never_sent, met)):
            return False
        if not hasattr(met[-1], "status_code"):
            return 200
    return status


def _answer(result: Any) -> Answer:
    return Answer(200, unread=result if is_stream(result) else None)


def _attach(answer: Answer, watch: Watch) -> None:
    follow(answer.unread, watch)


def _data(chunk: Any) -> bytes:
    """What a chunk says; its usage may be where only litellm looks."""
    if isinstance(chunk, bytes):
        return SERVER_SENT_EVENTS.data(chunk)
    usage = getattr(chunk, "usage", None) or (getattr(chunk, "_hidden_params", None) or {}).get("usage")
    said = {**_plain(chunk), **({} if usage is None else {"usage": usage})}
    return json.dumps(said, default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else getattr(value, "__dict__", {})


def _is_own(*, alone: bool = False) -> bool:
    """Whether it is litellm that sends here, as only those who have called tell: not a callback or its cache, nor what
    these have begun in a task or a thread of their own. Where nobody has, as in a thread that begins here, *alone*."""
    callback = import_module("litellm.integrations.custom_logger").CustomLogger
    own = alone or bool(import_module("litellm").custom_provider_map)  # whose handlers may send from anywhere
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in _HOLDING:
        place, names = str(frame.f_globals.get("__name__")), frame.f_code.co_varnames
        if place.startswith(_ASIDE) or ("self" in names[:1] and isinstance(frame.f_locals.get("self"), callback)):
            return False
        own = own or (place.startswith("litellm.") and patching.STUB_NAME not in names)
        frame = frame.f_back
    return own or frame is not None


#: Inside of which it is another call that is asked.
_HOLDING: Final = {one.__code__ for one in (LitellmGuard._send, LitellmGuard._asend, _next, _anext)}


def _cut(kept: bytes, chunk: Any) -> tuple[list[Any], bytes]:
    """Anthropic's and Gemini's formats come as the bytes of their events."""
    return SERVER_SENT_EVENTS.cut(kept, chunk) if isinstance(chunk, bytes) else ([chunk], kept)


_CHUNKS: Final = Framing(_cut, _data)
_ATTEMPTS: Final = Attempts(_status, _answer)
_WIRE: Final = Wire(
    endpoint=lambda asked: ("POST", FUNCTIONS[asked.name][0]),
    body=Asked.body,
    changed=Asked.changed,
    open=lambda _: True,
    framing=lambda _: _CHUNKS,
    attach=_attach,
    provider=lambda asked, _: asked.provider(),
    holds=_is_own,
)
