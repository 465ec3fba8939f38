"""The connection that the coroutines of one event loop share: what waits goes out together, replies come in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

Command = Sequence[str | bytes | int]
ASKING: Command = ("ASKING",)


class _Asked:
    """A command that waits for its answer."""

    __slots__ = ("answer", "asking", "commands")

    def __init__(self, command: Command, asking: bool) -> None:
        self.commands: Sequence[Command] = (ASKING, command) if asking else (command,)
        self.asking = asking
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def end(self, answer: Any) -> None:
        if self.answer.done():  # who asked has gone
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Lane:
    """One connection of redis-py, and the task of the running loop that works on it.

    Args:
        connection, disconnect: That connection, and what closes it and all that belongs to it.
        errors: redis-py's exceptions.
        load: The command that tells a server the script, which it may not know.
        closed: Makes the error of those who still wait at the end.
    """

    def __init__(
        self,
        connection: Any,
        disconnect: Callable[[], Awaitable[None]],
        errors: Any,
        load: Command,
        closed: Callable[[], Exception],
    ) -> None:
        self._connection = connection
        self._disconnect = disconnect
        self._errors = errors
        self._load = load
        self._closed = closed
        self._waiting: deque[_Asked] = deque()
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._work(), name="otelbudget-redis")

    async def send(self, command: Command, *, asking: bool = False) -> Any:
        """What the server answers, *asking* about a slot that it is only getting; raises what redis-py raises."""
        asked = _Asked(command, asking)
        self._waiting.append(asked)
        self._woken.set()
        return await asked.answer

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
                try:
                    await self._exchange(batch)
                except (self._errors.RedisError, OSError) as error:
                    await self._connection.disconnect(nowait=True)
                    for asked in batch:
                        asked.end(error)
        finally:
            for asked in (*batch, *self._waiting):
                asked.end(self._closed())
            await self._disconnect()

    async def _exchange(self, batch: list[_Asked]) -> None:
        """Send all of *batch*, read all answers; those to whom the script is not known once more."""
        unknown = await self._send(batch)
        if unknown:
            await self._connection.send_command(*self._load)
            await self._connection.read_response()
            await self._send(unknown)

    async def _send(self, batch: list[_Asked]) -> list[_Asked]:
        if not self._connection.is_connected:
            await self._connection.connect()  # to send would do without the Sentinels
        packed = self._connection.pack_commands(chain.from_iterable(asked.commands for asked in batch))
        await self._connection.send_packed_command(packed)
        unknown = []
        for asked in batch:
            if asked.asking:
                await self._connection.read_response()
            try:
                asked.end(await self._connection.read_response())
            except self._errors.NoScriptError:
                unknown.append(asked)
            except self._errors.ResponseError as error:
                asked.end(error)
        return unknown
