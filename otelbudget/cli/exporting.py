"""Files of the local stack for people with a Grafana, a Prometheus, an Alertmanager of their own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import otelbudget

#: Where the files are: in an installed package, in a checkout.
_PLACES: Final = tuple(Path(otelbudget.__file__).parents[i] / "grafana" for i in (0, 1))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``export -o DIR``."""
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    export = actions.add_parser("export", help="write the files into a directory")
    export.add_argument("-o", "--output", required=True, metavar="DIR", help="is made if it is not there")


def export(folder: str, target: str) -> int:
    """Write the files of *folder* into *target*, and say which; gives 0."""
    files = next(place / folder for place in _PLACES if (place / folder).is_dir())
    directory = Path(target)
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted(files.iterdir()):
        (directory / file.name).write_bytes(file.read_bytes())
        sys.stdout.write(f"{directory / file.name}\n")
    return 0
