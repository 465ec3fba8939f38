"""``otelbudget dashboards export`` and ``alerts export``: for a Grafana, a Prometheus, an Alertmanager of your own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import otelbudget

#: Where the files are: in an installed package, in a checkout.
_PLACES: Final = tuple(Path(otelbudget.__file__).parents[i] / "grafana" for i in (0, 1))
_MORE: Final = {
    "dashboards": "JSON files to import, or to provision; each asks which Prometheus and which Tempo it is to read.",
    "alerts": """otelbudget.rules.yaml goes under rule_files of Prometheus, alertmanager.yaml shows a route and what is
silenced by what; where pages go is yours to say, under its receiver on-call. Prometheus sees a process's first spend
with --enable-feature=created-timestamp-zero-ingestion.""",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE[parser.prog.rpartition(" ")[2]]
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    export = actions.add_parser("export", help="write the files into a directory")
    export.add_argument("-o", "--output", required=True, metavar="DIR", help="is made if it is not there")


def run(options: argparse.Namespace) -> int:
    files = next(place / options.command for place in _PLACES if (place / options.command).is_dir())
    directory = Path(options.output)
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted(files.iterdir()):
        (directory / file.name).write_bytes(file.read_bytes())
        print(directory / file.name)
    return 0
