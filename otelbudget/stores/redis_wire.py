"""The way to a Redis or Valkey server: connections, the script, a second try, and errors as `StoreError`.

Threads take a connection each. The coroutines of an event loop share one, on which their requests go out together, in
the order of their calls, and the replies come back; it ends with the tasks of the loop. Nothing here takes a lock.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final

from otelbudget import forking
from otelbudget.config.store import concealed
from otelbudget.errors import ConfigError, StoreError

__all__ = ["Wire"]

_SCRIPT: Final = files("otelbudget.stores").joinpath("redis.lua").read_bytes()
_SHA: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
#: What a child inherited of event loops that are its parent's: never to be touched, not even closed.
_inherited: list[Any] = []

Command = Sequence[str | bytes | int]


class Wire:
    """Sends commands to the server at *url*.

    Args:
        url: As redis-py reads it.
        timeout_s: How long connecting, sending and each reply may take.

    Raises:
        ConfigError: It is no address.
        ImportError: redis-py is not installed.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            import redis
            import redis.asyncio
        except ImportError as error:
            raise ImportError("a Redis store needs redis-py: pip install 'otelbudget[redis]'") from error
        self.where = concealed(url)
        self.timeout_s = timeout_s
        self._errors = redis.exceptions
        bounds = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
        try:
            self._pool: Any = redis.ConnectionPool.from_url(url, **bounds)
            self._apool: Any = redis.asyncio.ConnectionPool.from_url(url, **bounds)
        except (ValueError, TypeError):
            # Not even as the cause: it may have a part of the password.
            raise ConfigError(f"store.url {self.where} is no address; in a password / is %2F, # is %23") from None
        self._ended = False
        self._idle: deque[Any] = deque()
        self._busy: set[Any] = set()
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}
        forking.tell(self)

    def trip(self, keys: Sequence[bytes], *given: bytes | str | int) -> Any:
        """What the script answers."""
        return self.send(("EVALSHA", _SHA, len(keys), *keys, *given))

    async def atrip(self, keys: Sequence[bytes], *given: bytes | str | int) -> Any:
        """`trip` for coroutines."""
        return await self._lane().send(("EVALSHA", _SHA, len(keys), *keys, *given))

    def send(self, command: Command) -> Any:
        """What the server answers to *command*, which is sent twice if the connection breaks.

        Raises:
            StoreError: It does not answer, or only with an error; the driver's is the cause.
        """
        try:
            return self._once(command)
        except self._errors.ConnectionError:  # that of a server which was started anew, perhaps
            self._idle.clear()
        except (self._errors.RedisError, OSError) as error:
            raise self.failed(error) from error
        try:
            return self._once(command)
        except (self._errors.RedisError, OSError) as error:
            raise self.failed(error) from error

    def _once(self, command: Command) -> Any:
        self.check_open()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.make_connection()
        self._busy.add(connection)
        try:
            try:
                answer = self._ask(connection, command)
            except self._errors.NoScriptError:
                self._ask(connection, ("SCRIPT", "LOAD", _SCRIPT))
                answer = self._ask(connection, command)
            self._idle.append(connection)
        except BaseException as error:  # whatever interrupts it: its reply must not be taken for another's
            connection.disconnect()
            if self._ended and isinstance(error, Exception):
                raise self._closed() from error
            raise
        finally:
            self._busy.discard(connection)
        if self._ended:
            self.close()
        return answer

    @staticmethod
    def _ask(connection: Any, command: Command) -> Any:
        connection.send_command(*command)
        return connection.read_response()

    def check_open(self) -> None:
        """StoreError once it is closed."""
        if self._ended:
            raise self._closed()

    def _closed(self) -> StoreError:
        return self.failed("the store is closed")

    def failed(self, why: object) -> StoreError:
        """An error that says where, and *why*."""
        return StoreError(f"store {self.where}: {why}")

    def close(self) -> None:
        """Hang up, in the middle of trips too; nothing is sent any more."""
        self._ended = True
        for connection in (*tuple(self._busy), *tuple(self._idle)):
            connection.disconnect()
        for lane in tuple(self._lanes.values()):
            lane.close()

    def forked(self) -> None:
        """In a child: connections are the parent's, and so are its loops."""
        _inherited.append((self._idle, self._busy, self._lanes))
        self._idle, self._busy, self._lanes = deque(), set(), {}

    def _lane(self) -> _Lane:
        self.check_open()
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None or lane.has_ended:
            for other in tuple(self._lanes):
                if other.is_closed():
                    self._lanes.pop(other, None)
            lane = self._lanes[loop] = _Lane(self, self._apool.make_connection(), self._errors)
        return lane


class _Asked:
    """A command that waits for its answer."""

    __slots__ = ("answer", "command")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def end(self, answer: Any) -> None:
        if self.answer.done():  # who asked has gone
            return
        if isinstance(answer, StoreError):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class _Lane:
    """The connection of one event loop, and the task that works on it."""

    def __init__(self, wire: Wire, connection: Any, errors: Any) -> None:
        self._wire = wire
        self._connection = connection
        self._errors = errors
        self._waiting: deque[_Asked] = deque()
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._work(), name="otelbudget-redis")

    async def send(self, command: Command) -> Any:
        """What the server answers, within the timeout."""
        asked = _Asked(command)
        self._waiting.append(asked)
        self._woken.set()
        try:
            async with asyncio.timeout(self._wire.timeout_s):
                return await asked.answer
        except TimeoutError as error:
            raise self._wire.failed(f"no answer within {self._wire.timeout_s:g} s") from error

    @property
    def has_ended(self) -> bool:
        """Whether nobody answers any more."""
        return self._task.done()

    def close(self) -> None:
        """End the task, from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _work(self) -> None:
        batch: list[_Asked] = []
        try:
            while not self._task.cancelling():  # asyncio.wait_for, which redis-py sends with, may swallow it
                await self._woken.wait()
                self._woken.clear()
                batch = [asked for asked in self._waiting if not asked.answer.done()]
                self._waiting.clear()
                await self._answer(batch)
        finally:
            for asked in (*batch, *self._waiting):
                asked.end(self._wire.failed("the store is closed, or the loop ends"))
            await self._connection.disconnect(nowait=True)

    async def _answer(self, batch: list[_Asked]) -> None:
        for last in (False, True):
            try:
                await self._exchange(batch)
            except (self._errors.RedisError, OSError) as error:
                await self._connection.disconnect(nowait=True)
                batch = [asked for asked in batch if not asked.answer.done()]
                if last or not isinstance(error, self._errors.ConnectionError):
                    self._fail(batch, error)
                    return
            else:
                return

    def _fail(self, batch: list[_Asked], error: Exception) -> None:
        for asked in batch:
            failed = self._wire.failed(error)
            failed.__cause__ = error
            asked.end(failed)

    async def _exchange(self, batch: list[_Asked]) -> None:
        """Send all of *batch*, read all answers; those to whom the script is not known once more."""
        unknown = await self._send(batch)
        if unknown:
            await self._connection.send_command("SCRIPT", "LOAD", _SCRIPT)
            await self._connection.read_response()
            await self._send(unknown)

    async def _send(self, batch: list[_Asked]) -> list[_Asked]:
        packed = self._connection.pack_commands([asked.command for asked in batch])
        await self._connection.send_packed_command(packed)
        unknown = []
        for asked in batch:
            try:
                asked.end(await self._connection.read_response())
            except self._errors.NoScriptError:
                unknown.append(asked)
            except self._errors.ResponseError as error:
                self._fail([asked], error)
        return unknown
