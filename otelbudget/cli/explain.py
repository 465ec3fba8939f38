"""``otelbudget explain``: which limits a call would be held to, where each was written, and what does not limit it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Final, NamedTuple

from otelbudget.cli.screen import Cell, Screen
from otelbudget.config import Config, load_budget_config
from otelbudget.config.problems import dotted
from otelbudget.model.amounts import NANOS, RESOURCES, UNLIMITED, shown
from otelbudget.model.budget import RunBudget
from otelbudget.model.levels import NAMED, Level
from otelbudget.model.names import undated
from otelbudget.model.quota import Quota, check_priority
from otelbudget.model.windows import window_at

#: Who calls what: the options of the command by name, `tags` as a mapping; None or absent is not said.
Call = Mapping[str, Any]
#: What is said of it.
Facts = dict[str, Any]
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
    parser.add_argument("file", nargs="?", default="budgets.yaml", metavar="FILE", help="default ./budgets.yaml")
    for name, about in _NAMES.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=about)
    parser.add_argument("--tag", metavar="NAME=VALUE", type=_tag, action="append", help="a tag of the run; repeatable")
    parser.add_argument("--priority", type=_priority, default="normal", help="low, normal (default) or high")


def run(options: argparse.Namespace) -> int:
    call = {name: getattr(options, name) for name in (*_NAMES, "priority")} | {"tags": dict(options.tag or ())}
    found = explain(load_budget_config(options.file), call, time.time())
    _write(Screen(), call, found)
    return 0


def _tag(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"a tag is written as team=search, got {text!r}")
    return name, value


def _priority(text: str) -> str:
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


class _Place(NamedTuple):
    """Where quotas of a call stand: of which scope and whose, the setting's path, and they."""

    scope: str
    of: str
    path: tuple[str, ...]
    quotas: tuple[Quota, ...]


def explain(config: Config, call: Call, now_s: float) -> Facts:
    """Everything that *call*, made at *now_s* (Unix seconds), has to fit, and what does not limit it.

    Raises:
        ConfigError: No budget has the name that it asks for.
    """
    tenant = call.get("tenant") or "default"
    org = call.get("org") or config.tenants.get(tenant, "default")
    places = list(_places(config, call, org, tenant))
    priority = call.get("priority", "normal")
    limits = [_of_quota(place, quota, priority, now_s) for place in places for quota in place.quotas]
    notes = list(_silent(config, call, tenant, places))
    budget, setting = _budget(config, call)
    if budget is not None:
        limits.append(_of_budget(budget, setting))
    else:
        notes.append("there is no default_budget, so a run on its own is not limited")
    refused = None
    if call.get("tenant") is None and config.require_tenant:
        refused = f"it names no tenant, and require_tenant is set{_in(config.origin('require_tenant'))}"
    limited = {resource for limit in limits if limit["refuses"] for resource in limit["usable"]}
    return {
        "org": org,
        "tenant": tenant,
        "refused": refused,
        "limits": limits,
        "notes": notes,
        "unlimited": [resource for resource in (*RESOURCES, "seconds", "depth") if resource not in limited],
    }


def _places(config: Config, call: Call, org: str, tenant: str) -> Iterator[_Place]:
    """All places that apply, from the widest scope on."""
    yield _Place("org", org, ("quotas", "org"), config.quotas.org)
    for setting, level in NAMED.items():
        for names in _names(call, level, tenant):
            path, quotas = config.quotas.found(setting, *names)
            of = path[-1] if path and level.scope == "model" else "=".join(names[: 1 + level.nested])
            if level.scope != "tenant":
                of += f" of {tenant}" if "tenant" in level.fields else f" in {org}"
            yield _Place(level.scope, of, path or ("quotas", setting, ""), quotas)


def _names(call: Call, level: Level, tenant: str) -> list[tuple[str, ...]]:
    """All that the call names at a level, with what else each is called."""
    if level.nested:
        return list(call.get("tags", {}).items())
    name = tenant if level.scope == "tenant" else call.get(level.scope)
    if name is None:
        return []
    return [(name, undated(name)) if level.scope == "model" else (name,)]


def _silent(config: Config, call: Call, tenant: str, places: Sequence[_Place]) -> Iterator[str]:
    """A note for each scope that no quota limits, and for the quotas of others."""
    for place in places:
        where = config.origin(*place.path)
        if not place.quotas and where is not None:
            yield f"{dotted(place.path)} allows everything{_in(where)}"
        elif not place.quotas:
            yield f"{dotted(place.path[:2])} says nothing of this {place.scope}"
    for setting, level in NAMED.items():
        if getattr(config.quotas, setting) and not _names(call, level, tenant):
            yield f"no {level.scope} is named, so quotas.{setting} is not looked at"
    own = places[1].path
    if config.quotas.default and own != ("quotas", "default"):
        yield f"quotas.default is not for tenant {tenant}, which {dotted(own)} means"
    agent = call.get("agent")
    if agent is not None and agent not in config.agents and call.get("budget") is None:
        yield f"agents says nothing of {agent}"


def _budget(config: Config, call: Call) -> tuple[RunBudget | None, str]:
    """The budget of its run, and the setting that says so."""
    asked, agent = call.get("budget"), call.get("agent")
    if asked is not None:
        return config.budget(asked), dotted(("budgets", asked))
    if agent is not None and agent in config.agents:
        return config.agents[agent], dotted(("agents", agent))
    return config.default_budget, "default_budget"


def _of_quota(place: _Place, quota: Quota, priority: str, now_s: float) -> Facts:
    ends_s = window_at(quota.window, now_s).end_s
    window = f"per {quota.per}" if quota.per != "lifetime" else "for ever"
    if quota.at is not None or quota.timezone != "UTC":
        window += f" from {quota.at or '00:00'} {quota.timezone}"
    return {
        "scope": place.scope,
        "of": place.of,
        "name": quota.name,
        "limits": _amounts(quota.limits),
        "usable": _amounts(quota.limits_of.get(priority, quota.limits)),
        "set_aside": {},
        "window": window,
        "resets_at": datetime.fromtimestamp(ends_s, quota.window.tz) if isfinite(ends_s) else None,
        "refuses": quota.on_exhausted == "raise",
        "setting": dotted(place.path),
        "origin": quota.origin,
    }


def _of_budget(budget: RunBudget, setting: str) -> Facts:
    limits = _amounts(budget.limits)
    if budget.max_ns is not None:
        limits["seconds"] = Decimal(budget.max_ns) / NANOS
    if budget.max_depth is not None:
        limits["depth"] = budget.max_depth
    aside = [limit - ordinary for limit, ordinary in zip(budget.limits, budget.ordinary_limits, strict=True)]
    return {
        "scope": "run",
        "of": budget.name,
        "name": budget.name,
        "limits": limits,
        "usable": limits,
        "set_aside": {resource: amount for resource, amount in _amounts(aside).items() if amount},
        "window": "per run",
        "resets_at": None,
        "refuses": budget.on_exhausted != "warn",
        "setting": setting,
        "origin": budget.origin,
    }


def _amounts(limits: Sequence[int]) -> Facts:
    return {RESOURCES[i]: shown(i, limit) for i, limit in enumerate(limits) if limit < UNLIMITED}


def _in(origin: str | None) -> str:
    return f" ({origin})" if origin else ""
