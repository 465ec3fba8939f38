"""Every provider's SDK beside every instrumentation: what can't be paid is not sent, what is sent is charged once.

Each cell is a process of its own, see `worker`; a row of the result sums up all cells of an SDK beside the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).parent
PLACES = [str(HERE.parents[2]), str(HERE.parents[1]), str(HERE.parents[1] / "guards"), str(HERE)]
sys.path[:0] = PLACES[2:]

from cells import CELLS, EXACT, does_not_load, label, version_of  # noqa: E402
from results import write_row  # noqa: E402

#: Of a row, whose processes have one of their own.
pytestmark = pytest.mark.timeout(1800)
#: Whether all of it is run, or what CI has time for.
ALL = bool(os.environ.get("OTELBUDGET_MATRIX_ALL"))
BLIND = ({"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_SDK_DISABLED": "true"}, {"CATCHING": "yes"})
EACH_BLIND = "each of them, with ALWAYS_OFF, with OTEL_SDK_DISABLED, under an SDK that catches what processors raise"
ANY_TWO = "any two of them, in either order"
Said = dict[str, Any]


class Job(NamedTuple):
    """One process: instrumentations in their order, and after how many of them budgets are switched on."""

    beside: tuple[str, ...] = ()
    position: int = 0
    environment: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


def _jobs(sdk: str) -> Iterator[tuple[str, list[Job]]]:
    """Rows of the result, and what is run for each."""
    cell = CELLS[sdk]
    there = [one for one in cell.there() if not does_not_load(one)]
    yield "native" if cell.native else "none", [Job()]
    for one in there:
        yield label(one), [Job((one,), 0), Job((one,), 1)]
    pairs = [*permutations(there if ALL else there[:2], 2)]
    if pairs:
        yield ANY_TWO, [Job(two, position) for two in pairs for position in ((0, 2) if ALL else (2,))]
    alone = [(), *[(one,) for one in there]]
    yield EACH_BLIND, [Job(one, len(one), blind) for one in (alone if ALL else alone[-1:]) for blind in BLIND]


ROWS = {(sdk, name): jobs for sdk, cell in CELLS.items() if version_of(cell.package) for name, jobs in _jobs(sdk)}


@pytest.mark.parametrize(("sdk", "name"), ROWS)
def test_what_can_t_be_paid_is_not_sent_and_what_is_sent_is_charged_once(sdk: str, name: str, tmp_path: Path) -> None:
    def said_by(job: Job) -> Said:
        return _run(sdk, job, tmp_path)

    with ThreadPoolExecutor(2) as pool:
        said = [*pool.map(said_by, ROWS[sdk, name])]
    _row(sdk, name, *_summed_up(said))
    assert not [(job, wrong) for job, one in zip(ROWS[sdk, name], said, strict=True) for wrong in _wrong(one)]


def _row(sdk: str, name: str, *said: object) -> None:
    package = CELLS[sdk].package
    write_row("sdks", package, version_of(package), name, *said)


def _summed_up(said: list[Said]) -> tuple[object, ...]:
    """How many ways were tried, the most that was sent where none and where one is allowed, and so on, as in a row."""
    ways = [way for one in said for way in one["ways"].values()]
    allowed = [way[case] for way in ways for case in ("one step", "quota")]
    none = max(way["denied"]["sent"] for way in ways)
    one = max([case["sent"] for case in allowed] + [one["bare"] for one in said])
    exact = all(case["charged"] == EXACT for case in allowed)
    saw = {word for way in ways for case in way.values() for word in case["saw"]} - {"answer"}
    blocks = (none, one) == (0, 1)
    return len(ways), none, one, "exact" if exact else "wrong", ", ".join(sorted(saw)), "yes" if blocks else "no"


def _run(sdk: str, job: Job, place: Path) -> Said:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "worker.py"), sdk, str(job.position), *job.beside],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=place,
        env={**clean, **job.environment, "PYTHONPATH": os.pathsep.join(PLACES)},
    )
    assert done.returncode == 0, (job, done.stderr[-3000:])
    found: Said = json.loads(done.stdout.splitlines()[-1])
    return found


def _wrong(said: Said) -> Iterator[object]:
    """What is not as it has to be."""
    none, one = {"sent": 0, "charged": [0, 0, 0]}, {"sent": 1, "charged": EXACT}
    for way, cases in said["ways"].items():
        for case, expected in {"denied": none, "one step": one, "quota": one}.items():
            saw = ["answer"] * expected["sent"] + ["BudgetExceeded"] * (len(cases[case]["saw"]) - expected["sent"])
            if cases[case] != {**expected, "saw": saw}:
                yield way, case, cases[case]
    if said["bare"] != 1:
        yield "without a run", said["bare"]
    if said["left"]:
        yield "left in the SDK", said["left"]
    if set(said["after"].values()) != {"answer"} or said["sent after"] != len(said["after"]):
        yield "after shutdown()", said["after"], said["sent after"]


NOT_LOADING = [(sdk, one) for sdk, cell in CELLS.items() for one in cell.there() if does_not_load(one)]


@pytest.mark.parametrize(("sdk", "one"), NOT_LOADING)
def test_an_instrumentation_that_does_not_load_is_named(sdk: str, one: str) -> None:
    _row(sdk, label(one), *["-"] * 5, f"it does not load: {does_not_load(one)}")
