"""`otelbudget.run(...)` as a decorator: one run per call, also of coroutines and generators.

A generator's run is attached only while its body executes, around each ``next`` or ``send``, never across a ``yield``:
a sync generator would leak its run into its caller, an async one may be closed from another task.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.context import attach, detach

from otelbudget.runs import scope as lifecycle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from opentelemetry.context import Context

    from otelbudget.runs.scope import RunScope

__all__ = ["decorate"]

F = TypeVar("F", bound="Callable[..., Any]")


def decorate(scope: RunScope, function: F) -> F:
    """*function* with a run of its own around each call."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _driven_async(scope.copy(), function(*args, **kwargs))

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _driven(scope.copy(), function(*args, **kwargs))

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            async with scope.copy():
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope.copy():
                return function(*args, **kwargs)

    return cast("F", wrapper)


def _driven(scope: RunScope, body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    run, context = scope.open()
    ended: BaseException | None = None
    step: Callable[[], Any] = functools.partial(next, body)
    try:
        while True:
            token = attach(context)
            try:
                value = step()
            except StopIteration as stop:
                return stop.value
            finally:
                detach(token)
            try:
                step = functools.partial(body.send, (yield value))
            except GeneratorExit:
                _attached(context, body.close)
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed on to the body, whose answer counts
                step = functools.partial(body.throw, thrown)
    except BaseException as error:
        ended = error
        raise
    finally:
        lifecycle.leave(run, ended)


def _attached(context: Context, step: Callable[[], Any]) -> None:
    token = attach(context)
    try:
        step()
    finally:
        detach(token)


async def _driven_async(scope: RunScope, body: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    run, context = scope.open()
    ended: BaseException | None = None
    step: Callable[[], Any] = body.__anext__
    try:
        while True:
            token = attach(context)
            try:
                value = await step()
            except StopAsyncIteration:
                return
            finally:
                detach(token)
            try:
                step = functools.partial(body.asend, (yield value))
            except GeneratorExit:
                token = attach(context)
                try:
                    await body.aclose()
                finally:
                    detach(token)
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed on to the body, whose answer counts
                step = functools.partial(body.athrow, thrown)
    except BaseException as error:
        ended = error
        raise
    finally:
        lifecycle.leave(run, ended)
