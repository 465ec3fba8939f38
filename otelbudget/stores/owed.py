"""What a store is still owed: settles that it has not answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from otelbudget.errors import IdempotencyError, StoreError
from otelbudget.stores.base import Settle, Settled, WrongWindow

#: How long others leave alone what somebody is sending.
SENDING_S: Final = 10.0

Told = Callable[[Settled], object]
_numbers: Final = count()


class _Name(str):
    """Of an attribute. Python interns those that are plain texts, and 3.12 keeps them for ever."""

    __slots__ = ()


class Owed:
    """A settle that the store has not answered, and who is told what became of it.

    In a block somebody is sending it: others leave it alone, until that fails.

    Attributes:
        due_s: From when on anybody sends it, monotonic seconds.
        name: Its own. Ids are not: a commit after a release has that of the release, where that is of a key.
    """

    __slots__ = ("due_s", "ended", "name", "told")

    def __init__(self, ended: Settle, told: Told) -> None:
        self.ended = ended
        self.told = told
        self.due_s = 0.0
        self.name = _Name(f"{ended.id} {next(_numbers)}")

    def __enter__(self) -> None:
        self.due_s = time.monotonic() + SENDING_S

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self.due_s = 0.0

    def otherwise(self, refused: WrongWindow | IdempotencyError) -> Settle:
        """The same as the end of a hold, which is *refused* nothing: a record whose window has just ended is charged
        where it was spent, and what another process has done something else under the key of, without that key."""
        id = self.ended.id if isinstance(refused, WrongWindow) else f"{self.ended.id} {self.ended.digest}"
        digest = self.ended.digest if isinstance(refused, WrongWindow) else ""
        return self.ended._replace(id=id, held=self.ended.actual, digest=digest)


class ByName:
    """What is owed, as attributes: so it is put there in the one step in which the ledger changes."""

    def due(self, *, flying: bool = False) -> Iterator[Owed]:
        """What is still to be sent, in order; with *flying* also what somebody is about to send."""
        # A list of keys is made in one step; one of items, or a tuple, is not: the collector's finalizers may come.
        for key in list(vars(self)):
            owed = vars(self).get(key)
            if owed is not None and (flying or owed.due_s <= time.monotonic()):
                yield owed

    def drop(self, owed: Owed) -> bool:
        """Forget it; False if that was done before."""
        return vars(self).pop(owed.name, None) is not None

    def spent(self) -> int:
        """How much of it charges something; what only gives back comes back by itself."""
        return sum(any(owed.ended.actual) for owed in list(vars(self).values()))


class Unsent(StoreError):
    """What waits could not be sent, so neither was the request after it: the store knows nothing of that."""
