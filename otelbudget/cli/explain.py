"""``otelbudget explain``: which limits a call would be held to, where each was written, and what does not limit it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from otelbudget.cli.screen import Cell, Screen, screen

if TYPE_CHECKING:
    from otelbudget.cli.explaining import Amount, Call, Explanation, Limit

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
    from otelbudget.cli.explaining import Call, explain
    from otelbudget.config import load_budget_config

    named = {name: getattr(options, name) for name in (*_NAMES, "priority")}
    call = Call(**named, tags=dict(options.tag or ()))
    explanation = explain(load_budget_config(options.file), call, time.time())
    if options.format == "json":
        print(json.dumps({"call": asdict(call), **asdict(explanation)}, default=_plain, indent=2))
    else:
        _write(screen(), call, explanation)
    return 0


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else float(value)


def _write(out: Screen, call: Call, explanation: Explanation) -> None:
    whose = [f"tenant {explanation.tenant} of org {explanation.org}"]
    said = {name: getattr(call, name) for name in (*_NAMES, "priority") if name not in ("tenant", "org")}
    whose += [f"{name} {value}" for name, value in said.items() if value is not None]
    whose += [f"tag {name}={value}" for name, value in call.tags.items()]
    out.heading(f"A call of {', '.join(whose)}")
    if explanation.refused is not None:
        out.line(("refused: ", "bad"), (explanation.refused, "plain"))
    for limit in explanation.limits:
        _limit(out, limit)
    out.heading("Price")
    _price(out, call, explanation)
    out.heading("What does not limit it")
    for note in explanation.notes:
        out.line((note, "plain"))
    if explanation.unlimited:
        out.line((f"nothing refuses {', '.join(explanation.unlimited)}", "plain"))


def _limit(out: Screen, limit: Limit) -> None:
    what = f"{_shown(limit.limits)} {limit.window}"
    if limit.usable != limit.limits:
        what += f", of which {_shown(limit.usable)} at this priority"
    if limit.set_aside:
        what += f", of which {_shown(limit.set_aside)} for one last call"
    resets = f", resets {limit.resets_at:%Y-%m-%d %H:%M %Z}" if limit.resets_at else ""
    over: Cell = ("refuses", "plain") if limit.refuses else ("only warns", "warn")
    out.line(
        (f"{limit.scope} {limit.of}".ljust(_WIDTH), "good"),
        (f" {what}{resets}; ", "plain"),
        over,
        (f" ({', '.join(filter(None, (limit.setting, limit.origin)))})", "dim"),
        hang=_WIDTH + 1,
    )


def _price(out: Screen, call: Call, explanation: Explanation) -> None:
    from otelbudget.config.problems import dotted

    price, unpriced = explanation.price, explanation.unpriced
    if price is not None:
        by = f"{dotted(('prices', price.entry))}, {price.origin}" if price.entry else "listed by genai-prices"
        cost = f"${price.input:f} input, ${price.output:f} output per million tokens"
        model: Cell = (f"model {call.model}".ljust(_WIDTH), "good")
        out.line(model, (f" {cost}", "plain"), (f" ({by})", "dim"), hang=_WIDTH + 1)
        return
    whose = "a model without a price" if call.model is None else f"model {call.model} has no price"
    out.line((f"{whose}: {unpriced.policy}, since {unpriced.because}", "plain"))


def _shown(amounts: Mapping[str, Amount]) -> str:
    return ", ".join(_amount(resource, amount) for resource, amount in amounts.items()) or "nothing limited"


def _amount(resource: str, amount: Amount) -> str:
    if resource == "cost_usd":
        return f"${amount:,f}"
    if resource == "seconds":
        return f"{Decimal(amount).normalize():f} s"
    return f"depth {amount}" if resource == "depth" else f"{amount:,} {resource}"


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
