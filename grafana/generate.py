"""Write boards and alerts: `python grafana/generate.py` (`--check`: say whether the committed ones are current)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import alerts
import paging
import yaml
from blocks import Json
from overview import overview
from run import run
from tenant import tenant

HERE = Path(__file__).parent
_NOTE = "# Written by grafana/generate.py.\n"
_PAGES = """# Where pages go is yours to say, under the receiver on-call: slack_configs, pagerduty_configs, ...
# (https://prometheus.io/docs/alerting/latest/configuration/). Until then only Alertmanager's own page shows them.
"""


def boards() -> dict[str, Json]:
    """Every dashboard by the name of its file."""
    return {"overview.json": overview(), "tenant.json": tenant(), "run.json": run()}


def rendered() -> dict[str, str]:
    """The text of every file; the same input gives the same bytes."""
    texts = {
        f"dashboards/{name}": json.dumps(board, indent=2, ensure_ascii=False) + "\n" for name, board in boards().items()
    }
    for name, note, content in (
        ("otelbudget.rules.yaml", _NOTE, alerts.rules()),
        ("alertmanager.yaml", _NOTE + _PAGES, paging.alertmanager()),
    ):
        texts[f"alerts/{name}"] = note + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)
    return texts


def main(arguments: list[str]) -> int:
    """Write or check the files; 1 if a check found one out of date."""
    texts = rendered()
    stale = [name for name, text in texts.items() if not _is(HERE / name, text)]
    if "--check" in arguments:
        for name in stale:
            print(f"grafana/{name} is out of date: run python grafana/generate.py")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(texts[name], "utf-8")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
