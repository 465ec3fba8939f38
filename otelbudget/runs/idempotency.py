"""Idempotency keys of a run: a request that comes twice under one key is done once.

A key is looked up in the critical section in which its request would be admitted or charged. So of two equal requests
that come at the same moment one is done and the other finds it; nobody waits, and a refused one leaves no key behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import ref

from otelbudget.errors import IdempotencyError
from otelbudget.model.amounts import RESOURCES, Amounts, shown
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.ledger.account import Hold
    from otelbudget.ledger.changes import Change
    from otelbudget.runs.reservation import Reservation
    from otelbudget.runs.run import BudgetRun

__all__ = ["CHARGED", "REPLAYED", "Keyed", "Recorded", "as_key"]

#: How many keys a run remembers, or a quota service of all tenants; beyond, the oldest that are settled are forgotten.
KEPT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of charging a usage.

    Args:
        replayed: It had been charged before, under the same key or on the same reservation; nothing changed now.
    """

    replayed: bool


CHARGED: Final = Recorded(replayed=False)
REPLAYED: Final = Recorded(replayed=True)


def as_key(value: object) -> str | None:
    """*value* if it can be an idempotency key: None or a text that is not empty."""
    if value is None or (isinstance(value, str) and value):
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"idempotency_key must be a text that is not empty, got {value!r} ({type(value).__name__})")


@dataclass(slots=True)
class _Done:
    """What was done under a key: a hold, with its reservation as long as that lives, or the record of a usage."""

    kind: Literal["reserve", "record"]
    payload: Amounts | Usage
    hold: Hold | None = None
    made: ref[Reservation] | None = None
    on_unknown: Any = "full"


class Keyed:
    """A request of *run* under *key*; *payload* is what it asks for. Called with the lock held.

    Attributes:
        earlier: The reservation that was made under the key before.
    """

    __slots__ = ("_key", "_payload", "_run", "earlier")

    def __init__(self, run: BudgetRun, key: str, payload: Amounts | Usage) -> None:
        self._run = run
        self._key = key
        self._payload = payload
        self.earlier: Reservation | None = None

    def replays(self, fresh: Reservation) -> bool:
        """Whether it is a reserve that has been made before; *fresh* takes the place of a reservation that is gone.

        Raises:
            IdempotencyError: Something else has been done under its key.
        """
        done = None if self._run.closed else self._found("reserve")
        if done is None or done.hold is None:
            return False
        found = None if done.made is None else done.made()
        if found is None:
            fresh.stand_for(done.hold, done.on_unknown)
            found, done.made = fresh, ref(fresh)
        found.replayed = True
        self.earlier = found
        return True

    def admitted(self, made: Reservation) -> None:
        """Remember a reservation that has been admitted."""
        self._make_room()
        done = _Done("reserve", self._payload, made.hold, ref(made), made.on_unknown)
        self._run.keys[self._run.tenant, self._key] = done

    def recorded(self, change: Change) -> bool:
        """Whether its usage was recorded before; else *change* remembers that it is now.

        Raises:
            IdempotencyError: Something else has been done under its key.
        """
        if self._found("record") is not None:
            return True
        self._make_room()
        change.put(self._run.keys, (self._run.tenant, self._key), _Done("record", self._payload))
        return False

    def _found(self, kind: str) -> _Done | None:
        run, key = self._run, self._key
        if run.keys is None:
            run.keys = {}
        done: _Done | None = run.keys.get((run.tenant, key))
        if done is not None and kind != done.kind:
            raise IdempotencyError(f"the key {key!r} was used for {done.kind}() before and is used for {kind}() now")
        if done is not None and self._payload != done.payload:
            raise IdempotencyError(
                f"the key {key!r} was used before for {_said(done.payload)} and is used now for {_said(self._payload)}:"
                f" nothing has changed; take a key of its own for every request"
            )
        return done

    def _make_room(self) -> None:
        keys: dict[tuple[str, str], _Done] = self._run.keys
        if len(keys) < KEPT:
            return
        settled = next((key for key, done in keys.items() if done.hold is None or done.hold.state != "open"), None)
        if settled is not None:
            del keys[settled]
        whose = "a quota service" if self._run.kind == "quota" else "a run"
        self._run.engine.warn_once(
            f"keys of {whose}",
            "%s has forgotten idempotency keys, of which it remembers %d; a request that comes again under an old one"
            " is done again",
            whose,
            KEPT,
        )


def _said(payload: Amounts | Usage) -> str:
    """A payload in the words and units that callers use, without what is 0."""
    if isinstance(payload, Usage):
        return repr(payload)
    given = [f"{name}: {shown(i, payload[i])}" for i, name in enumerate(RESOURCES) if payload[i]]
    return f"{{{', '.join(given)}}}"
