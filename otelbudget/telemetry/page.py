"""The text of `/metrics`, in both of Prometheus' formats, as fast as a page of many thousand series needs.

What stays the same of a series from scrape to scrape is kept. In OpenMetrics each counter and histogram also says since
when it counts: one that is new began after the scrape before, so Prometheus sees its first increase.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.utils import floatToGoString

from otelbudget import forking
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS, Family

if TYPE_CHECKING:
    from otelbudget.telemetry.cell_types import Histogram
    from otelbudget.telemetry.cells import Meters
    from otelbudget.telemetry.snapshot import Snapshot

_log = logging.getLogger(__name__)
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class ForkWatch:
    """Knows whether this process has forked, since a page tells of its own process alone."""

    def __init__(self) -> None:
        self._forks = self._said = False
        forking.before(self)
        forking.tell(self)

    def forking(self) -> None:
        """Before a fork: from now on the page does not tell of all that is spent."""
        self._forks = True

    def forked(self) -> None:
        """In a child, whose page tells of it all."""
        self._forks = self._said = False

    def scraped(self) -> None:
        """Warn, the first time a page is read that doesn't tell of all."""
        if self._forks and not self._said:
            self._said = True
            _log.warning(
                "this page tells of process %d alone: each process that it has forked counts for itself, and has a page"
                " of its own once it uses a budget",
                os.getpid(),
            )


class _Series(NamedTuple):
    """The texts of one series before its values, and the line that says since when it counts."""

    samples: tuple[str, ...]
    created: str


_Known = dict[str, dict[tuple[str, ...], _Series]]


class Page:
    """The page of *meters*. Scrapes that arrive while one is at work share the next, so many scrapers cost as one."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._lock = forking.fresh_lock()
        self._known: _Known = {}
        #: Per format, compressed or not: when its text was begun, and the text.
        self._texts: dict[tuple[bool, bool], tuple[float, bytes]] = {}
        self._before_s = time.time()
        self._forks = ForkWatch()
        forking.tell(self)

    def forked(self) -> None:
        """In a forked process all counts begin anew."""
        self._known, self._before_s = {}, time.time()

    def text(self, openmetrics: bool, gzipped: bool = False) -> bytes:
        """What the page says now."""
        asked, form = time.monotonic(), (openmetrics, gzipped)
        with self._lock:
            if self._texts.get(form, (0.0,))[0] < asked:
                self._texts[form] = (time.monotonic(), self._render(*form))
            return self._texts[form][1]

    def _render(self, openmetrics: bool, gzipped: bool) -> bytes:
        self._forks.scraped()
        began_s = time.time()
        now = self._meters.snapshot()
        lines: list[str] = []
        for family in FAMILIES:
            lines += _head(family, "counter" if family.counts else "gauge", openmetrics)
            lines += self._plain(family, now, openmetrics and family.counts)
        for histograms in HISTOGRAMS:
            lines += _head(histograms, "histogram", openmetrics)
            lines += self._histograms(histograms, now, openmetrics)
        if openmetrics:
            lines.append("# EOF\n")
        self._before_s = began_s
        text = "".join(lines).encode()
        return zlib.compress(text, level=1, wbits=31) if gzipped else text  # level 9 takes longer than the text itself

    def _plain(self, family: Family, now: Snapshot, created: bool) -> Iterator[str]:
        before, shown = self._known.get(family.name, {}), {}
        new = partial(_plain_series, family, f"{self._before_s:.3f}")
        for labels, value in family.read(now):
            shown[labels] = series = before.get(labels) or new(labels)
            yield f"{series[0][0]}{float(value)}\n"
            if created:
                yield series[1]
        self._known[family.name] = shown

    def _histograms(self, family: Family, now: Snapshot, openmetrics: bool) -> Iterator[str]:
        before, shown = self._known.get(family.name, {}), {}
        for labels, found in family.read(now):
            shown[labels] = series = before.get(labels) or _histogram_series(family, f"{self._before_s:.3f}", labels)
            counts = list(accumulate(found.counts))
            for i, (sample, count) in enumerate(zip(series.samples, counts, strict=False)):
                yield f"{sample}{count}{_exemplar(found, i) if openmetrics else ''}\n"
            count_of, sum_of = series.samples[len(counts) :]
            yield f"{count_of}{counts[-1]}\n{sum_of}{found.total}\n"
            if openmetrics:
                yield series.created
        self._known[family.name] = shown


def _head(family: Family, kind: str, openmetrics: bool) -> tuple[str, str]:
    name = family.name.removesuffix("_total") if openmetrics else family.name
    return f"# HELP {name} {family.help}\n", f"# TYPE {name} {kind}\n"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> list[str]:
    pairs = sorted(zip(names, values, strict=True))
    return [f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs]


def _sample(name: str, labels: list[str]) -> str:
    return f"{name}{{{','.join(labels)}}} " if labels else f"{name} "


def _plain_series(family: Family, since: str, values: tuple[str, ...]) -> _Series:
    labels = _labels(family.labels, values)
    created = _sample(family.name.removesuffix("_total") + "_created", labels)
    return _Series((_sample(family.name, labels),), f"{created}{since}\n")


def _histogram_series(family: Family, since: str, values: tuple[str, ...]) -> _Series:
    labels, name = _labels(family.labels, values), family.name
    bounds = [floatToGoString(bound) for bound in (*family.bounds, float("inf"))]  # type: ignore[no-untyped-call]
    buckets = [_sample(f"{name}_bucket", [*labels, f'le="{bound}"']) for bound in bounds]
    rest = (_sample(f"{name}_{part}", labels) for part in ("count", "sum"))
    return _Series((*buckets, *rest), f"{_sample(f'{name}_created', labels)}{since}\n")


def _exemplar(found: Histogram, bucket: int) -> str:
    seen = found.exemplars.get(bucket)
    if seen is None:
        return ""
    return f' # {{span_id="{seen.span_id}",trace_id="{seen.trace_id}"}} {seen.value} {seen.time_s}'
