"""Signals and finalizers at any moment, while several threads spend: never an amount, a level or a counter is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("storm.py")

#: MODULE:NAME of the one call that makes all writes of a change, looked up as a global of that module whenever a change
#: is made: ``name(writes)``, where *writes* are (object, name, value), or steps that give None. The control replaces it
#: by a Python loop. Where another module imports the function by its name, this has to name that module.
ATOMIC_WRITE = "otelbudget.ledger.ledger:write"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here"),
]


def storm(*arguments: str, sampler: str = "always_off", seconds: float = 6) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COV_"))}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--seconds", str(seconds), *arguments],
        env={**clean, "OTEL_TRACES_SAMPLER": sampler},
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    assert done.stdout, f"it ended with {done.returncode}:\n{done.stderr}"
    outcome: dict[str, Any] = json.loads(done.stdout)
    outcome["stderr"] = done.stderr
    return outcome


def test_without_a_storm_every_level_and_counter_has_the_same() -> None:
    outcome = storm("--seed", "1", "--calm", seconds=2)
    assert not outcome["problems"]
    assert outcome["calls"] > 100


#: Where a signal handler that raises leaves locks of the OpenTelemetry SDK taken, with which ours have nothing to do.
_LEAVES = pytest.mark.skipif(sys.version_info[:2] == (3, 14), reason="python/cpython#148874, in locks of the SDK")


@pytest.mark.parametrize("sampler", ["always_off", pytest.param("always_on", marks=_LEAVES)])
def test_whatever_signals_and_finalizers_interrupt_every_level_and_counter_has_the_same(sampler: str) -> None:
    outcome = storm("--seed", "1", sampler=sampler)
    assert not outcome["problems"], "\n".join([*outcome["problems"][:20], outcome["stderr"]])
    assert outcome["interrupts"] > 1000
    assert outcome["handled"] > 100


def test_the_storm_notices_if_the_writes_of_a_change_are_made_one_by_one() -> None:
    outcome = storm("--seed", "1", "--loop", ATOMIC_WRITE)
    assert outcome["looped"] > 1000, f"nobody calls {ATOMIC_WRITE}"
    assert {problem.split(":")[0] for problem in outcome["problems"]} & {"level", "amount", "hang"}, outcome["problems"]
