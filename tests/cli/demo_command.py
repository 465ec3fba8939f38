"""How tests start ``otelbudget demo``: in a process of its own, as a user does."""

from __future__ import annotations

import os
import sys


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would send the demo elsewhere."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "OPENAI_", "COLUMNS"))}
    return mine | more


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "otelbudget", "demo", "--metrics-port", "0", *arguments]
