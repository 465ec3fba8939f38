"""The rules of windows that every store keeps: calendar and rolling ones, and clocks that step."""

from __future__ import annotations

import pytest
from store_kit import DAY_S, NO_LIMITS, NOON_S, Caller, Clock, day, lifetime, limit, rolling, tokens, vector

from otelbudget.stores.base import Line, WrongWindow


def test_expiry_is_charged_to_the_window_of_the_hold(caller: Caller, clock: Clock) -> None:
    clock.advance(DAY_S / 2 - 1)
    today, tomorrow = day(clock.now_s), day(clock.now_s + 2)
    caller.reserve("a", 100, today, on_expiry=tokens(20))
    clock.advance(70)
    assert caller.state(tomorrow) == (0, 0)
    assert caller.state(today) == (20, 20)


def test_a_hold_is_settled_and_resized_in_its_own_window_after_its_end(caller: Caller, clock: Clock) -> None:
    clock.advance(DAY_S / 2 - 1)
    today, tomorrow = day(clock.now_s, limits=limit(100)), day(clock.now_s + 2)
    caller.reserve("a", 50, today)
    clock.advance(10)
    assert caller.reserve("a", 101, today, held=50).refused == 0
    assert caller.reserve("a", 100, today, held=50).refused is None
    assert caller.settle("a", 90, today).was == "open"
    assert caller.state(today) == (90, 90)
    assert caller.state(tomorrow) == (0, 0)


@pytest.mark.parametrize("off_s", [-DAY_S, DAY_S])
def test_new_holds_and_records_of_another_window_than_now_are_sent_back(caller: Caller, off_s: int) -> None:
    other = day(NOON_S + off_s)
    for trip in (caller.reserve, caller.record):
        with pytest.raises(WrongWindow) as sent_back:
            trip("a", 10, lifetime(), other)
        assert sent_back.value.now_s == NOON_S
    assert caller.state(other) == caller.state(lifetime()) == (0, 0)
    assert caller.settle("a", 0, other).was == "unknown"
    assert caller.record("b", 0, other).was == "unknown"


def test_a_window_begins_with_its_start_and_ends_before_its_end(caller: Caller, clock: Clock) -> None:
    line = day()
    clock.now_s = line.start_s
    assert caller.reserve("a", 1, line).refused is None
    clock.now_s = line.end_s - 0.001
    assert caller.reserve("b", 1, line).refused is None
    clock.now_s = line.end_s
    with pytest.raises(WrongWindow):
        caller.reserve("c", 1, line)


def test_a_new_window_begins_at_nothing_and_the_old_one_is_found_by_a_clock_set_back(
    caller: Caller, clock: Clock
) -> None:
    caller.record("a", 10, day())
    clock.advance(DAY_S)
    assert caller.record("b", 1, day(clock.now_s)).used == (vector(1),)
    clock.advance(-DAY_S)
    assert caller.record("c", 1, day()).used == (vector(11),)


@pytest.mark.parametrize("length_s", [1, 7, 60, 3600, 366 * DAY_S])
@pytest.mark.parametrize("into", [0.0, 0.3, 0.999])
def test_a_rolling_window_counts_each_amount_for_its_length_and_a_sixtieth_at_most(
    caller: Caller, clock: Clock, length_s: int, into: float
) -> None:
    line = rolling(length_s)
    clock.now_s = round(NOON_S + length_s / 60 * into, 3)
    began_s = clock.now_s
    caller.record("a", 10, line)
    clock.now_s = round(began_s + length_s - 0.001, 3)
    assert caller.state(line) == (10, 10)
    clock.now_s = round(began_s + length_s * 61 / 60 + 0.001, 3)
    assert caller.state(line) == (0, 0)


def test_a_rolling_window_forgets_in_pieces(caller: Caller, clock: Clock) -> None:
    line = rolling(60, limits=limit(100))
    for i in range(60):
        caller.record(f"{i}", 1, line)
        clock.advance(1)
    assert caller.state(line) == (60, 60)
    clock.advance(30)
    assert 30 <= caller.state(line)[0] <= 31
    answer = caller.reserve("a", 71, line)
    assert answer.refused == 0
    assert not answer.busy


def test_a_hold_counts_in_a_rolling_window_from_when_it_is_charged(caller: Caller, clock: Clock) -> None:
    line = rolling(60)
    caller.reserve("a", 50, line, ttl_s=1000)
    clock.advance(100)
    assert caller.state(line) == (0, 50)
    caller.settle("a", 20, line)
    clock.advance(59)
    assert caller.state(line) == (20, 20)
    clock.advance(3)
    assert caller.state(line) == (0, 0)


def test_only_the_length_of_a_rolling_window_matters(caller: Caller) -> None:
    caller.record("a", 10, rolling(60))
    assert caller.state(Line("rolling", NOON_S, NOON_S + 60, True, NO_LIMITS)) == (10, 10)


@pytest.mark.parametrize("step_s", [1, 30, 59, 61, 3_600, 10 * DAY_S, 3_000 * DAY_S])
def test_a_clock_that_steps_ahead_and_back_forgets_nothing(caller: Caller, clock: Clock, step_s: int) -> None:
    lines = (rolling(60), day(clock.now_s))
    caller.record("a", 10, *lines)
    clock.advance(step_s)
    caller.record("b", 5, lines[0], lifetime("other"))
    for i in range(100):
        caller.record(f"more {i}", 0, lifetime("other"))
    clock.advance(-step_s)
    assert caller.state(lines[0]) == (15, 15)
    assert caller.state(lines[1]) == (10, 10)
    clock.advance(55)
    assert caller.state(lines[0]) == (15, 15)
    clock.advance(step_s + 7)
    assert caller.state(lines[0]) == (0, 0)


@pytest.mark.parametrize("step_s", [1, 59, 61, 3_600, 3_000 * DAY_S])
def test_a_clock_that_steps_back_and_ahead_forgets_nothing(caller: Caller, clock: Clock, step_s: int) -> None:
    """A machine may start with a clock of 1970, and set it right a minute later."""
    line = rolling(60)
    caller.record("a", 10, line)
    clock.advance(-step_s)
    caller.record("b", 5, line)
    assert caller.state(line) == (15, 15)
    clock.advance(step_s)
    assert caller.state(line)[0] >= 10
    clock.advance(62)
    assert caller.state(line) == (0, 0)


@pytest.mark.parametrize("step_s", [1, 59, 61, 3_600, 3_000 * DAY_S])
def test_what_lies_ahead_of_a_clock_that_was_set_back_counts_until_a_window_after_it(
    caller: Caller, clock: Clock, step_s: int
) -> None:
    line = rolling(60, limits=limit(10))
    caller.record("a", 10, line)
    clock.advance(-step_s)
    assert caller.reserve("b", 1, line).refused == 0
    clock.advance(step_s + 59)
    assert caller.reserve("b", 1, line).refused == 0
    clock.advance(3)
    assert caller.reserve("b", 1, line).refused is None
