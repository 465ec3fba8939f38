"""Several processes on one SQLite file: killed, forked in the middle of it, and never over the limit."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from store_kit import Caller, lifetime, limit, vector
from store_worker import TTL_S, fast

from otelbudget.stores.base import GRACE_S
from otelbudget.stores.sqlite import SqliteStore

WORKER = Path(__file__).with_name("store_worker.py")
SPEED = 10
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with closing(SqliteStore(tmp_path / "quotas.db", timeout_s=20)) as store:
        yield Caller(store)


@pytest.mark.slow
def test_six_processes_of_which_two_are_killed_use_exactly_the_limit(tmp_path: Path) -> None:
    path, most = tmp_path / "quotas.db", 6_000
    command = [sys.executable, str(WORKER), str(path)]
    workers = [subprocess.Popen([*command, f"{i}", f"{most}", f"{SPEED}"]) for i in range(6)]
    killed = 0
    with closing(SqliteStore(path, timeout_s=60, clock_s=lambda: fast(SPEED))) as store:
        watcher = Caller(store)
        while any(worker.poll() is None for worker in workers):
            used, taken = watcher.state()
            assert used <= taken <= most
            if killed < 2 and used > most // 4 * (killed + 1):
                workers[killed].send_signal(signal.SIGKILL)
                killed += 1
            time.sleep(0.001)
        assert [worker.returncode for worker in workers] == [-signal.SIGKILL] * 2 + [0] * 4
        time.sleep((TTL_S + GRACE_S) / SPEED)
        assert watcher.state() == (most, most)
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def in_child(work: Callable[[], Any], *, at_most_s: int = 20) -> Any:
    """What *work* gives in a forked process, which is killed after a while."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001  the parent shows it
            said = repr(error)
        with open(writes, "wb") as pipe:
            pickle.dump(said, pipe)
        os._exit(0)
    os.close(writes)
    answers, _, _ = select.select([reads], [], [], at_most_s)
    if not answers:
        os.kill(child, signal.SIGKILL)
    with open(reads, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert answers, "the child hung"
    return pickle.loads(said)


class TestForks:
    pytestmark = FORKS

    def test_parent_and_child_share_the_quota(self, caller: Caller) -> None:
        line = lifetime(limits=limit(100))
        caller.reserve("parent", 60, line)
        assert in_child(lambda: caller.reserve("child", 41, line)[:3]) == (0, 1, True)
        assert in_child(lambda: caller.reserve("child", 40, line)[:3]) == (None, -1, False)
        assert caller.state() == (0, 100)
        assert in_child(lambda: caller.settle("parent", 1, line).was) == "open"
        assert caller.settle("parent", 1, line).was == "settled"

    def test_no_connection_crosses_a_fork(self, caller: Caller, tmp_path: Path) -> None:
        """In a child SQLite believes to have the locks of a connection that it inherited, and would lose the log."""
        caller.record("a", 1)

        def files() -> list[str]:
            fds = (Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")).iterdir()
            return [name for fd in fds if (name := os.path.realpath(fd)).startswith(str(tmp_path))]

        assert files()
        assert in_child(files) == []
        assert in_child(lambda: caller.record("b", 1).used) == (vector(2),)
        assert caller.state() == (2, 2)

    def test_what_a_child_writes_outlives_the_parents_connection(self, caller: Caller, tmp_path: Path) -> None:
        caller.record("a", 1)
        go, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            caller.record("b", 1)
            os.write(done[1], b"x")
            os.read(go[0], 1)
            caller.record("c", 1)
            os._exit(0)
        os.read(done[0], 1)
        caller.state()
        caller.store.close()  # were it the last one, the log would be deleted, under the child
        with closing(SqliteStore(tmp_path / "quotas.db")) as again:
            Caller(again).record("d", 1)
            os.write(go[1], b"x")
            os.waitpid(child, 0)
            assert Caller(again).state() == (4, 4)
        for end in (*go, *done):
            os.close(end)

    def test_forks_while_threads_work(self, caller: Caller) -> None:
        stop, trips = threading.Event(), [0] * 3

        def work(name: int) -> None:
            while not stop.is_set():
                caller.reserve(f"{name} {trips[name]}", 1)
                caller.settle(f"{name} {trips[name]}", 1)
                trips[name] += 1

        workers = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for worker in workers:
            worker.start()
        try:
            for i in range(10):
                assert in_child(lambda i=i: caller.record(f"child {i}", 1).was) == "unknown"  # type: ignore[misc]
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        assert caller.state() == (sum(trips) + 10, sum(trips) + 10)

    def test_a_fork_does_not_wait_for_a_thread_that_waits_for_the_file(self, caller: Caller, tmp_path: Path) -> None:
        caller.record("a", 1)
        with closing(sqlite3.connect(tmp_path / "quotas.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = threading.Thread(target=caller.record, args=("b", 1))
            waiting.start()
            time.sleep(0.05)
            began_s = time.monotonic()
            assert in_child(caller.state) == (1, 1)
            assert time.monotonic() - began_s < 10
            other.execute("ROLLBACK")
            waiting.join()
        assert caller.state() == (2, 2)

    def test_a_child_that_was_forked_inside_a_trip_says_so(self, tmp_path: Path) -> None:
        forked: list[str] = []

        def clock_s() -> float:
            if not forked:
                forked.append("")
                forked.append(in_child(lambda: store._file._unusable))
            return 1_000.0

        store = SqliteStore(tmp_path / "quotas.db", clock_s=clock_s)
        assert Caller(store).record("a", 1).was == "unknown"
        assert "forked in the middle of a trip" in forked[1]
        assert Caller(store).state() == (1, 1)
        store.close()

    def test_coroutines_of_a_child_have_a_thread_of_their_own(self, caller: Caller) -> None:
        assert asyncio.run(caller.store.aread("acme", ())).revision == 0
        assert in_child(lambda: asyncio.run(caller.store.aread("acme", ())).revision) == 0
        assert asyncio.run(caller.store.aread("acme", ())).revision == 0

    def test_a_process_that_is_killed_inside_its_transaction_has_done_nothing(
        self, caller: Caller, tmp_path: Path
    ) -> None:
        caller.reserve("a", 10)

        def clock_s() -> float:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        child = os.fork()
        if child == 0:
            Caller(SqliteStore(tmp_path / "quotas.db", clock_s=clock_s)).settle("a", 10)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert caller.state() == (0, 10)
        assert caller.settle("a", 10).was == "open"

    def test_processes_that_make_the_file_at_once_share_it(self, tmp_path: Path) -> None:
        for path in (tmp_path / f"{i}.db" for i in range(5)):
            reads, writes = os.pipe()
            children = []
            for i in range(4):
                children.append(os.fork())
                if children[-1] == 0:
                    os.close(writes)
                    os.read(reads, 1)  # until the parent lets all go
                    Caller(SqliteStore(path, timeout_s=20)).record(f"{i}", 1)
                    os._exit(0)
            os.close(writes)
            os.close(reads)
            assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
            with closing(SqliteStore(path)) as store:
                assert Caller(store).state() == (4, 4)
