"""Gauges of quotas: what organisations, tenants and models have used, hold and may use, read from the books.

Label sets are bounded as those of counters are: what is beyond the bounds is summed up under ``other``, so sums over
tenants stay right and no two samples of a scrape have the same labels. Users are counted, never shown one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from otelbudget.telemetry.labels import OTHER, UNNAMED, Names

if TYPE_CHECKING:
    from otelbudget.ledger.account import QuotaAccount
    from otelbudget.stores.books import Book

__all__ = ["QuotaGauges", "QuotaLabels", "QuotaReadings"]

MAX_ORGS: Final = 100
MAX_QUOTA_MODELS: Final = 100
MAX_QUOTAS: Final = 200
#: Series that quotas may have before new ones are summed up, and how many of them are kept for those sums.
MAX_QUOTA_SERIES: Final = 6_500
_FOR_SUMS: Final = 500
#: Books that are read under the lock at a time, so that a scrape of very many users holds up no call.
_AT_ONCE: Final = 256
_PPM: Final = 1_000_000


class QuotaLabels(NamedTuple):
    """Whose quota, which one, and in which kind of window; what does not apply is empty."""

    scope: str
    org: str
    tenant: str
    model: str
    budget: str
    window: str


class QuotaReadings(NamedTuple):
    """What the books say, in internal units.

    Attributes:
        amounts: (used, reserved, limit) by labels and index of the limited resource.
        resets: When the window ends, Unix seconds; of several quotas the first. Nothing where no window ends.
        users_over: How many users are at or over a threshold, by (tenant, budget, ratio).
    """

    amounts: dict[tuple[QuotaLabels, int], tuple[int, int, int]]
    resets: dict[QuotaLabels, float]
    users_over: dict[tuple[str, str, str], int]


class _Page(NamedTuple):
    """A copy of one book's present window."""

    labels: QuotaLabels
    limited: tuple[int, ...]
    used: list[int]
    reserved: tuple[int, ...]
    limits: tuple[int, ...]
    thresholds: tuple[float, ...]
    end_s: float


class QuotaGauges:
    """Reads the books of a store.

    Args:
        store: Whose books.
        tenants: The labels of tenants, shared with every other metric.
        orgs: Organisations of the configuration; they have the first claim on a label of their own.
    """

    def __init__(self, store: Any, tenants: Names, orgs: Iterable[str] = ()) -> None:
        self._store = store
        self._tenants = tenants
        self._orgs = Names(MAX_ORGS, orgs)
        self._models = Names(MAX_QUOTA_MODELS)
        self._budgets = Names(MAX_QUOTAS)
        #: Decided once per book, so that a scrape of what is beyond the bounds does not count it again.
        self._labels: WeakKeyDictionary[Book, QuotaLabels] = WeakKeyDictionary()
        self._shown: set[QuotaLabels] = set()
        self._series = 0
        self._crowded_out = 0

    @property
    def overflow(self) -> int:
        """How often a quota had to be summed up under ``other``."""
        return sum(names.overflow for names in (self._orgs, self._models, self._budgets)) + self._crowded_out

    def forked(self) -> None:
        """Count overflows from 0 in a forked process."""
        for names in (self._orgs, self._models, self._budgets):
            names.overflow = 0
        self._crowded_out = 0

    def read(self) -> QuotaReadings:
        """What all quotas say now. Takes the lock itself; quotas may be a call apart, one quota's numbers are not."""
        with self._store.lock:
            books = list(self._store.books)
        readings = QuotaReadings({}, {}, {})
        for start in range(0, len(books), _AT_ONCE):
            with self._store.lock:
                now_s = self._store.clock_s()
                pages = [self._copy(book, book.current(now_s)) for book in books[start : start + _AT_ONCE]]
            for page in pages:
                (_count_user if page.labels.scope == "user" else _add)(readings, page)
        return readings

    def _copy(self, book: Book, account: QuotaAccount) -> _Page:
        labels = self._labels.get(book)
        if labels is None:
            labels = self._labels[book] = self._label(book, account)
        end_s = account.window.end_s
        limited, reserved, limits = account.limited, tuple(account.reserved), tuple(account.limits)
        return _Page(labels, limited, list(account.used), reserved, limits, account.thresholds, end_s)

    def _label(self, book: Book, account: QuotaAccount) -> QuotaLabels:
        where, budget = book.where, self._budgets.label(book.given.name or UNNAMED)
        tenant = self._tenants.label(where.tenant) if where.tenant else ""
        if where.scope == "user":
            wanted = QuotaLabels("user", "", tenant, "", budget, "")
            return self._admit(wanted, len(account.thresholds))
        model = self._models.label(where.model) if where.model else ""
        wanted = QuotaLabels(where.scope, self._orgs.label(where.org), tenant, model, budget, book.given.per)
        return self._admit(wanted, 3 * len(account.limited) + 1)

    def _admit(self, wanted: QuotaLabels, series: int) -> QuotaLabels:
        """*wanted* if so many more series may be shown, else labels that stand for more than this quota."""
        others = {name: OTHER for name in ("org", "tenant", "model") if getattr(wanted, name)}
        whoever = wanted._replace(**others)
        labels = whoever._replace(budget=OTHER, window=wanted.window and OTHER)
        for finer, bound in ((whoever, MAX_QUOTA_SERIES), (wanted, MAX_QUOTA_SERIES - _FOR_SUMS)):
            if finer in self._shown or self._series + series <= bound:
                labels = finer
        self._crowded_out += labels != wanted
        if labels not in self._shown:
            self._shown.add(labels)
            self._series += series
        return labels


def _add(readings: QuotaReadings, page: _Page) -> None:
    """Add one quota to the amounts of its labels."""
    for i in page.limited:
        key = (page.labels, i)
        used, reserved, limit = readings.amounts.get(key, (0, 0, 0))
        readings.amounts[key] = (used + page.used[i], reserved + page.reserved[i], limit + page.limits[i])
    if page.end_s < float("inf"):
        before = readings.resets.get(page.labels, page.end_s)
        readings.resets[page.labels] = min(before, page.end_s)


def _count_user(readings: QuotaReadings, page: _Page) -> None:
    """Count a user under every threshold that the fullest of its limits has reached."""
    for ratio in page.thresholds:
        ppm = round(ratio * _PPM)
        over = any(page.limits[i] and page.used[i] * _PPM >= page.limits[i] * ppm for i in page.limited)
        key = (page.labels.tenant, page.labels.budget, str(ratio).removesuffix(".0"))
        readings.users_over[key] = readings.users_over.get(key, 0) + over
