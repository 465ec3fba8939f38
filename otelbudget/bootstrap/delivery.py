"""Delivers telemetry through exporters that may block, without holding the application up when it ends.

The SDK waits up to 30 s for a collector that is not there; here closing takes what is granted and says what is lost.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter

from otelbudget import forking

_log = logging.getLogger(__name__)
#: How long an exporter that was told to stop may take to return, in seconds.
_STOP_S = 0.25


class Worker:
    """A daemon thread made beforehand, since none can be started any more when the interpreter ends (3.12)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.forked()
        forking.tell(self)

    def forked(self) -> None:
        """In a child: the thread is the parent's, and what it was to do."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        # Without the context of whoever forks, which would live as long as the thread.
        contextvars.Context().run(thread.start)

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


class Delivery:
    """An exporter of any signal as the SDK's processors and readers see it; of None, something that is only flushed.

    It sees whether the export in progress fails by what the exporter logs, and silences that while closing.
    """

    def __init__(self, exporter: Any, where: str) -> None:
        self.worker = Worker("otelbudget-export")
        self._exporter = exporter
        self._where = where
        self._open = True
        self._closing = False
        self._stopped = False
        self._lost = False
        self._trouble = threading.Event()
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
            self._trouble.set()
        return not self._closing

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export and note how it goes; the result is None, which the SDK does not look at, where there is none."""
        if self._stopped:
            self._lost = True
            return None
        me = threading.get_ident()
        self._threads.add(me)
        self._trouble.clear()
        result = None
        try:
            result = self._exporter.export(*args, **kwargs)
        except Exception:
            if not self._closing:
                raise
        finally:
            self._threads.discard(me)
            self._lost = self._lost or (self._closing and getattr(result, "name", None) != "SUCCESS")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)  # whatever else a processor or a reader asks of its exporter

    def shutdown(self, **kwargs: Any) -> None:
        """Shut the exporter down, unless that has been done."""
        if self._open:
            self._open = False
            self._exporter.shutdown(**kwargs)

    def close(self, finish: Callable[[], object]) -> Delivery:
        """Begin *finish*, which delivers the rest and shuts down; `wait` for it."""
        if not self._threads:
            self._trouble.clear()  # an earlier export's
        self._closing = True

        def finish_and_leave() -> None:
            try:
                finish()
            finally:
                for logger in self._loggers:
                    logger.removeFilter(self)

        self._done = self.worker.do(finish_and_leave, last=True)
        return self

    def wait(self, deadline_s: float) -> None:
        """Wait until it is closed, fails or the monotonic instant *deadline_s* is there; say what was lost."""
        while not self._done.wait(0.01) and not self._trouble.is_set() and time.monotonic() < deadline_s:
            pass
        if not self._done.is_set():
            self._stopped = True
            if type(self._exporter).__module__.startswith("opentelemetry."):  # known not to block on this
                self.shutdown()
            self._done.wait(max(0.0, min(_STOP_S, deadline_s - time.monotonic())))
        if self._lost or not self._done.is_set():
            _log.warning("the last telemetry was not delivered: %s does not answer", self._where)


class SimpleOutlet(SimpleSpanProcessor):
    """Exports each span as it ends; for exporters that hold nothing (in memory, console)."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        super().__init__(exporter)
        self.where = where

    def close(self) -> None:
        """Nothing to do: the exporter, which may be the caller's own, stays usable."""


class BatchOutlet(BatchSpanProcessor):
    """Exports spans to *where* in batches from a thread; closing it shuts the exporter down."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        self.where = where
        self._delivery = Delivery(exporter, where)
        super().__init__(cast("SpanExporter", self._delivery))

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what has ended so far; False if that takes longer than *timeout_millis* (None: 30 s)."""
        limit_s = 30.0 if timeout_millis is None else timeout_millis / 1000
        return self._delivery.worker.do(super().force_flush).wait(limit_s)

    def close(self) -> Delivery:
        """Begin to deliver the rest and to close; nothing is waited for."""
        return self._delivery.close(self.shutdown)


class Carrier(NamedTuple):
    """A meter or logger provider that carries our telemetry out, and its deliveries with how each of them finishes."""

    provider: Any
    where: str
    deliveries: Sequence[tuple[Delivery, Callable[[], object]]]

    def close(self) -> list[Delivery]:
        """Begin to deliver the rest and to close; nothing is waited for."""
        return [delivery.close(finish) for delivery, finish in self.deliveries]


def joined(provider: Any, where: str) -> Carrier:
    """A provider of the application: flushed when we end, never shut down."""
    return Carrier(provider, where, [(Delivery(None, where), getattr(provider, "force_flush", lambda: None))])


def of_application(provider: Any) -> Any:
    """A global *provider* if it is an SDK's, which exports what the same variables asked it to export; else None."""
    return provider if type(provider).__module__.startswith("opentelemetry.sdk.") else None
