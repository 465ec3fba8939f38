"""Putting a guard in front of a function of an SDK, in place, so that nobody can hold the function without it.

Instrumentations keep the function that they found, wrap it on subclasses or instances, and put it back later. So the
function object stays and its ``__code__`` becomes a stub that calls the guard: always innermost, always once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, cast

#: The parameter that only stubs have.
STUB_NAME = "_otelbudget_guard"


def _stubs(cell: object = None) -> tuple[Callable[..., Any], ...]:
    """Plain, coroutine, generator, asynchronous generator. Each has a variable that it closes over, so that its code
    begins with filling those: what reads the variables of a frame takes it that they are."""

    def stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
        nonlocal cell
        return _otelbudget_guard(*args, **kwargs)

    async def async_stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
        nonlocal cell
        return await _otelbudget_guard(*args, **kwargs)

    def generator_stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
        nonlocal cell
        return (yield from _otelbudget_guard(*args, **kwargs))

    async def async_generator_stub(*args: Any, _otelbudget_guard: Callable[..., Any], **kwargs: Any) -> Any:
        nonlocal cell
        guarded = _otelbudget_guard(*args, **kwargs)
        step = guarded.asend(None)
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return
            try:
                step = guarded.asend((yield value))
            except GeneratorExit:
                await guarded.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on, and the answer counts
                step = guarded.athrow(error)

    return stub, async_stub, generator_stub, async_generator_stub


_STUB, _ASYNC_STUB, _GENERATOR_STUB, _ASYNC_GENERATOR_STUB = (cast("FunctionType", stub).__code__ for stub in _stubs())


def _stub_for(function: FunctionType) -> CodeType:
    """The stub of the same type, since a function takes no code of another. Stubs see the function's globals only. It
    has the function's name, and as many variables to close over, used or not."""
    if inspect.isasyncgenfunction(function):
        stub = _ASYNC_GENERATOR_STUB
    elif inspect.isgeneratorfunction(function):
        stub = _GENERATOR_STUB
    else:
        stub = _ASYNC_STUB if inspect.iscoroutinefunction(function) else _STUB
    closed_over = function.__code__.co_freevars
    return stub.replace(
        co_name=function.__name__,
        co_qualname=function.__qualname__,
        co_freevars=closed_over,
        co_code=bytes((stub.co_code[0], len(closed_over))) + stub.co_code[2:],  # how many it fills
    )


class Takeover:
    """A function whose calls run ``guard(original, *args, **kwargs)`` until `undo`.

    It may be a coroutine function, or a generator function, such as one that `contextlib` makes context managers of.

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
        self._code = _stub_for(function)
        # The signature first, since it can no longer be told from the stub's code, and the code last: until then the
        # additional default is an unused one.
        vars(function).setdefault("__signature__", inspect.signature(function))
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), STUB_NAME: self._call}
        function.__code__ = self._code

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self._guard(self.original, *args, **kwargs) if self.active else self.original(*args, **kwargs)

    def takes(self, function: object) -> bool:
        """Whether the calls of *function* come here."""
        return self.active and function is self.function and self.function.__code__ is self._code

    def undo(self) -> None:
        """Give the function its body back. Code that another tool has put in since stays, and the guard passes on."""
        self.active = False
        if self.function.__code__ is not self._code:
            return
        self.function.__code__ = self.original.__code__
        self.function.__kwdefaults__ = self.original.__kwdefaults__
        if "__signature__" not in vars(self.original):
            vars(self.function).pop("__signature__", None)


class Replaced:
    """A method of a class in whose place is one that runs ``guard(original, *args, **kwargs)`` until `undo`.

    For what Python looks up in the class at each use, as `__iter__`: whatever is given by the guard goes to who asks,
    also where the original is a generator function, which takes only the code of another.
    """

    def __init__(self, cls: type, name: str, guard: Callable[..., Any]) -> None:
        self._cls, self._name, self._original, self._guard = cls, name, vars(cls)[name], guard
        self._active = True
        self._ours = functools.wraps(self._original)(lambda *args, **kwargs: self._call(*args, **kwargs))
        setattr(cls, name, self._ours)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self._guard(self._original, *args, **kwargs) if self._active else self._original(*args, **kwargs)

    def undo(self) -> None:
        """Put the original back. What another tool has put there since stays, and what is here passes on."""
        self._active = False
        if vars(self._cls).get(self._name) is self._ours:
            setattr(self._cls, self._name, self._original)


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


def reaches(cls: type, method: str, takes: Callable[[FunctionType | None], bool]) -> bool:
    """Whether calls of *method* end at a function that *takes* knows: it wraps or holds it, or is an override that asks
    super().

    Told by looking at it: calling it would run code of the application.
    """
    found = innermost(getattr(cls, method))
    if found is None:
        return False
    held = [innermost(cell.cell_contents) for cell in found.__closure__ or ()]
    return any(takes(one) for one in (found, *held)) or "super" in found.__code__.co_names
