"""Beside every instrumentor, in both orders and after either has left, a call is admitted once and charged once."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otelbudget.estimate.tokens import count_input, estimate_tokens

HERE = Path(__file__).parent
SDKS = ("openai", "anthropic")
#: Those of an SDK all at once, as `tests/matrix` has each by itself, or Logfire's of classes or clients.
INSTRUMENTORS = ("instrumentors", "logfire-class", "logfire-instance")
SITUATIONS = (
    "other first",
    "other first, then out",
    "guard first",
    "guard first, out and in",
    "guard first, other out",
)


@pytest.mark.slow
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("instrumentor", INSTRUMENTORS)
def test_two_of_three_calls_are_sent_and_charged_and_the_caller_sees_the_denial(sdk: str, instrumentor: str) -> None:
    pytest.importorskip(sdk)
    ways = importlib.import_module(f"{sdk}_ways")
    worker = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "matrix_worker.py"), sdk, instrumentor],
        capture_output=True,
        text=True,
        timeout=150,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))},
    )
    assert worker.returncode == 0, worker.stderr[-4000:]
    rows = [json.loads(line) for line in worker.stdout.splitlines()]
    names = [f"sync {way}" for way in ways.WAYS] + [f"async {way}" for way in ways.ASYNC_WAYS]
    names += [f"stop {way}" for way in ways.STOPS]
    assert [(row["situation"], row["way"]) for row in rows] == [(s, way) for s in SITUATIONS for way in names]
    expected = {"sent": 2, "open": 0, "seen": "BudgetExceeded caused by NoneType"}
    wrong = [row for row in rows if not expected.items() <= row.items() or row["charged"] != _charge(ways, row["way"])]
    assert not wrong


def _charge(ways: Any, way: str) -> list[int]:
    if way.startswith("stop"):
        # Anthropic tells the input at the start of a stream.
        given = 80 if "anthropic" in ways.__name__ else count_input(ways.CHAT)
        return [2, 2 * given, 2 * estimate_tokens(ways.ANSWER.split()[0])]
    return [2, 160, 0 if "embeddings" in way else 40]
