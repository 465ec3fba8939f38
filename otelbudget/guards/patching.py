"""Putting a guard in front of a function of an SDK, in place, so that nobody can hold the function without it.

Replacing the attribute of a class is not enough. Instrumentations keep the function that they found and put wrappers
on subclasses (OpenInference) or instances (Logfire); whoever came first calls the original past a later guard, and
``uninstrument()`` puts that original back. So the function object itself stays where it is and gets another body: its
``__code__`` becomes a stub that calls the guard, which gets a copy with the old body to call. All who hold the
function, under whatever name and since whenever, reach the guard, and it is always innermost and always once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FunctionType
from typing import Any

from opentelemetry import context as otel_context

__all__ = ["Takeover", "innermost", "reaches", "subclasses"]

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
    """A function whose calls run a guard, from construction until `undo`.

    Example:
        >>> def double(n: int) -> int:
        ...     return 2 * n
        >>> takeover = Takeover(double, lambda original, n: original(n) + 1)
        >>> double(4)
        9
        >>> takeover.undo(); double(4)
        8

    Args:
        function: A plain or ``async def`` function; its identity, signature and attributes stay.
        guard: Called as ``guard(original, *args, **kwargs)`` and of the same kind, plain or async.
    """

    def __init__(self, function: FunctionType, guard: Callable[..., Any]) -> None:
        self.function = function
        self.original = _copy(function)
        self.active = True
        self._guard = guard
        stub = _async_stub if inspect.iscoroutinefunction(function) else _stub
        self._code = _disguised(stub.__code__, function)
        # The signature first, since it can no longer be told from the stub's code, and the code last: until then the
        # additional default is an unused one.
        vars(function).setdefault("__signature__", inspect.signature(self.original))
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), _STUB_NAME: self._call}
        function.__code__ = self._code

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if _probing.get():
            raise _Reached(self)
        if not self.active:
            return self.original(*args, **kwargs)
        return self._guard(self.original, *args, **kwargs)

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
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    copy.__annotations__ = function.__annotations__
    copy.__dict__.update(function.__dict__)
    return copy


def _disguised(code: CodeType, function: FunctionType) -> CodeType:
    """*code* under the function's name; it must close over as many variables as the function does, used or not."""
    return code.replace(
        co_name=function.__name__, co_qualname=function.__qualname__, co_freevars=function.__code__.co_freevars
    )


def innermost(found: object) -> FunctionType | None:
    """The function under a stack of wrappers, following ``__wrapped__``; None if it is no Python function."""
    while True:
        below = getattr(found, "__wrapped__", None) or getattr(found, "__func__", None)
        if below is None:
            return found if isinstance(found, FunctionType) else None
        found = below


def subclasses(*classes: type) -> Iterator[type]:
    """*classes* and all that derive from them now, each once."""
    seen: set[type] = set()
    waiting: list[type] = list(classes)
    while waiting:
        cls = waiting.pop(0)
        if cls not in seen:
            seen.add(cls)
            yield cls
            waiting.extend(cls.__subclasses__())


def reaches(cls: type, method: str, takeovers: Iterable[Takeover], *args: object) -> bool:
    """Whether a call of *method* on an instance of *cls* arrives at one of *takeovers*. The call ends there.

    It is made on an instance without any attribute, with tracing suppressed.
    """
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
