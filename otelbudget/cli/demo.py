"""``otelbudget demo``: agents of several tenants at work under budgets, and the proof that the budgets held."""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import Final

from otelbudget.cli import INTERRUPTED
from otelbudget.cli.screen import Screen
from otelbudget.model.text import parse_seconds

_MORE: Final = """No key, no network, no server to install: the model is a small server on loopback, asked over HTTP
with the openai client. OTEL_* variables keep their meaning: OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 sends
traces to a collector. Exit code 1: the server received another number of requests than were admitted."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("--tenants", type=_tenants, default=8, metavar="N", help="how many tenants (default 8)")
    parser.add_argument("--config", metavar="FILE", help="a budgets.yaml to use instead of the demo's own")
    parser.add_argument("--store", metavar="URL", help="sqlite:///path.db, redis://...: share the quotas with others")
    parser.add_argument("--serve", action="store_true", help="keep load and /metrics running until Ctrl-C")
    parser.add_argument("--for", dest="for_s", type=seconds, metavar="5m", help="--serve, and end after this time")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="port of /metrics (default 9464; 0: any)")
    parser.add_argument("--metrics-host", metavar="HOST", help="where /metrics listens (default 127.0.0.1)")


def run(options: argparse.Namespace) -> int:
    """Run the demo; gives 0 if the budgets held, 1 if not, 130 if it was interrupted before its end."""
    from otelbudget.cli.report import report
    from otelbudget.cli.stage import Stage

    options.serve = options.serve or options.for_s is not None
    screen = Screen()
    with contextlib.ExitStack() as undo:
        stage = Stage(options, screen, undo)
        # A termination, as `timeout` and containers send it, ends the demo as Ctrl-C does: with its report.
        undo.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        finished = stage.play()
        result = stage.result()
    report(screen, result)
    if not result.holds:
        return 1
    return 0 if finished or options.serve else INTERRUPTED


def _tenants(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tenants from 1 to 1000")
    return number


def seconds(text: str) -> float:
    """The type of an argument that is a time."""
    try:
        return float(parse_seconds(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 5m or 1h30m: {error}") from error
