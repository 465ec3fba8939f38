"""Idempotency keys: a request that comes twice under one key is done once.

What a key stands for is looked at in the critical section in which its request would be admitted or charged. So of two
equal requests that come at the same moment one is done and the other finds it; a refused one leaves nothing behind.

The keys of a tenant and of a shared run are known to the store that its processes share: there a request has an id that
follows from its key. What is in doubt stays in doubt there, for whoever asks again: it is not taken back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from otelbudget.admission import notices
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Once
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.errors import IdempotencyError
from otelbudget.model.amounts import RESOURCES, Amounts, shown
from otelbudget.model.usage import Usage
from otelbudget.stores import keyed

#: How many keys a run remembers, or a quota service of all tenants; beyond, the oldest that are settled are forgotten.
KEPT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of charging a usage: ``replayed`` if it had been charged before, and nothing has changed now."""

    replayed: bool


#: Of a call that is charged already.
NOTHING_MORE: Final = Usage(0, 0, cost_usd=0, steps=0)
CHARGED: Final = Recorded(replayed=False)
REPLAYED: Final = Recorded(replayed=True)


def as_key(value: object) -> str:
    """*value* if it can be an idempotency key: a text that is not empty."""
    if isinstance(value, str) and value:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"idempotency_key must be a text that is not empty, got {value!r} ({type(value).__name__})")


def keys_of(payer: Payer) -> Keys:
    """The keys of a run."""
    run = payer.run
    assert run is not None  # others bring theirs
    if run.keys is None:
        made = Keys(run.engine, "a run", shared_as=("run", run.run_id) if run.sharing else ())
        run.engine.ledger.locked(partial(_keep, run, made))
    keys: Keys = run.keys
    return keys


def _keep(run: RunState, made: Keys) -> None:
    run.keys = run.keys or made  # unless another thread was faster


def unpaid(payer: Payer, usage: Usage) -> Usage:
    """What is still to be charged of *usage* that a user tells: nothing if a guard or a span has charged the call."""
    if not payer.engine.recent.was_seen(payer, usage):
        return usage
    notices.recorded_again(payer)
    return NOTHING_MORE


class Keys:
    """The keys of a run, or those of all tenants of a quota service; *whose* says so in words.

    Args:
        shared_as: Whose they are in a store that processes share; nothing where nobody else has them.
    """

    def __init__(
        self,
        engine: Engine,
        whose: str,
        kept: dict[tuple[str, str], Once] | None = None,
        *,
        shared_as: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._whose = whose
        self._kept = {} if kept is None else kept
        self._shared_as = shared_as if engine.store is not None else ()
        # A process may take up a run several times, and each is another one's then.
        self._mine = secrets.token_hex(8) if kept is None else ""

    @contextmanager
    def asking(self, tenant: str, asked: Once) -> Iterator[Once]:
        """What its key stands for while *asked* is decided: what was done under it before, else *asked*.

        Raises:
            IdempotencyError: Something else has been done under it, or is being decided; nothing changes.
        """
        if self._shared_as:
            digest = keyed.digest_of((asked.kind, _said(asked.payload)), self._engine.store.asker + self._mine)
            asked.there = keyed.id_of(*self._shared_as, tenant, asked.key), digest
        locked = self._engine.ledger.locked
        once = locked(partial(self._found, (tenant, asked.key), asked))
        if once is None:
            raise _other(self._kept[tenant, asked.key], asked)
        if once is asked and len(self._kept) > KEPT:
            self._make_room(asked)
        try:
            yield once
        except IdempotencyError as error:  # of the store, which knows nothing but what follows from the key
            raise IdempotencyError(
                f"the key {asked.key!r} was used before for something else, perhaps in another process: nothing has"
                " changed; take a key of its own for every request"
            ) from error
        finally:
            locked(partial(_counted, once, -1))

    def _found(self, place: tuple[str, str], asked: Once) -> Once | None:
        found = self._kept.setdefault(place, asked)
        if found.kind != asked.kind or found.payload != asked.payload:
            if found.hold is not None or found.done or found.asking:
                return None
            found = self._kept[place] = asked  # the other one was refused
        _counted(found, 1)
        return found

    def _make_room(self, asked: Once) -> None:
        kept = self._kept
        settled = [key for key in list(kept) if (one := kept.get(key)) and not one.open and one is not asked]
        for key in settled[: max(1, KEPT // 8)]:
            self._kept.pop(key, None)
        self._engine.warn_once(
            f"keys of {self._whose}",
            "%s has forgotten idempotency keys, of which it remembers %d; a request that comes again under an old one"
            " is done again",
            self._whose,
            KEPT,
        )


def _counted(once: Once, by: int) -> None:
    once.asking += by


def _other(found: Once, asked: Once) -> IdempotencyError:
    """The error that *found* was, or is being, done under the key of *asked*."""
    if found.kind != asked.kind:
        said = f"for {found.kind}() before and is used for {asked.kind}() now"
    else:
        said = f"before for {_said(found.payload)} and is used now for {_said(asked.payload)}"
    return IdempotencyError(
        f"the key {asked.key!r} was used {said}: nothing has changed; take a key of its own for every request"
    )


def _said(payload: Amounts | Usage) -> str:
    """A payload in the words and units that callers use, without what is 0."""
    if isinstance(payload, Usage):
        return repr(payload)
    given = [f"{name}: {shown(i, payload[i])}" for i, name in enumerate(RESOURCES) if payload[i]]
    return f"{{{', '.join(given)}}}"
