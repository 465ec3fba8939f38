"""What the engine sees of a store that others share: settles that are never lost or refused, and holds kept alive.

A settle is owed from the same step on in which the ledger changes, so what interrupts its sending loses nothing. What
the store doesn't take is sent again, with the same id: before the next trip, every `RETRY_S` by a thread, and at the
end for `FLUSH_S` at most. The same thread renews the holds whose calls are alive.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal

from otelbudget import forking
from otelbudget.config.store import StoreConfig
from otelbudget.errors import IdempotencyError, StoreError
from otelbudget.stores.base import Answer, Reserve, Settled, Store, WrongWindow
from otelbudget.stores.errands import Steps, at_once, call, waited
from otelbudget.stores.failure import Failure
from otelbudget.stores.health import Asking, Health
from otelbudget.stores.owed import ByName, Owed, Unsent

_log = logging.getLogger("otelbudget")
#: How many settles wait for the store at most, and how long the end waits for them, seconds.
KEPT: Final = 10_000
FLUSH_S: Final = 2.0
#: How often what waits is sent again.
RETRY_S: Final = 1.0


class Watched:
    """Whoever has a ``catch_up``, from `add` until `drop`; the first one calls *begin*, which starts the thread.

    They catch up with the store again and again, on its thread.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._all: dict[Any, None] = {}

    def __contains__(self, one: object) -> bool:
        return one in self._all

    def add(self, one: Any) -> None:
        """Let *one* catch up from now on."""
        self._all[one] = None
        self._begin()

    def drop(self, one: Any) -> None:
        """Leave *one* alone."""
        self._all.pop(one, None)

    def catch_up(self) -> None:
        """Let all catch up, as long as the store can be reached; who fails otherwise is dropped."""
        for one in list(self._all):
            try:
                one.catch_up()
            except StoreError:
                return
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                _log.exception("%r does not follow its store any more", one)
                self.drop(one)


class Shared:
    """A store, and what waits for it.

    Args:
        store: Where quotas are counted.
        open_holds: Gives (shard, id) of the holds whose calls are alive.
        failure: What becomes of requests that the store does not answer.
        count: Raises counters: (object, attribute, by how much).
        said: How it is configured.

    Attributes:
        ttl_s: How long holds live there that nobody renews.
        asker: Tells trips of this process from those of others under the same idempotency key.
        health: What became of the trips.
        owed, watched: Where the ledger puts what it charges; what follows the store.
        ended: Set once it is closed.
    """

    def __init__(
        self,
        store: Store,
        open_holds: Callable[[], list[tuple[str, str]]],
        failure: Failure,
        count: Callable[[list[tuple[object, str, int]]], None],
        said: StoreConfig,
    ) -> None:
        self.store, self.failure = store, failure
        self.health: Health = getattr(store, "health", None) or Health()
        self.said, self.count, self.name = said, count, store.name
        self.ttl_s: float = getattr(store, "ttl_s", 60.0)
        self.asker = secrets.token_hex(8)
        self._open_holds, self.owed = open_holds, ByName()
        self._owed: dict[str, Owed] = vars(self.owed)  # in the order in which they are sent
        self.overrides: Any = None  # what is set in the store, where somebody obeys it
        self.ended = threading.Event()
        self._tending: threading.Thread | None = None
        self.watched = Watched(self._keep_alive)
        forking.tell(self)

    def shard(self, owner: Any) -> str:
        """Where the accounts of *owner* lie."""
        return f"{owner.org}/{owner.tenant}" if self.said.shard_by == "tenant" else str(owner.org)

    # --- by the methods whose names begin with *twin*: "a" for coroutines, "" for threads, which wait for no loop

    def ask(self, twin: str, method: Literal["reserve", "read"], *asked: Any) -> Steps[Answer]:
        """What `Store.reserve` or `Store.read` gives, once what was spent before is sent, so that it sees that."""
        self._keep_alive()
        if twin and self._owed:
            yield  # what this task has settled goes first
        try:  # a thread of a loop sends what its tasks would, which come only after this
            yield from self._catch_up(twin, flying=not twin and asyncio._get_running_loop() is not None)
        except StoreError as error:
            raise Unsent(str(error)) from error
        with Asking(self):
            answer: Answer = yield from call(getattr(self.store, twin + method), *asked)
        shard = getattr(asked[0], "shard", asked[0])
        if self.overrides is not None and self.overrides.heard(shard, answer.revision):
            self.watched.add(self.overrides)
        return answer

    def _settle(self, owed: Owed, twin: str) -> Steps[None]:
        try:
            if not twin:
                yield from self._catch_up(twin)
            yield from self._send(owed, twin)
        except StoreError:
            self.failure.settled(owed.ended, reached=False)
            self.put_off()
        except asyncio.CancelledError:
            self._keep_alive()
            raise

    def _catch_up(self, twin: str, *, flying: bool = False) -> Steps[None]:
        """Send what waits, in order; StoreError if the store still doesn't take it."""
        for owed in self.owed.due(flying=flying):
            yield from self._send(owed, twin)

    def _send(self, owed: Owed, twin: str) -> Steps[None]:
        if owed.name in self._owed:
            with owed:
                settled = yield from self._sent(owed, twin)
            self._answered(owed, settled)

    def _sent(self, owed: Owed, twin: str, refusals: Any = (WrongWindow, IdempotencyError)) -> Steps[Settled]:
        settle = getattr(self.store, twin + "settle")
        with Asking(self):
            try:
                return (yield from call(settle, owed.ended))  # type: ignore[no-any-return]
            except refusals as refused:
                return (yield from call(settle, owed.otherwise(refused)))  # type: ignore[no-any-return]

    # --- what is decided and owed

    def admits(self, asked: Reserve, *, held: bool) -> bool:
        """Whether a request that the store did not answer goes on all the same."""
        admitted = self.failure.admits(asked, held=held)
        self.count([(self.health, "unguarded", int(admitted))])
        return admitted

    def settle(self, owed: Owed) -> None:
        """Send what the ledger has put into `owed`. Raises only what interrupts it, and then it is sent later.

        On the thread of an event loop it happens in the store's own thread, soon.
        """
        loop = asyncio._get_running_loop()
        if loop is None:
            at_once(self._settle(owed, ""))
            return
        # The loop may end before that: then the thread sends it.
        task = loop.create_task(_task(self._settle(owed, "a")))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def put_off(self) -> None:
        """What is owed waits, since the store has just not answered."""
        if len(self._owed) > KEPT:
            self._lose(next(iter(list(self._owed.values()))))
        self._keep_alive()

    def settle_first(self, owed: Owed) -> Settled | None:
        """Send what is charged here only if the store has not charged it before; None if that can't be known now."""
        settled = None
        with suppress(StoreError):
            at_once(self._catch_up(""))
            settled = at_once(self._sent(owed, "", WrongWindow))
        self.failure.settled(owed.ended, reached=settled is not None)
        return settled

    def _answered(self, owed: Owed, settled: Settled) -> None:
        self.failure.settled(owed.ended, reached=True)
        if self.owed.drop(owed):  # sent twice, it was charged once and is told once
            owed.told(settled)

    def _lose(self, owed: Owed) -> None:
        self.count([(self.health, "lost", int(self.owed.drop(owed)))])

    def close(self) -> None:
        """Send what waits, for `FLUSH_S` at most, and let go of the store; what is left then is lost, and logged."""
        if self._owed:
            self._keep_alive()
        self.ended.set()
        if self._tending is not None:
            self._tending.join(FLUSH_S)
        self.store.close()
        if self._tending is not None:
            self._tending.join(0.1)  # now it gets no answer any more
        if spent := self.owed.spent():
            self.count([(self.health, "lost", spent)])
            _log.error("%d settlements never reached the %s store", spent, self.name)
        self._owed.clear()

    # --- in a thread: keeping holds alive, sending what waits

    def _keep_alive(self) -> None:
        if self._tending is None and not self.ended.is_set():
            tending = threading.Thread(target=self._tend, name="otelbudget-store", daemon=True)
            tending.start()
            self._tending = tending  # now, since an exception may come in between

    def _tend(self) -> None:
        ended, renew_s = self.ended, time.monotonic() + self.ttl_s / 3
        tend_leases = getattr(self.store, "tend", bool)
        while not ended.wait(min(RETRY_S, self.ttl_s / 3)):
            if self._tending not in (None, threading.current_thread()):  # several were started in one moment
                return
            self._retry()
            tend_leases()
            self.watched.catch_up()
            if time.monotonic() >= renew_s:
                self._renew()
                renew_s = time.monotonic() + self.ttl_s / 3
        until_s = time.monotonic() + FLUSH_S
        self.watched.catch_up()
        while self._owed:
            self._retry(flying=True)
            if not self.owed.spent() or time.monotonic() > until_s:
                break
            time.sleep(0.01)

    def _retry(self, *, flying: bool = False) -> None:
        """Send what waits, as requests also do meanwhile; what fails otherwise than by absence is given up."""
        for owed in self.owed.due(flying=flying):
            try:
                self._answered(owed, at_once(self._sent(owed, "")))
            except StoreError:
                return
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                _log.exception("a settlement for the %s store was given up: %r", self.name, owed.ended)
                self._lose(owed)

    def _renew(self) -> None:
        shards: dict[str, list[str]] = {}
        for shard, hold_id in self._open_holds():
            shards.setdefault(shard, []).append(hold_id)
        for shard, ids in shards.items():
            try:
                self.store.renew(shard, ids, self.ttl_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
                if not self.ended.is_set():
                    _log.warning("holds were not renewed in the %s store: %s", self.name, error)

    def forked(self) -> None:
        """In a forked process holds and settles are the parent's, and so is the thread."""
        self.asker = secrets.token_hex(8)
        self._owed.clear()
        self._tending = None
        self.ended = threading.Event()


async def _task(steps: Steps[None]) -> None:
    await waited(steps)


_tasks: set[Any] = set()  # what a loop runs must be kept alive
