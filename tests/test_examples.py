"""Every example runs without a key, ends by itself and shows what it is there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Example -> pieces of what it prints, in order.
SHOWS = {
    "ask_for_more.py": [
        "steps used 2 of 2",
        "How many more",
        "steps used 3 of 3",
        "Deep learning is",
        "steps: 3, ended",
    ],
    "basic_usage.py": [
        "left: 2 steps",
        "left: 0 steps",
        "refused before it was sent",
        "steps used 3 of 3",
        "exhausted",
    ],
    "deep_research_example.py": ["How can a quota", "quota", "read: quotas", "of 50000", "ended by a limit: False"],
    "budget_exhaustion_example.py": [
        "Stop at the limit",
        "steps: 3",
        "Keep one step aside",
        "granted two more",
        "steps: 5",
    ],
    "config_example.py": ["quick_answer: steps 5", "used 3 steps", "wrong.yaml:2:", "max_steps", "5:00"],
    "distributed_quota_example.py": ["process 1:", "process 4:", "together:", "of 10000"],
    "platform_quotas_example.py": [
        "tokens used 1620 of 2000, requested 600",
        "'tokens per rolling 24h' of user 'ann' of tenant 'acme' (org 'enterprise')",
        "tokens used 3240 of 3600 (what priority 'low' may use of 6000)",
        "carved out for it",
        "3280 are left for the run",
        "'cost_usd per hour' of model 'demo-large'",
        "platform.yaml:21",
        "acme: 1560 tokens",
    ],
    "two_services_example.py": [
        "chapter 1: written, 2900 tokens left",
        "the searcher: found something, 2400 tokens left",
        "the searcher: no: budget 'report' of run (tenant 'acme'): exhausted: tokens used 3100 of 3300, requested 500",
        "the writer: budget 'report' of run (tenant 'acme'): exhausted: tokens used 3100 of 3300, requested 400",
        "tokens: 3,100 of 3,300",
    ],
    "quota_service_example.py": ["admitted", "refused", "resets by itself at 2026-03-03 00:00 UTC", "10000 left today"],
}


def test_each_example_has_its_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_runs_and_shows_its_point(name: str, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL", "OPENAI_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        input="1\nno\n", env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("refused (")] == []
    rest = done.stdout
    for piece in SHOWS[name]:
        _, found, rest = rest.partition(piece)
        assert found, f"{piece!r} is missing, or out of order, in:\n{done.stdout}"
