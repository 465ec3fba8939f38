"""``otelbudget alerts export -o DIR``: the rules, for a Prometheus and an Alertmanager of your own."""

from __future__ import annotations

import argparse
from typing import Final

from otelbudget.cli import exporting

_MORE: Final = """otelbudget.rules.yaml goes under rule_files of Prometheus, alertmanager.yaml shows a route and what is
silenced by what; where pages go is yours to say, under its receiver on-call. Prometheus sees a process's first spend
with --enable-feature=created-timestamp-zero-ingestion."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action."""
    parser.epilog = _MORE
    exporting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the files; gives 0."""
    return exporting.export("alerts", options.output)
