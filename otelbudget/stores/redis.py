"""Accounts in a Redis or Valkey server, for all processes of all machines that name the same one.

Each trip is one call of a script (`redis.lua`), whatever the number of accounts, and the clock is the server's. What
the server loses is gone: give it a disk (``appendonly yes``) and ``maxmemory-policy noeviction``. Windows that have
ended go by the server's own expiry, so its clock alone says when. An open hold on five accounts takes about 700 bytes,
and its mark 200 for an hour: a thousand calls per second come to 700 MB. A shared run takes 1,400 bytes for a week.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct, pack
from typing import Any, Final
from urllib.parse import quote

from otelbudget.errors import IdempotencyError
from otelbudget.model.vector import pack as vector
from otelbudget.model.vector import unpack
from otelbudget.stores import keyed
from otelbudget.stores.base import (
    FOREVER_S,
    PAGE,
    Answer,
    Line,
    Override,
    Reserve,
    Reset,
    Settle,
    Settled,
    State,
    Store,
    Stored,
    WrongWindow,
)
from otelbudget.stores.health import Health
from otelbudget.stores.records import RUN_S, RunRecord
from otelbudget.stores.redis_wire import Wire

_RESERVE: Final = Struct("<18q")
_SETTLE: Final = Struct("<10q")
_STATE: Final = Struct("<14q")
#: How many keys of the server one step of a listing looks at.
_STEP: Final = 1_000
#: How far off what the server says may be when it is read: less than that is no other clock.
_TRIP_S: Final = 1.0
_ACCOUNT: Final = re.compile(rb"(?:a:(-?\d+)_|w:)(-?\d+):(.*)", re.DOTALL)


class ServerClock:
    """The clock of a server, as it is known here: that of this machine, put right by what the server says."""

    def __init__(self, local_s: Callable[[], float]) -> None:
        self._local_s = local_s
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return self._local_s() + self._ahead_s

    def learn(self, now_s: float, within_s: float) -> None:
        """The server has said *now_s*, which is right within *within_s*."""
        off_s = now_s - self()
        if abs(off_s) > within_s:
            self._ahead_s += off_s


class RedisStore(Store):
    """A store in the server at *url*, to which it connects when it is first needed.

    Threads, tasks, processes and machines share it safely; a child connects by itself. A trip that fails because the
    connection broke is sent a second time.

    Args:
        url: Where it is, or the servers are; see `Nodes`.
        timeout_s: How long connecting, sending and each reply may take; then StoreError.
        ttl_s: How long holds shall live that are not renewed; whoever reserves puts it into the request.
        clock_s: What the clock of this machine says, Unix seconds; it counts until the server has said something.

    Attributes:
        server_clock: The server's clock, as it is known here.
        health: What it has lost.

    Raises:
        ConfigError: *url* is no address.
        ImportError: The extra ``redis`` is not installed.
    """

    name = "redis"

    def __init__(
        self, url: str, *, timeout_s: float = 0.25, ttl_s: float = 60.0, clock_s: Callable[[], float] = time.time
    ) -> None:
        self.ttl_s = ttl_s
        self.server_clock = ServerClock(clock_s)
        self.health = Health()
        self._wire = Wire(url, timeout_s)

    def reserve(self, asked: Reserve) -> Answer:
        return self._answered(asked, self._wire.trip(*self._reserve(asked)))

    async def areserve(self, asked: Reserve) -> Answer:
        return self._answered(asked, await self._wire.atrip(*self._reserve(asked)))

    def settle(self, ended: Settle) -> Settled:
        return self._settled(ended, self._wire.trip(*self._settle(ended)))

    async def asettle(self, ended: Settle) -> Settled:
        return self._settled(ended, await self._wire.atrip(*self._settle(ended)))

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return self._answer(shard, self._wire.trip(_keys(shard, _packed(shard, lines)[0]), "read", self._now()))

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        return self._answer(shard, await self._wire.atrip(_keys(shard, _packed(shard, lines)[0]), "read", self._now()))

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        self._wire.trip(_keys(shard), "renew", self._now(), round(ttl_s * 1000), *map(_bytes, ids))

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        """A reset looks through the keys of the server."""
        if isinstance(change, Reset):
            lines = [line for line in self._find(shard) if line.key == key]
            self._wire.trip(_keys(shard, _names(shard, lines)), "reset", self._now())
        else:
            rules = () if change is None else (_bytes(change.rules),)
            self._wire.trip(_keys(shard), "configure", self._now(), _bytes(key), *rules)

    def overrides(self, shard: str) -> Mapping[str, Override]:
        rules = _prefix(shard) + b"rules"
        found = iter(self._wire.send(("HGETALL", rules), rules))
        return {_text(key): Override(_text(rules)) for key, rules in zip(found, found, strict=True)}

    def accounts(self, shard: str, after: str = "") -> Sequence[Stored]:
        """Each page looks through the keys of the server."""
        now_s = self._answer(shard, self._wire.trip(_keys(shard), "look", self._now())).now_s
        found = [line for line in self._find(shard) if line.key > after]
        page = sorted(line for line in found if line.rolling or line.start_s <= now_s < line.end_s)[:PAGE]
        seen = self._answer(shard, self._wire.trip(_keys(shard, _names(shard, page)), "look", self._now()))
        return [Stored(*line[:4], *map(_amounts, state)) for line, state in zip(page, seen.states, strict=True)]

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        texts = () if record is None else (_bytes(record.opened), _bytes(record.state), record.changes)
        keys = [_prefix(shard) + b"revision", _prefix(shard) + b"r:" + _bytes(run_id)]
        _, now_ms, *found = self._wire.trip(keys, "run", self._now(), RUN_S * 1000, *texts)
        self.server_clock.learn(now_ms / 1000, _TRIP_S)
        if not found:
            return None
        opened, state, changes, opened_ms = found
        return RunRecord(_text(opened), _text(state), changes, opened_ms / 1000, now_ms / 1000)

    def close(self) -> None:
        """Close all connections; a trip under way fails."""
        self._wire.close()

    # --- what is asked, and what the answer means

    def _now(self) -> str | int:
        """What the script takes for now, ms; empty for the server's own clock. Tests say something else."""
        return ""

    def _reserve(self, asked: Reserve) -> tuple[Any, ...]:
        names, limits, window = _packed(asked.shard, asked.lines)
        numbers = _RESERVE.pack(round(asked.ttl_s * 1000), any(asked.held), *window, *asked.amounts, *asked.on_expiry)
        return _keys(asked.shard, names, asked.id), "reserve", self._now(), _bytes(asked.digest), numbers, limits

    def _answered(self, asked: Reserve, reply: list[Any]) -> Answer:
        if reply[0] == b"lines":
            raise keyed.on_other_lines(asked, reply[1] / 1000)
        self._check(reply[0], reply[1], asked.id)
        return self._answer(asked.shard, reply)

    def _settle(self, ended: Settle) -> tuple[Any, ...]:
        names, _, window = _packed(ended.shard, ended.lines)
        numbers = _SETTLE.pack(any(ended.held) or not any(ended.actual), *window, *ended.actual)
        return _keys(ended.shard, names, ended.id), "settle", self._now(), _bytes(ended.digest), numbers

    def _settled(self, ended: Settle, reply: list[Any]) -> Settled:
        self._check(reply[0], reply[1], ended.id)
        now_s, _ = self._learned(ended.shard, reply)
        used = [one for one, _ in _states(reply[3])]
        return Settled(reply[0].decode(), tuple(used), now_s, replayed=reply[4] == 1)

    def _answer(self, shard: str, reply: list[Any]) -> Answer:
        code, _, _, rows, line, resource, _ = reply
        now_s, changes = self._learned(shard, reply)
        refused = None if line < 0 else line
        states, replayed = _states(rows), code == b"replayed"
        return Answer(refused, resource, code == b"busy", code == b"gone", states, changes, now_s, replayed)

    def _learned(self, shard: str, reply: list[Any]) -> tuple[float, int]:
        """What any answer says: the server's clock, and how often overrides have changed."""
        _, now_ms, saturated, _, _, _, revision = reply
        if saturated:
            self.health.is_saturated(self._wire.where)
        began, _, changes = revision.partition(b".")
        self.health.look(self._wire.where, shard, began)
        self.server_clock.learn(now_ms / 1000, _TRIP_S)
        return now_ms / 1000, int(changes)

    def _check(self, code: bytes, now_ms: int, id: str) -> None:
        if code == b"window":
            self.server_clock.learn(now_ms / 1000, 0)
            raise WrongWindow(now_ms / 1000)
        if code == b"payload":
            raise IdempotencyError(f"{id!r} was used before with another payload")

    def _find(self, shard: str) -> list[Line]:
        self._wire.trip(_keys(shard), "look", self._now())  # which tells where on a cluster they are
        prefix, found, cursor = _prefix(shard), set[bytes](), b"0"
        pattern = re.sub(rb"([][*?\\^-])", rb"\\\1", prefix) + b"[aw]:*"
        while True:
            cursor, names = self._wire.send(("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP), prefix)
            found.update(names)
            if cursor == b"0":
                break
        places = [one for name in found if (one := _ACCOUNT.fullmatch(name, len(prefix)))]
        return [Line(_text(one[3]), int(one[1] or 0), int(one[2]), one[1] is None, ()) for one in places]


def _keys(shard: str, names: Iterable[bytes] = (), id: str = "") -> list[bytes]:
    prefix = _prefix(shard)
    return [prefix + b"revision", prefix + b"h:" + _bytes(id), *names]


@lru_cache(maxsize=4096)
def _packed(shard: str, lines: tuple[Line, ...]) -> tuple[tuple[bytes, ...], bytes, tuple[int, int]]:
    """The keys of the accounts of *lines*, their limits, and from when to when the windows of all of them last."""
    limited = [i for i in range(7) if any(line.limits[i] >= 0 for line in lines)]
    limits = [i + 1 for i in limited] + [line.limits[i] for line in lines for i in limited]
    dated = [line for line in lines if not line.rolling]
    first_s = max((line.start_s for line in dated), default=-FOREVER_S)
    last_s = min((line.end_s for line in dated), default=FOREVER_S)
    return _names(shard, lines), pack(f"<{len(limits)}q", *limits), (first_s, last_s)


def _names(shard: str, lines: Iterable[Line]) -> tuple[bytes, ...]:
    return tuple([_prefix(shard) + _name(line) for line in lines])


@lru_cache(maxsize=4096)
def _prefix(shard: str) -> bytes:
    """What all keys of a shard begin with: a hash tag, so that a cluster keeps them together."""
    return b"ob:{%s}:" % quote(shard or " ", safe="", errors="surrogatepass").encode()


def _name(line: Line) -> bytes:
    key, start_s, end_s, rolling, _ = line
    place = f"w:{end_s - start_s}:" if rolling else f"a:{start_s}_{end_s}:"
    return _bytes(place + key)


def _states(rows: bytes) -> tuple[State, ...]:
    """Used, and used and held."""
    found = [(vector(row[:7]), vector(row[7:])) for row in _STATE.iter_unpack(rows)]
    return tuple([(used, used + held) for used, held in found])


def _amounts(state: int) -> tuple[int, ...]:
    return tuple(unpack(state))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(read: bytes) -> str:
    return read.decode("utf-8", "surrogatepass")
