"""What takes several trips to a store, written once for threads and for coroutines."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from otelbudget.stores.base import Store

T = TypeVar("T")
#: Yields a method of a store and what to ask it with, is sent the answer, gives a result in the end.
Trips = Generator[tuple[Any, ...], Any, T]


async def amake(store: Store, trips: Trips[T], twin: str = "a") -> T:
    """Make *trips*, whose results and errors they get, by the methods whose names begin with *twin*; gives what they
    give."""
    try:
        method, *given = next(trips)
        while True:
            try:
                answer = getattr(store, twin + method)(*given)
                answer = await answer if twin else answer
            except BaseException as error:  # noqa: BLE001 - it is for who asks
                method, *given = trips.throw(error)
            else:
                method, *given = trips.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def make(store: Store, trips: Trips[T]) -> T:
    """`amake` for threads."""
    return at_once(amake(store, trips, ""))


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What *coroutine*, which waits for nothing, gives."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")
