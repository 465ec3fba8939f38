"""Putting a guard in front of a function of an SDK, in place, so that nobody can hold the function without it.

Instrumentations keep the function that they found, wrap it on subclasses or instances, and put it back later. So the
function object stays and its ``__code__`` becomes a stub that calls the guard: always innermost, always once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, cast

from opentelemetry import context as otel_context

_STUB_NAME = "_otelbudget_guard"
_probing: ContextVar[bool] = ContextVar("otelbudget_probing", default=False)


class _Reached(BaseException):
    """Raised by a guard that a probe has reached; no handler for Exception sees it."""

    def __init__(self, takeover: Takeover) -> None:
        super().__init__()
        self.takeover = takeover


def _stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
    return _otelbudget_guard(*args, **kwargs)


async def _async_stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
    return await _otelbudget_guard(*args, **kwargs)


class Takeover:
    """A function, plain or async, whose calls run ``guard(original, *args, **kwargs)`` until `undo`.

    Example:
        >>> def double(n: int) -> int:
        ...     return 2 * n
        >>> takeover = Takeover(double, lambda original, n: original(n) + 1)
        >>> double(4)
        9
        >>> takeover.undo(); double(4)
        8
    """

    def __init__(self, function: FunctionType, guard: Callable[..., Any]) -> None:
        self.function = function
        self.original = _copy(function)
        self.active = True
        self._guard = guard
        stub = _async_stub if inspect.iscoroutinefunction(function) else _stub
        # The function's name, and as many variables to close over as it has, used or not.
        self._code = stub.__code__.replace(
            co_name=function.__name__, co_qualname=function.__qualname__, co_freevars=function.__code__.co_freevars
        )
        # The signature first, since it can no longer be told from the stub's code, and the code last: until then the
        # additional default is an unused one.
        vars(function).setdefault("__signature__", inspect.signature(self.original))
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), _STUB_NAME: self._call}
        function.__code__ = self._code

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if _probing.get():
            raise _Reached(self)
        return self._guard(self.original, *args, **kwargs) if self.active else self.original(*args, **kwargs)

    def undo(self) -> None:
        """Give the function its body back. Code that another tool has put in since stays, and the guard passes on."""
        self.active = False
        if self.function.__code__ is not self._code:
            return
        self.function.__code__ = self.original.__code__
        self.function.__kwdefaults__ = self.original.__kwdefaults__
        if "__signature__" not in vars(self.original):
            vars(self.function).pop("__signature__", None)


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copy, function)
    del copy.__wrapped__  # type: ignore[attr-defined] # it wraps nothing
    return copy


def take_over(found: object, guard: Callable[..., Any]) -> list[Takeover]:
    """*guard* before the function under a stack of wrappers; nothing where there is no Python function."""
    function = innermost(found)
    return [] if function is None else [Takeover(function, guard)]


def innermost(found: object) -> FunctionType | None:
    """The function under a stack of wrappers, following ``__wrapped__``; None if it is no Python function."""
    while True:
        below = getattr(found, "__wrapped__", None) or getattr(found, "__func__", None)
        if below is None:
            return found if isinstance(found, FunctionType) else None
        found = below


def subclasses(*classes: type) -> Iterator[type]:
    """*classes* and all that derive from them now, each once."""
    found: list[type] = list(classes)
    for cls in found:  # it grows meanwhile
        yield cls
        found += [below for below in cast("list[type]", cls.__subclasses__()) if below not in found]


def reaches(cls: type, method: str, takeovers: Iterable[Takeover], *args: object) -> bool:
    """Whether a call of *method*, on an instance without any attribute and untraced, ends at one of *takeovers*."""
    with _probe():
        try:
            result = getattr(cls, method)(object.__new__(cls), *args)
            if inspect.iscoroutine(result):
                try:
                    result.send(None)
                finally:
                    result.close()
        except _Reached as reached:
            return any(reached.takeover is takeover and takeover.active for takeover in takeovers)
        except Exception:  # noqa: BLE001 - whatever an unprepared instance makes it raise: it has not arrived
            return False
    return False


@contextmanager
def _probe() -> Iterator[None]:
    context = otel_context.get_current()
    for key in (otel_context._SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"):
        context = otel_context.set_value(key, True, context)
    attached = otel_context.attach(context)
    probing = _probing.set(True)
    try:
        yield
    finally:
        _probing.reset(probing)
        otel_context.detach(attached)
