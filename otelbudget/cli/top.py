"""``otelbudget top``: the quotas of a shared store, or of processes' pages, as they fill up; the fullest first."""

from __future__ import annotations

import argparse
import json
import logging
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from math import isfinite
from time import sleep, strftime
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from otelbudget import semconv
from otelbudget.admission.trips import owner_in_key, window_in_key
from otelbudget.cli.demo import seconds
from otelbudget.cli.quota import shards_of, shared_config, stored
from otelbudget.cli.screen import NEAR, Cell, Mark, Screen, amount, bar
from otelbudget.config.store import concealed
from otelbudget.engine.engine import Engine
from otelbudget.errors import BudgetError, ConfigError
from otelbudget.model.amounts import RESOURCES, UNLIMITED, shown
from otelbudget.stores.base import Stored
from otelbudget.stores.errands import at_once

_MORE: Final = """Without addresses it is the store of --config, else as setup() finds it. A page that can't be read is
told, and read again. Exit code 1 after --once: something could not be read."""
_HEAD: Final = ("", "Scope", "Whose", "Quota", "Resource", "Used ", "Held ", "Limit ", "Where")
_LEAST_S: Final = 0.1
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


#: Of what could be read, and what was wrong, by where.
Round = tuple[list[Reading], dict[str, str]]


class PageError(BudgetError):
    """There is no page of otelbudget at an address."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("address", nargs="*", metavar="ADDRESS", help="host:port or URL of a /metrics page")
    parser.add_argument("--store", metavar="URL", help="sqlite:///path.db, redis://...: what processes share")
    parser.add_argument("--config", metavar="FILE", help="a budgets.yaml (default as setup() finds it)")
    parser.add_argument("--org", metavar="NAME", help="of which organisation (default: all that are configured)")
    parser.add_argument("--every", type=seconds, default=2.0, metavar="2s", help="how often to look (default 2s)")
    parser.add_argument("--once", action="store_true", help="look once")
    parser.add_argument("--json", action="store_true", help="for programs: a line per look")


def run(options: argparse.Namespace) -> int:
    """Look, and show it, until Ctrl-C or `once`; gives 0, or 1 if one look was wanted and something failed."""
    with ExitStack() as undo:
        budgets = logging.getLogger("otelbudget")
        budgets.addFilter(_is_silent)  # what it would say of the store is shown
        undo.callback(budgets.removeFilter, _is_silent)
        sources = dict(_sources(options, undo))
        screen, before = Screen(), set[str]()
        try:
            while True:
                readings, errors = _look(sources)
                if options.json:
                    print(json.dumps({"readings": [one.plain() for one in readings], "errors": errors}), flush=True)
                elif options.once or screen.live:
                    _draw(screen, readings, errors, last=options.once)
                else:
                    before = _tell(screen, readings, errors, before)
                if options.once:
                    return 1 if errors else 0
                sleep(max(options.every, _LEAST_S))
        except KeyboardInterrupt:
            return 0


def _is_silent(_: logging.LogRecord) -> bool:
    return False


def _sources(options: argparse.Namespace, undo: ExitStack) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
    for address in options.address:
        page_url(address)
        yield address, partial(read_page, address)
    if options.store is None and options.address:
        return
    try:
        config = shared_config(options)
    except ConfigError as error:
        hint = "" if "--store" not in str(error) else ", or an ADDRESS of a /metrics page"
        raise ConfigError(f"{error}{hint}") from error
    orgs = [options.org] if options.org else list(dict.fromkeys(("default", *config.tenants.values())))
    engine = Engine(config)
    undo.callback(engine.close)
    yield concealed(config.store.url), partial(read_store, engine, shards_of(config, orgs), set())


def _look(sources: dict[str, Callable[[], Iterable[Reading]]]) -> Round:
    """What all say, once each: processes that share a store say the same, or what they knew last."""
    found: dict[tuple[str, ...], Reading] = {}
    errors = {}
    for name, read in sources.items():
        try:
            for one in read():
                known = found.setdefault(one[:5], one)
                if (one.used or 0) > (known.used or 0):
                    found[one[:5]] = one
        except BudgetError as error:
            errors[name] = str(error)
    return sorted(found.values(), key=lambda one: (-one.ratio, one)), errors


def _draw(screen: Screen, readings: list[Reading], errors: dict[str, str], *, last: bool) -> None:
    notes: list[Cell] = [(why, "bad") for why in errors.values()]
    rows = [_cells(one) for one in readings]
    if screen.live:
        screen.draw(_HEAD, rows, notes=notes, last=last)
    else:
        for note in notes:
            screen.line(note)
        screen.table(_HEAD, rows)


def _tell(screen: Screen, readings: list[Reading], errors: dict[str, str], before: set[str]) -> set[str]:
    """Write what was not there *before* as lines; gives what is there."""
    told = [" ".join(text for text, _ in _cells(one) if text) for one in readings]
    told += errors.values()
    for line in told:
        if line not in before:
            screen.line((f"{strftime('%H:%M:%S')} {line}", "plain"), indent=0)
    return set(told)


def _cells(one: Reading) -> list[Cell]:
    mark: Mark = "bad" if one.ratio >= 1 else "warn" if one.ratio >= NEAR else "good"
    drawn = "" if one.limit is None and one.used_ratio is None else bar(one.ratio)
    amounts = ["" if value is None else amount(one.resource, value) for value in (one.used, one.reserved, one.limit)]
    texts: list[Cell] = [(text, "plain") for text in (one.scope, one.whose, one.quota, one.resource, *amounts)]
    return [(drawn, mark), *texts, (one.where, "dim")]


# --- where it comes from: the accounts of a shared store, and the pages of processes


def read_store(engine: Engine, shards: list[str], over: set[str]) -> Iterator[Reading]:
    """What a shared store has counted, beside the quotas that are configured and set; *over* as in `stored`."""
    for shard in shards:
        at_once(engine.store.ask("", "read", shard, ()))  # which says whether somebody has set quotas
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
