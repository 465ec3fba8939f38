"""The forms in which a tenant's quotas are given, and what is said when they change while running."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from opentelemetry import trace

from otelbudget import semconv
from otelbudget.errors import ConfigError
from otelbudget.model.amounts import COST, NANOS, RESOURCES, TOKENS, UNLIMITED
from otelbudget.model.quota import Quota
from otelbudget.telemetry import events

QuotaLike = int | Quota | Iterable[Quota]
#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


def listed(quotas: Any, daily: Quota) -> tuple[Quota, ...]:
    """What *quotas* are: a number is *daily* with so many tokens, others keep for priorities what *daily* does."""
    if not isinstance(quotas, Iterable | Quota) or isinstance(quotas, str | bytes | Mapping):
        number: Any = quotas  # a quota says what is wrong with anything else
        return (replace(daily, tokens=number),)
    found = (quotas,) if isinstance(quotas, Quota) else tuple(quotas)
    for one in found:
        if not isinstance(one, Quota):
            raise ConfigError(f"a list of quotas holds Quota(...) only, got {one!r} ({type(one).__name__})")
        if one.per == "run":
            raise ConfigError("a quota per run binds runs, not a service: put it into the manager's configuration")
    return tuple(replace(one, reserve_for=daily.reserve_for) if one.reserve_for is None else one for one in found)


def daily_of(quotas: Iterable[Quota], otherwise: Quota) -> Quota:
    """The one of *quotas* that limits tokens per day; *otherwise* if none does."""
    return next((one for one in quotas if one.per == "day" and one.limits[TOKENS] < UNLIMITED), otherwise)


class Change(NamedTuple):
    """Whose quotas are changed, by whom and why. It is told on the current span and in the log, by resource."""

    tenant: str
    actor: str | None
    reason: str | None

    def limits(self, before: Quota | None, now: Quota | None) -> None:
        """Say by how much *now* limits each resource that *before* limited otherwise; None limits nothing."""
        for i in range(len(RESOURCES)):
            old, new = (UNLIMITED if quota is None else quota.limits[i] for quota in (before, now))
            if old != new:
                self._say(semconv.EVENT_EXTEND, now or before, i, old, new)

    def forgotten(self, quota: Quota | None, used: Sequence[int]) -> None:
        """Say that *used* of what *quota* limits has been forgotten."""
        for i, limit in enumerate(quota.limits if quota else ()):
            if limit < UNLIMITED:
                self._say(semconv.EVENT_RESET, quota, i, used[i], 0)

    def _say(self, event: str, quota: Quota | None, i: int, *amounts: int) -> None:
        unit = NANOS if i == COST else 1
        old, new = (None if amount == UNLIMITED else amount / unit for amount in amounts)
        name = None if quota is None else quota.name
        _log.info(
            "%s of quota %r of tenant %r: %s was %s and is %s now (actor %s, reason %s); None is unlimited",
            *(event.removeprefix("otelbudget."), name, self.tenant, RESOURCES[i], old, new, self.actor, self.reason),
        )
        whose = {semconv.SCOPE: "tenant", semconv.TENANT: self.tenant, semconv.BUDGET: name}
        what = {semconv.RESOURCE: RESOURCES[i], semconv.OLD: old, semconv.NEW: new}
        by = {semconv.ACTOR: self.actor, semconv.REASON: self.reason}
        events.change_event(events.site_of(trace.get_current_span()), event, {**whose, **what, **by})
