"""Carries the OpenTelemetry context into threads and thread pools, so that a run is not lost there.

Functions get another body (see `guards.patching`), so wrappers of other libraries may come and go in any order.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as otel_context

from otelbudget import forking
from otelbudget.engine.context import attached
from otelbudget.guards.patching import Takeover, take_over

#: Executors that send the function to another interpreter (from Python 3.14), where a context can't follow.
_ISOLATED: Final[Any] = getattr(concurrent.futures, "InterpreterPoolExecutor", ())

_lock = forking.fresh_lock()
_takeovers: list[Takeover] = []
_submitting = threading.local()


def carry_context() -> None:
    """Start carrying; calling it again does nothing."""
    with _lock:
        if not _takeovers:
            _takeovers.extend(take_over(threading.Thread.start, _start))
            _takeovers.extend(take_over(concurrent.futures.ThreadPoolExecutor.submit, _submit))


def stop_carrying() -> None:
    """Stop carrying; both methods are as they were before `carry_context`."""
    with _lock:
        while _takeovers:
            _takeovers.pop().undo()


def _start(original: Callable[..., Any], thread: threading.Thread) -> None:
    if otel_context.get_current() and not _serves_many(thread):
        vars(thread)["run"] = _within_here(thread.run)
    original(thread)


def _serves_many(thread: threading.Thread) -> bool:
    """Whether *thread* is a pool's: it must not keep the context of the caller that happened to start it."""
    if getattr(_submitting, "here", False):
        return True
    return getattr(getattr(thread, "_target", None), "__module__", None) == "multiprocessing.pool"


def _submit(original: Callable[..., Any], executor: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if isinstance(executor, _ISOLATED):
        return original(executor, fn, *args, **kwargs)
    _submitting.here = True
    try:
        return original(executor, _within_here(fn), *args, **kwargs)
    finally:
        _submitting.here = False


def _within_here(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Unlike `otelbudget.wrap` it looks at nothing of *fn*, which may be anybody's."""
    context = otel_context.get_current()

    def within(*args: Any, **kwargs: Any) -> Any:
        with attached(context):
            return fn(*args, **kwargs)

    return within
