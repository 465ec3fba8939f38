"""`otelbudget.run(...)` as a decorator: one run per call, also of coroutines and generators.

A generator's run is attached only while its body executes, around each ``next`` or ``send``, never across a ``yield``:
a sync generator would leak its run into its caller, an async one may be closed from another task.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.context import Context

from otelbudget.admission import closing
from otelbudget.engine.context import attached

if TYPE_CHECKING:
    from otelbudget.runs.scope import RunScope

F = TypeVar("F", bound=Callable[..., Any])


def decorate(scope: RunScope, function: F) -> F:
    """*function* with a run of its own around each call.

    What other decorators have made of a coroutine or generator function is taken for one, too.
    """
    if isinstance(function, type):
        raise TypeError(f"a run goes around the calls of a function, and {function.__name__} is a class")
    called: Any = function if inspect.isroutine(function) else type(function).__call__
    inner = inspect.unwrap(called)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        drive = driven if inspect.isgeneratorfunction(inner) else driven_async

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return drive(_opened(scope.copy()), function(*args, **kwargs))

    elif inspect.iscoroutinefunction(inner):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            async with scope.copy():
                found = function(*args, **kwargs)
                return await found if inspect.isawaitable(found) else found

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope.copy():
                return function(*args, **kwargs)

    return cast("F", wrapper)


@contextmanager
def _opened(scope: RunScope) -> Iterator[Context]:
    """A run around a generator; gives the context of its body."""
    run, context = scope.open()
    try:
        yield context
    except BaseException as error:
        closing.leave(run, error)
        raise
    closing.leave(run, None)


def driven(opened: AbstractContextManager[Context], body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """*body* in the context that is *opened* for it."""
    step: Callable[[], Any] = functools.partial(next, body)
    with opened as context:
        while True:
            with attached(context):
                try:
                    value = step()
                except StopIteration as stop:
                    return stop.value
            try:
                step = functools.partial(body.send, (yield value))
            except GeneratorExit:
                with attached(context):
                    body.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed on to the body, whose answer counts
                step = functools.partial(body.throw, thrown)


async def driven_async(
    opened: AbstractContextManager[Context], body: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """The same for asynchronous ones."""
    step: Callable[[], Any] = body.__anext__
    with opened as context:
        while True:
            with attached(context):
                try:
                    value = await step()
                except StopAsyncIteration:
                    return
            try:
                step = functools.partial(body.asend, (yield value))
            except GeneratorExit:
                with attached(context):
                    await body.aclose()
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed on to the body, whose answer counts
                step = functools.partial(body.athrow, thrown)
