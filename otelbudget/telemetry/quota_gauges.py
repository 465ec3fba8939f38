"""Gauges of quotas: what organisations, tenants and models have used, hold and may use, read from the accounts.

What is beyond the bounds of labels is summed up under ``other``. Users are counted, never shown one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import add
from typing import TYPE_CHECKING, Final, NamedTuple

from otelbudget.model.amounts import UNLIMITED
from otelbudget.model.levels import LEVELS, Where
from otelbudget.model.vector import unpack
from otelbudget.telemetry.cell_types import Tally
from otelbudget.telemetry.labels import OTHER, UNNAMED, Names, Room

if TYPE_CHECKING:
    from otelbudget.ledger.account import QuotaAccount
    from otelbudget.ledger.rules import Rule
    from otelbudget.model.windows import WindowSpec

MAX_ORGS: Final = 100
MAX_QUOTA_MODELS: Final = 100
MAX_QUOTAS: Final = 200
#: Labels that are remembered.
_MOST_LABELS: Final = 20_000
#: Series that quotas may have before new ones are summed up, by scope.
MAX_QUOTA_SERIES: Final = 6_000
_PPM: Final = 1_000_000

#: Index of a limited resource -> what is used and reserved of it, and its limit.
_Limited = dict[int, tuple[int, int, int]]


class QuotaLabels(NamedTuple):
    """Whose quota, which one, and in which kind of window; what does not apply is empty."""

    scope: str
    org: str
    tenant: str
    model: str
    agent: str
    tag: str
    budget: str
    window: str
    #: ``enforce``, or ``warn`` if it refuses nothing.
    mode: str


class QuotaReadings(NamedTuple):
    """What the books say, in internal units."""

    #: (used, reserved, limit) by labels and index of the limited resource.
    amounts: dict[tuple[QuotaLabels, int], tuple[int, int, int]]
    #: When the window ends, Unix seconds; of several quotas the first. Nothing where no window ends.
    resets: dict[QuotaLabels, float]
    #: How many users are at or over a threshold, by (tenant, budget, ratio).
    users_over: dict[tuple[str, str, str], int]


class QuotaGauges:
    """Reads the accounts of quotas.

    Args:
        accounts: Gives those that are worth showing.
        overflow: Raised whenever a quota had to be summed up under ``other``.
        room: What series of all metrics take theirs from.
        tenants: The labels of tenants, shared with every other metric.
        orgs: Organisations of the configuration; they have the first claim on a label of their own.
    """

    def __init__(
        self,
        accounts: Callable[[], Iterable[QuotaAccount]],
        overflow: Tally,
        room: Room,
        tenants: Names,
        orgs: Iterable[str] = (),
    ) -> None:
        self._accounts = accounts
        self._overflow = overflow
        self._room = room
        self._tenants = tenants
        self._orgs = Names(MAX_ORGS, overflow, orgs)
        self._models = Names(MAX_QUOTA_MODELS, overflow)
        self._budgets = Names(MAX_QUOTAS, overflow)
        #: Decided once, so that a scrape of what is beyond the bounds does not count it again.
        self._labels: dict[tuple[Where, WindowSpec, str | None, bool], QuotaLabels] = {}
        self._shown: set[QuotaLabels] = set()
        self._series = 0

    def read(self) -> QuotaReadings:
        """What all quotas say now. One account's numbers are of one moment; those of two may be a call apart."""
        readings = QuotaReadings({}, {}, {})
        for account in self._accounts():
            used, taken = account.used, account.taken  # used first: what is held is never shown below 0
            amounts = unpack(used)
            held = [max(0, a - b) for a, b in zip(unpack(taken), amounts, strict=True)]
            for rule in account.rules:
                limited = {i: (amounts[i], held[i], full) for i, full in enumerate(rule.full) if full < UNLIMITED}
                labels = self._label(account, rule, len(limited))
                if LEVELS[account.scope].shown:
                    _add(readings, labels, limited, account.end_s)
                else:
                    _count_user(readings, labels, limited, rule.thresholds)
        return readings

    def _label(self, account: QuotaAccount, rule: Rule, limited: int) -> QuotaLabels:
        shown = LEVELS[account.scope].shown
        where = account.where if shown else Where(account.scope, (account.where.get("tenant"),))
        key = (where, account.spec, rule.name, rule.warn)
        if len(self._labels) > _MOST_LABELS:
            self._labels.clear()
        if key not in self._labels:
            series = 3 * limited + 1 if shown else len(rule.thresholds)
            self._labels[key] = self._admit(self._wanted(account, rule), series)
        return self._labels[key]

    def _wanted(self, account: QuotaAccount, rule: Rule) -> QuotaLabels:
        where, budget = account.where, self._budgets.label(rule.name or UNNAMED)
        tenant = self._tenants.label(where.get("tenant")) if where.get("tenant") else ""
        if not LEVELS[where.scope].shown:
            return QuotaLabels(where.scope, "", tenant, "", "", "", budget, "", "")
        model, agent = (self._models.label(name) if (name := where.get(field)) else "" for field in ("model", "agent"))
        tag = self._models.label("=".join(where.names[1:])) if where.scope == "tag" else ""
        org = self._orgs.label(where.get("org"))
        mode = "warn" if rule.warn else "enforce"
        return QuotaLabels(where.scope, org, tenant, model, agent, tag, budget, account.spec.per, mode)

    def _admit(self, wanted: QuotaLabels, series: int) -> QuotaLabels:
        """*wanted* if so many more series may be shown, else labels that stand for more than this quota."""
        labels = wanted
        full = self._series + series > MAX_QUOTA_SERIES
        if wanted not in self._shown and (full or not self._room.take(series)):
            others = QuotaLabels(*(OTHER if value else "" for value in wanted))
            labels = others._replace(scope=wanted.scope, mode=wanted.mode)
        self._overflow.n += labels != wanted
        if labels not in self._shown:
            self._shown.add(labels)
            self._series += series
        return labels


def _add(readings: QuotaReadings, labels: QuotaLabels, limited: _Limited, end_s: float) -> None:
    for i, amounts in limited.items():
        used, reserved, limit = map(add, readings.amounts.get((labels, i), (0, 0, 0)), amounts)
        readings.amounts[labels, i] = used, reserved, limit
    if end_s < float("inf"):
        whose = labels._replace(mode="")
        readings.resets[whose] = min(readings.resets.get(whose, end_s), end_s)


def _count_user(readings: QuotaReadings, labels: QuotaLabels, limited: _Limited, thresholds: Iterable[float]) -> None:
    """Count a user under every threshold that the fullest of its limits has reached."""
    for ratio in thresholds:
        ppm = round(ratio * _PPM)
        over = any(limit and used * _PPM >= limit * ppm for used, _, limit in limited.values())
        key = (labels.tenant, labels.budget, str(ratio).removesuffix(".0"))
        readings.users_over[key] = readings.users_over.get(key, 0) + over
