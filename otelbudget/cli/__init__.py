"""The command ``otelbudget``.

A new command is a module of this folder with ``arguments(parser)`` and ``run(options) -> exit code``, and a line in
`COMMANDS`. Only the module of the command that is given is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from otelbudget._version import __version__
from otelbudget.errors import BudgetError

__all__ = ["COMMANDS", "INTERRUPTED", "main"]

#: Name, which is also that of its module unless `_MODULES` says another, -> what it does in a line.
COMMANDS: Final = {
    "demo": "run agents of several tenants under budgets against a local server; no key needed",
    "validate": "say everything that is wrong with budgets.yaml files",
    "doctor": "say what stops model calls in this environment, and what only observes them",
    "explain": "say which limits of a budgets.yaml a call would be held to",
    "prices": "say what a model costs, and whose price that is",
    "quota": "list, show, set and reset the quotas of a store that processes share",
    "dashboards": "write the Grafana boards into a directory",
    "alerts": "write the alert rules of Prometheus into a directory",
    "top": "watch the quotas of a store, or of /metrics pages, as they fill up",
    "schema": "write the JSON Schema of a budgets.yaml, for editors",
}

_MODULES: Final = dict.fromkeys(("dashboards", "alerts"), "export")
#: Exit code after Ctrl-C, as shells have it: 128 and the signal's number.
INTERRUPTED: Final = 130
#: The same where the reader of what it prints has gone, as `head` does.
_CUT_OFF: Final = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (None takes ``sys.argv``); gives the exit code, 0 for success."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # at exit nobody could catch that it fails
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes, at exit too
        return _CUT_OFF


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="otelbudget", description="Hard budgets for AI agents, enforced and observed through OpenTelemetry."
    )
    parser.add_argument("--version", action="version", version=f"otelbudget {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    given = sys.argv[1:] if arguments is None else arguments
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in given:
            module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    if not given:
        parser.print_help(sys.stderr)  # before the error that the parser is about to give
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (BudgetError, ImportError, OSError) as error:
        print(f"otelbudget {options.command}: {error}", file=sys.stderr)
        return 2
