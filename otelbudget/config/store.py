"""Where accounts are kept: `StoreConfig`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from otelbudget.config.problems import shown
from otelbudget.errors import ConfigError
from otelbudget.model.amounts import NANOS, nanoseconds
from otelbudget.model.levels import LEVELS

if TYPE_CHECKING:
    from otelbudget.model.quota import Quotas

_FILE: Final = "sqlite:///"
_SERVER: Final = r"rediss?(?:\+(?:cluster|sentinel))?://[^\x00-\x20\x7f]+|unix://[^\x00-\x20\x7f]*/[^\x00-\x20\x7f]+"
#: What an address is, as Python and JSON Schema read it. A path of a file is taken as it stands: no %20, no ?options=.
ADDRESS: Final = rf"memory|{_FILE}(?!:memory:$|.*\?[a-z_]*=)[^\x00-\x1f\x7f]*[^/\x00-\x1f\x7f]|{_SERVER}"
#: The same for messages.
ADDRESSES: Final = "memory, sqlite:///path.db or redis://host:port/db"
#: How long one call may take where nothing is said: of a server, and of a file, that may just be busy.
_SERVER_S, _FILE_S = 0.25, 5.0
_UNSAID: Final[Any] = None
#: What may become of requests while the store can't be reached.
ON_ERROR: Final = ("fail_closed", "fail_open", "local_fallback")
SHARD_BY: Final = ("org", "tenant")
#: The least and the most, in seconds.
BOUNDS_S: Final = {"timeout": (Decimal("0.01"), Decimal(60)), "ttl": (Decimal(1), Decimal(3_600))}


@dataclass(frozen=True, slots=True, repr=False)
class StoreConfig:
    """Where accounts are kept, and within which bounds that place answers.

    Example:
        >>> StoreConfig("sqlite:////var/lib/app/budgets.db").path
        '/var/lib/app/budgets.db'

    Args:
        url: ``memory``, of this process alone; or ``sqlite:///path.db``, a file that processes of one machine share:
            four slashes begin an absolute path, three one from the folder of the ``budgets.yaml`` that says so, or
            from the working directory where it is said in code; or ``redis://host:port/db``, ``rediss://`` (TLS) or
            ``unix:///path?db=0``, a Redis or Valkey server that machines share; where it is several,
            ``redis+cluster://host:port,host:port`` or ``redis+sentinel://host:port,host:port/SERVICE/db``
            (``?sentinel_password=...``), with TLS ``rediss+cluster://`` and ``rediss+sentinel://``.
        timeout_s: How long one call of the store may take, 0.01 to 60 seconds; 0.25 for a server and 5 for a file if
            it is not said.
        ttl_s: How long a hold lives that nobody renews, 1 to 3,600 seconds.
        on_error: What becomes of requests while the store can't be reached: ``fail_closed`` refuses them, ``fail_open``
            admits them, ``local_fallback`` admits what fits into *fallback_share* of each limit in this process.
        fallback_share: Above 0, at most 1.
        lease: What part of a limit a process takes from a shared store at a time, to spend it without asking again; 0
            asks for each request.
        shard_by: What lies together on one node of a cluster: all of an organisation (``org``), or of each ``tenant``;
            then nothing that counts several tenants together can have a quota (`check_shards`).

    Raises:
        ConfigError: The address is none of those, or a time is out of bounds.
    """

    url: str = "memory"
    timeout_s: float = _UNSAID
    ttl_s: float = 60.0
    on_error: str = "fail_closed"
    fallback_share: float = 0.1
    shard_by: str = "org"
    lease: float = 0.0

    def __post_init__(self) -> None:
        url = self.url if isinstance(self.url, str) else repr(self.url)
        if not re.fullmatch(ADDRESS, url):
            raise ConfigError(f"store.url must be {ADDRESSES}, got {shown(url)}{address_hint(url, '; ')}")
        if self.timeout_s is _UNSAID:
            object.__setattr__(self, "timeout_s", _SERVER_S if self.is_server else _FILE_S)
        for name, (least, most) in BOUNDS_S.items():
            value = getattr(self, f"{name}_s")
            if not least * NANOS <= nanoseconds(f"store.{name}_s", value, ConfigError) <= most * NANOS:
                raise ConfigError(f"store.{name}_s must be from {least} to {most} seconds, got {value}")
            object.__setattr__(self, f"{name}_s", float(value))
        if self.on_error not in ON_ERROR:
            raise ConfigError(f"store.on_error must be {' or '.join(ON_ERROR)}, got {self.on_error!r}")
        if self.shard_by not in SHARD_BY:
            raise ConfigError(f"store.shard_by must be {' or '.join(SHARD_BY)}, got {self.shard_by!r}")
        if not (_is_share(self.fallback_share) and self.fallback_share > 0):
            raise ConfigError(f"store.fallback_share must be above 0 and at most 1, got {self.fallback_share!r}")
        if not _is_share(self.lease):
            raise ConfigError(f"store.lease must be from 0 to 1, got {self.lease!r}")

    def __repr__(self) -> str:
        more = "" if self.on_error == "fail_closed" else f", on_error={self.on_error!r}"
        return f"StoreConfig({concealed(self.url)!r}, timeout_s={self.timeout_s:g}, ttl_s={self.ttl_s:g}{more})"

    @property
    def is_server(self) -> bool:
        """Whether it is a Redis or Valkey server."""
        return re.match(_SERVER, self.url) is not None

    @property
    def path(self) -> str | None:
        """The file of an ``sqlite`` store; None of the one in memory."""
        return self.url.removeprefix(_FILE) if self.url.startswith(_FILE) else None

    def at(self, url: str) -> StoreConfig:
        """The same at another address; a timeout that was not said is the usual one there."""
        said = self.timeout_s != (_SERVER_S if self.is_server else _FILE_S)
        return replace(self, url=url, timeout_s=self.timeout_s if said else _UNSAID)

    def beside(self, folder: str) -> StoreConfig:
        """The same with a relative path taken from *folder*."""
        return self if self.path is None else replace(self, url=_FILE + os.path.join(folder, self.path))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_shards(store: StoreConfig, quotas: Quotas) -> None:
    """ConfigError where tenants are kept apart, and something has a quota that counts several together."""
    if store.shard_by == "tenant":
        for level in LEVELS.values():
            field = level.scope if level.scope == "org" else f"{level.scope}s"
            if "tenant" not in level.fields and getattr(quotas, field):
                raise ConfigError(
                    f"quotas.{field} counts several tenants together, which store.shard_by: tenant keeps apart; remove"
                    " one of the two"
                )


def address_hint(url: str, before: str = "") -> str:
    """What is wrong with an address, after *before*; empty if only its form is."""
    if url.startswith("sqlite:"):
        return f"{before}three slashes begin a path from here, four an absolute one, and nothing follows it"
    return (
        f"{before}the schemes are memory, sqlite, redis, rediss, unix, redis+cluster and redis+sentinel"
        if ":" in url
        else ""
    )


def concealed(url: str) -> str:
    """An address without the user, the password and the options that one of a server may have."""
    if url.startswith(_FILE):
        return url
    return re.sub(r"^([a-z+]+://)?.*@", r"\1***@", url, flags=re.DOTALL).partition("?")[0]
