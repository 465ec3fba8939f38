"""``otelbudget quota``: what tenants have used of a shared store; their quotas shown, and changed for everybody."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from otelbudget.admission.trips import run_of
from otelbudget.bootstrap.arguments import configuration
from otelbudget.cli.screen import Screen
from otelbudget.config import Config
from otelbudget.errors import ConfigError
from otelbudget.manager import BudgetManager
from otelbudget.model.amounts import RESOURCES, shown
from otelbudget.model.quota import Quota
from otelbudget.quota import QuotaService
from otelbudget.stores.base import Store, Stored
from otelbudget.stores.records import RunRecord

_LIMITS: Final = ("steps", "tokens", "input_tokens", "output_tokens", "cost_usd", "tool_calls")
_MORE: Final = """The store and the configured quotas are those of --config, else as setup() finds them. What is set
holds for all processes that use the store, within about a second of their next request, until
`set TENANT --configured`."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    summaries = {
        "list": "what the store has counted, account by account",
        "show": "what a tenant has used and has left",
        "set": "give a tenant another quota",
        "reset": "forget what a tenant has used in the present windows",
    }
    made = {name: actions.add_parser(name, help=summary, epilog=_MORE) for name, summary in summaries.items()}
    for name, action in made.items():
        if name != "list":
            action.add_argument("tenant", metavar="TENANT")
        action.add_argument("--config", metavar="FILE", help="a budgets.yaml (default as setup() finds it)")
        action.add_argument("--store", metavar="URL", help="sqlite:///path.db, redis://...: in place of the file's")
        action.add_argument("--json", action="store_true", help="for programs")
        if name in ("set", "reset"):
            action.add_argument("--reason", metavar="TEXT", help="why; it is logged")
    made["list"].add_argument("--org", default="default", metavar="NAME", help="of which organisation")
    for name in _LIMITS:
        made["set"].add_argument(f"--{name.replace('_', '-')}", metavar="AMOUNT", help="as in a budgets.yaml: 2M, $5")
    made["set"].add_argument("--per", default="day", help="day (default), month, 'rolling 24h', ...")
    made["set"].add_argument("--configured", action="store_true", help="take back what was set")


def run(options: argparse.Namespace) -> int:
    manager = BudgetManager(shared_config(options))
    try:
        if options.action == "list":
            shards = shards_of(manager.engine.config, [options.org])
            rows = [row for shard in shards for row in _accounts(manager.engine.store.store, shard)]
        else:
            service = QuotaService(store=manager)
            _change(service, options)
            rows = [asdict(line) for line in service.usage(options.tenant).lines]
    finally:
        manager.shutdown()
    if options.json:
        print(json.dumps(rows, default=_plain, indent=2))
    else:
        _write(rows)
    return 0


def shared_config(options: argparse.Namespace) -> Config:
    """The configuration, as `setup()` finds it, with the ``--store``; ConfigError if that is nothing to share."""
    config, _ = configuration(options.config)
    if options.store is not None:
        config = replace(config, store=config.store.at(options.store))
    if config.store.url == "memory":
        raise ConfigError("quotas in the memory of a process can't be seen from here: name a --store that they share")
    return config


def _change(service: QuotaService, options: argparse.Namespace) -> None:
    actor = f"{os.environ.get('USER', 'somebody')} at the command line"
    if options.action == "reset":
        service.reset(options.tenant, actor=actor, reason=options.reason)
    if options.action != "set":
        return
    limits: dict[str, Any] = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    if bool(limits) is options.configured:
        raise ConfigError("say what to set, --tokens 2M, or --configured to take back what was set; one of them")
    quota = None if options.configured else Quota(**limits, per=options.per)
    service.set_quota(options.tenant, quota, actor=actor, reason=options.reason)


def shards_of(config: Config, orgs: list[str]) -> list[str]:
    """Where the accounts of *orgs* lie; of tenants that are kept apart, those that are configured."""
    if config.store.shard_by != "tenant":
        return orgs
    tenants = dict.fromkeys(("default", *config.named_tenants))
    return [f"{org}/{tenant}" for org in orgs for tenant in tenants]


def _accounts(store: Store, shard: str) -> list[dict[str, Any]]:
    rows = []
    for one in stored(store, shard):
        for i, resource in enumerate(RESOURCES):
            used, taken = (amounts[i] for amounts in (one.used, one.taken))
            if taken:
                amounts = {"used": shown(i, used), "reserved": shown(i, taken - used)}
                rows.append({"account": one.key, "resource": resource, **amounts})
    return rows


def stored(store: Store, shard: str, over: set[str] | None = None) -> Iterator[Stored]:
    """All accounts of a shard in their windows of now, but those of shared runs that are *over*: found out once."""
    after, over = "", set() if over is None else over
    while page := store.accounts(shard, after):
        after = page[-1].key
        for one in page:
            run_id = run_of(one)
            if run_id is not None and run_id not in over and _is_over(store.run(shard, run_id)):
                over.add(run_id)
            if run_id not in over:
                yield one


def _is_over(record: RunRecord | None) -> bool:
    return record is not None and bool(json.loads(record.state)["over"])


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _write(rows: list[dict[str, Any]]) -> None:
    hidden = ("per", "window")
    titles = [name for name in rows[0] if name not in hidden] if rows else []
    numbers = ("used", "reserved", "limit", "remaining")
    head = [f"{title} " if title in numbers else title for title in titles]
    screen = Screen()
    if rows:
        screen.table(head, [[(_text(title, row[title]), "plain") for title in titles] for row in rows])
    else:
        screen.line(("nothing", "dim"))


def _text(title: str, value: Any) -> str:
    if title == "overridden":
        return "set" if value else "configured"
    if isinstance(value, datetime):
        return value.isoformat(timespec="minutes")
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
