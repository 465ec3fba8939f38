"""Answers in parts that the SDK has read itself, for mechanisms whose responses nobody can follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any

from otelbudget.guards.watch import Watch, follow


class Parts:
    """An answer in parts that the SDK has read itself, of which the first is here."""

    def __init__(self, first: tuple[Any, ...], rest: Iterator[Any]) -> None:
        self.left: Iterator[Any] = chain(first, rest)
        self._rest: Any = rest

    def follow(self, watch: Watch) -> None:
        """Let *watch* follow them."""
        follow(self, watch)
        self.left = watch.read(self.left, self._rest.close)


class AsyncParts:
    """`Parts` of asynchronous clients."""

    def __init__(self, first: tuple[Any, ...], rest: AsyncIterator[Any]) -> None:
        self.left = self._chained(first, rest)
        self._rest: Any = rest

    @staticmethod
    async def _chained(first: tuple[Any, ...], rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for part in first:
            yield part
        async for part in rest:
            yield part

    def follow(self, watch: Watch) -> None:
        """Let *watch* follow them."""
        follow(self, watch)
        self.left = watch.aread(self.left, self._rest.aclose)
