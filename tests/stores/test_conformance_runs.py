"""The rules that every store keeps about the records of shared runs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_kit import Caller, Clock

from otelbudget import StoreError
from otelbudget.stores.records import RUN_S, RunRecord

OPENED = RunRecord("ten steps", "open")


def test_a_run_is_written_once_and_read_by_whoever_knows_its_id(caller: Caller, clock: Clock) -> None:
    at_s = clock.now_s
    assert caller.store.run("acme", "r1", OPENED) == RunRecord("ten steps", "open", 0, at_s, at_s)
    clock.advance(5)
    found = RunRecord("ten steps", "open", 0, at_s, at_s + 5)
    assert caller.store.run("acme", "r1", RunRecord("a hundred", "mine")) == found
    assert caller.store.run("acme", "r1") == found
    assert caller.store.run("acme", "r2") is None
    assert caller.store.run("other", "r1") is None


def test_what_a_writer_says_of_the_time_is_ignored(caller: Caller, clock: Clock) -> None:
    caller.store.run("acme", "r1", OPENED._replace(opened_s=7.0, now_s=8.0))
    assert caller.store.run("acme", "r1") == OPENED._replace(opened_s=clock.now_s, now_s=clock.now_s)


def test_only_the_next_change_is_made_and_what_was_opened_stays(caller: Caller) -> None:
    caller.store.run("acme", "r1", OPENED)
    for changes, state in ((1, "frozen"), (1, "late"), (3, "early"), (0, "again")):
        found = caller.store.run("acme", "r1", RunRecord("a hundred", state, changes))
        assert found is not None
        assert found[:3] == ("ten steps", "frozen", 1)


def test_a_change_of_a_run_that_is_not_known_opens_none(caller: Caller) -> None:
    assert caller.store.run("acme", "r1", RunRecord("ten steps", "frozen", 1)) is None
    assert caller.store.run("acme", "r1") is None


def test_of_many_changes_at_once_one_is_made(caller: Caller) -> None:
    caller.store.run("acme", "r1", OPENED)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: caller.store.run("acme", "r1", RunRecord("", f"{n}", 1)), range(8)))
    assert len({answer[:3] for answer in answers if answer is not None}) == 1


def test_a_record_is_kept_for_a_week(caller: Caller, clock: Clock) -> None:
    caller.store.run("acme", "r1", OPENED)
    clock.advance(RUN_S - 1)
    assert caller.store.run("acme", "r1", RunRecord("", "frozen", 1)) is not None
    clock.advance(1)
    assert caller.store.run("acme", "r1") is None
    assert caller.store.run("acme", "r1", RunRecord("", "thawed", 2)) is None
    assert caller.store.run("acme", "r1", OPENED) == OPENED._replace(opened_s=clock.now_s, now_s=clock.now_s)


def test_a_record_holds_any_text(caller: Caller) -> None:
    odd = RunRecord("Müller 🐁 ' \"", "\n{}\t", 0)
    caller.store.run("ac/me {1}", "r ' %", odd)
    found = caller.store.run("ac/me {1}", "r ' %")
    assert found is not None
    assert found[:3] == odd[:3]


def test_a_closed_store_has_no_runs(caller: Caller) -> None:
    caller.store.close()
    with pytest.raises(StoreError):
        caller.store.run("acme", "r1")


def test_a_file_forgets_records_a_day_after_their_week(make: Callable[..., Caller], path: Path, clock: Clock) -> None:
    caller = make()
    caller.store.run("acme", "r1", OPENED)
    for _ in range(11):  # a clock that jumps further may be set right again
        clock.advance(70_000)
        caller.record(f"{clock.now_s}", 1)
    caller.record("last", 1)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
