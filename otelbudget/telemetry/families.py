"""Every metric family: its name, labels, unit and how it is read from a snapshot.

One table for both routes, the page that Prometheus scrapes and the instruments of OpenTelemetry, so they can't differ.
To add a metric: a name in `semconv`, a cell that counts it, a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from otelbudget import semconv
from otelbudget._version import __version__
from otelbudget.model.amounts import COST, NANOS, RESOURCES
from otelbudget.telemetry.cell_types import ALLOW_SLOTS, BUCKETS
from otelbudget.telemetry.quota_gauges import QuotaLabels
from otelbudget.telemetry.snapshot import Snapshot

#: Label values in the order of the family's labels, and the value: a number, or the `Histogram`.
Sample = tuple[tuple[str, ...], Any]


class Family(NamedTuple):
    """A counter, if its name ends in ``_total``, a gauge or a histogram.

    Attributes:
        name: As Prometheus shows it.
        unit: For OpenTelemetry, in the notation of UCUM; Prometheus has it in the name.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    unit: str
    read: Callable[[Snapshot], Iterable[Sample]]

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.name.endswith("_total")

    @property
    def merge(self) -> Callable[[Iterable[float]], float]:
        """What several samples under one label come to."""
        return max if self.name in (semconv.M_BUDGET_RESET, semconv.M_ACTIVE_RUN_RATIO) else sum

    @property
    def bounds(self) -> tuple[float, ...]:
        """Those of a histogram's buckets."""
        return BUCKETS[self.name]


def _checks(now: Snapshot) -> Iterator[Sample]:
    for cell in now.budgets:
        own = (cell.tenant, cell.budget)
        for operation in ALLOW_SLOTS:
            allowed = getattr(cell, operation)
            # Model calls are born at zero, or rate() would miss the first one, and so are their refusals for want of
            # what the budget limits; the rest appears when it happens.
            if allowed or operation == "call":
                yield (*own, operation, "allow", "", ""), allowed
        for key, tally in cell.rare.items():
            yield (*own, *key), tally.n


def _tokens(now: Snapshot) -> Iterator[Sample]:
    for cell in now.spends:
        yield (cell.tenant, cell.model, "input"), cell.input
        yield (cell.tenant, cell.model, "output"), cell.output


def _token_details(now: Snapshot) -> Iterator[Sample]:
    for cell in now.details:
        for kind in ("cache_read", "cache_write", "reasoning"):
            if number := getattr(cell, kind):
                yield (cell.tenant, cell.model, kind), number


def _of_tenants(name: str, about: str, unit: str, slot: str) -> Family:
    return Family(name, about, ("tenant",), unit, lambda now: (((c.tenant,), getattr(c, slot)) for c in now.tenants))


def _of_store(name: str, about: str, unit: str, slot: str, *labels: str) -> Family:
    """What is counted in *slot* of the health of a store that others share."""

    def read(now: Snapshot) -> Iterable[Sample]:
        return [((now.store, now.policy)[: 1 + len(labels)], getattr(now.health, slot))] if now.health else []

    return Family(name, about, ("store", *labels), unit, read)


def _quota_amounts(name: str, about: str, which: int) -> Family:
    """What quotas have used (0), hold (1) or may use (2)."""

    def read(now: Snapshot) -> Iterator[Sample]:
        for (whose, i), amounts in now.quotas.amounts.items():
            amount = amounts[which] / NANOS if i == COST else amounts[which]
            yield (*whose, RESOURCES[i], now.store), amount

    labels = (*QuotaLabels._fields, "resource", "store")
    return Family(name, f"{about}, in the resource's own unit (USD, tokens, calls).", labels, "", read)


def _run_histogram(name: str, about: str, unit: str) -> Family:
    def read(now: Snapshot) -> Iterator[Sample]:
        for cell in now.tenants:
            for (metric, outcome), found in cell.runs.items():
                if metric == name:
                    yield (cell.tenant, outcome), found

    return Family(name, about, ("tenant", "outcome"), unit, read)


FAMILIES: Final = (
    Family(
        semconv.M_CHECKS,
        "Budget checks by decision; on deny the budget is the one that refused, and the resource what it lacked.",
        ("tenant", "budget", "operation", "decision", "reason", "resource"),
        "{check}",
        _checks,
    ),
    Family(
        semconv.M_REPEATED_DENIALS,
        "Denials of a run that the same resource and reason had refused before; part of the checks.",
        ("tenant", "budget"),
        "{check}",
        lambda now: (((c.tenant, c.budget), c.repeated) for c in now.budgets if c.repeated),
    ),
    Family(
        semconv.M_RECORDS,
        "Calls charged to runs.",
        ("tenant", "budget"),
        "{record}",
        lambda now: (((c.tenant, c.budget), c.records) for c in now.budgets),
    ),
    Family(
        semconv.M_TOKENS,
        "Tokens charged; input includes cached ones, output includes reasoning.",
        ("tenant", "model", "token_type"),
        "{token}",
        _tokens,
    ),
    Family(
        semconv.M_TOKEN_DETAILS,
        "Parts of the tokens charged, never to be added to them.",
        ("tenant", "model", "detail"),
        "{token}",
        _token_details,
    ),
    Family(
        semconv.M_COST,
        "Money charged, in USD.",
        ("tenant", "model"),
        "{USD}",
        lambda now: (((c.tenant, c.model), c.cost_nanousd / NANOS) for c in now.spends),
    ),
    _of_tenants(semconv.M_TOOL_CALLS, "Tool calls charged to runs.", "{call}", "tool_calls"),
    _of_tenants(semconv.M_RUNS_ACTIVE, "Runs in progress.", "{run}", "active"),
    Family(
        semconv.M_ACTIVE_RUN_COST,
        "What the runs in progress that are closest to their limits have cost so far, in USD.",
        ("tenant", "budget", "run_id"),
        "{USD}",
        lambda now: ((run[:3], run.cost_usd) for run in now.active_runs),
    ),
    Family(
        semconv.M_ACTIVE_RUN_RATIO,
        "Greatest used share of any limit (1 is all of it) of the runs in progress that are closest to their limits.",
        ("tenant", "budget", "run_id"),
        "",
        lambda now: ((run[:3], run.used_ratio) for run in now.active_runs if run.used_ratio is not None),
    ),
    _quota_amounts(semconv.M_BUDGET_USED, "What quotas have been used for in their present window", 0),
    _quota_amounts(semconv.M_BUDGET_RESERVED, "What calls in flight hold of quotas", 1),
    _quota_amounts(semconv.M_BUDGET_LIMIT, "What quotas allow per window", 2),
    Family(
        semconv.M_BUDGET_RESET,
        "When the present window of a quota ends, in Unix seconds; none for a lifetime and for rolling windows.",
        QuotaLabels._fields[:-1],
        "s",
        lambda now: ((whose[:-1], end_s) for whose, end_s in now.quotas.resets.items()),
    ),
    Family(
        semconv.M_USERS_OVER,
        "Users of a tenant who have used this ratio of a quota of theirs, or more.",
        ("tenant", "budget", "ratio"),
        "{user}",
        lambda now: now.quotas.users_over.items(),
    ),
    Family(
        semconv.M_RESERVATIONS_OPEN,
        "Reservations that are neither committed nor released.",
        ("store",),
        "{reservation}",
        lambda now: [((now.store,), now.reservations_open)],
    ),
    Family(
        semconv.M_RESERVATION_OLDEST,
        "Age of the oldest open reservation, in seconds; 0 if none is open.",
        ("store",),
        "s",
        lambda now: [((now.store,), now.reservation_oldest_s)],
    ),
    Family(
        semconv.M_STORE_UP,
        "1 if the store that others share answered the last time, 0 if it did not; none before the first.",
        ("store",),
        "",
        lambda now: [((now.store,), float(now.health.up))] if now.health and now.health.up is not None else [],
    ),
    _of_store(semconv.M_STORE_ERRORS, "Trips that the store did not answer.", "{error}", "errors", "policy"),
    _of_store(
        semconv.M_STORE_UNGUARDED,
        "Requests that were admitted without the store's word.",
        "{check}",
        "unguarded",
        "policy",
    ),
    _of_store(semconv.M_SETTLES_LOST, "Settlements that never reached the store.", "{settlement}", "lost"),
    _of_store(semconv.M_STORE_WIPED, "Times that data was gone which this process had seen.", "{loss}", "wiped"),
    _of_store(semconv.M_STORE_SATURATED, "Times that a sum reached 2^53 - 1, where it stays.", "{sum}", "saturated"),
    Family(
        semconv.M_LABEL_OVERFLOW,
        "Times that a tenant, model or budget was counted as `other` since there were too many.",
        (),
        "{overflow}",
        lambda now: [((), now.label_overflow)],
    ),
    Family(
        semconv.M_EVENTS_SUPPRESSED,
        "Span events counted instead of written, since their span was nearly full.",
        (),
        "{event}",
        lambda now: [((), now.events_suppressed)],
    ),
    Family(
        semconv.M_UNPRICED,
        "Calls of models that no price was known for.",
        ("model",),
        "{call}",
        lambda now: (((model,), calls) for model, calls in now.unpriced.items()),
    ),
    Family(
        semconv.M_RELOAD_OK,
        "1 if the configuration as it is now was applied, 0 if the last reload was refused; none before the first.",
        (),
        "",
        lambda now: [] if now.reload_ok is None else [((), float(now.reload_ok))],
    ),
    Family(
        semconv.M_BUILD_INFO, "1, with the version of otelbudget.", ("version",), "", lambda _: [((__version__,), 1)]
    ),
)

HISTOGRAMS: Final = (
    _run_histogram(semconv.M_RUN_COST, "What finished runs cost, in USD.", "{USD}"),
    _run_histogram(semconv.M_RUN_TOKENS, "Tokens that finished runs used.", "{token}"),
    _run_histogram(semconv.M_RUN_DURATION, "How long finished runs took, in seconds.", "s"),
    Family(
        semconv.M_CHECK_DURATION,
        "How long a sample of the checks took, in seconds.",
        ("operation", "store"),
        "s",
        lambda now: (((operation, now.store), found) for operation, found in now.check_seconds.items()),
    ),
    Family(
        semconv.M_ESTIMATE_RATIO,
        "Actual tokens of a call divided by what was estimated for it.",
        ("model",),
        "",
        lambda now: (((model,), found) for model, found in now.estimate_ratio.items()),
    ),
)
