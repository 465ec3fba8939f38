"""Delivers telemetry through exporters that may block, without holding the application up when it ends.

The SDK waits up to 30 s for a collector that is not there and logs every attempt. Here closing takes what the caller
grants, ends at the first failure that the exporter reports, and says in one line what did not arrive.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["BatchOutlet", "Closing", "Interruptible", "SimpleOutlet", "Watch", "Worker"]

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
#: How long an exporter that was told to stop may take to return, in seconds.
_STOP_S = 0.25


class Worker:
    """A daemon thread made beforehand, since none can be started any more when the interpreter ends (3.12)."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], object], *, last: bool = False) -> threading.Event:
        """Have *job* done, as the thread's last one if *last*; the event is set when it is, raised or not."""
        done = threading.Event()

        def run() -> None:
            try:
                job()
            except Exception:  # noqa: BLE001 - an exporter's own error; the application must not see it
                _log.debug("an exporter failed", exc_info=True)
            finally:
                done.set()

        self._jobs.put(run)
        if last:
            self._jobs.put(None)
        return done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Watch(logging.Filter):
    """Sees whether the export in progress fails, by what the exporter logs, and silences it while closing.

    Attributes:
        trouble: Set while the export in progress has reported a failure.
        closing: Whether the exporter's log records are swallowed.
        stopped: Whether further exports are refused.
        lost: Whether anything was not delivered since closing began.
    """

    def __init__(self, exporter: object) -> None:
        super().__init__()
        self.trouble = threading.Event()
        self.closing = False
        self.stopped = False
        self.lost = False
        self._threads: set[int] = set()
        modules = {cls.__module__ for cls in type(exporter).__mro__} - {"builtins", "abc", "typing"}
        self._loggers = [logging.getLogger(module) for module in sorted(modules)]
        for logger in self._loggers:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass, except what this exporter says while closing."""
        if record.thread not in self._threads:
            return True
        if record.levelno >= logging.WARNING:
            self.trouble.set()
        return not self.closing

    def export(self, export: Callable[[], _R], *, success: _R, failure: _R) -> _R:
        """Call *export* and note how it goes."""
        if self.stopped:
            self.lost = True
            return failure
        me = threading.get_ident()
        self._threads.add(me)
        self.trouble.clear()
        result = failure
        try:
            result = export()
        except Exception:
            if not self.closing:
                raise
        finally:
            self._threads.discard(me)
            self.lost = self.lost or (self.closing and result is not success)
        return result

    def close(self) -> None:
        """From now on, what the exporter says is swallowed, and what does not arrive is lost."""
        if not self._threads:
            self.trouble.clear()  # an earlier export's
        self.closing = True

    def detach(self) -> None:
        """Leave the loggers alone again."""
        for logger in self._loggers:
            logger.removeFilter(self)


class Closing:
    """An exporter that is being closed.

    Args:
        watch: What sees its failures.
        done: Set when everything is delivered and closed.
        stop: Makes it give up the export in progress; must not block.
        where: The place it delivers to, for the log.
    """

    def __init__(self, watch: Watch, done: threading.Event, stop: Callable[[], object], where: str) -> None:
        self._watch = watch
        self._done = done
        self._stop = stop
        self._where = where

    def wait(self, deadline_s: float) -> None:
        """Wait until it is closed, fails or the monotonic instant *deadline_s* is there; say what was lost."""
        while not self._done.wait(0.01) and not self._watch.trouble.is_set() and time.monotonic() < deadline_s:
            pass
        if not self._done.is_set():
            self._watch.stopped = True
            self._stop()
            self._done.wait(max(0.0, min(_STOP_S, deadline_s - time.monotonic())))
        if self._watch.lost or not self._done.is_set():
            _log.warning("the last telemetry was not delivered: %s does not answer", self._where)


class SimpleOutlet(SimpleSpanProcessor):
    """Exports each span as it ends; for exporters that hold nothing (in memory, console)."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        super().__init__(exporter)
        self.where = where

    def close(self) -> None:
        """Nothing to do: the exporter, which may be the caller's own, stays usable."""


class BatchOutlet(BatchSpanProcessor):
    """Exports spans in batches from a thread; closing it takes as long as the caller grants.

    Args:
        exporter: Shut down with it.
        where: The place it delivers to, for the log.
    """

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        self.where = where
        self._watch = Watch(exporter)
        self._delivery = _Delivery(exporter, self._watch)
        self._worker = Worker("otelbudget-export")
        super().__init__(self._delivery)

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what has ended so far; False if that takes longer than *timeout_millis* (None: 30 s)."""
        limit_s = 30.0 if timeout_millis is None else timeout_millis / 1000
        return self._worker.do(super().force_flush).wait(limit_s)

    def close(self) -> Closing:
        """Begin to deliver the rest and to close; nothing is waited for."""
        self._watch.close()
        return Closing(self._watch, self._worker.do(self._finish, last=True), self._delivery.stop, self.where)

    def _finish(self) -> None:
        try:
            self.shutdown()  # type: ignore[no-untyped-call] # the SDK's method has no annotations
        finally:
            self._watch.detach()


class Interruptible:
    """The part of a delivery that is the same for spans and log records: it shuts its exporter down once."""

    def __init__(self, exporter: Any, watch: Watch) -> None:
        self._exporter = exporter
        self._watch = watch
        self._open = True

    def shutdown(self) -> None:
        """Shut the exporter down, unless that has been done."""
        if self._open:
            self._open = False
            self._exporter.shutdown()

    def stop(self) -> None:
        """Interrupt the export in progress, where the exporter is known not to block on that."""
        if type(self._exporter).__module__.startswith("opentelemetry."):
            self.shutdown()


class _Delivery(Interruptible, SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._watch.export(
            lambda: self._exporter.export(spans), success=SpanExportResult.SUCCESS, failure=SpanExportResult.FAILURE
        )

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        flushed: bool = self._exporter.force_flush(timeout_millis)
        return flushed
