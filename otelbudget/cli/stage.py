"""What stands while ``otelbudget demo`` runs: the server, the budgets, the agents, and what watches them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

import otelbudget
from otelbudget import bootstrap
from otelbudget.cli.report import HEAD, Result, cells
from otelbudget.cli.screen import Screen
from otelbudget.config.store import concealed
from otelbudget.demo import DemoServer, evidence
from otelbudget.demo.load import BUDGETS, Load, Row, jobs, latency
from otelbudget.demo.service import openai_module

if TYPE_CHECKING:
    from otelbudget.bootstrap import Facts

_FRAMES_PER_S: Final = 8


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the table does not show it already, as it does refusals and ends of runs."""
    return not str(record.msg).startswith(("refused (", "ended ("))


class Stage:
    """All of it, told on *display*; whatever it switches on, *undo* switches off.

    Raises:
        ConfigError: The budgets file is wrong or the port is in use.
        ImportError: The openai client is missing.
    """

    def __init__(self, options: argparse.Namespace, display: Screen, undo: contextlib.ExitStack) -> None:
        openai_module()  # said now if it is missing; and its import takes a second, which is no agent's time
        self._options = options
        self._display = display
        budgets = logging.getLogger("otelbudget")
        budgets.addFilter(_is_news)
        undo.callback(budgets.removeFilter, _is_news)
        config = otelbudget.load_budget_config(options.config or BUDGETS)
        work = jobs(options.tenants, config, patient=options.serve)
        port: Any = "auto" if options.metrics_port is None else options.metrics_port
        self._meters = otelbudget.setup(
            config,
            store=options.store,
            service_name="otelbudget-demo",
            metrics_port=port,
            metrics_host=options.metrics_host,
        ).engine.meters
        undo.callback(otelbudget.shutdown)
        self._facts = cast("Facts", bootstrap.facts())
        self._spans = evidence.DeniedSpans()
        self._server = undo.enter_context(DemoServer(latency_s=latency(work)))
        self._load = Load(work, self._server.base_url, forever=options.serve, changed=self._changed)
        undo.callback(self._load.stop)
        self._began_s = time.monotonic()

    def play(self) -> bool:
        """Let the agents work until they are done, time is up or somebody interrupts; False if that came first."""
        self._introduce()
        limit_s = self._options.for_s
        try:
            self._load.start()
            while self._load.working and (limit_s is None or time.monotonic() - self._began_s < limit_s):
                self._draw()
                time.sleep(1 / _FRAMES_PER_S)
            return True
        except KeyboardInterrupt:
            return False
        finally:
            self._load.stop()
            self._draw(last=True)

    def result(self) -> Result:
        """What came of it."""
        rows = self._load.rows
        span = self._spans.of(rows[0].job.tenant)
        return Result(rows, self._server.requests, evidence.scrape(self._meters), span)

    def _introduce(self) -> None:
        facts, options = self._facts, self._options
        told = {
            "model": f"{self._server.base_url}, asked over HTTP with the openai client",
            "budgets": facts.budgets,
            "spans": facts.spans,
            "metrics": facts.metrics,
        }
        if options.store is not None:
            told["quotas"] = f"shared in {concealed(options.store)}"
        if options.serve:
            told["ends"] = f"after {options.for_s:g} s, or with Ctrl-C" if options.for_s else "with Ctrl-C"
        self._display.heading(f"otelbudget demo: agents of {len(self._load.rows)} tenants at work, each under a budget")
        for name, what in told.items():
            self._display.line((f"{name:<9}", "dim"), (what, "plain"))

    def _draw(self, *, last: bool = False) -> None:
        """The live table, where there can be one."""
        if self._display.live:
            self._display.draw(HEAD, [cells(row) for row in self._load.rows], last=last)

    def _changed(self, row: Row) -> None:
        """A line for screens without a live table."""
        if self._display.live or (row.working and self._options.serve):
            return
        elapsed_s = time.monotonic() - self._began_s
        what = "begins" if row.working else cells(row)[-1][0]
        self._display.line(
            (f"{elapsed_s:5.1f} s  {row.job.tenant:<10} {row.job.budget or 'default':<14} {what}", "plain")
        )
