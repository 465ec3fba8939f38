"""The store at an address."""

from __future__ import annotations

import logging
from collections.abc import Callable

from otelbudget.config.store import StoreConfig
from otelbudget.errors import StoreError
from otelbudget.stores.base import Store

_log = logging.getLogger("otelbudget")


def open_store(config: StoreConfig, clock_s: Callable[[], float]) -> Store | None:
    """The store that *config* names; None if quotas are counted in the memory of this process.

    A server that can't be reached is a warning: it may come.
    """
    if config.path is not None:
        from otelbudget.stores.sqlite import SqliteStore

        return SqliteStore(config.path, timeout_s=config.timeout_s, ttl_s=config.ttl_s, clock_s=clock_s)
    if not config.is_server:
        return None
    from otelbudget.stores.redis import RedisStore

    store = RedisStore(config.url, timeout_s=config.timeout_s, ttl_s=config.ttl_s, clock_s=clock_s)
    try:
        store.read("default", ())  # which tells its clock
    except StoreError as error:
        _log.warning("the %s store can't be reached yet: %s", store.name, error)
    return store
