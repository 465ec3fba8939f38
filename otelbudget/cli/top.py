"""``otelbudget top``: the quotas of a shared store, or of processes' pages, as they fill up; the fullest first."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from time import sleep, strftime
from typing import Final

from otelbudget.cli.demo import seconds
from otelbudget.cli.quota import shards_of, shared_config
from otelbudget.cli.readings import Reading, page_url, read_page, read_store
from otelbudget.cli.screen import NEAR, Cell, Mark, Screen, amount, bar
from otelbudget.config.store import concealed
from otelbudget.engine.engine import Engine
from otelbudget.errors import BudgetError, ConfigError

_MORE: Final = """Without addresses it is the store of ./budgets.yaml or --config. A page that can't be read is told,
and read again. Exit code 1 after --once: something could not be read."""
_HEAD: Final = ("", "Scope", "Whose", "Quota", "Resource", "Used ", "Held ", "Limit ", "Where")
_LEAST_S: Final = 0.1
#: Of what could be read, and what was wrong, by where.
Round = tuple[list[Reading], dict[str, str]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("address", nargs="*", metavar="ADDRESS", help="host:port or URL of a /metrics page")
    parser.add_argument("--store", metavar="URL", help="sqlite:///path.db, redis://...: what processes share")
    parser.add_argument("--config", metavar="FILE", help="a budgets.yaml (default ./budgets.yaml, if it is there)")
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
