"""Several processes on one SQLite file or Redis server, each through `setup()`: never over, and exact at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from shared_kit import Place, state

import otelbudget
from otelbudget import BudgetExceeded, QuotaService, Usage

WORKER = Path(__file__).with_name("shared_worker.py")
GRACE_S = 5


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def write(place: Place, quota: str, **store: Any) -> str:
    """A budgets.yaml beside the file."""
    path = place.path.with_name("budgets.yaml")
    more = "".join(f", {name}: {value}" for name, value in store.items())
    path.write_text(f"quotas: {{default: [{{{quota}, per: lifetime, name: q}}]}}\nstore: {{url: {place.url}{more}}}\n")
    return str(path)


def start(config: str, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(WORKER), config, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(worker: subprocess.Popen[str]) -> int:
    out, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert not errors
    return int(out)


@pytest.mark.slow
@pytest.mark.parametrize("hows", [("cents", "cents"), ("acents", "cents"), ("acents",) * 3])
def test_processes_spend_a_dollar_to_the_cent(place: Place, hows: tuple[str, ...]) -> None:
    config = write(place, "cost_usd: 2", timeout="5s")
    made = [said(worker) for worker in [start(config, how) for how in hows]]
    assert sum(made) == 40, made
    service = QuotaService(store=place.setup(config, store=None))
    assert state(service, "cost_usd") == (Decimal(2), 0, 0)


@pytest.mark.slow
def test_three_processes_with_leases_spend_all_and_no_more(place: Place) -> None:
    config = write(place, "tokens: 1000", lease="5%")
    service = QuotaService(store=place.setup(config, store=None))
    workers = [start(config, "tokens") for _ in range(3)]
    assert sum(said(worker) for worker in workers) == 1000
    assert state(service) == (1000, 0, 0)


@pytest.mark.slow
def test_six_processes_of_which_two_are_killed_leave_nothing_held(place: Place) -> None:
    most = 3000 if place.kind == "sqlite" else 9000
    config = write(place, f"tokens: {most}", ttl="1s", timeout="20s")
    service = QuotaService(store=place.setup(config, store=None))
    workers = [start(config, "tokens") for _ in range(6)]
    killed = 0
    while any(worker.poll() is None for worker in workers):
        used, held, _ = state(service)
        assert used + held <= most
        if killed < 2 and used > most // 4 * (killed + 1):
            workers[killed].send_signal(signal.SIGKILL)
            killed += 1
        time.sleep(0.002)
    for worker in workers[:2]:
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
    assert sum(said(worker) for worker in workers[2:]) > most // 4
    time.sleep(max(0, 1 + GRACE_S))
    assert state(service) == (most, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_spends_the_same_quota_and_leaves_what_its_parent_holds(place: Place) -> None:
    manager = place.setup(write(place, "tokens: 100"), store=None)
    service = QuotaService(store=manager)
    with otelbudget.run(reraise=False) as run:
        held = run.reserve(tokens=60)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with otelbudget.run(mode="detached", reraise=False) as own:
                    try:
                        own.reserve(tokens=41)
                    except BudgetExceeded as stopped:
                        own.reserve(tokens=40).commit(Usage(tokens=40))
                        code = 0 if stopped.reason == "busy" else 2
                manager.engine.store.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert state(service) == (40, 60, 0)
        held.commit(Usage(tokens=50))
    assert state(service) == (90, 0, 10)
