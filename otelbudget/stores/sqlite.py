"""Accounts in a SQLite file, for all processes of one machine that name the same one.

Each trip is one transaction. The clock is that of the machine. A process that is killed in the middle of a trip has not
made it; what it held comes back when its holds expire. If the power fails, the last trips before may be missing; the
file is whole all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import add, sub
from typing import Any, TypeVar

from otelbudget import forking
from otelbudget.errors import ConfigError, StoreError
from otelbudget.stores import keyed
from otelbudget.stores.base import (
    GRACE_S,
    PAGE,
    Answer,
    Line,
    Override,
    Reserve,
    Reset,
    Settle,
    Settled,
    Store,
    Stored,
    WrongWindow,
    judge,
)
from otelbudget.stores.health import Health
from otelbudget.stores.records import RUN_S, RunRecord, written
from otelbudget.stores.sqlite_file import File, given_back, kept
from otelbudget.stores.sqlite_schema import HELD, USED, Tidier
from otelbudget.stores.sqlite_trip import Hold, Trip

T = TypeVar("T")

_ACCOUNTS = f"""SELECT key, start_s, end_s, length_s, {", ".join((*USED, *HELD))} FROM account
    WHERE shard = ? AND key > ? AND (length_s > 0 OR (start_s <= ? AND end_s > ?)) ORDER BY key LIMIT ?"""
_FORGET = f"""UPDATE account SET {", ".join(f"{used} = 0" for used in USED)}
    WHERE shard = ? AND key = ? AND length_s = 0 AND start_s <= ? AND end_s > ?"""
_RUN = "SELECT opened, state, changes, opened_s FROM run WHERE shard = ? AND id = ? AND opened_s > ?"


class SqliteStore(Store):
    """A store in the file at *path*, which is made when it is first needed; its directory has to be there.

    Threads and processes share it safely, on a local disk. A process that forks closes the file before, and parent and
    child open it again.

    Args:
        path: Where the file is. SQLite keeps a log beside it while it is in use.
        timeout_s: How long a trip waits while others write; then StoreError.
        ttl_s: How long holds shall live that are not renewed; whoever reserves puts it into the request.
        clock_s: Wall clock in Unix seconds.

    Raises:
        ConfigError: *path* is no path of a file.
    """

    name = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = 5.0,
        ttl_s: float = 60.0,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        named = os.fspath(path)
        if named in ("", ":memory:"):
            raise ConfigError(f"a SQLite store is shared through a file, got the path {named!r}")
        self.health = Health()
        self._file = File(os.path.abspath(named), timeout_s, clock_s, self.health)
        self.ttl_s = ttl_s
        self._tidier = Tidier()
        self._worker = _worker()
        forking.tell(self)

    def reserve(self, asked: Reserve) -> Answer:
        return self._write(asked.shard, partial(_reserve, asked=asked))

    def settle(self, ended: Settle) -> Settled:
        return self._write(ended.shard, partial(_settle, ended=ended))

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return self._read(shard, partial(_read, lines=lines))

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        self._write(shard, lambda trip: trip.renew(ids, ttl_s))

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        self._write(shard, partial(_configure, key=key, change=change))

    def overrides(self, shard: str) -> Mapping[str, Override]:
        return self._read(shard, _overrides)

    def accounts(self, shard: str, after: str = "") -> Sequence[Stored]:
        return self._read(shard, partial(_accounts, after=after))

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        how = self._read if record is None else self._write
        return how(shard, partial(_run, run_id=run_id, record=record))

    def close(self) -> None:
        """Close the file, after the trips that are under way; does nothing the second time."""
        self._file.end()
        self._worker.shutdown()
        self._file.close()

    async def areserve(self, asked: Reserve) -> Answer:
        return await self._away(self.reserve, asked)

    async def asettle(self, ended: Settle) -> Settled:
        return await self._away(self.settle, ended)

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return await self._away(self.read, shard, lines)

    def forked(self) -> None:
        """In a child: the thread for coroutines is the parent's."""
        self._worker = _worker()

    def _read(self, shard: str, work: Callable[[Trip], T]) -> T:
        return self._file.trip(lambda connection, now_s: work(Trip(connection, shard, now_s)), writes=False)

    def _write(self, shard: str, work: Callable[[Trip], T]) -> T:
        def whole(connection: sqlite3.Connection, now_s: float) -> T:
            trip = Trip(connection, shard, now_s)
            answer = work(trip)
            trip.write()
            self._tidier.tidy(connection, now_s)
            return answer

        return self._file.trip(whole)

    async def _away(self, work: Callable[..., T], *given: Any) -> T:
        try:
            # Its time runs from now: those before it in the line may wait for the same lock.
            ends_s = time.monotonic() + self._file.timeout_s
            done = asyncio.get_running_loop().run_in_executor(self._worker, self._file.within, ends_s, work, *given)
        except RuntimeError as error:
            raise StoreError(f"the store is closed, or the process ends: {error}") from error
        return await done


def _worker() -> ThreadPoolExecutor:
    """One thread, so that trips happen in the order of their calls."""
    return ThreadPoolExecutor(1, thread_name_prefix="otelbudget-sqlite")


def _reserve(trip: Trip, asked: Reserve) -> Answer:
    found = trip.find(asked.id)
    keyed.check(asked.id, found.digest if found else "", asked.digest)
    again = found is not None and keyed.is_again(found.digest, asked)
    if again and found is not None and found.state == "expired":
        found = None
    new = found is None and not any(asked.held)
    if new:
        _check_windows(trip, asked.lines)
    trip.reclaim(but=asked.id)
    if again and found is not None and found.state == "open":
        trip.renew([asked.id], asked.ttl_s)
        return _seen(trip, asked.lines)._replace(replayed=keyed.is_of_another(found.digest, asked.digest))
    if not new and (found is None or found.state != "open"):
        return _seen(trip, asked.lines)._replace(gone=True)
    lines = _told(asked.lines)
    if found is not None and found.lines != lines:
        raise keyed.on_other_lines(asked, trip.now_s)
    own = (0,) * len(USED) if found is None else json.loads(found.amounts)
    more = tuple(map(sub, asked.amounts, own))
    refusal = judge(trip.states(asked.lines), asked.lines, more, own)
    if refusal is not None:
        line, resource, busy = refusal
        return _seen(trip, asked.lines)._replace(refused=line, resource=resource, busy=busy)
    trip.hold(asked.lines, more)
    digest = asked.digest if found is None else found.digest
    hold = Hold(asked.id, "open", digest, lines, json.dumps(asked.amounts), json.dumps(asked.on_expiry))
    trip.put(hold, trip.now_s + asked.ttl_s + GRACE_S)
    return _seen(trip, asked.lines)


def _settle(trip: Trip, ended: Settle) -> Settled:
    found = trip.find(ended.id)
    keyed.check(ended.id, found.digest if found else "", ended.digest)
    if found is None:
        if any(ended.actual) and not any(ended.held):
            _check_windows(trip, ended.lines)
        trip.charge(ended.lines, ended.actual)
        found = Hold(ended.id, "unknown", ended.digest, "", "", "")
    elif found.state == "open":
        trip.end(found, ended.actual)
    elif found.state == "expired":
        paid = json.loads(found.on_expiry)
        trip.charge(ended.lines, [max(0, a - b) for a, b in zip(ended.actual, paid, strict=True)])
    digest = found.digest and (ended.digest or found.digest)
    if digest and not any(ended.actual) and found.state in ("open", "unknown"):
        trip.mark(Hold(ended.id, "expired", digest, "", "", json.dumps(ended.actual)))
    elif found.state != "settled" and (any(ended.actual) or not digest):
        trip.mark(Hold(ended.id, "settled", digest, "", "", ""))
    replayed = found.state == "settled" and keyed.is_of_another(found.digest, ended.digest)
    used = tuple(used for used, _ in trip.states(ended.lines))
    return Settled(found.state, used, trip.now_s, replayed=replayed)  # type: ignore[arg-type]  # the four states


def _read(trip: Trip, lines: tuple[Line, ...]) -> Answer:
    trip.reclaim()
    answer = _seen(trip, lines)
    trip.write()
    return answer


def _overrides(trip: Trip) -> dict[str, Override]:
    rows = trip.connection.execute("SELECT key, rules FROM override WHERE shard = ? ORDER BY key", (trip.shard,))
    return {given_back(key): Override(rules) for key, rules in rows}


def _seen(trip: Trip, lines: tuple[Line, ...]) -> Answer:
    return Answer(None, -1, False, False, trip.states(lines), trip.revision(), trip.now_s)


def _configure(trip: Trip, key: str, change: Override | Reset | None) -> None:
    execute, place = trip.connection.execute, (trip.shard, key)
    if isinstance(change, Reset):
        execute(_FORGET, (*place, trip.now_s, trip.now_s))
        execute("DELETE FROM bucket WHERE shard = ? AND key = ?", place)
        return
    if change is None:
        execute("DELETE FROM override WHERE shard = ? AND key = ?", (trip.shard, kept(key)))
    else:
        execute("INSERT OR REPLACE INTO override VALUES (?, ?, ?)", (trip.shard, kept(key), change.rules))
    execute("INSERT OR REPLACE INTO shard VALUES (?, ?)", (trip.shard, trip.revision() + 1))


def _run(trip: Trip, run_id: str, record: RunRecord | None) -> RunRecord | None:
    execute, place = trip.connection.execute, (trip.shard, run_id)
    row = execute(_RUN, (*place, trip.now_s - RUN_S)).fetchone()
    found = None if row is None else RunRecord(*row)
    if record is not None:
        found = written(found, record, trip.now_s)
        if found is not None:
            execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?)", (*place, *found[:4]))
    return None if found is None else found._replace(now_s=trip.now_s)


def _accounts(trip: Trip, after: str) -> list[Stored]:
    found = []
    rows = trip.connection.execute(_ACCOUNTS, (trip.shard, after, trip.now_s, trip.now_s, PAGE)).fetchall()
    for key, start_s, end_s, length_s, *amounts in rows:
        used, held = tuple(amounts[: len(USED)]), amounts[len(USED) :]
        if length_s:
            used = trip.rolled(key, length_s)
        taken = tuple(map(add, used, held))
        found.append(Stored(key, start_s, length_s or end_s, length_s > 0, used, taken))
    return found


def _check_windows(trip: Trip, lines: tuple[Line, ...]) -> None:
    if not all(line.rolling or line.start_s <= trip.now_s < line.end_s for line in lines):
        raise WrongWindow(trip.now_s)


def _told(lines: tuple[Line, ...]) -> str:
    return json.dumps([line[:4] for line in lines])
