"""What is written once for threads and for coroutines: generators that yield only what an event loop is to wait for.

Not ``async def``: of one that a signal handler keeps from being begun, Python says that it was never awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from inspect import isawaitable
from types import coroutine
from typing import Any, TypeVar

from otelbudget.stores.base import Store

T = TypeVar("T")
Steps = Generator[Any, Any, T]
#: Yields a method of a store and what to ask it with, is sent the answer, gives a result in the end.
Trips = Generator[tuple[Any, ...], Any, T]


def at_once(steps: Steps[T]) -> T:
    """What *steps*, which wait for nothing, give."""
    try:
        next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


@coroutine
def waited(steps: Steps[T]) -> Steps[T]:
    """What *steps* give; to be awaited."""
    return (yield from steps)


def call(function: Callable[..., Any], *given: Any) -> Steps[Any]:
    """What *function*, which may be one for coroutines, gives."""
    answer = function(*given)
    return (yield from answer.__await__()) if isawaitable(answer) else answer


def made(store: Store, trips: Trips[T], twin: str = "") -> Steps[T]:
    """Make *trips*, whose results and errors they get, by the methods whose names begin with *twin*."""
    try:
        method, *given = next(trips)
        while True:
            try:
                answer = yield from call(getattr(store, twin + method), *given)
            except BaseException as error:  # noqa: BLE001 - it is for who asks
                method, *given = trips.throw(error)
            else:
                method, *given = trips.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
