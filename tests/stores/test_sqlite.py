"""What is particular to SQLite: the file and its troubles, threads and coroutines that share it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from store_kit import NOTHING, Caller, Clock, dump, lifetime, limit, rolling, tokens, vector

from otelbudget import ConfigError, StoreError
from otelbudget.model.vector import lane
from otelbudget.stores.base import FOREVER_S, Line, Reserve
from otelbudget.stores.sqlite import SqliteStore

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def test_two_stores_of_one_file_share_it(make: Callable[..., Caller]) -> None:
    one, other = make(), make()
    line = lifetime(limits=limit(100))
    one.reserve("a", 60, line)
    assert other.reserve("b", 41, line)[:3] == (0, 1, True)
    assert other.settle("a", 10).was == "open"
    assert one.state() == (10, 10)


def test_the_file_is_found_where_it_was_named_also_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Caller]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make(Path("here.db"))
    monkeypatch.chdir("/")
    store.record("a", 1)
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_store_needs_a_file(path: str) -> None:
    with pytest.raises(ConfigError, match="through a file"):
        SqliteStore(path)


def test_a_store_that_is_never_used_makes_no_file(make: Callable[..., Caller], path: Path) -> None:
    make()
    assert not path.exists()


def test_a_missing_directory_is_named(make: Callable[..., Caller], tmp_path: Path) -> None:
    store = make(tmp_path / "missing" / "x.db")
    with pytest.raises(StoreError, match=r"there is no directory .*missing") as error:
        store.record("a", 1)
    assert isinstance(error.value.__cause__, sqlite3.OperationalError)
    (tmp_path / "missing").mkdir()
    assert store.record("a", 1).was == "unknown"


def test_a_directory_is_no_file(make: Callable[..., Caller], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        make(tmp_path).record("a", 1)


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_a_directory_that_is_not_writable_is_named(make: Callable[..., Caller], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="not writable"):
            make().record("a", 1)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_that_is_no_database_is_left_as_it_is(make: Callable[..., Caller], path: Path) -> None:
    path.write_bytes(b"what somebody wrote down " * 100)
    with pytest.raises(StoreError, match="not a database"):
        make().record("a", 1)
    assert path.read_bytes() == b"what somebody wrote down " * 100


def test_a_database_of_something_else_is_left_as_it_is(make: Callable[..., Caller], path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE meta (name, value)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="something else"):
        make().record("a", 1)
    assert path.read_bytes() == before


def test_a_file_of_a_later_version_says_to_upgrade(make: Callable[..., Caller], path: Path) -> None:
    first = make()
    first.record("a", 1)
    first.store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE meta SET value = 2 WHERE name = 'otelbudget'")
        other.commit()
    with pytest.raises(StoreError, match=r"version 2.* knows 1; upgrade"):
        make().record("a", 1)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_file_is_told_once_and_counting_begins_anew(
    make: Callable[..., Caller], path: Path, replaced: bool
) -> None:
    store = make()
    store.record("a", 10)
    for file in path.parent.iterdir():
        file.unlink()
    if replaced:
        other = make()
        other.record("b", 1)
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.record("c", 1)
    assert store.record("c", 1).used == (vector(2 if replaced else 1),)
    if replaced:
        assert other.state() == (2, 2)


def test_a_file_that_turns_to_garbage_is_told_until_it_is_gone(make: Callable[..., Caller], path: Path) -> None:
    store = make()
    store.record("a", 10)
    store.store.close()
    path.write_bytes(path.read_bytes()[:100] + b"garbage!" * 2_000)
    store = make()
    for _ in range(2):
        with pytest.raises(StoreError):
            store.record("b", 1)
    path.unlink()
    assert store.record("b", 1).used == (vector(1),)


def test_a_full_disk_changes_nothing_and_is_no_end(make: Callable[..., Caller], path: Path) -> None:
    store = make()
    store.record("a", 10)
    connection: sqlite3.Connection = store.store._file._connection  # type: ignore[attr-defined]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        store.record("b" * 100_000, 1)
    assert store.state() == (10, 10)
    assert store.record("b" * 100_000, 1).was == "unknown"


def test_sums_stop_above_every_limit_and_never_fail(make: Callable[..., Caller], clock: Clock) -> None:
    store, most = make(), 2**53 - 1
    lines = (lifetime(limits=limit(most)), rolling(60))
    for i in range(1_100):
        if i % 100 == 0:
            clock.advance(1)
        store.record(f"{i}", most, *lines)
        store.reserve(f"h{i}", most, lifetime("free"))
    for line in lines:
        assert most < store.state(line)[0] < 2**63
    assert store.reserve("h", 1, *lines)[:3] == (0, 1, False)
    assert store.reserve("more", most, lifetime("free")).busy
    assert store.settle("h5", 0, lifetime("free")).was == "open"
    assert store.reserve("more", most, lifetime("free")).refused is None


def test_a_locked_file_is_an_error_within_the_bound_and_nothing_changed(
    make: Callable[..., Caller], path: Path
) -> None:
    store = make()
    store.reserve("a", 5)
    before = dump(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for trip in (lambda: store.reserve("b", 1), lambda: store.settle("a", 1), lambda: store.record("c", 1)):
            began_s = time.monotonic()
            with pytest.raises(StoreError, match=r"locked for 0\.3 s"):
                trip()
            assert 0.25 < time.monotonic() - began_s < 5
        assert store.state() == (0, 5)  # who only reads waits for nobody
        other.execute("ROLLBACK")
    assert dump(path) == before
    assert store.settle("a", 1).was == "open"


def test_whoever_waits_goes_on_as_soon_as_the_file_is_free(make: Callable[..., Caller], path: Path) -> None:
    store = make(timeout_s=20)
    store.record("a", 1)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        later.start()
        began_s = time.monotonic()
        assert store.record("b", 1).was == "unknown"
        assert time.monotonic() - began_s < 5
        later.join()


def test_threads_share_one_store(make: Callable[..., Caller]) -> None:
    store, line = make(timeout_s=20), lifetime(limits=limit(100))
    admitted: list[int] = []

    def work(name: int) -> None:
        ids = [f"{name} {i}" for i in range(40)]
        held = (id for id in ids if store.reserve(id, 1, line).refused is None)
        admitted.extend(lane(store.settle(id, 1, line).used[0], 1) for id in held)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == list(range(1, 101))
    assert store.state() == (100, 100)


def test_what_comes_inside_a_trip_of_its_own_thread_fails_and_harms_nothing(path: Path) -> None:
    inside: list[str] = []

    def clock_s() -> float:
        if not inside:
            inside.append("came")
            with pytest.raises(StoreError, match="in the middle of a trip"):
                store.record("inner", 1)
        return 1_000.0

    with closing(SqliteStore(path, clock_s=clock_s)) as made:
        store = Caller(made)
        assert store.record("outer", 1).was == "unknown"
        assert store.record("inner", 1).used == (vector(2),)
    assert inside


def test_a_trip_that_an_exception_left_open_is_undone_by_the_next(make: Callable[..., Caller]) -> None:
    store = make()
    store.record("a", 1)
    connection: sqlite3.Connection = store.store._file._connection  # type: ignore[attr-defined]
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE account SET u1 = 100")
    assert store.record("b", 1).used == (vector(2),)


def test_a_cancelled_coroutine_blocks_nobody_and_its_release_finds_the_hold(make: Callable[..., Caller]) -> None:
    store = make(timeout_s=20)
    asked = Reserve("a", "acme", (lifetime(),), tokens(10), NOTHING, NOTHING, 60.0)

    async def go() -> None:
        task = asyncio.create_task(store.store.areserve(asked))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(store.settle, "a", 0)
        await store.store.areserve(asked)

    asyncio.run(go())
    assert store.state() == (0, 0)


async def test_a_coroutine_that_waits_for_the_file_keeps_no_other_waiting(
    make: Callable[..., Caller], path: Path
) -> None:
    store = make(timeout_s=20)
    store.record("a", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.store.aread("acme", ()))
        reserve = Reserve("b", "acme", (Line("k", 0, FOREVER_S, False, limit(5)),), tokens(5), NOTHING, NOTHING, 60.0)
        blocked = asyncio.create_task(store.store.areserve(reserve))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert waiting.done()
        assert not blocked.done()
        other.execute("ROLLBACK")
    assert (await blocked).refused is None
    assert (await waiting).states == ()
