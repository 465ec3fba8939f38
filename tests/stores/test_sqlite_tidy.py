"""What a SQLite store deletes in time, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from store_kit import DAY_S, Caller, Clock, count, day, lifetime, rolling


def test_marks_are_deleted_after_their_time_a_few_in_each_trip(
    make: Callable[..., Caller], path: Path, clock: Clock
) -> None:
    store = make()
    for i in range(200):
        store.record(f"{i}", 1, digest="d" if i < 10 else "")
    clock.advance(3_601)
    before = count(path, "hold")
    store.record("x", 1)
    assert before - 60 < count(path, "hold") < before
    for i in range(10):
        store.record(f"x {i}", 1)
    assert count(path, "hold") == 10 + 11
    for _ in range(24):
        clock.advance(3_600)
        store.record("x", 0)
    assert count(path, "hold") < 5


def test_a_clock_that_was_ahead_for_a_while_puts_nothing_off(
    make: Callable[..., Caller], path: Path, clock: Clock
) -> None:
    store = make()
    clock.advance(10 * DAY_S)
    store.record("ahead", 1)
    clock.advance(-10 * DAY_S)
    for i in range(10):
        store.record(f"{i}", 1)
    clock.advance(3_700)
    store.record("x", 1)
    assert count(path, "hold") == 2


def test_windows_are_deleted_a_day_after_their_end_unless_something_is_held(
    make: Callable[..., Caller], path: Path, clock: Clock
) -> None:
    store = make()
    for i in range(70):
        store.record(f"{i}", 1, day(key=f"k{i}"), rolling(60, f"r{i}"))
    store.reserve("held", 1, day(key="held"), ttl_s=10 * DAY_S)
    for hours in range(1, 64):
        clock.advance(3_600)
        store.record(f"hour {hours}", 1)
        left = count(path, "account"), count(path, "bucket")
        if hours <= 24:
            assert left == (142, 70)
    assert left == (2, 0)  # the lifetime, and what is held
    store.settle("held", 1, day(key="held"))
    clock.advance(3_600)
    store.record("last", 1)
    assert count(path, "account") == 1


def test_a_clock_that_jumps_ahead_deletes_nothing_for_a_day(
    make: Callable[..., Caller], path: Path, clock: Clock
) -> None:
    store = make()
    store.record("a", 1, day(), rolling(60))
    clock.advance(1_000 * DAY_S)
    for hours in range(23):
        store.record(f"{hours}", 0, lifetime())
        clock.advance(3_600)
    assert (count(path, "account"), count(path, "bucket")) == (2, 1)
    for hours in range(30, 60):
        store.record(f"{hours}", 0, lifetime())
        clock.advance(3_600)
    assert (count(path, "account"), count(path, "bucket")) == (0, 0)


def test_a_store_that_is_used_once_a_day_is_tidied_too(make: Callable[..., Caller], path: Path, clock: Clock) -> None:
    store = make()
    for i in range(30):
        store.record(f"{i}", 1, day(clock.now_s))
        clock.advance(DAY_S)
        assert count(path, "account") <= 4
