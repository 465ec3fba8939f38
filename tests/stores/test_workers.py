"""Workers of real servers and of multiprocessing: one quota for all, and everything else each worker's own."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import free_port
from shared_kit import Place, state

import otelbudget
from otelbudget import BudgetManager, QuotaService, load_budget_config

WORKERS = 3
PREFORK = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "worker_app:wsgi", "--bind"]
SERVERS = {
    "gunicorn": PREFORK,
    "gunicorn --preload": [*PREFORK[:3], "--preload", *PREFORK[3:]],
    "uvicorn --workers": [sys.executable, "-m", "uvicorn", "--workers", str(WORKERS), "worker_app:asgi", "--port"],
}
Answers = list[dict[str, Any]]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


@pytest.fixture
def config(place: Place) -> str:
    """Of three dollars, and of a page on a port that nobody has."""
    path = place.path.with_name("budgets.yaml")
    quotas = "quotas: {default: [{cost_usd: 3, per: lifetime, name: q}]}"
    path.write_text(f"{quotas}\nstore: {{url: {place.url}, timeout: 5s}}\ntelemetry: {{metrics_port: {free_port()}}}\n")
    return str(path)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as page:
        return str(page.read(), "utf-8")


def admitted(page: str) -> int:
    """What a page says of its own process."""
    lines = [line for line in page.splitlines() if line.startswith("otelbudget_checks_total{")]
    return sum(
        int(float(line.rpartition(" ")[2])) for line in lines if 'decision="allow"' in line and "reserve" in line
    )


@contextmanager
def served(command: list[str], config: str) -> Iterator[tuple[str, Path]]:
    """The address of a server with workers, and what it logs."""
    port, log = free_port(), Path(config).with_name("server.log")
    where = f"127.0.0.1:{port}" if "gunicorn" in command else str(port)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    paths = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, where],
            env={**environment, "WORKER_BUDGETS": config, "PYTHONPATH": paths},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        ends_s = time.monotonic() + 40
        while not reached(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/", log
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in (0, -signal.SIGTERM), log.read_text()


def reached(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def spent(service: QuotaService) -> Any:
    return state(service, "cost_usd", "acme")


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_workers_of_a_server_share_the_quota_and_each_serves_its_own_page(server: str, config: str) -> None:
    with served(SERVERS[server], config) as (url, log), ThreadPoolExecutor(8) as clients:
        answers: Answers = []
        # The last worker may be long in starting, when the first has spent it all.
        while sum(answer["spent"] for answer in answers) < 60 or len({answer["pid"] for answer in answers}) < 2:
            answers += map(json.loads, clients.map(fetch, [url] * 16))
            assert len(answers) < 20_000, log.read_text()
        answers += map(json.loads, clients.map(fetch, [url] * 16))
        by_process = Counter(answer["pid"] for answer in answers if answer["spent"])
        assert sum(by_process.values()) == 60
        assert {answer["preloaded"] for answer in answers} == {"preload" in server}
        assert all(answer["renews"] for answer in answers)
        pages = {answer["pid"]: answer["page"] for answer in answers}
        assert len(set(pages.values())) == len(pages) > 1
        assert {pid: admitted(fetch(page)) for pid, page in pages.items() if pid in by_process} == by_process
    manager = BudgetManager(load_budget_config(config))
    assert spent(QuotaService(store=manager)) == (3, 0, 0)
    manager.shutdown()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def app(config: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application in this process, which is the parent."""
    monkeypatch.setenv("WORKER_BUDGETS", config)
    yield importlib.import_module("worker_app")
    otelbudget.shutdown()
    del sys.modules["worker_app"]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_children_of_multiprocessing_share_the_quota_and_each_serves_its_own_page(
    method: str, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (mine,) = app.several(1)
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context(method)) as pool:
        answers = [answer for part in pool.map(app.several, [30] * WORKERS) for answer in part]
        by_process = Counter(answer["pid"] for answer in answers if answer["spent"])
        pages = {answer["pid"]: answer["page"] for answer in (mine, *answers)}
        assert sum(by_process.values()) == 59
        assert {answer["preloaded"] for answer in answers} == {method == "fork"}
        assert all(answer["renews"] for answer in (mine, *answers))
        assert len(set(pages.values())) == len(pages)
        assert {pid: admitted(fetch(pages[pid])) for pid in by_process} == by_process
        assert [admitted(fetch(mine["page"])) for _ in range(2)] == [1, 1]
    assert spent(QuotaService()) == (3, 0, 0)
    said = [record.getMessage() for record in caplog.records if "this page tells of process" in record.getMessage()]
    assert [str(os.getpid()) in line for line in said] == [True] * (method == "fork")
