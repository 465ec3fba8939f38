"""What `set_quota` says, shared with all processes that count in the same store.

It is written to the store where it is said. An answer of the store tells by its revision that something has changed,
and then the store's thread reads it, within about a second.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from decimal import Decimal
from typing import Any

from otelbudget import forking
from otelbudget.engine.directory import Directory
from otelbudget.engine.owner import Names
from otelbudget.errors import StoreError
from otelbudget.model.quota import Quota
from otelbudget.stores.base import Override
from otelbudget.stores.shared import Shared

_log = logging.getLogger("otelbudget")


class SharedOverrides:
    """What is in force in *directory* because it was set while running, as *store* has it."""

    def __init__(self, directory: Directory, store: Shared) -> None:
        self._directory = directory
        self._store = store
        #: By shard: the revision that is in force here, and one that has been heard of since; each with how often the
        #: store had lost its data by then, after which revisions begin anew.
        self._read: dict[str, tuple[int, int]] = {}
        self._heard: dict[str, tuple[int, int]] = {}
        # What was read later is put in force later, and what is set here starts from what is in force.
        self._lock = forking.fresh_lock()
        store.overrides = self

    def heard(self, shard: str, revision: int) -> bool:
        """Note what an answer says of *shard*; whether that is news, to be read by `catch_up`."""
        now = (self._store.health.wiped, revision)
        if now == self._read.get(shard, (0, 0)):
            return False
        self._heard[shard] = now
        return True

    def catch_up(self) -> bool:
        """Read what has changed, if anything has and the store can be reached; gives whether."""
        if not self._heard:
            return False
        with self._lock:
            return self._caught_up()

    def _caught_up(self) -> bool:
        for shard in list(self._heard):
            revision = self._heard[shard]
            try:
                self._adopt(shard)
            except StoreError:  # once more later
                return False
            self._read[shard] = revision
            if self._heard.get(shard) == revision:
                self._heard.pop(shard, None)
        return True

    @contextmanager
    def changing(self, tenant: str) -> Iterator[None]:
        """A block that changes what is set for *tenant*: from what the store has by now, to what it gets."""
        with self._lock:
            self._adopt(self._shard(tenant))
            before = self._directory.overrides.get(tenant, ())
            try:
                yield
                self._write(tenant, self._directory.overrides.get(tenant, ()))
            except BaseException:  # half of it would be worse than none
                self._directory.adopt(tenant, before)
                raise

    def _adopt(self, shard: str) -> None:
        found = self._store.store.overrides(shard)
        for tenant in {*found, *self._directory.overrides}:
            if self._shard(tenant) == shard:
                self._directory.adopt(tenant, _read(tenant, found.get(tenant)))

    def _write(self, tenant: str, quotas: tuple[Quota, ...]) -> None:
        rules = Override(json.dumps([_form(quota) for quota in quotas])) if quotas else None
        self._store.store.configure(self._shard(tenant), tenant, rules)

    def _shard(self, tenant: str) -> str:
        return self._store.shard(self._directory.owner(Names(tenant=tenant)))


def _form(quota: Quota) -> dict[str, Any]:
    given = {one.name: getattr(quota, one.name) for one in fields(quota) if one.init and one.name != "origin"}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Decimal | float) else value  # exact, and a quota reads such texts


def _read(tenant: str, override: Override | None) -> tuple[Quota, ...]:
    try:
        return () if override is None else tuple(Quota(**one) for one in json.loads(override.rules))
    except (TypeError, ValueError) as error:
        _log.warning("what was set for tenant %r in the store is not understood and not in force: %s", tenant, error)
        return ()
