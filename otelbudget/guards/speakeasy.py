"""The guard of SDKs made by the Speakeasy generator.

It sits in ``basesdk.BaseSDK.do_request`` and its async twin, which each logical call passes once; retries of the SDK
happen inside. An attempt begins when the hooks before it have run and ends with an error when those after one run; an
answer that is to be retried is wrapped into a ``TemporaryError``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from otelbudget.guards import exchange
from otelbudget.guards.call import Carry, Wire, acarried, carried, plan
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.streams import json_body

#: Classes of streams, and what Google calls them.
_STREAMS = {"EventStream": "Stream", "EventStreamAsync": "AsyncStream"}


class SpeakeasyGuard(SdkGuard):
    """The guard of one SDK."""

    def _take_over(self) -> None:
        there = vars(self._inside("basesdk"))
        for base in (there[name] for name in ("BaseSDK", "AsyncBaseSDK") if name in there):  # one of both kinds, or two
            self._take(base, "do_request", partial(self._call, carried))
            self._take(base, "do_request_async", partial(self._call, acarried))
        streaming = self._inside("utils.eventstreaming")
        self._note_stream(*(vars(streaming).get(name) or vars(streaming)[ours] for ours, name in _STREAMS.items()))
        for hooks in self._hooks():
            self._note(hooks, "before_request", exchange.building)
            self._note(hooks, "after_error", exchange.failing)
        self._note(self._inside("utils.retries").TemporaryError, "__init__", exchange.retrying)

    def _hooks(self) -> tuple[Any, ...]:
        found = [self._inside("_hooks.sdkhooks").SDKHooks]
        with suppress(ModuleNotFoundError):
            found.append(self._inside("_hooks.asyncsdkhooks").AsyncSDKHooks)
        return tuple(found)

    def _call(self, carry: Carry, original: Callable[..., Any], sdk: Any, *, request: Any, **how: Any) -> Any:
        planned = plan(self._sdk, _WIRE, sdk, request, stream=how.get("stream") is True)
        return carry(planned, request, lambda sent: original(sdk, request=sent, **how))


# --- the ``Request`` of httpx or httpx2


def _json(request: Any) -> Mapping[str, Any]:
    try:
        return json_body(request.content)
    except RuntimeError:  # a form, which is read when it is sent
        return {}


def _body(request: Any) -> Mapping[str, Any]:
    """JSON, or what a form says beside its files."""
    fields = getattr(request.stream, "fields", ())
    return _json(request) or {field.name: field.value for field in fields if hasattr(field, "value")}


def _changed(request: Any, values: Mapping[str, Any]) -> Any:
    content = json.dumps({**json_body(request.content), **values}).encode()
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
    return type(request)(request.method, request.url, headers=headers, content=content, extensions=request.extensions)


_WIRE = Wire(
    endpoint=lambda request: (request.method, request.url.path),
    body=_body,
    changed=_changed,
    open=lambda request: bool(_json(request)),
    answer=lambda response: response,
)
