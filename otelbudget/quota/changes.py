"""What is said about a change of a tenant's quotas: an event on the current span for every resource, and a log line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace

from otelbudget import semconv
from otelbudget.model.amounts import COST, NANOS, RESOURCES, UNLIMITED
from otelbudget.model.quota import Quota
from otelbudget.telemetry import events

__all__ = ["tell_limits", "tell_reset"]

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


def tell_limits(tenant: str, before: Quota | None, now: Quota | None, actor: str | None, reason: str | None) -> None:
    """Say by how much *now* limits each resource that *before* limited otherwise; None limits nothing."""
    for i, resource in enumerate(RESOURCES):
        old, new = (UNLIMITED if quota is None else quota.limits[i] for quota in (before, now))
        if old != new:
            change = {semconv.RESOURCE: resource, semconv.OLD: _told(i, old), semconv.NEW: _told(i, new)}
            _say(semconv.EVENT_EXTEND, tenant, now or before, change, actor, reason)


def tell_reset(tenant: str, quota: Quota, used: Sequence[int], actor: str | None, reason: str | None) -> None:
    """Say that *used* of what *quota* limits has been forgotten."""
    for i, limit in enumerate(quota.limits):
        if limit < UNLIMITED:
            change = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: _told(i, used[i]), semconv.NEW: 0.0}
            _say(semconv.EVENT_RESET, tenant, quota, change, actor, reason)


def _say(
    event: str, tenant: str, quota: Quota | None, change: dict[str, Any], actor: str | None, reason: str | None
) -> None:
    name = None if quota is None else quota.name
    resource, old, new = change[semconv.RESOURCE], change[semconv.OLD], change[semconv.NEW]
    said = "%s of quota %r of tenant %r: %s was %s and is %s now (actor %s, reason %s); None is unlimited"
    _log.info(said, event.removeprefix("otelbudget."), name, tenant, resource, old, new, actor, reason)
    whose = {semconv.SCOPE: "tenant", semconv.TENANT: tenant, semconv.BUDGET: name}
    by = {semconv.ACTOR: actor, semconv.REASON: reason}
    events.change_event(events.site_of(trace.get_current_span()), event, {**whose, **change, **by})


def _told(i: int, amount: int) -> float | None:
    if amount == UNLIMITED:
        return None
    return amount / NANOS if i == COST else float(amount)
