"""Keys of a run: a request made twice is done once, and all attempts at one logical call pay its steps once.

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
from otelbudget.runs.attempts import Attempt, LogicalCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from otelbudget.admission.admission import Ask
    from otelbudget.engine.engine import Engine
    from otelbudget.ledger.account import Hold
    from otelbudget.ledger.changes import Change
    from otelbudget.runs.reservation import Reservation
    from otelbudget.runs.run import BudgetRun

__all__ = [
    "CHARGED",
    "REPLAYED",
    "Entry",
    "Keyed",
    "Keys",
    "Recorded",
    "as_key",
    "keys_of",
    "recorded",
    "warn_forgotten",
]

#: Keys that one run, or one tenant of a quota service, remembers. Beyond, the oldest that are settled are forgotten.
KEPT: Final = 100_000

Kind = Literal["reserve", "record"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of charging a usage.

    Args:
        replayed: It had been charged before, under the same key or on the same reservation; nothing changed now.
    """

    replayed: bool


CHARGED: Final = Recorded(replayed=False)
REPLAYED: Final = Recorded(replayed=True)


def as_key(name: str, value: object) -> str | None:
    """*value* if it can be a key: None or a text that is not empty."""
    if value is None or (isinstance(value, str) and value):
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} must be a text that is not empty, got {value!r} ({type(value).__name__})")


class Entry:
    """What was done under one key.

    Attributes:
        kind: ``reserve`` or ``record``.
        payload: The amounts asked for, or the usage.
        attempt: What a reserve holds or held; None for a record, and once the run has ended.
        on_unknown: As it was reserved with.
        made: Gives the Reservation, or None if it is gone: a hold lives as long as that, so it is not kept here.
    """

    __slots__ = ("attempt", "kind", "made", "on_unknown", "payload")

    def __init__(self, kind: Kind, payload: Amounts | Usage, attempt: Attempt | None = None) -> None:
        self.kind: Kind = kind
        self.payload = payload
        self.attempt = attempt
        self.on_unknown: Any = "full"
        self.made: Callable[[], Reservation | None] = _gone

    @property
    def open(self) -> bool:
        """Whether its hold is open."""
        return self.attempt is not None and self.attempt.hold.state == "open"

    def again(self, fresh: Reservation) -> Reservation:
        """The reservation once more; *fresh* takes its place if it is gone. Called with the lock held."""
        found = self.made()
        if found is None:
            assert self.attempt is not None
            fresh.stand_for(self.attempt, self.on_unknown)
            found, self.made = fresh, ref(fresh)
        found.replayed = True
        return found

    def match(self, key: str, kind: Kind, payload: Amounts | Usage) -> None:
        """Raise IdempotencyError unless a request is this one once more."""
        if kind != self.kind:
            raise IdempotencyError(f"the key {key!r} was used for {self.kind}() before and is used for {kind}() now")
        if payload != self.payload:
            raise IdempotencyError(
                f"the key {key!r} was used before for {_said(self.payload)} and is used now for {_said(payload)}:"
                f" nothing has changed; take a key of its own for every request"
            )


class Keys:
    """What a run remembers by key.

    Attributes:
        entries: By idempotency key, oldest first.
        calls: By the key that their attempts name.
        attempts: Those that are open, by hold.
    """

    __slots__ = ("attempts", "calls", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls: dict[str, LogicalCall] = {}
        self.attempts: dict[Hold, Attempt] = {}

    def call(self, name: str) -> LogicalCall:
        """The logical call that an attempt names: by the key of its first reserve, or a name of its own.

        Raises:
            IdempotencyError: That key is one of `record`, which has no attempts.
        """
        entry = self.entries.get(name)
        if entry is not None and entry.attempt is not None:
            return entry.attempt.call
        if entry is not None and entry.kind == "record":
            raise IdempotencyError(f"attempt_of={name!r} is the key of a record(), which has no further attempts")
        return self.calls.get(name) or LogicalCall()

    def keep(self, run: BudgetRun, key: str, entry: Entry) -> None:
        """Remember what was done under *key*."""
        self.trim(run)
        self.entries[key] = entry

    def trim(self, run: BudgetRun) -> None:
        """Make room for one more."""
        if len(self.entries) >= KEPT:
            settled = next((k for k, one in self.entries.items() if not one.open), None)
            if settled is not None:
                del self.entries[settled]
            _warn(run)

    def join(self, run: BudgetRun, name: str, attempt: Attempt) -> None:
        """Note an open attempt at the call *name*."""
        self.attempts[attempt.hold] = attempt
        attempt.call.attempts = [*attempt.call.attempts, attempt]
        self.calls.setdefault(name, attempt.call)
        if len(self.calls) > KEPT:
            over = next((k for k, one in self.calls.items() if not one.attempts), name)
            del self.calls[over]
            _warn(run)

    def ends(self, change: Change, held: Hold) -> None:
        """With *change*, a hold ends without a commit: another attempt takes over its steps."""
        attempt = self.attempts.get(held)
        if attempt is not None and attempt in attempt.call.attempts:
            attempt.end(change)

    def ended(self, held: Hold) -> None:
        """A hold has ended."""
        self.attempts.pop(held, None)

    def finish(self) -> None:
        """The run is over: only what would charge twice is worth knowing still."""
        self.calls.clear()
        self.attempts.clear()
        for entry in self.entries.values():
            entry.attempt, entry.made = None, _gone


def _said(payload: Amounts | Usage) -> str:
    """A payload in the words and units that callers use, without what is 0."""
    if isinstance(payload, Usage):
        return repr(payload)
    given = [f"{name}: {shown(i, payload[i])}" for i, name in enumerate(RESOURCES) if payload[i]]
    return f"{{{', '.join(given)}}}"


def _gone() -> None:
    return None


def keys_of(run: BudgetRun) -> Keys:
    """The keys of *run*, made when they are first needed. Called with the lock held."""
    if run.keys is None:
        run.keys = Keys()
    keys: Keys = run.keys
    return keys


def _warn(run: BudgetRun) -> None:
    if run.kind == "quota":
        warn_forgotten(run.engine)
        return
    run.engine.warn_once(
        "keys",
        "a run remembers %d idempotency keys and has forgotten older ones, whose requests would be done again;"
        " open a run per job",
        KEPT,
    )


def warn_forgotten(engine: Engine) -> None:
    """Say once that a quota service remembers no more keys."""
    engine.warn_once(
        "quota keys",
        "a quota service has forgotten idempotency keys, since there are more of them than it remembers; a request that"
        " comes again under an old one is done again",
    )


class Keyed:
    """A reserve with a key, or one of several attempts, or both; asked for in `admission`, with the lock held.

    Args:
        run: Whose.
        payload: The amounts that the caller gave.
        wanted: What that comes to.
        key: Its idempotency key, or None.
        attempt_of: The logical call that it is an attempt at; None makes *key* one.

    Attributes:
        earlier: The reservation that was made under the same key before.
    """

    __slots__ = ("attempt_of", "earlier", "key", "payload", "run", "wanted")

    def __init__(
        self, run: BudgetRun, payload: Amounts, wanted: Amounts, key: str | None, attempt_of: str | None
    ) -> None:
        self.run = run
        self.payload = payload
        self.wanted = wanted
        self.key = key
        self.attempt_of = attempt_of or key or ""
        self.earlier: Reservation | None = None

    def replays(self, ask: Ask, held: Hold, fresh: Reservation) -> bool:
        """Whether it has been done before; else *ask* and its hold are made to want no step that the call has already.

        Raises:
            IdempotencyError: Something else has been done under its key.
        """
        keys = keys_of(self.run)
        entry = None if self.key is None else keys.entries.get(self.key)
        if entry is not None and self.key is not None and not self.run.closed:
            entry.match(self.key, "reserve", self.payload)
            self.earlier = entry.again(fresh)
            return True
        wanted = self.wanted
        ask.amounts = held.amounts = wanted._replace(steps=keys.call(self.attempt_of).missing(wanted.steps))
        return False

    def admitted(self, held: Hold, made: Reservation) -> None:
        """Remember *made*, which has been admitted just now."""
        keys = keys_of(self.run)
        attempt = made.attempt = Attempt(keys, keys.call(self.attempt_of), held, self.wanted.steps)
        keys.join(self.run, self.attempt_of, attempt)
        if self.key is not None:
            entry = Entry("reserve", self.payload, attempt)
            entry.on_unknown = made.on_unknown
            entry.made = ref(made)
            keys.keep(self.run, self.key, entry)


def recorded(run: BudgetRun, key: str, usage: Usage, change: Change) -> bool:
    """Whether *usage* was recorded under *key* before; if not, *change* notes that it is. Called with the lock held.

    Raises:
        IdempotencyError: Something else has been done under that key.
    """
    keys = keys_of(run)
    entry = keys.entries.get(key)
    if entry is None:
        change.put(keys.entries, key, Entry("record", usage))
        keys.trim(run)
        return False
    entry.match(key, "record", usage)
    return True
