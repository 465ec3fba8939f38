"""Who is spending here: the run in the OpenTelemetry context, and the engine that is switched on.

The run travels in the OpenTelemetry context, so it follows tasks, `asyncio.to_thread` and (with `setup()`) threads and
pools. Where no run is in the context, the active engine finds the implicit one of the enclosing span.
"""

from __future__ import annotations

import threading
from contextvars import Token
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from otelbudget import forking

if TYPE_CHECKING:
    from collections.abc import Callable

    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun

__all__ = ["activate", "active_engine", "current_run", "deactivate", "detach", "run_in"]

_RUN_KEY = otel_context.create_key("otelbudget-run")
_TOOL_KEY = otel_context.create_key("otelbudget-tool-call")
_WRAP_KEY = otel_context.create_key("otelbudget-wrap-up")
_ASKING_KEY = otel_context.create_key("otelbudget-on-exhausted")

_active: Engine | None = None
_lock = forking.fresh(threading.RLock())


def active_engine() -> Engine | None:
    """The engine that guards and `current_run()` use; None before `setup()` and after `shutdown()`."""
    return _active


def activate(engine: Engine) -> None:
    """Make *engine* the one that guards charge."""
    global _active
    _active = engine


def activate_default(make: Callable[[], Engine]) -> Engine:
    """The active engine, or the one that *make* makes for runs opened before `setup()`."""
    global _active
    with _lock:
        if _active is None:
            _active = make()
        return _active


def deactivate(engine: Engine) -> None:
    """Undo `activate`; nothing happens if another engine has taken over."""
    global _active
    if _active is engine:
        _active = None


def current_run() -> BudgetRun | None:
    """The run that a call made here would be charged to; None outside every run.

    An explicit `otelbudget.run()` wins; else the implicit run of the enclosing agent span or unit of work.
    """
    context = otel_context.get_current()
    run = run_in(context)
    if run is None and _active is not None and _active.live_spans is not None:
        run = _active.live_spans.runs.of(context)
    return run


def run_in(context: Context) -> BudgetRun | None:
    """The explicit run that *context* carries, or None."""
    return cast("BudgetRun | None", context.get(_RUN_KEY))


def with_run(context: Context, run: BudgetRun) -> Context:
    """*context* with *run* in it."""
    return otel_context.set_value(_RUN_KEY, run, context)


def tool_call_in(context: Context) -> Any:
    """The tool call that encloses this context, or None."""
    return context.get(_TOOL_KEY)


def attach_tool_call(call: object) -> Token[Context]:
    """Make *call* the enclosing tool call."""
    return otel_context.attach(otel_context.set_value(_TOOL_KEY, call))


def wrap_up_in(context: Context) -> Any:
    """The wrap-up permit of this context, or None."""
    return context.get(_WRAP_KEY)


def attach_wrap_up(permit: object) -> Token[Context]:
    """Let calls of this context use *permit*."""
    return otel_context.attach(otel_context.set_value(_WRAP_KEY, permit))


def asking_in(context: Context) -> tuple[object, ...]:
    """The runs whose `on_exhausted` the code of this context is part of."""
    asking: Any = context.get(_ASKING_KEY)
    return asking or ()


def attach_asking(runs: tuple[object, ...]) -> Token[Context]:
    """Let what is called from here know that it is part of the `on_exhausted` of *runs*."""
    return otel_context.attach(otel_context.set_value(_ASKING_KEY, runs))


def detach(token: Token[Context]) -> None:
    """Undo an attach."""
    otel_context.detach(token)
