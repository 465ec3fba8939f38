"""The same metrics as OpenTelemetry instruments, for applications that push over OTLP instead of being scraped.

Counters and gauges are observable: they read the cells, once per collection, so the hot path stays as it is. There is
no observable histogram, so the values of histograms are kept from when this is switched on and recorded when a reader
collects. Names are those of the Prometheus page without ``_total``, which the collector and Prometheus append; units
are in braces or seconds, which leaves the names alone on the way; attribute keys are the labels.

An SDK keeps an instrument for as long as its meter provider lives and ignores the callbacks of a second one of the same
name. So the instruments are made once per provider, and read whichever `OtelInstruments` was made last.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.metrics import Histogram as Recorder
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otelbudget import forking
from otelbudget._version import __version__
from otelbudget.telemetry.cells import MAX_CELL_SERIES, Meters
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS, Family, Sample
from otelbudget.telemetry.histogram import Trace
from otelbudget.telemetry.labels import OTHER
from otelbudget.telemetry.snapshot import ActiveRun, Snapshot

__all__ = ["OtelInstruments", "cardinality_views"]

#: An SDK never forgets an attribute set of an observable, so only so many runs are shown under their own id.
_MAX_RUN_IDS: Final = 1_000

_made: WeakKeyDictionary[MeterProvider, _Instruments] = WeakKeyDictionary()
_making = forking.fresh(Lock())


class OtelInstruments:
    """Report *meters* through *meter_provider* until `close`.

    A later one on the same provider takes over from an earlier one; its counters begin where those of the earlier one
    ended, since a sum that an SDK has seen must not fall.

    Args:
        meters: The cells of a manager.
        meter_provider: The application's, or one made for this.
    """

    def __init__(self, meters: Meters, meter_provider: MeterProvider) -> None:
        self.meters = meters
        with _making:
            instruments = _made.get(meter_provider)
            if instruments is None:
                instruments = _made[meter_provider] = _Instruments()
                instruments.make(meter_provider)
        self._instruments = instruments
        instruments.switch(meters)

    def close(self) -> None:
        """Stop reporting; call it after the last flush. Closing twice, or after another took over, does nothing."""
        self._instruments.switch(None, only_if=self.meters)


def cardinality_views() -> list[Any]:
    """Views for a meter provider of our own: as many attribute sets as the cells allow, where the SDK can be told."""
    from opentelemetry.sdk.metrics.view import View

    if "aggregation_cardinality_limit" not in inspect.signature(View).parameters:
        return []
    return [View(instrument_name="otelbudget_*", aggregation_cardinality_limit=MAX_CELL_SERIES)]


class _Instruments:
    """The instruments of one provider, and whose cells they read now."""

    def __init__(self) -> None:
        self._lock = forking.fresh(Lock())
        self._meters: Meters | None = None
        self._now: Snapshot | None = None
        self._served: set[str] = set()
        self._run_ids: set[str] = set()
        self._recorders: dict[str, tuple[Recorder, tuple[str, ...]]] = {}
        #: What counters had come to when their meters were closed, by (name, label values).
        self._carried: dict[tuple[str, tuple[str, ...]], float] = {}
        forking.tell(self)

    def forked(self) -> None:
        """In a forked process everything counts from 0."""
        self._now = None
        self._carried.clear()

    def make(self, provider: MeterProvider) -> None:
        """Create every instrument; called once."""
        meter = provider.get_meter("otelbudget", __version__)
        for family in FAMILIES:
            name = family.name.removesuffix("_total")
            callbacks = [self._reader(family)]
            if family.kind == "counter":
                meter.create_observable_counter(name, callbacks, unit=family.unit, description=family.help)
            else:
                meter.create_observable_gauge(name, callbacks, unit=family.unit, description=family.help)
        for found in HISTOGRAMS:
            recorder = meter.create_histogram(
                found.name, found.unit, found.help, explicit_bucket_boundaries_advisory=found.bounds
            )
            self._recorders[found.name] = recorder, found.labels

    def switch(self, meters: Meters | None, only_if: Meters | None = None) -> None:
        """Read *meters* from now on; None reports nothing. With *only_if*, only if those are read now."""
        with self._lock:
            before = self._meters
            if before is meters or (only_if is not None and before is not only_if):
                return
            if before is not None:
                self._record(before)
                before.tell_observations(False)
                self._carry(before.snapshot())
            self._meters = meters
            self._now = None
            if meters is not None:
                meters.tell_observations(True)

    def _carry(self, last: Snapshot) -> None:
        for family in FAMILIES:
            if family.kind == "counter":
                for labels, value in family.read(last):
                    key = (family.name, labels)
                    self._carried[key] = self._carried.get(key, 0) + value

    def _reader(self, family: Family) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            with self._lock:
                now = self._snapshot(family.name)
                samples = [] if now is None else list(family.read(now))
                carried = self._carried if family.kind == "counter" and now is not None else {}
                found = [Observation(*_shown(family, s, carried.get((family.name, s[0]), 0))) for s in samples]
            return iter(found)

        return read

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
            recorder, labels = self._recorders[seen.metric]
            recorder.record(seen.value, dict(zip(labels, seen.labels, strict=True)), _context(seen.trace))

    def _bounded(self, runs: list[ActiveRun]) -> list[ActiveRun]:
        shown: list[ActiveRun] = []
        rest: list[ActiveRun] = []
        for run in runs:
            known = run.run_id in self._run_ids or len(self._run_ids) < _MAX_RUN_IDS
            (shown if known else rest).append(run)
            if known:
                self._run_ids.add(run.run_id)
        if rest:
            ratios = [run.used_ratio for run in rest if run.used_ratio is not None]
            cost_usd = sum(run.cost_usd for run in rest)
            shown.append(ActiveRun(OTHER, OTHER, OTHER, cost_usd, max(ratios, default=None)))
        return shown


def _shown(family: Family, sample: Sample, carried: float) -> tuple[float, dict[str, str]]:
    labels, value = sample
    return value + carried, dict(zip(family.labels, labels, strict=True))


def _context(trace: Trace) -> Context:
    """A context whose span is the one behind an observation; an empty one has no exemplar."""
    if trace is None:
        return Context()
    span_context = SpanContext(int(trace[0], 16), int(trace[1], 16), False, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(span_context), Context())
