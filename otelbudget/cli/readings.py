"""What ``otelbudget top`` looks at: the accounts of a shared store, and the pages of processes."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from math import isfinite
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from otelbudget import semconv
from otelbudget.admission.trips import owner_in_key, window_in_key
from otelbudget.cli.quota import stored
from otelbudget.engine.engine import Engine
from otelbudget.errors import BudgetError
from otelbudget.model.amounts import RESOURCES, UNLIMITED, shown
from otelbudget.stores.base import Stored

Number = int | float
_PARTS: Final = {semconv.M_BUDGET_USED: "used", semconv.M_BUDGET_RESERVED: "reserved", semconv.M_BUDGET_LIMIT: "limit"}
_WANTED: Final = (*_PARTS, semconv.M_ACTIVE_RUN_RATIO, semconv.M_BUILD_INFO)
_OWNERS: Final = ("org", "tenant", "model", "agent", "tag", "run_id")
_TIMEOUT_S: Final = 2.0


class Reading(NamedTuple):
    """One resource of one quota, or a run (of which only the share is known); money in USD."""

    scope: str
    whose: str
    quota: str
    resource: str
    where: str
    used: Number | None = None
    reserved: Number | None = None
    limit: Number | None = None
    used_ratio: float | None = None

    @property
    def ratio(self) -> float:
        """How much of the limit is used and held; 0 where there is none."""
        if self.used_ratio is not None:
            return self.used_ratio
        taken = (self.used or 0) + (self.reserved or 0)
        return taken / self.limit if self.limit else float(bool(taken) and self.limit is not None)

    def plain(self) -> dict[str, object]:
        """For programs."""
        return {**self._asdict(), "used_ratio": self.ratio}


class PageError(BudgetError):
    """There is no page of otelbudget at an address."""


def read_store(engine: Engine, shards: list[str], over: set[str]) -> Iterator[Reading]:
    """What a shared store has counted, beside the quotas that are configured and set; *over* as in `stored`."""
    for shard in shards:
        engine.store.read(shard, ())  # which says whether somebody has set quotas
        engine.caught_up()
        for one in stored(engine.store.store, shard, over):
            yield from _of_account(engine, one)


def _of_account(engine: Engine, one: Stored) -> Iterator[Reading]:
    where, window = owner_in_key(one.key)
    in_force = engine.directory.in_force(where) if window else ()
    quotas = [quota for quota in in_force if window_in_key(quota.window) == window]
    whose = "/".join(where.names)
    for i, resource in enumerate(RESOURCES):
        used, taken = _plain(shown(i, one.used[i])), _plain(shown(i, one.taken[i]))
        of = Reading(where.scope, whose, window, resource, engine.store.name, used, taken - used)
        for quota in quotas:
            if quota.limits[i] < UNLIMITED:
                yield of._replace(quota=quota.name or window, limit=_plain(shown(i, quota.limits[i])))
        if taken and not quotas:
            yield of


def read_page(address: str) -> Iterator[Reading]:
    """What the page at an address (``host:port`` or a URL) says of quotas and runs in progress.

    Raises:
        PageError: It can't be read, or is another one.
    """
    url = page_url(address)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as page:
            lines = [line for line in page.read().decode().splitlines() if line.startswith(_WANTED)]
        families = text_string_to_metric_families("\n".join(lines) + "\n")
        samples = [one for family in families for one in family.samples if isfinite(one.value)]
    except (ValueError, HTTPException) as error:
        raise PageError(f"{url} is no page of metrics: {error}") from error
    except OSError as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, too
        raise PageError(f"{url} can't be read: {getattr(error, 'reason', error)}") from error
    if not any(sample.name == semconv.M_BUILD_INFO for sample in samples):
        raise PageError(f"{url} is no page of otelbudget")
    found: dict[Reading, dict[str, Any]] = {}
    for name, labels, value, *_ in samples:
        whose = "/".join(labels[owner] for owner in _OWNERS if labels.get(owner))
        where = address if labels.get("store", "memory") == "memory" else labels["store"]
        of = Reading(labels.get("scope", "run"), whose, labels.get("budget", ""), labels.get("resource", ""), where)
        if name in _PARTS:
            found.setdefault(of, {})[_PARTS[name]] = value if of.resource == "cost_usd" else int(value)
        elif name == semconv.M_ACTIVE_RUN_RATIO:
            found.setdefault(of, {})["used_ratio"] = value
    for of, amounts in found.items():
        yield of._replace(**amounts)


def page_url(address: str) -> str:
    """Where the page of ``host:port``, ``:port`` or a URL is.

    Raises:
        PageError: It is no such address.
    """
    url = address if "://" in address else f"http://{'127.0.0.1' if address.startswith(':') else ''}{address}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        known = None
    if not known:
        raise PageError(f"{address!r} is no address: write host:port, or http://host:port/metrics")
    return url if parts.path.strip("/") else parts._replace(path="/metrics").geturl()


def _plain(value: object) -> Number:
    return value if isinstance(value, int) else float(str(value))
