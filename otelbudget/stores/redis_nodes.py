"""Where an address leads: to one server, to the master that Sentinels name, or to the nodes of a cluster."""

from __future__ import annotations

import re
import time
from binascii import crc_hqx
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

from otelbudget.config.store import concealed
from otelbudget.errors import ConfigError

#: A node of a cluster; None is what the address says.
Address = tuple[str, int] | None

_SEVERAL: Final = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>cluster|sentinel)://(?P<login>.*@)?(?P<hosts>[^/?#@]+)(?P<path>/[^?#]*)?(?P<options>\?.*)?"
)
#: Of the Sentinels.
_LOGIN: Final = re.compile(r"[?&]sentinel_(username|password)=([^&]*)")
_PLACE: Final = re.compile(r"\d+ (\S*):(\d+)")
#: What a script meets on a node that is giving its slot away.
_GOING: Final = "non local key"
_PAUSE_S: Final = 0.01


class Nodes:
    """Makes connections, and knows which node of a cluster keeps what.

    Args:
        url: ``redis://``, ``rediss://`` and ``unix://`` as redis-py reads them; ``redis+cluster://host:port,host:port``;
            ``redis+sentinel://host:port,host:port/SERVICE/db``, where the login is that of the servers, and the one of
            the Sentinels follows as ``?sentinel_username=...&sentinel_password=...``; ``rediss+...`` is TLS to all.
        timeout_s: How long connecting, sending and each reply may take.

    Raises:
        ConfigError: It is no address.
        ImportError: redis-py is not installed.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            import redis
            import redis.asyncio.sentinel
            import redis.sentinel
        except ImportError as error:
            raise ImportError("a Redis store needs redis-py: pip install 'otelbudget[redis]'") from error
        self.where = concealed(url)
        self.errors = redis.exceptions
        self._redis: Any = redis
        self._bounds = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._seeds: list[Address] = [None]
        self._service = ""
        self._login: dict[str, Any] = {}
        self._homes: dict[int, Address] = {}
        try:
            url = self._several(url)
            self._pool: Any = redis.ConnectionPool.from_url(url, protocol=2, **self._bounds)
            self._apool: Any = redis.asyncio.ConnectionPool.from_url(url, protocol=2, **self._bounds)
            if self._service:
                self._pool = self._of_sentinels(redis.sentinel)
            self.connect(None)  # which refuses options that it does not know
        except (ValueError, TypeError, redis.RedisError):
            # Not even as the cause: it may have a part of the password.
            raise ConfigError(
                f"store.url {self.where} is no address, or what follows ? is no option of redis-py; in a password / is"
                " %2F, # is %23"
            ) from None

    def _several(self, url: str) -> str:
        """The address of one of several hosts, whose list is noted."""
        found = _SEVERAL.fullmatch(url)
        if found is None:
            return url
        hosts = [_host(one) for one in found["hosts"].split(",")]
        path, options = found["path"] or "", found["options"] or ""
        if found["kind"] == "cluster":
            self._seeds = list(hosts)
        else:
            self._sentinels = hosts
            self._service, _, path = path.strip("/").partition("/")
            if not self._service:
                raise ValueError("no service")
            self._login |= {name: unquote(value) for name, value in _LOGIN.findall(options)}
            options = "?" + _LOGIN.sub("", options).lstrip("?&")
        host, port = hosts[0]
        return f"{found['scheme']}://{found['login'] or ''}{host}:{port}/{path.strip('/')}{options}"

    def _of_sentinels(self, package: Any) -> Any:
        pool = self._pool if package is self._redis.sentinel else self._apool
        options = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port")}
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        if issubclass(pool.connection_class, (self._redis.SSLConnection, self._redis.asyncio.SSLConnection)):
            options["ssl"] = tls["ssl"] = True
        # A Sentinel that fails is not asked again and again, with pauses, before the next one is.
        how = self._bounds | self._login | tls | {"retry": None}
        sentinels = package.Sentinel(self._sentinels, sentinel_kwargs=how)
        return package.SentinelConnectionPool(self._service, sentinels, **options)

    def connect(self, address: Address) -> Any:
        """A connection, which is made when it is first used."""
        place = {} if address is None else {"host": address[0], "port": address[1]}
        # Not the pool's own way: that makes a hundred, however many have broken since.
        return self._pool.connection_class(**self._pool.connection_kwargs | place)

    def aconnect(self, address: Address) -> tuple[Any, Callable[[], Awaitable[None]]]:
        """The same for the event loop of here, and what closes it for good."""
        if self._service:
            pool = self._of_sentinels(self._redis.asyncio.sentinel)
            connection = pool.make_connection()
            # The connection knows its pool by a weak reference only.
            opened = [connection, pool, *(sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels)]
        else:
            place = {} if address is None else {"host": address[0], "port": address[1]}
            connection = self._apool.connection_class(**self._apool.connection_kwargs | place)
            opened = [connection]

        async def close() -> None:
            for one in opened:
                with suppress(self.errors.RedisError, OSError):
                    await one.disconnect()  # TLS takes a round trip, which is waited for as long as for connecting

        return connection, close

    # --- of a cluster

    @staticmethod
    def slot(key: bytes) -> int:
        """Where a cluster has *key*, by its hash tag."""
        return crc_hqx(key[key.index(b"{") + 1 : key.index(b"}")], 0) % 16_384

    def tries(self, slot: int) -> list[Address]:
        """Whom to ask about what is in *slot*, one after the other as long as connections break."""
        return [self._homes.get(slot, self._seeds[0]), *self._seeds]

    def home(self, slot: int, address: Address) -> Address:
        """Which node is known to keep *slot*, else the one at *address*."""
        return self._homes.get(slot, address)

    def moved(self, slot: int, address: Address) -> None:
        """*slot* is kept at *address* from now on."""
        self._homes[slot] = address

    def lost(self, slot: int, asked: Address) -> None:
        """*asked* did not answer: others are asked first from now on."""
        self._homes.pop(slot, None)
        if asked in self._seeds:
            self._seeds = [*(seed for seed in self._seeds if seed != asked), asked]


class Way:
    """Where a command about a slot goes, as the nodes of a cluster send it on, for *within_s* at most.

    Attributes:
        address: Which node is to be asked next.
        asking: Whether that is told to answer for a slot that it is only getting.
    """

    def __init__(self, nodes: Nodes, slot: int, address: Address, within_s: float) -> None:
        self._nodes = nodes
        self._slot = slot
        self._hops = 0
        self._ends_s = time.monotonic() + within_s
        self.address = address
        self.asking = False

    def turn(self, error: Exception) -> float:
        """Go where *error* says, after so many seconds; raises it if it says nothing like that, or time is over.

        While a slot moves, its keys are here and there, and nobody answers for all of them.
        """
        errors, found = self._nodes.errors, _PLACE.fullmatch(str(error))
        if isinstance(error, errors.TryAgainError) or _GOING in str(error):
            self.address, self.asking = self._nodes.home(self._slot, self.address), False
        elif isinstance(error, errors.AskError) and found is not None and self.address is not None:
            self.asking = not isinstance(error, errors.MovedError)
            self.address = (found[1] or self.address[0], int(found[2]))
            if not self.asking:
                self._nodes.moved(self._slot, self.address)
        else:
            raise error
        if time.monotonic() > self._ends_s:
            raise errors.TryAgainError("its keys are still being moved from one node to another") from error
        self._hops += 1
        return 0 if self._hops <= 2 else _PAUSE_S


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "")
    return host.strip("[]"), int(port or 6379)
