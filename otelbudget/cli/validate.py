"""``otelbudget validate``: everything that is wrong with budgets.yaml files, for people and programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Final

from otelbudget.config import load_budget_config
from otelbudget.errors import ConfigError, Problem

_MORE: Final = """Variables are taken from the environment, as they are when a file is used. Exit code 0: all files
are fine, 1: something is wrong."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("files", nargs="+", metavar="FILE", help="a budgets.yaml")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json gives a list of objects")


def run(options: argparse.Namespace) -> int:
    """Write all that is wrong to standard output; gives 0 if nothing is, else 1."""
    problems = {file: _problems(file) for file in options.files}
    found = [problem for of_file in problems.values() for problem in of_file]
    if options.format == "json":
        print(json.dumps([problem._asdict() for problem in found], indent=2))
    else:
        for file, of_file in problems.items():
            print("\n".join(map(str, of_file)) or f"{file}: fine")
    return 1 if found else 0


def _problems(file: str) -> Sequence[Problem]:
    try:
        load_budget_config(file)
    except ConfigError as error:
        return error.problems or (Problem(file, None, None, "", str(error)),)
    return ()
