"""Where an address leads: to one server, to the master that Sentinels name, or to the nodes of a cluster."""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Awaitable, Callable
from typing import Any, Final

from otelbudget.config.store import concealed
from otelbudget.errors import ConfigError

__all__ = ["Address", "Nodes"]

#: A node of a cluster; None is what the address says.
Address = tuple[str, int] | None

_SEVERAL: Final = re.compile(
    r"redis\+(?P<kind>cluster|sentinel)://(?P<login>.*@)?(?P<hosts>[^/?#@]+)(?P<path>/[^?#]*)?(?P<options>\?.*)?"
)
_MOVED: Final = re.compile(r"(?:MOVED )?\d+ (\S*):(\d+)")


class Nodes:
    """Makes connections, and knows which node of a cluster keeps what.

    Args:
        url: ``redis://``, ``rediss://`` and ``unix://`` as redis-py reads them; ``redis+cluster://host:port,host:port``;
            ``redis+sentinel://host:port,host:port/SERVICE/db``, where the login is that of the servers.
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
        self._homes: dict[int, Address] = {}
        try:
            url = self._several(url)
            self._pool: Any = redis.ConnectionPool.from_url(url, protocol=2, **self._bounds)
            self._apool: Any = redis.asyncio.ConnectionPool.from_url(url, protocol=2, **self._bounds)
            if self._service:
                self._pool = self._of_sentinels(redis.sentinel)
        except (ValueError, TypeError):
            # Not even as the cause: it may have a part of the password.
            raise ConfigError(f"store.url {self.where} is no address; in a password / is %2F, # is %23") from None

    def _several(self, url: str) -> str:
        """The address of one of several hosts, whose list is noted."""
        found = _SEVERAL.fullmatch(url)
        if found is None:
            return url
        hosts = [_host(one) for one in found["hosts"].split(",")]
        path = found["path"] or ""
        if found["kind"] == "cluster":
            self._seeds = list(hosts)
        else:
            self._sentinels = hosts
            self._service, _, path = path.strip("/").partition("/")
            if not self._service:
                raise ValueError("no service")
        host, port = hosts[0]
        return f"redis://{found['login'] or ''}{host}:{port}/{path.strip('/')}{found['options'] or ''}"

    def _of_sentinels(self, package: Any) -> Any:
        pool = self._pool if package is self._redis.sentinel else self._apool
        options = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port")}
        sentinels = package.Sentinel(self._sentinels, sentinel_kwargs=self._bounds)
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

            async def close() -> None:
                await connection.disconnect(nowait=True)
                for sentinel in pool.sentinel_manager.sentinels:
                    await sentinel.connection_pool.disconnect()

            return connection, close
        place = {} if address is None else {"host": address[0], "port": address[1]}
        connection = self._apool.connection_class(**self._apool.connection_kwargs | place)
        return connection, lambda: connection.disconnect(nowait=True)

    # --- of a cluster

    @staticmethod
    def slot(key: bytes) -> int:
        """Where a cluster has *key*, by its hash tag."""
        return crc_hqx(key[key.index(b"{") + 1 : key.index(b"}")], 0) % 16_384

    def tries(self, slot: int) -> list[Address]:
        """Whom to ask about what is in *slot*, one after the other as long as connections break."""
        return [self._homes.get(slot, self._seeds[0]), *self._seeds]

    def moved(self, slot: int, asked: Address, error: BaseException | None) -> Address:
        """Which node *error* says is the right one; None if it says something else."""
        found = _MOVED.fullmatch(str(error)) if isinstance(error, self.errors.ResponseError) else None
        if found is None or asked is None or type(error).__name__ == "AskError":
            return None
        address = self._homes[slot] = (found[1] or asked[0], int(found[2]))
        return address

    def lost(self, slot: int, asked: Address) -> None:
        """*asked* did not answer: others are asked first from now on."""
        self._homes.pop(slot, None)
        if asked in self._seeds:
            self._seeds = [*(seed for seed in self._seeds if seed != asked), asked]


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "")
    return host.strip("[]"), int(port or 6379)
