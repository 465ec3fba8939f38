"""Every metric family: its name, labels, unit and how it is read from a snapshot.

One table for both routes, the page that Prometheus scrapes and the instruments of OpenTelemetry, so they can't differ.
To add a metric: a name in `semconv`, a cell that counts it, a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from otelbudget import semconv
from otelbudget._version import __version__
from otelbudget.model.amounts import COST, NANOS, RESOURCES
from otelbudget.telemetry.cell_types import ALLOW_SLOTS
from otelbudget.telemetry.family import Family, HistogramFamily, Sample
from otelbudget.telemetry.histogram import (
    CHECK_BUCKETS,
    COST_BUCKETS,
    RATIO_BUCKETS,
    SECONDS_BUCKETS,
    TOKEN_BUCKETS,
)
from otelbudget.telemetry.snapshot import Snapshot

__all__ = ["FAMILIES", "HISTOGRAMS", "Family", "HistogramFamily", "Sample"]


def _checks(now: Snapshot) -> Iterator[Sample]:
    for cell in now.budgets:
        own = (cell.tenant, cell.budget)
        for operation in ALLOW_SLOTS:
            allowed = getattr(cell, operation) + cell.rare.get((operation, "allow", ""), 0)
            # Model calls are born at zero, or rate() would miss the first one; the rest appears when it happens.
            if allowed or operation == "call":
                yield (*own, operation, "allow", ""), allowed
        if ("call", "deny", "limit") not in cell.rare:
            yield (*own, "call", "deny", "limit"), 0
        for (operation, decision, reason), checks in cell.rare.items():
            if (decision, reason) != ("allow", "") or operation not in ALLOW_SLOTS:
                yield (*own, operation, decision, reason), checks


def _tokens(now: Snapshot) -> Iterator[Sample]:
    for cell in now.spends:
        yield (cell.tenant, cell.model, "input"), cell.input
        yield (cell.tenant, cell.model, "output"), cell.output


def _token_details(now: Snapshot) -> Iterator[Sample]:
    for cell in now.spends:
        for detail in ("cache_read", "cache_write", "reasoning"):
            tokens = getattr(cell, detail)
            if tokens:
                yield (cell.tenant, cell.model, detail), tokens


def _active_ratios(now: Snapshot) -> Iterator[Sample]:
    for run in now.active_runs:
        if run.used_ratio is not None:
            yield run[:3], run.used_ratio


#: Of the gauges that say how full a quota is.
_QUOTA_LABELS: Final = ("scope", "org", "tenant", "model", "budget", "resource", "window", "store")


def _quota_amounts(which: int) -> Callable[[Snapshot], Iterator[Sample]]:
    """Reads what quotas have used (0), hold (1) or may use (2)."""

    def read(now: Snapshot) -> Iterator[Sample]:
        for (whose, i), amounts in now.quotas.amounts.items():
            amount = amounts[which] / NANOS if i == COST else amounts[which]
            yield (*whose[:5], RESOURCES[i], whose.window, now.store), amount

    return read


FAMILIES: Final = (
    Family(
        semconv.M_CHECKS,
        "counter",
        "Budget checks by decision; on deny the budget is the one that refused.",
        ("tenant", "budget", "operation", "decision", "reason"),
        "{check}",
        _checks,
    ),
    Family(
        semconv.M_RECORDS,
        "counter",
        "Calls charged to runs.",
        ("tenant", "budget"),
        "{record}",
        lambda now: (((c.tenant, c.budget), c.records) for c in now.budgets),
    ),
    Family(
        semconv.M_TOKENS,
        "counter",
        "Tokens charged; input includes cached ones, output includes reasoning.",
        ("tenant", "model", "token_type"),
        "{token}",
        _tokens,
    ),
    Family(
        semconv.M_TOKEN_DETAILS,
        "counter",
        "Parts of the tokens charged, never to be added to them.",
        ("tenant", "model", "detail"),
        "{token}",
        _token_details,
    ),
    Family(
        semconv.M_COST,
        "counter",
        "Money charged, in USD.",
        ("tenant", "model"),
        "{USD}",
        lambda now: (((c.tenant, c.model), c.cost_nanousd / NANOS) for c in now.spends),
    ),
    Family(
        semconv.M_TOOL_CALLS,
        "counter",
        "Tool calls charged to runs.",
        ("tenant",),
        "{call}",
        lambda now: (((c.tenant,), c.tool_calls) for c in now.tenants),
    ),
    Family(
        semconv.M_RUNS_ACTIVE,
        "gauge",
        "Runs in progress.",
        ("tenant",),
        "{run}",
        lambda now: (((c.tenant,), c.active) for c in now.tenants),
    ),
    Family(
        semconv.M_ACTIVE_RUN_COST,
        "gauge",
        "What the runs in progress that are closest to their limits have cost so far, in USD.",
        ("tenant", "budget", "run_id"),
        "{USD}",
        lambda now: ((run[:3], run.cost_usd) for run in now.active_runs),
    ),
    Family(
        semconv.M_ACTIVE_RUN_RATIO,
        "gauge",
        "Greatest used share of any limit (1 is all of it) of the runs in progress that are closest to their limits.",
        ("tenant", "budget", "run_id"),
        "",
        _active_ratios,
    ),
    Family(
        semconv.M_BUDGET_USED,
        "gauge",
        "What quotas have been used for in their present window, in the resource's own unit (USD, tokens, calls).",
        _QUOTA_LABELS,
        "",
        _quota_amounts(0),
    ),
    Family(
        semconv.M_BUDGET_RESERVED,
        "gauge",
        "What calls in flight hold of quotas, in the resource's own unit (USD, tokens, calls).",
        _QUOTA_LABELS,
        "",
        _quota_amounts(1),
    ),
    Family(
        semconv.M_BUDGET_LIMIT,
        "gauge",
        "What quotas allow per window, in the resource's own unit (USD, tokens, calls).",
        _QUOTA_LABELS,
        "",
        _quota_amounts(2),
    ),
    Family(
        semconv.M_BUDGET_RESET,
        "gauge",
        "When the present window of a quota ends, in Unix seconds; none for a lifetime and for rolling windows.",
        ("scope", "org", "tenant", "model", "budget", "window"),
        "s",
        lambda now: now.quotas.resets.items(),
    ),
    Family(
        semconv.M_USERS_OVER,
        "gauge",
        "Users of a tenant who have used this ratio of a quota of theirs, or more.",
        ("tenant", "budget", "ratio"),
        "{user}",
        lambda now: now.quotas.users_over.items(),
    ),
    Family(
        semconv.M_RESERVATIONS_OPEN,
        "gauge",
        "Reservations that are neither committed nor released.",
        ("store",),
        "{reservation}",
        lambda now: [((now.store,), now.reservations_open)],
    ),
    Family(
        semconv.M_RESERVATION_OLDEST,
        "gauge",
        "Age of the oldest open reservation, in seconds; 0 if none is open.",
        ("store",),
        "s",
        lambda now: [((now.store,), now.reservation_oldest_s)],
    ),
    Family(
        semconv.M_LABEL_OVERFLOW,
        "counter",
        "Times that a tenant, model or budget was counted as `other` since there were too many.",
        (),
        "{overflow}",
        lambda now: [((), now.label_overflow)],
    ),
    Family(
        semconv.M_EVENTS_SUPPRESSED,
        "counter",
        "Span events counted instead of written, since their span was nearly full.",
        (),
        "{event}",
        lambda now: [((), now.events_suppressed)],
    ),
    Family(
        semconv.M_UNPRICED,
        "counter",
        "Calls of models that no price was known for.",
        ("model",),
        "{call}",
        lambda now: (((model,), calls) for model, calls in now.unpriced.items()),
    ),
    Family(
        semconv.M_RELOAD_OK,
        "gauge",
        "1 if the configuration as it is now was applied, 0 if the last reload was refused; none before the first.",
        (),
        "",
        lambda now: [] if now.reload_ok is None else [((), float(now.reload_ok))],
    ),
    Family(
        semconv.M_BUILD_INFO,
        "gauge",
        "1, with the version of otelbudget.",
        ("version",),
        "",
        lambda _: [((__version__,), 1)],
    ),
)

HISTOGRAMS: Final = (
    HistogramFamily(
        semconv.M_RUN_COST,
        "What finished runs cost, in USD.",
        ("tenant", "outcome"),
        "{USD}",
        COST_BUCKETS,
        lambda now: (((c.tenant, o), found.cost) for c in now.tenants for o, found in c.runs.items()),
    ),
    HistogramFamily(
        semconv.M_RUN_TOKENS,
        "Tokens that finished runs used.",
        ("tenant", "outcome"),
        "{token}",
        TOKEN_BUCKETS,
        lambda now: (((c.tenant, o), found.tokens) for c in now.tenants for o, found in c.runs.items()),
    ),
    HistogramFamily(
        semconv.M_RUN_DURATION,
        "How long finished runs took, in seconds.",
        ("tenant", "outcome"),
        "s",
        SECONDS_BUCKETS,
        lambda now: (((c.tenant, o), found.seconds) for c in now.tenants for o, found in c.runs.items()),
    ),
    HistogramFamily(
        semconv.M_CHECK_DURATION,
        "How long a sample of the checks took, in seconds.",
        ("operation", "store"),
        "s",
        CHECK_BUCKETS,
        lambda now: (((operation, now.store), found) for operation, found in now.check_seconds.items()),
    ),
    HistogramFamily(
        semconv.M_ESTIMATE_RATIO,
        "Actual tokens of a call divided by what was estimated for it.",
        ("model",),
        "",
        RATIO_BUCKETS,
        lambda now: (((model,), found) for model, found in now.estimate_ratio.items()),
    ),
)
