"""What takes several trips to a store, written once for threads and for coroutines."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from otelbudget.stores.base import Store

T = TypeVar("T")
#: Yields a method of a store and what to ask it with, is sent the answer, gives a result in the end.
Trips = Generator[tuple[Any, ...], Any, T]


def make(store: Store, trips: Trips[T]) -> T:
    """Make *trips*, whose results and errors they get; gives what they give."""
    try:
        method, *given = next(trips)
        while True:
            try:
                answer = getattr(store, method)(*given)
            except BaseException as error:  # noqa: BLE001 - it is for who asks
                method, *given = trips.throw(error)
            else:
                method, *given = trips.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def amake(store: Store, trips: Trips[T]) -> T:
    """`make` for coroutines."""
    try:
        method, *given = next(trips)
        while True:
            try:
                answer = await getattr(store, f"a{method}")(*given)
            except BaseException as error:  # noqa: BLE001 - it is for who asks
                method, *given = trips.throw(error)
            else:
                method, *given = trips.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
