"""The same metrics as OpenTelemetry instruments, for applications that push over OTLP instead of being scraped.

Counters and gauges are observable; there is no observable histogram, so values are kept and recorded when a reader
collects. An SDK keeps an instrument for as long as its meter provider lives and ignores the callbacks of a second one,
so they are made once per provider, and read what was reported last.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otelbudget import forking
from otelbudget._version import __version__
from otelbudget.telemetry.cell_types import Tally, Trace
from otelbudget.telemetry.cells import MAX_SERIES, Meters
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS, Family
from otelbudget.telemetry.labels import OTHER
from otelbudget.telemetry.snapshot import ActiveRun, Snapshot

#: An SDK never forgets an attribute set of an observable, so only so many runs are shown under their own id.
_MAX_RUN_IDS: Final = 1_000
#: Attribute sets of one instrument that an application's meter provider keeps apart: its SDK's default, less a margin.
JOINED_SETS: Final = 1_900
#: What is given up first where there are too many sets, then the tenant too.
_NAMES: Final = frozenset({"org", "model", "agent", "tag", "budget"})

_made: WeakKeyDictionary[MeterProvider, _Instruments] = WeakKeyDictionary()
_making = forking.fresh_lock()


def report(meters: Meters, meter_provider: MeterProvider, sets: int = JOINED_SETS) -> Callable[[], None]:
    """Report *meters* through *meter_provider* until the function given back is called; call that after the last flush.

    No instrument gets more than so many *sets* of attributes, or the SDK would lose whose the rest is.
    A later one on the same provider takes over from an earlier one; its counters begin at 0, as after a restart.
    """
    with _making:
        if meter_provider not in _made:
            _made[meter_provider] = _Instruments(meter_provider, sets)
        instruments = _made[meter_provider]
    instruments.switch(meters)
    return partial(instruments.switch, None, only_if=meters)


def cardinality_views() -> list[Any]:
    """Views for a meter provider of our own: as many attribute sets as the cells allow, where the SDK can be told."""
    from opentelemetry.sdk.metrics.view import View

    if "aggregation_cardinality_limit" not in inspect.signature(View).parameters:
        return []
    return [View(instrument_name="otelbudget_*", aggregation_cardinality_limit=MAX_SERIES)]


class _Folding:
    """Which label values of one instrument are shown, decided once: all of a third of the *sets*, then only tenants."""

    def __init__(self, family: Family, sets: int) -> None:
        self._family = family
        self._sets = sets
        self._decided: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._shown: set[tuple[str, ...]] = set()

    def of(self, now: Snapshot, overflow: Tally) -> dict[tuple[str, ...], float]:
        """The samples of *now*; those that are not shown are in the ones that stand for them, and raise *overflow*."""
        shown: dict[tuple[str, ...], float] = {}
        for labels, value in self._family.read(now):
            kept = self._decided.get(labels)
            if kept is None:
                kept = self._decided[labels] = self._decide(labels)
                overflow.n += kept != labels
            before = shown.get(kept)
            shown[kept] = value if before is None else self._family.merge((before, value))
        return shown

    def _decide(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        kept = labels
        if len(self._shown) >= self._sets // 3:
            kept = self._without(labels, _NAMES)
        if kept not in self._shown and len(self._shown) >= self._sets:
            kept = self._without(labels, _NAMES | {"tenant"})
        self._shown.add(kept)
        return kept

    def _without(self, labels: tuple[str, ...], names: frozenset[str]) -> tuple[str, ...]:
        pairs = zip(self._family.labels, labels, strict=True)
        return tuple(OTHER if value and name in names else value for name, value in pairs)


class _Instruments:
    """The instruments of one provider, and whose cells they read now."""

    def __init__(self, provider: MeterProvider, sets: int) -> None:
        self._lock = forking.fresh_lock()
        self._meters: Meters | None = None
        self._now: Snapshot | None = None
        self._served: set[str] = set()
        self._run_ids: set[str] = set()
        forking.tell(self)
        meter = provider.get_meter("otelbudget", __version__)
        for family in FAMILIES:
            make = meter.create_observable_counter if family.counts else meter.create_observable_gauge
            read = partial(self._read, family, _Folding(family, sets))
            make(family.name.removesuffix("_total"), [read], family.unit, family.help)
        self._labels = {found.name: found.labels for found in HISTOGRAMS}
        self._recorders = {
            one.name: meter.create_histogram(
                one.name, one.unit, one.help, explicit_bucket_boundaries_advisory=one.bounds
            )
            for one in HISTOGRAMS
        }

    def forked(self) -> None:
        """In a forked process everything counts from 0."""
        self._now = None

    def switch(self, meters: Meters | None, only_if: Meters | None = None) -> None:
        """Read *meters* from now on; None reports nothing. With *only_if*, only if those are read now."""
        with self._lock:
            before = self._meters
            if before is meters or (only_if is not None and before is not only_if):
                return
            if before is not None:
                self._record(before)
                before.tell_observations(False)
            self._meters = meters
            self._now = None
            if meters is not None:
                meters.tell_observations(True)

    def _read(self, family: Family, folding: _Folding, _: CallbackOptions) -> list[Observation]:
        with self._lock:
            return self._observations(family, folding)

    def _observations(self, family: Family, folding: _Folding) -> list[Observation]:
        now = self._snapshot(family.name)
        if now is None or self._meters is None:
            return []
        return [
            Observation(value, dict(zip(family.labels, labels, strict=True)))
            for labels, value in folding.of(now, self._meters.overflow).items()
        ]

    def _snapshot(self, name: str) -> Snapshot | None:
        """The snapshot of this collection: a new one as soon as an instrument asks a second time."""
        if self._meters is None:
            return None
        if self._now is None or name in self._served:
            self._record(self._meters)
            now = self._meters.snapshot()
            self._now = now._replace(active_runs=self._bounded(now.active_runs))
            self._served.clear()
        self._served.add(name)
        return self._now

    def _record(self, meters: Meters) -> None:
        for seen in meters.take_observations():
            labels = dict(zip(self._labels[seen.metric], seen.labels, strict=True))
            self._recorders[seen.metric].record(seen.value, labels, _context(seen.trace))

    def _bounded(self, runs: list[ActiveRun]) -> list[ActiveRun]:
        new = [run.run_id for run in runs if run.run_id not in self._run_ids]
        self._run_ids |= set(new[: _MAX_RUN_IDS - len(self._run_ids)])
        shown = [run for run in runs if run.run_id in self._run_ids]
        rest = [run for run in runs if run.run_id not in self._run_ids]
        if rest:
            ratios = [run.used_ratio for run in rest if run.used_ratio is not None]
            cost_usd = sum(run.cost_usd for run in rest)
            shown.append(ActiveRun(OTHER, OTHER, OTHER, cost_usd, max(ratios, default=None)))
        return shown


def _context(trace: Trace) -> Context:
    """A context whose span is the one behind an observation; an empty one has no exemplar."""
    if trace is None:
        return Context()
    span_context = SpanContext(int(trace[0], 16), int(trace[1], 16), False, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(span_context), Context())
