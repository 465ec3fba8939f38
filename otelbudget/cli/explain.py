"""``otelbudget explain``: which limits a call would be held to, where each was written, and what does not limit it."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from otelbudget.cli.screen import Cell, Screen

if TYPE_CHECKING:
    from otelbudget.cli.explaining import Call, Facts

_WIDTH: Final = 28
#: The options that name something of a call, and what they are for.
_NAMES: Final = {
    "tenant": "who calls; without it, the tenant `default`",
    "user": "the user of that tenant",
    "agent": "the agent that calls, as its span names it",
    "conversation": "the id of the conversation",
    "org": "the organisation; without it, that of the tenant",
    "model": "the model that is called",
    "budget": "the budget that the run asks for",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="?", default="budgets.yaml", metavar="FILE", help="default ./budgets.yaml")
    for name, about in _NAMES.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=about)
    parser.add_argument("--tag", metavar="NAME=VALUE", type=_tag, action="append", help="a tag of the run; repeatable")
    parser.add_argument("--priority", type=_priority, default="normal", help="low, normal (default) or high")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    """Write the explanation to standard output; gives 0."""
    from otelbudget.cli.explaining import explain
    from otelbudget.config import load_budget_config

    call = {name: getattr(options, name) for name in (*_NAMES, "priority")} | {"tags": dict(options.tag or ())}
    found = explain(load_budget_config(options.file), call, time.time())
    if options.format == "json":
        print(json.dumps({"call": call, **found}, default=_plain, indent=2))
    else:
        _write(Screen(), call, found)
    return 0


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else float(value)


def _tag(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"a tag is written as team=search, got {text!r}")
    return name, value


def _priority(text: str) -> str:
    from otelbudget.model.quota import check_priority

    try:
        return check_priority(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _write(out: Screen, call: Call, found: Facts) -> None:
    said = {name: call[name] for name in (*_NAMES, "priority") if name not in ("tenant", "org") and call[name]}
    tags = [f"tag {name}={value}" for name, value in call["tags"].items()]
    whose = [f"tenant {found['tenant']} of org {found['org']}", *(f"{name} {said[name]}" for name in said), *tags]
    out.heading(f"A call of {', '.join(whose)}")
    if found["refused"] is not None:
        out.line(("refused: ", "bad"), (found["refused"], "plain"))
    for limit in found["limits"]:
        _write_limit(out, limit)
    out.heading("What does not limit it")
    for note in found["notes"]:
        out.line((note, "plain"))
    if found["unlimited"]:
        out.line((f"nothing refuses {', '.join(found['unlimited'])}", "plain"))


def _write_limit(out: Screen, limit: Facts) -> None:
    what = f"{_shown(limit['limits'])} {limit['window']}"
    if limit["usable"] != limit["limits"]:
        what += f", of which {_shown(limit['usable'])} at this priority"
    if limit["set_aside"]:
        what += f", of which {_shown(limit['set_aside'])} for one last call"
    resets = f", resets {limit['resets_at']:%Y-%m-%d %H:%M %Z}" if limit["resets_at"] else ""
    over: Cell = ("refuses", "plain") if limit["refuses"] else ("only warns", "warn")
    out.line(
        (f"{limit['scope']} {limit['of']}".ljust(_WIDTH), "good"),
        (f" {what}{resets}; ", "plain"),
        over,
        (f" ({', '.join(filter(None, (limit['setting'], limit['origin'])))})", "dim"),
        hang=_WIDTH + 1,
    )


def _shown(amounts: Facts) -> str:
    return ", ".join(_amount(resource, amount) for resource, amount in amounts.items()) or "nothing limited"


def _amount(resource: str, amount: Any) -> str:
    if resource == "cost_usd":
        return f"${amount:,f}"
    if resource == "seconds":
        return f"{Decimal(amount).normalize():f} s"
    return f"depth {amount}" if resource == "depth" else f"{amount:,} {resource}"
