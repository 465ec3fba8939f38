"""Draws ``examples/demo.svg`` anew from what the demo shows at its end: ``python tests/cli/picture.py``; needs rich."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

from demo_command import command, environment
from rich.console import Console
from rich.text import Text


def main() -> None:
    done = subprocess.run(command(), env=environment(FORCE_COLOR="1"), capture_output=True, text=True, check=True)
    table, counters = done.stdout.index("Runs and their limits"), done.stdout.index("Counters of /metrics")
    verdict = done.stdout.index("Did anything leak?")  # the counters would double its height
    console = Console(record=True, file=io.StringIO(), width=100, force_terminal=True)
    console.print(Text.from_ansi(done.stdout[table:counters] + done.stdout[verdict:]))
    svg = console.export_svg(title="otelbudget demo", unique_id="otelbudget")
    picture = Path(__file__).parents[2] / "examples" / "demo.svg"
    # It refers to nothing outside itself.
    picture.write_text(re.sub(r"\n\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
