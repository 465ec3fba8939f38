"""What may stand in a ``budgets.yaml``: one table, from names to what their values must be.

To add a setting, add a line to the table of its section and a parameter to what the section builds, show it in the
``budgets.yaml`` of the project's sources, and write the schema for editors anew:
``otelbudget schema --output otelbudget/config/budgets.schema.json``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from otelbudget.config.forms import (
    COUNT,
    FLAG,
    LASTING_WINDOW,
    MONEY,
    NAME,
    PORT,
    POSITIVE_COUNT,
    RATIO,
    SECONDS,
    THRESHOLD,
    TIME_OF_DAY,
    VARIABLE,
    WINDOW,
    ZONE,
    Form,
)
from otelbudget.config.kinds import BudgetOrName, Choice, Field, ListOf, Named, Scalar, Schema, Section
from otelbudget.config.settings import Estimates, TelemetryConfig, TenantFrom
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import PRIORITIES, Quota, Quotas
from otelbudget.pricing import Price

__all__ = ["FILE"]

_RESOURCES: dict[str, tuple[Form, str]] = {
    "steps": (COUNT, "Model calls."),
    "tokens": (COUNT, "Input plus output tokens."),
    "input_tokens": (COUNT, "Input tokens, cached ones included."),
    "output_tokens": (COUNT, "Output tokens, reasoning included."),
    "cost_usd": (MONEY, "Money, in US dollars."),
    "seconds": (SECONDS, "Wall time since the run began."),
    "tool_calls": (COUNT, "Tool calls."),
    "nested_tool_calls": (COUNT, "Tool calls made inside a tool call."),
}

_ON_UNPRICED: Final = Choice(("deny", "estimate", "allow"), estimates="estimate")
_ON_EXHAUSTED: Final = Choice(("raise", "warn"))
_THRESHOLDS: Final = ListOf(Scalar(THRESHOLD), "ratios", "[80%, 100%]")


def _set_aside_of(resource: str) -> Schema:
    """What is set aside of a resource has to be limited."""
    given = {"required": ["wrap_up"], "properties": {"wrap_up": {"required": [resource]}}}
    limit = f"max_{resource}"
    return {"if": given, "then": {"required": [limit], "properties": {limit: {"not": {"type": "null"}}}}}


_BUDGET = Section(
    {
        **{f"max_{name}": Field(Scalar(form, nullable=True), about) for name, (form, about) in _RESOURCES.items()},
        "max_depth": Field(Scalar(COUNT, nullable=True), "How deep runs may nest; the first has depth 0."),
        "on_exhausted": Field(_ON_EXHAUSTED, "raise refuses what does not fit; warn counts and flags it."),
        "wrap_up": Field(
            Section({name: Field(Scalar(form), about) for name, (form, about) in _RESOURCES.items()}, dict),
            "Set aside inside the limits for one last call, see run.wrap_up(); one step is implied.",
        ),
        "latch": Field(Scalar(FLAG), "Once a resource has run out, refuse requests for it at once. Default true."),
        "thresholds": Field(_THRESHOLDS, "Shares of every limit whose crossing is reported. Default 80%, 95%, 100%."),
        "on_unpriced": Field(_ON_UNPRICED, "What a call of a model without a price does."),
    },
    RunBudget,
    called="budget",
    located=True,
    rules=tuple(_set_aside_of(resource) for resource in RESOURCES),
)

_PRICE = Section(
    {
        "input": Field(Scalar(MONEY), "Per million input tokens, or per as many as `per` says."),
        "output": Field(Scalar(MONEY), "The same of output. Default: that of input."),
        "cache_read": Field(Scalar(MONEY), "Of input read from the provider's cache. Default: that of input."),
        "cache_write": Field(Scalar(MONEY), "Of input written to the provider's cache. Default: that of input."),
        "reasoning": Field(Scalar(MONEY), "Of output that is reasoning. Default: that of output."),
        "per": Field(Scalar(POSITIVE_COUNT), "How many tokens the prices are for. Default 1M."),
        "discount": Field(Scalar(RATIO), "Taken off every price. Default 0."),
    },
    Price,
    required=("input",),
)


def _shares(**shares: Any) -> dict[str, float]:
    return {priority: float(share) for priority, share in shares.items()}


def _only_with(windows: str, setting: str, otherwise: Schema) -> Schema:
    """A setting that means something only with some windows, or is *otherwise*."""
    return {
        "if": {"required": [setting], "properties": {setting: {"not": otherwise}}},
        "then": {"properties": {"per": {"pattern": f"^[ \\t\\r\\n]*(?:{windows})[ \\t\\r\\n]*$|{VARIABLE}"}}},
    }


_QUOTA = Section(
    {
        **{name: Field(Scalar(_RESOURCES[name][0]), _RESOURCES[name][1]) for name in RESOURCES},
        "per": Field(Scalar(WINDOW), "The window it is counted in. Default day."),
        "timezone": Field(Scalar(ZONE), "Whose clock the windows of the calendar follow. Default UTC."),
        "at": Field(Scalar(TIME_OF_DAY), "When a day, week (Monday) or month (1st) begins. Default midnight."),
        "thresholds": Field(_THRESHOLDS, "Shares whose crossing is reported. Default 80%, 95%, 100%."),
        "reserve_for": Field(
            Section({name: Field(Scalar(RATIO), f"Kept for runs of priority {name}.") for name in PRIORITIES}, _shares),
            "Shares kept for important runs: {high: 20%, normal: 20%} stops normal ones at 80 % and low ones at 60 %.",
        ),
        "on_exhausted": Field(_ON_EXHAUSTED, "raise refuses what does not fit; warn counts and flags it."),
        "name": Field(Scalar(NAME), "What denials and metrics call it. Default: made of resources and window."),
    },
    Quota,
    called="quota",
    located=True,
    rules=(
        {"anyOf": [{"required": [resource]} for resource in RESOURCES]},
        _only_with("day|week|month", "at", {"pattern": VARIABLE}),
        _only_with(
            "minute|hour|day|week|month", "timezone", {"pattern": f"^[ \\t\\r\\n]*UTC[ \\t\\r\\n]*$|{VARIABLE}"}
        ),
    ),
)

_MODEL_QUOTA = replace(
    _QUOTA,
    fields={**_QUOTA.fields, "per": Field(Scalar(LASTING_WINDOW), "The window it is counted in. Default day.")},
    called="model_quota",
)

_QUOTA_LIST = ListOf(_QUOTA, "quotas", "[{tokens: 1M, per: day}]", named=True)
_MODEL_QUOTA_LIST = replace(_QUOTA_LIST, item=_MODEL_QUOTA)

_QUOTAS = Section(
    {
        "org": Field(_QUOTA_LIST, "What every organisation may use, each on its own."),
        "default": Field(_QUOTA_LIST, "What a tenant may use that `tenants` does not name."),
        "tenants": Field(Named(_QUOTA_LIST), "Tenant or pattern -> its quotas, in place of `default`."),
        "users": Field(Named(_QUOTA_LIST), 'User or pattern -> quotas of each such user; "*" is every user.'),
        "models": Field(Named(_MODEL_QUOTA_LIST), "Model or pattern -> quotas of each organisation."),
    },
    Quotas,
    may_be_empty=True,
)


def _org(org: str) -> str:
    return org


_TENANT = Section({"org": Field(Scalar(NAME), "The organisation it belongs to.")}, _org, required=("org",))

_TENANT_FROM = Section(
    {
        "span_attribute": Field(Scalar(NAME), "Attribute of the span that opens the run, or of one around it."),
        "baggage": Field(Scalar(NAME), "Entry of the OpenTelemetry baggage, where no span has it."),
    },
    TenantFrom,
    rules=({"anyOf": [{"required": ["span_attribute"]}, {"required": ["baggage"]}]},),
)

_ESTIMATES = Section(
    {
        "output_tokens": Field(
            Scalar(POSITIVE_COUNT),
            "Held for an answer whose request sets no maximum, and nothing is known. Default 256.",
        ),
        "hold": Field(
            Choice(("max", "expected")),
            "max (default) holds the request's own maximum; expected what answers of the model usually take.",
        ),
        "clamp": Field(Scalar(FLAG), "Lower a request's maximum to what is left, instead of refusing. Default false."),
        "min_output_tokens": Field(Scalar(POSITIVE_COUNT), "What clamp never goes below. Default 16."),
    },
    Estimates,
    may_be_empty=True,
)

_TELEMETRY = Section(
    {
        "events": Field(Choice(("span", "log", "both")), "Checks and records as span events (default) or log records."),
        "max_tenants": Field(Scalar(POSITIVE_COUNT), "Tenants with metrics of their own. Default 500."),
        "max_models": Field(Scalar(POSITIVE_COUNT), "Models with metrics of their own. Default 50."),
        "top_runs": Field(Scalar(COUNT), "Runs with gauges of their own while they are active. Default 20."),
        "metrics_port": Field(Scalar(PORT), "TCP port of /metrics; 0 takes any free one."),
    },
    TelemetryConfig,
    may_be_empty=True,
)

#: The whole file.
FILE: Final = Section(
    {
        "budgets": Field(Named(_BUDGET, names_budgets=True), "What one run may spend at most, by name."),
        "default_budget": Field(
            BudgetOrName(_BUDGET, nullable=True), "What a run is held to that asks for no budget: one, or its name."
        ),
        "agents": Field(Named(BudgetOrName(_BUDGET)), "Agent's name (gen_ai.agent.name) -> budget of its runs."),
        "tenants": Field(Named(_TENANT, exact=True), "Tenant -> the organisation it belongs to."),
        "require_tenant": Field(Scalar(FLAG), "Refuse runs that name no tenant. Default false: they are `default`'s."),
        "tenant_from": Field(_TENANT_FROM, "How a run that names no tenant learns whose it is; at least one of both."),
        "quotas": Field(_QUOTAS, "What organisations, tenants, users and models may use per window."),
        "prices": Field(Named(_PRICE), "Model or pattern -> what it costs, in US dollars per million tokens."),
        "trust_reported_cost": Field(
            Scalar(FLAG), "Believe the cost that a response reports, for models not in `prices`. Default false."
        ),
        "on_unpriced": Field(
            _ON_UNPRICED, "What a call of a model without a price does. Default: deny under a cost limit, else allow."
        ),
        "estimates": Field(_ESTIMATES, "What a call is taken to use before it has said so."),
        "telemetry": Field(_TELEMETRY, "What is told, and within which bounds."),
    },
    dict,
    later=("store", "on_store_error"),
)
