"""``otelbudget doctor``: what stops model calls in this environment, what only observes, and where telemetry goes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from otelbudget.cli.screen import Screen

if TYPE_CHECKING:
    from otelbudget.cli.examining import Finding

_MORE: Final = """It looks at the packages installed beside it, the OTEL_* variables and the budgets.yaml, imports the
model SDKs and agent frameworks, asks the store, and calls no model. Exit code 0: what can be stopped is stopped, 1:
something is not."""
_NAME: Final = 44


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    parser.add_argument("--config", metavar="FILE", help="a budgets.yaml (default as setup() finds it)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Write what was found; gives 1 if something that is said to be stopped is not, else 0."""
    from otelbudget.bootstrap.arguments import configuration
    from otelbudget.cli.examining import examine

    found = examine(configuration(options.config)[0])
    if options.json:
        print(json.dumps({section: [one._asdict() for one in ones] for section, ones in found.items()}, indent=2))
    else:
        _write(found)
    return int(any(one.state == "bad" for ones in found.values() for one in ones))


def _write(found: dict[str, list[Finding]]) -> None:
    screen = Screen()
    for section, ones in found.items():
        screen.heading(section)
        for one in ones:
            name = f"{one.name} {one.version}".strip()
            screen.line((f"{name:<{_NAME}}  ", "plain"), (one.says, one.state), hang=_NAME + 2)
        if not ones:
            screen.line(("none", "dim"))
