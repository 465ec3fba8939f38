"""One connection to a SQLite file, for all threads of a process: opening, transactions, waiting, forks, and errors.

Whoever waits for another process's write lock holds no lock of its own, so a fork never waits for that.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from otelbudget import forking
from otelbudget.errors import StoreError
from otelbudget.stores.health import Health
from otelbudget.stores.sqlite_schema import prepare

T = TypeVar("T")
#: What a trip does: it gets the connection, inside a transaction, and what the clock says then.
Work = Callable[[sqlite3.Connection, float], T]

#: The pauses between two looks at a busy file, seconds, at random so that no two processes keep in step.
_PAUSES_S: Final = (0.000_2, 0.004)
_random: Final = random.SystemRandom()  # the application may have seeded the other, and forks copy it
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
#: Connections that a child inherited in the middle of a trip of the parent: never to be touched, not even closed.
_inherited: list[sqlite3.Connection] = []


class _BusyError(Exception):
    """Another connection is writing; nothing was changed."""


class _Connection(sqlite3.Connection):
    """One that takes every text: half a surrogate pair (JSON may bring it, UTF-8 has none) is written as an escape.

    Else what was spent under such a name would wait for good, and what others have spent behind it.
    """

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """As it is."""
        try:
            return super().execute(sql, parameters)
        except UnicodeEncodeError:
            return super().execute(sql, _escaped(parameters))

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        """As it is; rows may be written twice, so what they say is what is there after it."""
        try:
            return super().executemany(sql, parameters)
        except UnicodeEncodeError:
            return super().executemany(sql, map(_escaped, parameters))


def kept(name: str) -> str | bytes:
    """*name* as the file can give it back: as text, or as bytes if it has half a surrogate pair; see `given_back`."""
    data = name.encode(errors="surrogatepass")
    return data if data.decode(errors="replace") != name else name


def given_back(kept: str | bytes) -> str:
    """The name that was `kept`."""
    return kept if isinstance(kept, str) else kept.decode(errors="surrogatepass")


def _escaped(row: Any) -> list[Any]:
    return [one.encode(errors="backslashreplace").decode() if isinstance(one, str) else one for one in row]


class File:
    """The file at *path*, opened when it is first needed.

    Args:
        path: Where it is; made if it isn't there.
        timeout_s: How long a trip waits while others write.
        clock_s: Wall clock in Unix seconds, read inside each transaction.
        health: Is told when the file is another one than before.
    """

    def __init__(self, path: str, timeout_s: float, clock_s: Callable[[], float], health: Health) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._clock_s = clock_s
        self._health = health
        # Re-entrant, since a finalizer or signal handler may come in the middle of a trip of its own thread.
        self._lock = forking.held_lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._unusable = ""
        self._here = threading.local()
        forking.before(self)
        forking.tell(self)

    def within(self, ends_s: float, work: Callable[..., T], *given: Any) -> T:
        """What *work* gives, whose trips in this thread wait until *ends_s* of the monotonic clock at most."""
        self._here.ends_s = ends_s
        try:
            return work(*given)
        finally:
            del self._here.ends_s

    def end(self) -> None:
        """Begin no trip any more, and give up those that wait."""
        self._unusable = self._unusable or "the store is closed"

    def close(self) -> None:
        """Close the connection; nothing works any more."""
        self.end()
        with self._lock:
            self._drop()

    def forking(self) -> None:
        """Close the connection before a fork: a child that inherits one can't lock the file by any means."""
        lock: Any = self._lock
        if lock._is_owned() and self._connection is not None and not self._connection.in_transaction:
            self._drop()

    def forked(self) -> None:
        """In the child: never touch what could not be closed."""
        if self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
            self._unusable = "this process was forked in the middle of a trip, so SQLite can't lock the file here"

    def trip(self, work: Work[T], *, writes: bool = True) -> T:
        """What *work* gives, done as one transaction: as a whole, or not at all.

        One that hardly ever *writes* waits for others only if it finds something to write.
        """
        ends_s = getattr(self._here, "ends_s", None) or time.monotonic() + self.timeout_s
        while True:
            try:
                return self._once("BEGIN IMMEDIATE" if writes else "BEGIN", work)
            except _BusyError as busy:
                left_s = ends_s - time.monotonic()
                if left_s <= 0:
                    raise self._failed(f"others kept it locked for {self.timeout_s:g} s") from busy.__cause__
            time.sleep(min(left_s, _random.uniform(*_PAUSES_S)))

    def _once(self, begin: str, work: Work[T]) -> T:
        lock: Any = self._lock
        if lock._is_owned():
            raise self._failed("this thread is in the middle of a trip, which a finalizer or signal handler interrupts")
        with self._lock:
            connection = self._opened()
            try:
                connection.execute(begin)
                answer = work(connection, self._clock_s())
                connection.execute("COMMIT")
            except (sqlite3.Error, OverflowError) as error:
                self._undo(connection)
                raise self._translated(error) from error
            except BaseException:
                self._undo(connection)
                raise
            return answer

    def _opened(self) -> sqlite3.Connection:
        if self._unusable:
            raise self._failed(self._unusable)
        connection = self._connection
        if connection is None:
            return self._open()
        if _identity(self.path) != self._identity:
            self._drop()
            self._gone()
            raise self._failed("the file was deleted or replaced; counting begins with what is there now")
        if connection.in_transaction:  # left behind by an exception that interrupted the handling of another
            self._undo(connection)
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = None
        try:
            # It does not wait by itself: that would hold our lock and leave signals waiting, too.
            connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False, factory=_Connection
            )
            prepare(connection)
            identity = _identity(self.path)
            if self._identity not in (None, identity):
                self._gone()
            self._identity, self._connection = identity, connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._connection = None
            if isinstance(error, sqlite3.Error | ValueError):
                raise self._translated(error) from error
            raise
        return connection

    def _gone(self) -> None:
        self._identity = None
        self._health.is_wiped(f"sqlite:///{self.path}", "the file that it counted in")

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.rollback()
        except sqlite3.Error:
            self._drop()  # which rolls back, too

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translated(self, error: Exception) -> Exception:
        """What a driver's *error* means: wait, or give up on this connection."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            return _BusyError()
        self._drop()
        return self._failed(f"{_advice(self.path)}{error}")

    def _failed(self, why: str) -> StoreError:
        return StoreError(f"store sqlite:///{self.path}: {why}")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _advice(path: str) -> str:
    """What may be wrong with where the file is, if anything; for a message."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no directory {folder}, make it first: "
    if os.path.isdir(path):
        return "that is a directory, name a file in it: "
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the directory {folder} is not writable, and SQLite keeps a log beside the file: "
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return "the file is not writable: "
    return ""
