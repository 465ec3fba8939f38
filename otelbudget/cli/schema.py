"""``otelbudget schema``: the JSON Schema of a budgets.yaml, for editors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from otelbudget.config.fields import schema_text

_MORE: Final = """Editors with a YAML language server use it where a file begins with
"# yaml-language-server: $schema=budgets.schema.json"."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("--output", metavar="FILE", help="write it there instead of to standard output")


def run(options: argparse.Namespace) -> int:
    if options.output is None:
        sys.stdout.write(schema_text())
    else:
        Path(options.output).write_text(schema_text(), "utf-8")
    return 0
