"""``otelbudget dashboards export -o DIR``: the boards, for a Grafana of your own."""

from __future__ import annotations

import argparse
from typing import Final

from otelbudget.cli import exporting

_MORE: Final = """JSON files to import, or to provision; each asks which Prometheus and which Tempo it is to read."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action."""
    parser.epilog = _MORE
    exporting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the files; gives 0."""
    return exporting.export("dashboards", options.output)
