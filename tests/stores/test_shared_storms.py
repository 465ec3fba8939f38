"""Many processes and threads on one quota, some killed, and a server that comes and goes: exact at the end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from redis_server import RedisServer
from shared_kit import Place
from store_kit import Caller

from otelbudget.stores.base import Stored
from otelbudget.stores.redis import RedisStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
WORKER = Path(__file__).with_name("shared_worker.py")
_started: list[subprocess.Popen[str]] = []
_logs: list[Path] = []


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """Whatever fails, no worker goes on."""
    yield
    for worker in _started:
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()
    _started.clear()
    _logs.clear()


def start(folder: Path, url: str, limit: int, how: str, tight: str = "default", **store: Any) -> subprocess.Popen[str]:
    """A worker that spends *limit* of the *tight* one of two quotas until nothing is left of it."""
    path = folder / "budgets.yaml"
    more = "".join(f", {name}: {value}" for name, value in store.items())
    each = [f"{of}: [{{tokens: {limit * (1 if of == tight else 10)}, per: lifetime}}]" for of in ("org", "default")]
    path.write_text(f"quotas: {{{', '.join(each)}}}\nstore: {{url: {url}{more}}}\n")
    command = [sys.executable, "-W", "error", str(WORKER), str(path), how]
    _logs.append(folder / f"{len(_logs)}.log")  # a pipe that nobody reads would fill up
    with _logs[-1].open("w") as errors:
        _started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True))
    return _started[-1]


def spent(worker: subprocess.Popen[str]) -> int:
    out, _ = worker.communicate(timeout=100)
    assert worker.returncode == 0, _logs[_started.index(worker)].read_text()[-3000:]
    return int(out)


def account(caller: Caller) -> Stored:
    """That of the organisation, which has used what its one tenant has."""
    org, tenant = caller.store.accounts("default")
    assert (org.used, org.taken) == (tenant.used, tenant.taken)
    return org


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


@pytest.mark.parametrize(
    ("place", "tight", "lease"),
    [("sqlite", "org", "0%"), ("sqlite", "default", "2%"), ("redis", "org", "0%")],
    indirect=["place"],
)
def test_sixteen_processes_of_sixteen_threads_spend_all_and_no_more(
    place: Place, tmp_path: Path, tight: str, lease: str
) -> None:
    workers = [start(tmp_path, place.url, 2000, "threads", tight, timeout="30s", lease=lease) for _ in range(16)]
    assert sum(spent(worker) for worker in workers) == 2000
    one = account(Caller(place.store()))
    assert (one.used[1], one.taken[1]) == (2000, 2000)


@pytest.mark.parametrize("lease", ["0%", "2%"])
def test_three_of_eight_workers_are_killed_and_what_they_held_comes_back(
    place: Place, tmp_path: Path, lease: str
) -> None:
    limit, chance = 6000, random.Random(7)
    workers = [start(tmp_path, place.url, limit, "tokens", timeout="30s", ttl="1s", lease=lease) for _ in range(8)]
    caller = Caller(place.store())
    for n, worker in enumerate(workers[:3]):
        while not (found := caller.store.accounts("default")) or found[0].used[1] < limit * (n + 1) // 5:
            time.sleep(0.01)
        time.sleep(chance.random() / 10)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    known = sum(spent(worker) for worker in workers[3:])
    one = account(caller)
    assert (one.used[1], one.taken[1]) == (limit, limit)
    assert known >= limit // 5


# --- a server in between


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    one = RedisServer(folder)
    yield one
    one.go_on()
    one.kill()


def restart(server: RedisServer, _: CuttingProxy) -> None:
    server.kill()
    time.sleep(0.2)
    server.start()


def stop(server: RedisServer, _: CuttingProxy) -> None:
    server.pause()
    time.sleep(1)
    server.go_on()


def slow(server: RedisServer, _: CuttingProxy) -> None:
    server.ask("DEBUG", "SLEEP", "0.1")


def cut(_: RedisServer, proxy: CuttingProxy) -> None:
    proxy.cuts += 3


@pytest.mark.parametrize("lease", ["0%", "2%"])
@pytest.mark.parametrize("harm", [restart, stop, slow, cut])
def test_whatever_happens_to_the_server_all_is_spent_once(
    server: RedisServer, tmp_path: Path, harm: Callable[[RedisServer, CuttingProxy], None], lease: str
) -> None:
    limit, proxy = 4000, CuttingProxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port if harm is cut else server.port}/0"
    workers = [start(tmp_path, url, limit, "threads", ttl="5s", lease=lease) for _ in range(4)]
    done = 0
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.5)
        if server.ask("EXISTS", "ob:{default}:revision") and done < 6:
            harm(server, proxy)
            done += 1
    assert done
    sums = sum(spent(worker) for worker in workers)
    place = Place("none", tmp_path)
    place.kind, place.url = "redis", f"redis://127.0.0.1:{server.port}/0"
    one = account(Caller(place.store()))
    assert one.used[1] == one.taken[1] == limit
    assert sums == limit
    proxy.close()


@pytest.mark.parametrize(("limit", "lease"), [(2_000, "0%"), (10_000, "2%")])
@pytest.mark.parametrize(
    ("on_error", "says"),
    [("fail_open", "admitted without it"), ("local_fallback", "held to a share of their limits")],
)
def test_what_a_policy_admits_while_the_server_is_away_is_charged_when_it_is_back(
    server: RedisServer, tmp_path: Path, limit: int, lease: str, on_error: str, says: str
) -> None:
    caller, policy = Caller(RedisStore(server.url, timeout_s=5)), {"on_error": on_error, "fallback_share": "10%"}
    workers = [start(tmp_path, server.url, limit, "threads", ttl="5s", lease=lease, **policy) for _ in range(4)]
    while not (found := caller.store.accounts("default")) or found[0].used[1] < limit // 3:
        time.sleep(0.01)
    server.kill()
    time.sleep(1)
    server.start()
    sums = sum(spent(worker) for worker in workers)
    one = account(caller)
    assert one.used[1] == one.taken[1] == sums  # all of it, once
    assert any(says in log.read_text() for log in _logs)
    assert sums >= limit
    assert on_error == "fail_open" or sums <= 1.4 * limit  # a tenth for each of four processes
    caller.store.close()


@pytest.mark.parametrize("lease", ["0%", "2%"])
def test_a_wiped_server_gives_the_limit_once_more_and_not_twice(
    server: RedisServer, tmp_path: Path, lease: str
) -> None:
    limit, url = 4000, f"redis://127.0.0.1:{server.port}/0"
    workers = [start(tmp_path, url, limit, "threads", ttl="5s", lease=lease) for _ in range(4)]
    wiped = Thread(target=_wipe_once_used, args=(server,))
    wiped.start()
    sums = sum(spent(worker) for worker in workers)
    wiped.join()
    assert limit < sums <= 2 * limit


def _wipe_once_used(server: RedisServer) -> None:
    caller = Caller(RedisStore(server.url, timeout_s=5))
    while not (found := caller.store.accounts("default")) or not found[0].used[1]:
        time.sleep(0.01)
    server.ask("FLUSHALL")
    caller.store.close()
