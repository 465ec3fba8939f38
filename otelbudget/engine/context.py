"""What the OpenTelemetry context carries: the run, the tool call and the permit of here; and the engine in use.

The run travels in the context, so it follows tasks, `asyncio.to_thread` and (with `setup()`) threads and pools. Values
are opaque here: who puts one in knows what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Token
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from otelbudget import forking

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine

_active: Engine | None = None
#: The last one that was made for runs before `setup()`.
_default: Engine | None = None
_lock = forking.fresh_lock()


class Slot:
    """One value in the context."""

    def __init__(self, name: str) -> None:
        self._key = otel_context.create_key(name)
        #: What a context carries, or None.
        self.of: Callable[[Context], Any] = methodcaller("get", self._key)

    def put(self, context: Context, value: object) -> Context:
        """*context* with *value*."""
        return otel_context.set_value(self._key, value, context)

    def attach(self, value: object) -> Token[Context]:
        """Let everything from here on see *value*, until `detach`."""
        return otel_context.attach(otel_context.set_value(self._key, value))


#: The explicit run; the tool call that encloses; the permit to wrap up; the runs whose `on_exhausted` is being asked;
#: what a call inside is a part of; the framework whose hook holds the tool calls of here; the agent's work, if no span
#: shows it.
RUN: Final = Slot("otelbudget-run")
TOOL_CALL: Final = Slot("otelbudget-tool-call")
PERMIT: Final = Slot("otelbudget-wrap-up")
ASKING: Final = Slot("otelbudget-on-exhausted")
HELD: Final = Slot("otelbudget-held")
HOOKED: Final = Slot("otelbudget-hooked")
WORK: Final = Slot("otelbudget-work")
run_in, detach = RUN.of, otel_context.detach


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Make *context* the current one for a block."""
    token = otel_context.attach(context)
    try:
        yield
    finally:
        detach(token)


def active_engine() -> Engine | None:
    """The engine that guards and `current_run()` use; None before `setup()` and after `shutdown()`."""
    return _active


def set_up_engine() -> Engine | None:
    """The same, but None also where it is only the one that `activate_default` made."""
    return None if _active is _default else _active


def is_default(engine: Engine) -> bool:
    """Whether it is the one that `activate_default` made."""
    return engine is _default


def activate(engine: Engine) -> None:
    """Make *engine* the one that guards charge."""
    global _active
    _active = engine


def activate_default(make: Callable[[], Engine]) -> Engine:
    """The active engine, or the one that *make* makes for runs opened before `setup()`."""
    global _active, _default
    with _lock:
        if _active is None:
            _active = _default = make()
        return _active


def deactivate(engine: Engine) -> None:
    """Undo `activate`; nothing happens if another engine has taken over."""
    global _active, _default
    if _active is engine:
        _active = _default = None


def run_here() -> Any:
    """The run that a call made here would be charged to: the explicit one, or of an agent's span in it whose name has a
    budget; else that of the enclosing agent's span or unit of work; None outside every run."""
    context = otel_context.get_current()
    run = run_in(context)
    if _active is not None and _active.spans is not None:
        if run is None:
            run = _active.spans.runs.of(context)
        elif _active.config.agents:
            run = _active.spans.runs.within(run, context)
    return run
