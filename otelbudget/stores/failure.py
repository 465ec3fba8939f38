"""What becomes of requests while a store can't be reached: refused, admitted without it, or held to a share here.

What is spent meanwhile is sent to the store when it is back, whatever was decided. To add another way: a class like
`FailOpen`, in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Final

from otelbudget.errors import StoreError
from otelbudget.stores.base import Line, Reserve, Settle, WrongWindow
from otelbudget.stores.memory import MemoryStore

#: How long a hold lives in the memory of this process, which nobody renews: its call ends it.
_HELD_S: Final = 86_400.0


class Failure:
    """One way to go on, here to admit nothing; *name* is what configurations and metrics call it, *means* what a log
    says."""

    name = "fail_closed"
    means = "requests are refused"

    def admits(self, asked: Reserve, *, held: bool) -> bool:  # noqa: ARG002
        """Whether a request is admitted without the store; *held*: until it is settled."""
        return False

    def settled(self, ended: Settle, *, reached: bool) -> None:
        """A hold has ended, or a record was made, and the store was *reached* with it or not."""


class FailOpen(Failure):
    """Everything is admitted."""

    name = "fail_open"
    means = "requests are admitted without it"

    def admits(self, asked: Reserve, *, held: bool) -> bool:  # noqa: ARG002
        """Always."""
        return True


class LocalFallback(Failure):
    """What fits into a share of each limit, counted by this process alone.

    It counts on over several failures, so that each window has one share for all of them.
    """

    name = "local_fallback"
    means = "requests are held to a share of their limits here"

    def __init__(self, share: float, clock_s: Callable[[], float]) -> None:
        self._share = Decimal(str(share))
        self._memory = MemoryStore(clock_s=clock_s)
        self._held: set[str] = set()

    def admits(self, asked: Reserve, *, held: bool) -> bool:
        """If it fits here."""
        lines = tuple(line._replace(limits=self._shared(line)) for line in asked.lines)
        asked = asked._replace(lines=lines, held=(0,) * len(asked.amounts), ttl_s=_HELD_S)
        try:
            answer = self._memory.reserve(asked)
        except (StoreError, WrongWindow):
            return False
        if answer.refused is not None or answer.gone:
            return False
        self._held.add(asked.id)
        if not held:
            nothing = asked.held
            self.settled(Settle(asked.id, asked.shard, lines, asked.amounts, nothing, nothing), reached=True)
        return True

    def settled(self, ended: Settle, *, reached: bool) -> None:
        """Charge what the store has not heard of, or what was admitted here."""
        if reached and ended.id not in self._held:
            return
        with suppress(StoreError, WrongWindow):
            self._memory.settle(ended)
        self._held.discard(ended.id)

    def _shared(self, line: Line) -> tuple[int, ...]:
        return tuple(limit if limit < 0 else int(limit * self._share) for limit in line.limits)


#: By name: made from the share of the limits, and the clock of the store's windows.
POLICIES: Final[dict[str, Callable[[float, Callable[[], float]], Failure]]] = {
    "fail_closed": lambda _, __: Failure(),
    "fail_open": lambda _, __: FailOpen(),
    "local_fallback": LocalFallback,
}
