"""What may stand in a ``budgets.yaml``: one table, from names to what their values must be.

To add a setting, add a line to the table of its section and a parameter to what the section builds, show it in the
``budgets.yaml`` of the project's sources, and write the schema for editors anew:
``otelbudget schema --output otelbudget/config/budgets.schema.json``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from otelbudget.config import forms
from otelbudget.config.kinds import Field, Form, ListOf, Named, Section, TextOr
from otelbudget.config.parts import Estimates, Inbound, TelemetryConfig, TenantFrom
from otelbudget.config.store import ON_ERROR, SHARD_BY, StoreConfig
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.budget import RunBudget
from otelbudget.model.levels import NAMED, Level
from otelbudget.model.quota import PRIORITIES, Quota, Quotas
from otelbudget.pricing import Price

_RESOURCES: dict[str, tuple[Form, str]] = {
    "steps": (forms.COUNT, "Model calls."),
    "tokens": (forms.COUNT, "Input plus output tokens."),
    "input_tokens": (forms.COUNT, "Input tokens, cached ones included."),
    "output_tokens": (forms.COUNT, "Output tokens, reasoning included."),
    "cost_usd": (forms.MONEY, "Money, in US dollars."),
    "seconds": (forms.SECONDS, "Wall time since the run began."),
    "tool_calls": (forms.COUNT, "Tool calls."),
    "nested_tool_calls": (forms.COUNT, "Tool calls made inside a tool call."),
}

_THRESHOLDS: Final = ListOf(forms.RATIO, "ratios", "[80%, 100%]")
_ON_EXHAUSTED: Final = forms.words("raise", "warn")
_ON_UNPRICED: Final = forms.words("deny", "estimate", "allow")

BUDGET: Final = Section(
    {
        **{f"max_{name}": Field(replace(form, nullable=True), about) for name, (form, about) in _RESOURCES.items()},
        "max_depth": Field(replace(forms.COUNT, nullable=True), "How deep runs may nest; the first has depth 0."),
        "on_exhausted": Field(_ON_EXHAUSTED, "raise refuses what does not fit; warn counts and flags it."),
        "wrap_up": Field(
            Section({name: Field(*said) for name, said in _RESOURCES.items()}, dict),
            "Set aside inside the limits for one last call, see run.wrap_up(); one step is implied.",
        ),
        "thresholds": Field(_THRESHOLDS, "Shares of every limit whose crossing is reported. Default 80%, 95%, 100%."),
        "on_unpriced": Field(_ON_UNPRICED, "What a call of a model without a price does."),
    },
    RunBudget,
    called="budget",
    located=True,
)

_PRICE = Section(
    {
        "input": Field(forms.MONEY, "Per million input tokens, or per as many as `per` says."),
        "output": Field(forms.MONEY, "The same of output. Default: that of input."),
        "cache_read": Field(forms.MONEY, "Of input read from the provider's cache. Default: that of input."),
        "cache_write": Field(forms.MONEY, "Of input written to the provider's cache. Default: that of input."),
        "reasoning": Field(forms.MONEY, "Of output that is reasoning. Default: that of output."),
        "audio_input": Field(forms.MONEY, "Of input that is sound. Default: that of input."),
        "cache_audio_read": Field(forms.MONEY, "Of sound read from the provider's cache. Default: that of sound."),
        "audio_output": Field(forms.MONEY, "Of output that is sound. Default: that of output."),
        "image": Field(forms.MONEY, "For each image that is made. Default 0."),
        "search": Field(forms.MONEY, "For each search that the provider does. Default 0."),
        "request": Field(forms.MONEY, "For each call. Default 0."),
        "tiers": Field(
            Named(forms.MONEY),
            "Service tier -> what all prices are multiplied by: {priority: 2, batch: 0.5}.",
        ),
        "per": Field(forms.COUNT, "How many tokens the prices are for. Default 1M."),
        "discount": Field(forms.RATIO, "Taken off every price. Default 0."),
    },
    Price,
    required=("input",),
)


QUOTA: Final = Section(
    {
        **{name: Field(*_RESOURCES[name]) for name in RESOURCES},
        "per": Field(forms.WINDOW, "The window it is counted in. Default day."),
        "timezone": Field(forms.ZONE, "Whose clock the windows of the calendar follow. Default UTC."),
        "at": Field(forms.TIME_OF_DAY, "When a day, week (Monday) or month (1st) begins. Default midnight."),
        "thresholds": Field(_THRESHOLDS, "Shares whose crossing is reported. Default 80%, 95%, 100%."),
        "reserve_for": Field(
            Section({name: Field(forms.RATIO, f"Kept for runs of priority {name}.") for name in PRIORITIES}, dict),
            "Shares kept for important runs: {high: 20%, normal: 20%} stops normal ones at 80 % and low ones at 60 %.",
        ),
        "on_exhausted": Field(_ON_EXHAUSTED, "raise refuses what does not fit; warn counts and flags it."),
        "name": Field(forms.NAME, "What denials and metrics call it. Default: made of resources and window."),
    },
    Quota,
    called="quota",
    located=True,
)

_QUOTA_LIST = ListOf(QUOTA, "quotas", "[{tokens: 1M, per: day}]")


def _level(level: Level) -> Named:
    of_names = Named(_QUOTA_LIST)
    return Named(of_names, exact=True) if level.nested else of_names


_QUOTAS = Section(
    {
        "org": Field(_QUOTA_LIST, "What every organisation may use, each on its own."),
        "default": Field(_QUOTA_LIST, "What a tenant may use that `tenants` does not name."),
        **{name: Field(_level(level), level.about) for name, level in NAMED.items()},
    },
    Quotas,
    may_be_empty=True,
)


_TENANT = Section({"org": Field(forms.NAME, "The organisation it belongs to.")}, lambda org: org, required=("org",))

_TENANT_FROM = Section(
    {
        "span_attribute": Field(forms.NAME, "Attribute of the span that opens the run, or of one around it."),
        "baggage": Field(forms.NAME, "Entry of the OpenTelemetry baggage, where no span has it."),
    },
    TenantFrom,
)

_INBOUND = Section(
    {
        "run": Field(
            forms.FLAG, "Which shared run they are part of, by their baggage. Default false: anybody may send it."
        )
    },
    Inbound,
)

_ESTIMATES = Section(
    {
        "output_tokens": Field(
            forms.COUNT,
            "Held for an answer whose request sets no maximum, and nothing is known. Default 256.",
        ),
        "hold": Field(
            forms.words("max", "expected"),
            "max (default) holds the request's own maximum; expected less, by how long its answers were. On the demo's"
            " traffic max covers all calls with 1.9 times their cost, expected 99.5 % of them with 1.35 times.",
        ),
        "clamp": Field(forms.FLAG, "Lower a request's maximum to what is left, instead of refusing. Default false."),
        "min_output_tokens": Field(forms.COUNT, "What clamp never goes below. Default 16."),
        "ask_usage": Field(forms.FLAG, "Ask servers for the usage of streams, if their requests don't. Default true."),
        "on_unknown": Field(
            forms.words("input", "full"),
            "What a call is charged of which nobody knows how it ended: input (default), or full, all that it holds.",
        ),
    },
    Estimates,
    may_be_empty=True,
)

_TELEMETRY = Section(
    {
        "events": Field(
            forms.words("span", "log", "both"), "Checks and records as span events (default) or log records."
        ),
        "max_tenants": Field(forms.COUNT, "Tenants with metrics of their own. Default 500."),
        "max_models": Field(forms.COUNT, "Models with metrics of their own. Default 50."),
        "top_runs": Field(forms.COUNT, "Runs with gauges of their own while they are active. Default 20."),
        "metrics_port": Field(forms.COUNT, "TCP port of /metrics; 0 takes any free one."),
        "semconv_cost": Field(forms.FLAG, "Say costs as gen_ai.usage.cost.* too, a proposal. Default false."),
    },
    TelemetryConfig,
    may_be_empty=True,
)


def _store(url: str = "memory", **said: Any) -> StoreConfig:
    units = {"timeout": "timeout_s", "ttl": "ttl_s"}
    numbers: dict[str, Any] = {
        units.get(name, name): value if isinstance(value, str) else float(value) for name, value in said.items()
    }
    return StoreConfig(url, **numbers)


_STORE = Section(
    {
        "url": Field(
            forms.ADDRESS,
            "memory (default), a file (sqlite:///path.db beside this one), or a server (redis://host:port/db).",
        ),
        "timeout": Field(
            forms.SECONDS, "How long one call of the store may take. Default 250ms for a server, 5s for a file."
        ),
        "ttl": Field(forms.SECONDS, "How long a hold lives that nobody renews. Default 60s."),
        "on_error": Field(
            forms.words(*ON_ERROR),
            "What becomes of requests while it can't be reached: refused (default), admitted, or held to a share.",
        ),
        "fallback_share": Field(
            forms.RATIO, "What part of each limit one process may use then, under local_fallback. Default 10%."
        ),
        "lease": Field(
            forms.RATIO,
            "What part of a limit a process takes from a shared store at once, to spend it without asking. Default 0.",
        ),
        "shard_by": Field(
            forms.words(*SHARD_BY), "What lies together on a node of a cluster: each org (default), or each tenant."
        ),
    },
    _store,
)

#: The whole file. It is read in this order: first what the rest refers to.
FILE: Final = Section(
    {
        "prices": Field(Named(_PRICE), "Model or pattern -> what it costs, in US dollars per million tokens."),
        "budgets": Field(Named(BUDGET, referred=True), "What one run may spend at most, by name."),
        "default_budget": Field(
            TextOr(forms.BUDGET, BUDGET, refers=True, may_be_empty=True),
            "What a run is held to that asks for no budget: one, or its name.",
        ),
        "agents": Field(
            Named(TextOr(forms.BUDGET, BUDGET, refers=True)), "Agent's name (gen_ai.agent.name) -> budget of its runs."
        ),
        "tenants": Field(Named(_TENANT, exact=True), "Tenant -> the organisation it belongs to."),
        "require_tenant": Field(forms.FLAG, "Refuse runs that name no tenant. Default false: they are `default`'s."),
        "tenant_from": Field(_TENANT_FROM, "How a run that names no tenant learns whose it is; at least one of both."),
        "inbound": Field(_INBOUND, "What requests that come in are believed."),
        "quotas": Field(_QUOTAS, "What organisations, tenants, users, models and others may use per window."),
        "trust_reported_cost": Field(
            forms.FLAG, "Believe the cost that a response reports, for models not in `prices`. Default false."
        ),
        "on_unpriced": Field(
            _ON_UNPRICED,
            "What a call of a model without a price does. Default: deny under a cost limit, else allow.",
        ),
        "estimates": Field(_ESTIMATES, "What a call is taken to use before it has said so."),
        "telemetry": Field(_TELEMETRY, "What is told, and within which bounds."),
        "store": Field(
            TextOr(forms.ADDRESS, _STORE, may_be_empty=True), "Where accounts are kept; or its address alone."
        ),
    },
    dict,
)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 07), shipped as ``budgets.schema.json``: whatever the loader takes is valid."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "`otelbudget validate` finds more: names that mean no budget, sums, and what goes together.",
        "title": "budgets.yaml",
        "description": "Budgets, quotas and prices of otelbudget. Amounts are written as 50k, $2.50, 30s, 80%.",
        **FILE.whole(),
        "definitions": {"budget": BUDGET.whole(), "quota": QUOTA.whole()},
    }


def schema_text() -> str:
    """The schema as the contents of a file."""
    return json.dumps(schema(), indent=2) + "\n"
