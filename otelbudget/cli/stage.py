"""What stands while ``otelbudget demo`` runs: the server, the budgets, the agents, and what watches them."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import otelbudget
from otelbudget import bootstrap
from otelbudget.cli.report import Result
from otelbudget.cli.rows import HEAD, cells, ending
from otelbudget.cli.screen import PlainScreen, RichScreen, Screen
from otelbudget.demo import DemoServer, evidence
from otelbudget.demo.load import Load, Row
from otelbudget.demo.scenario import jobs, latency, packaged_budgets
from otelbudget.demo.service import openai_module

__all__ = ["Stage"]

_FRAMES_PER_S: Final = 8


class Stage:
    """All of it as a block that leaves nothing behind.

    Args:
        options: What the command line said.
        display: Where to show progress.

    Raises:
        ConfigError: The budgets file is wrong or the port is in use (on entering).
        ImportError: The openai client is missing (on entering).
    """

    def __init__(self, options: argparse.Namespace, display: Screen) -> None:
        self._options = options
        self._display = display
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as undo:
            self._set_up(undo)
            self._undo = undo.pop_all()
        return self

    def _set_up(self, undo: contextlib.ExitStack) -> None:
        openai_module()  # said now if it is missing; and its import takes a second, which is no agent's time
        options = self._options
        given = {"metrics_port": options.metrics_port, "metrics_host": options.metrics_host}
        asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        config = otelbudget.load_budget_config(options.config or packaged_budgets())
        work = jobs(options.tenants, config)
        self._meters = otelbudget.setup(config, service_name="otelbudget-demo", **asked).engine.meters
        undo.callback(otelbudget.shutdown)
        self._facts = bootstrap.facts()
        self._spans = evidence.watch()
        self._server = undo.enter_context(DemoServer(latency_s=latency(work)))
        self._load = Load(work, self._server.base_url, forever=options.serve, changed=self._changed)
        undo.callback(self._load.stop)
        self._before = self._scrape()
        self._began_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def play(self) -> bool:
        """Let the agents work until they are done, time is up or somebody interrupts; False if that came first."""
        self._introduce()
        with self._shown() as show:
            try:
                self._load.start()
                self._wait(show)
                finished = True
            except KeyboardInterrupt:
                finished = False
            self._load.stop()
        return finished

    def result(self) -> Result:
        """What came of it."""
        after = self._scrape()
        rows = self._load.rows
        return Result(
            rows=rows,
            received=self._server.requests,
            admitted=evidence.admitted(after),
            refused=evidence.refused(after),
            series=evidence.changed(self._before, after),
            span=self._spans.of(rows[0].job.tenant),
            example=rows[0].job.tenant,
        )

    def _scrape(self) -> evidence.Samples:
        return evidence.scrape(self._facts.metrics_url if self._facts else None, self._meters)

    def _introduce(self) -> None:
        line, options = self._display.line, self._options
        self._display.heading(f"otelbudget demo: agents of {len(self._load.rows)} tenants at work, each under a budget")
        line(("model    ", "dim"), (f"{self._server.base_url}, asked over HTTP with the openai client", "plain"))
        if self._facts is not None:
            line(("budgets  ", "dim"), (self._facts.budgets, "plain"))
            line(("spans    ", "dim"), (self._facts.spans, "plain"))
            line(("metrics  ", "dim"), (self._facts.metrics, "plain"))
        if options.serve:
            until = f"after {options.for_s:g} s, or with Ctrl-C" if options.for_s else "with Ctrl-C"
            line(("ends     ", "dim"), (until, "plain"))

    def _wait(self, show: Callable[[], None]) -> None:
        limit_s = self._options.for_s
        while self._load.working and (limit_s is None or time.monotonic() - self._began_s < limit_s):
            show()
            time.sleep(1 / _FRAMES_PER_S)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[], None]]:
        """The live table, where there can be one; what it gives draws a frame."""
        display = self._display
        if not isinstance(display, RichScreen):
            yield lambda: None
            return
        from rich.live import Live

        def frame() -> None:
            live.update(display.grid(HEAD, [cells(row) for row in self._load.rows]), refresh=True)

        with Live(console=display.console, auto_refresh=False) as live:
            yield frame
            frame()

    def _changed(self, row: Row) -> None:
        """A line for screens without a live table."""
        if not isinstance(self._display, PlainScreen) or (row.working and self._options.serve):
            return
        elapsed_s = time.monotonic() - self._began_s
        what = "begins" if row.working else ending(row)
        self._display.line(
            (f"{elapsed_s:5.1f} s  {row.job.tenant:<10} {row.job.budget or 'default':<14} {what}", "plain")
        )
