"""Write the dashboards: `python grafana/generate.py` (with `--check`: say whether the committed ones are current)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from blocks import Json
from overview import overview

DASHBOARDS = Path(__file__).parent / "dashboards"


def boards() -> dict[str, Json]:
    """Every dashboard by the name of its file."""
    return {"overview.json": overview()}


def rendered() -> dict[str, str]:
    """The text of every file; the same input gives the same bytes."""
    return {name: json.dumps(board, indent=2, ensure_ascii=False) + "\n" for name, board in boards().items()}


def main(arguments: list[str]) -> int:
    """Write or check the files; 1 if a check found one out of date."""
    texts = rendered()
    if "--check" in arguments:
        paths = {name: DASHBOARDS / name for name in texts}
        stale = [name for name, path in paths.items() if not path.exists() or path.read_text("utf-8") != texts[name]]
        for name in stale:
            print(f"grafana/dashboards/{name} is out of date: run python grafana/generate.py")
        return 1 if stale else 0
    DASHBOARDS.mkdir(exist_ok=True)
    for name, text in texts.items():
        (DASHBOARDS / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
