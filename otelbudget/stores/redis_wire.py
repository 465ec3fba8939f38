"""The way to a Redis or Valkey server: connections, the script, a second try, and errors as `StoreError`.

Threads take a connection each. The coroutines of an event loop share one, on which their requests go out together, in
the order of their calls, and the replies come back; it ends with the tasks of the loop. Nothing here takes a lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final

from otelbudget import forking
from otelbudget.errors import StoreError
from otelbudget.stores.errands import Steps, at_once, call, waited
from otelbudget.stores.redis_lane import ASKING, Command, Lane
from otelbudget.stores.redis_nodes import Address, Nodes, Way

_SCRIPT: Final = files("otelbudget.stores").joinpath("redis.lua").read_bytes()
_SHA: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_LOAD: Final = ("SCRIPT", "LOAD", _SCRIPT)
#: What helps nobody in an error: a Sentinel with all of its settings, as redis-py names it; where in the script it was;
#: what was sent with a command that a server doesn't know, which may be the password.
_NOISE: Final = re.compile(
    r"(?:<redis\.|Redis<).*?(?:>\)>\)>|>>>) - |\.? script: [0-9a-f]{40}, on @\w+:\d+\.?$"
    r"|, with args beginning with: .*"
)
#: What to do about what a server says.
_ADVICE: Final = (
    ("read only replica", "the address is a replica's: name its master, or Sentinels that know it"),
    ("uthenticat", "the address says who: redis://user:password@host"),
    ("username-password", "the address says who: redis://user:password@host"),
    ("ermission", "its user needs ~ob:* +@read +@write +@connection +evalsha +script|load +time"),
    ("can't run this command", "its user needs ~ob:* +@read +@write +@connection +evalsha +script|load +time"),
    ("maxmemory", "raise that, and leave maxmemory-policy at noeviction, since what that evicts is spent again"),
)
#: What a child inherited of event loops that are its parent's: never to be touched, not even closed.
_inherited: list[Any] = []


class Wire:
    """Sends commands to where *url* leads, see `Nodes`; a request of a coroutine takes *timeout_s* altogether."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._nodes = Nodes(url, timeout_s)
        self._errors = self._nodes.errors
        self.where = self._nodes.where
        self.timeout_s = timeout_s
        self._ended = False
        self._idle: dict[Address, deque[Any]] = {}
        self._busy: set[Any] = set()
        self._lanes: dict[tuple[asyncio.AbstractEventLoop, Address], Lane] = {}
        forking.tell(self)

    def trip(self, keys: Sequence[bytes], *given: bytes | str | int) -> Any:
        """What the script answers."""
        return self.send(("EVALSHA", _SHA, len(keys), *keys, *given), keys[0])

    async def atrip(self, keys: Sequence[bytes], *given: bytes | str | int) -> Any:
        """`trip` for coroutines."""
        return await self.asend(("EVALSHA", _SHA, len(keys), *keys, *given), keys[0])

    def send(self, command: Command, key: bytes) -> Any:
        """What the server that has *key* answers to *command*, which is sent once more if the connection breaks.

        Raises:
            StoreError: It does not answer, or only with an error; the driver's is the cause.
        """
        return at_once(self._send(command, self._nodes.slot(key), self._once, time.sleep))

    async def asend(self, command: Command, key: bytes) -> Any:
        """`send` for coroutines."""
        slot = self._nodes.slot(key)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await waited(self._send(command, slot, self._together, asyncio.sleep))
        except TimeoutError as error:
            self._nodes.lost(slot, self._nodes.tries(slot)[0])
            raise self.failed(f"no answer within {self.timeout_s:g} s") from error

    def _send(self, command: Command, slot: int, once: Callable[..., Any], sleep: Callable[..., Any]) -> Steps[Any]:
        broken = None
        for address in self._nodes.tries(slot):
            way = Way(self._nodes, slot, address, self.timeout_s)
            try:
                while True:
                    try:
                        return (yield from call(once, command, way.address, way.asking))
                    except self._errors.ResponseError as error:
                        yield from call(sleep, way.turn(error))
            except self._errors.ConnectionError as error:  # that of a server which was started anew, perhaps
                broken = self._lost(slot, address, error)
            except (self._errors.RedisError, OSError) as error:
                raise self.failed(self._lost(slot, address, error)) from error
        raise self.failed(broken) from broken

    def _lost(self, slot: int, address: Address, error: Exception) -> Exception:
        self._nodes.lost(slot, address)
        if isinstance(error, self._errors.ConnectionError):  # then so are the others
            for connection in tuple(self._idle.pop(address, ())):  # as another thread may put one there meanwhile
                connection.disconnect()
        return error

    async def _together(self, command: Command, address: Address, asking: bool) -> Any:
        """Send *command* with those of the other coroutines of this loop."""
        return await self._lane(address).send(command, asking=asking)

    def _once(self, command: Command, address: Address, asking: bool) -> Any:
        """Send *command* on a connection of its own."""
        self._check_open()
        idle = self._idle.setdefault(address, deque())
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._nodes.connect(address)
        self._busy.add(connection)
        try:
            connection.connect()  # if it is not; to send would do without the Sentinels
            try:
                answer = self._ask(connection, command, asking)
            except self._errors.NoScriptError:
                self._ask(connection, _LOAD)
                answer = self._ask(connection, command, asking)
            idle.append(connection)
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
    def _ask(connection: Any, command: Command, asking: bool = False) -> Any:
        if asking:
            connection.send_command(*ASKING)
            connection.read_response()
        connection.send_command(*command)
        return connection.read_response()

    def _check_open(self) -> None:
        if self._ended:
            raise self._closed()

    def _closed(self) -> StoreError:
        return self.failed("the store is closed")

    def failed(self, why: object) -> StoreError:
        """An error that says where, and *why*."""
        said = _NOISE.sub("", str(why))
        if said != str(why) and isinstance(why, Exception):
            why.args = (said,)  # since it is shown as the cause
        helps = [advice for sign, advice in _ADVICE if sign in said]
        return StoreError(f"store {self.where}: {'; '.join([said.rstrip('.'), *helps[:1]])}")

    def close(self) -> None:
        """Hang up, in the middle of trips too; nothing is sent any more."""
        self._ended = True
        idle = [connection for one in list(self._idle.values()) for connection in list(one)]
        for connection in (*list(self._busy), *idle):
            connection.disconnect()
        for lane in list(self._lanes.values()):
            lane.close()

    def forked(self) -> None:
        """In a child: connections are the parent's, and so are its loops."""
        _inherited.append((self._idle, self._busy, self._lanes))
        self._idle, self._busy, self._lanes = {}, set(), {}

    def _lane(self, address: Address) -> Lane:
        self._check_open()
        loop = asyncio.get_running_loop()
        lane = self._lanes.get((loop, address))
        if lane is None or lane.has_ended:
            for other in list(self._lanes):
                if other[0].is_closed():
                    self._lanes.pop(other, None)
            lane = Lane(*self._nodes.aconnect(address), self._errors, _LOAD, self._closed)
            self._lanes[loop, address] = lane
        return lane
