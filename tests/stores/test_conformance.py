"""The rules that every store keeps, each with a name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from store_kit import (
    DAY_S,
    NOON_S,
    NOTHING,
    Caller,
    Clock,
    day,
    lifetime,
    limit,
    rolling,
    tokens,
    vector,
)

from otelbudget import IdempotencyError, StoreError
from otelbudget.model.vector import lane
from otelbudget.stores.base import PAGE, Answer, Override, Reserve, Reset, Settle, Settled, Stored, WrongWindow


def test_exactly_the_limit_is_admitted_and_no_more(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    assert caller.reserve("a", 60, line).refused is None
    assert caller.reserve("b", 40, line).refused is None
    assert caller.reserve("c", 1, line).refused == 0
    assert caller.state() == (0, 100)


def test_an_answer_tells_what_is_there_after_the_trip(caller: Caller, clock: Clock) -> None:
    caller.record("r", 5)
    answer = caller.reserve("a", 60)
    assert answer == Answer(None, -1, False, False, ((vector(5), vector(65)),), 0, clock.now_s)
    assert caller.settle("a", 7)[:3] == Settled("open", (vector(12),), clock.now_s)[:3]


def test_a_refused_request_holds_nothing_on_any_line(caller: Caller) -> None:
    wide, narrow = lifetime("wide"), lifetime("narrow", limit(10))
    answer = caller.reserve("a", 11, wide, narrow)
    assert (answer.refused, answer.resource, answer.busy, answer.gone) == (1, 1, False, False)
    assert caller.state(wide) == caller.state(narrow) == (0, 0)
    assert caller.settle("a", 3, wide, narrow).was == "unknown"


def test_the_first_line_that_use_alone_blocks_decides(caller: Caller) -> None:
    first, second = lifetime("first"), lifetime("second")
    caller.reserve("h", 90, first, second)
    caller.record("r", 50, second)
    asked = (first._replace(limits=limit(100)), second._replace(limits=limit(60)))
    answer = caller.reserve("a", 20, *asked)
    assert (answer.refused, answer.busy) == (1, False)


def test_it_is_busy_only_if_nothing_but_holds_of_others_is_in_the_way(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("h", 90, line)
    assert caller.reserve("a", 20, line)[:3] == (0, 1, True)
    caller.settle("h", 90, line)
    assert caller.reserve("a", 20, line)[:3] == (0, 1, False)


def test_of_several_busy_lines_the_first_is_named(caller: Caller) -> None:
    lines = tuple(lifetime(key, limit(100)) for key in ("free", "first", "second"))
    caller.reserve("h", 90, *lines[1:])
    assert caller.reserve("a", 20, *lines, amounts=tokens(20, steps=1))[:3] == (1, 1, True)


def test_what_a_hold_has_itself_does_not_make_it_busy(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("a", 60, line)
    assert caller.reserve("a", 101, line, held=60)[:3] == (0, 1, False)
    assert caller.state() == (0, 60)


def test_resources_refuse_in_their_order(caller: Caller) -> None:
    line = lifetime(limits=(1, 1, 1, 1, 1, 1, 1))
    assert caller.reserve("a", 0, line, amounts=(0, 0, 2, 2, 0, 0, 2)).resource == 2


def test_nothing_of_a_resource_passes_a_limit_that_is_passed(caller: Caller) -> None:
    line = lifetime(limits=limit(10))
    caller.record("r", 25, line)
    assert caller.reserve("a", 0, line, amounts=tokens(0, steps=1)).refused is None


def test_no_limit_and_the_greatest_limit_let_the_greatest_amount_through(caller: Caller) -> None:
    most = 2**53 - 1
    line = lifetime(limits=limit(most))
    assert caller.reserve("a", most, lifetime("free")).refused is None
    assert caller.reserve("a2", most - 1, line).refused is None
    assert caller.reserve("b", 2, line).refused == 0
    assert caller.reserve("c", 1, line).refused is None
    assert caller.state() == (0, most)


def test_priorities_are_limits_of_the_same_line(caller: Caller) -> None:
    caller.reserve("low", 60, lifetime(limits=limit(60)))
    assert caller.reserve("low2", 1, lifetime(limits=limit(60))).refused == 0
    assert caller.reserve("high", 40, lifetime(limits=limit(100))).refused is None


def test_a_reserve_that_is_sent_again_holds_once(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    first = caller.reserve("a", 60, line)
    assert caller.reserve("a", 60, line) == first
    assert caller.state() == (0, 60)


def test_a_hold_grows_under_the_rule_and_shrinks_always(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("a", 60, line)
    assert caller.reserve("a", 100, line, held=60).refused is None
    assert caller.state() == (0, 100)
    assert caller.reserve("a", 30, lifetime(limits=limit(10)), held=100).refused is None
    assert caller.state() == (0, 30)


def test_a_growth_that_does_not_fit_changes_nothing(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("a", 60, line)
    caller.reserve("b", 30, line)
    assert caller.reserve("a", 71, line, held=60)[:3] == (0, 1, True)
    assert caller.state() == (0, 90)
    caller.settle("a", 0, line)
    assert caller.state() == (0, 30)


def test_a_settle_charges_the_actual_over_the_limit_too(caller: Caller) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("a", 60, line)
    assert caller.settle("a", 160, line).used == (vector(160),)
    assert caller.state() == (160, 160)


def test_a_release_gives_all_back(caller: Caller) -> None:
    caller.reserve("a", 60)
    assert caller.settle("a", 0).was == "open"
    assert caller.state() == (0, 0)


def test_a_second_settle_changes_nothing(caller: Caller) -> None:
    caller.reserve("a", 60)
    caller.settle("a", 10)
    assert caller.settle("a", 25)[:2] == ("settled", (vector(10),))
    assert caller.record("r", 5).was == "unknown"
    assert caller.record("r", 5)[:2] == ("settled", (vector(15),))


def test_a_settle_of_a_hold_that_is_not_known_charges_in_full(caller: Caller, clock: Clock) -> None:
    yesterday = day(NOON_S - DAY_S)
    assert caller.settle("lost", 10, yesterday).was == "unknown"
    assert caller.state(yesterday) == (10, 10)


def test_a_reserve_that_comes_after_its_settle_finds_it_gone(caller: Caller) -> None:
    assert caller.settle("a", 0).was == "unknown"
    answer = caller.reserve("a", 60)
    assert (answer.refused, answer.resource, answer.gone) == (None, -1, True)
    assert caller.state() == (0, 0)


def test_a_growth_of_a_hold_that_is_not_known_finds_it_gone(caller: Caller) -> None:
    assert caller.reserve("a", 60, held=20).gone
    assert caller.settle("a", 5).was == "unknown"


def test_a_commit_after_a_release_is_charged_once_under_a_name_of_its_own(caller: Caller) -> None:
    caller.reserve("a", 60)
    caller.settle("a", 0)
    assert [caller.settle("a:late", 10).was for _ in range(2)] == ["unknown", "settled"]
    assert caller.state() == (10, 10)


def test_a_hold_keeps_to_its_lines(caller: Caller) -> None:
    caller.reserve("a", 60)
    with pytest.raises(ValueError, match="other lines"):
        caller.reserve("a", 70, lifetime("other"), held=60)
    assert caller.state() == (0, 60)


def test_a_key_whose_hold_is_in_another_window_can_not_be_resized_in_this_one(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 60, day(), digest="asked one")
    clock.advance(DAY_S)
    today = day(clock.now_s)
    assert caller.reserve("a", 60, today, digest="asked two").replayed
    with pytest.raises(WrongWindow):
        caller.reserve("a", 70, today, held=60, digest="asked two")


def test_a_hold_expires_after_its_time_and_a_grace_and_charges_what_it_says(caller: Caller, clock: Clock) -> None:
    line = lifetime(limits=limit(100))
    caller.reserve("a", 100, line, on_expiry=tokens(20))
    clock.advance(64.999)
    assert caller.reserve("b", 80, line)[:3] == (0, 1, True)
    clock.advance(0.001)
    assert caller.reserve("b", 80, line).refused is None
    assert caller.state() == (20, 100)


def test_a_read_reclaims_too(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 100, on_expiry=tokens(20))
    clock.advance(65)
    assert caller.state() == (20, 20)


def test_a_commit_after_expiry_charges_what_exceeds_it(caller: Caller, clock: Clock) -> None:
    for id in "abc":
        caller.reserve(id, 100, on_expiry=tokens(20, steps=1), amounts=tokens(100, steps=1))
    clock.advance(65)
    assert caller.state() == (60, 60)
    assert caller.settle("a", 50, actual=tokens(50, steps=1))[:2] == ("expired", (vector(90, steps=3),))
    assert caller.settle("b", 15).used == (vector(90, steps=3),)
    assert caller.settle("c", 0).was == "expired"
    assert caller.settle("a", 50)[:2] == ("settled", (vector(90, steps=3),))


def test_an_expired_hold_is_gone(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 100)
    clock.advance(65)
    caller.state()
    assert caller.reserve("a", 120, held=100).gone


def test_an_overdue_hold_that_was_not_reclaimed_can_be_used_by_its_owner(caller: Caller, clock: Clock) -> None:
    for id in "abc":
        caller.reserve(id, 10)
    clock.advance(65)
    assert caller.settle("a", 5).was == "open"
    caller.store.renew("acme", ["b"], 60)
    assert caller.reserve("c", 20, held=10).refused is None
    assert caller.state() == (5, 35)


def test_renewed_holds_live_on_and_ended_ones_stay_ended(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 100)
    caller.reserve("b", 1)
    caller.settle("b", 0)
    for _ in range(5):
        clock.advance(60)
        caller.store.renew("acme", ["a", "b", "never"], 60)
    assert caller.state() == (0, 100)
    clock.advance(65)
    assert caller.state() == (0, 0)
    assert caller.settle("never", 0).was == "unknown"


def test_a_resize_renews(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 100)
    clock.advance(60)
    caller.reserve("a", 100, held=100)
    clock.advance(60)
    assert caller.state() == (0, 100)


def test_twenty_expired_holds_are_reclaimed_at_once_the_oldest_first(caller: Caller, clock: Clock) -> None:
    ids = [f"{i}" for i in range(99, 74, -1)]
    for id in ids:
        caller.reserve(id, 1)
        clock.advance(0.001)
    clock.advance(65)
    assert caller.state() == (0, 5)
    assert [caller.settle(id, 0).was for id in ids[19:21]] == ["expired", "open"]
    assert caller.state() == (0, 0)


def test_shards_know_nothing_of_each_other(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 10)
    assert caller.settle("a", 3, shard="other").was == "unknown"
    assert caller.state() == (0, 10)
    caller.store.configure("other", "k", Override("{}"))
    assert caller.store.overrides("acme") == {}
    assert caller.store.read("acme", ()).revision == 0
    clock.advance(65)
    assert caller.state(shard="other") == (3, 3)
    assert caller.settle("a", 3).was == "open"


def test_a_keyed_trip_replays_and_refuses_another_payload(caller: Caller) -> None:
    assert caller.reserve("a", 10, digest="one") == caller.reserve("a", 10, digest="one")
    with pytest.raises(IdempotencyError):
        caller.reserve("a", 20, digest="two")
    assert caller.state() == (0, 10)
    assert caller.settle("a", 5).was == "open"
    assert caller.reserve("a", 10, digest="one").gone
    with pytest.raises(IdempotencyError):
        caller.reserve("a", 20, digest="two")
    assert [caller.record("r", 5, digest="one").was for _ in range(2)] == ["unknown", "settled"]
    with pytest.raises(IdempotencyError):
        caller.record("r", 6, digest="two")
    assert caller.state() == (10, 10)


def test_a_keyed_hold_keeps_its_key_when_it_grows_and_when_it_ends(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 10, digest="one")
    caller.reserve("a", 20, held=10)
    caller.reserve("b", 10, digest="one")
    caller.settle("a", 20)
    clock.advance(65)
    caller.state()
    for id in "ab":
        with pytest.raises(IdempotencyError):
            caller.reserve(id, 20, digest="two")


def test_a_keyed_reserve_that_was_released_before_it_came_is_gone(caller: Caller) -> None:
    caller.settle("a", 0)
    assert caller.reserve("a", 10, digest="one").gone


def said(settled: Settled) -> tuple[str, bool]:
    return settled.was, settled.replayed


def test_a_keyed_hold_is_replayed_to_another_process_as_it_is(caller: Caller, clock: Clock) -> None:
    line, tomorrow = day(clock.now_s, limits=limit(25)), day(clock.now_s + DAY_S, limits=limit(25))
    caller.reserve("a", 10, line, digest="one here")
    caller.reserve("a", 20, line, held=10, digest="one here")
    assert not caller.reserve("a", 10, line, digest="one here").replayed
    clock.advance(40)
    theirs = caller.reserve("a", 10, line, digest="one there")
    assert (theirs.replayed, theirs.gone, theirs.refused, theirs.states[0][1]) == (True, False, None, vector(20))
    clock.advance(40)
    assert caller.reserve("a", 10, tomorrow, digest="one there").replayed  # it is held, and lives on
    assert said(caller.settle("a", 7, tomorrow, digest="one there")) == ("open", False)
    assert said(caller.settle("a", 7, line, digest="one here")) == ("settled", True)
    assert caller.reserve("a", 10, line, digest="one here").gone
    assert caller.state(line) == (7, 7)
    assert caller.state(tomorrow) == (0, 0)


@pytest.mark.parametrize("end", ["release", "expire", "expire and release"])
def test_a_keyed_hold_that_ended_for_nothing_is_held_anew_and_charged_once(
    caller: Caller, clock: Clock, end: str
) -> None:
    caller.reserve("a", 10, digest="one here")
    if end != "release":
        clock.advance(65)
        caller.state()
    if end != "expire":
        caller.settle("a", 0, digest="one here")
    assert caller.state() == (0, 0)
    with pytest.raises(IdempotencyError):
        caller.reserve("a", 20, digest="two here")
    assert caller.reserve("a", 10, lifetime(limits=limit(9)), digest="one there").refused == 0
    with pytest.raises(IdempotencyError):
        caller.reserve("a", 20, digest="two here")
    answer = caller.reserve("a", 10, digest="one there")
    assert (answer.gone, answer.replayed, caller.state()) == (False, False, (0, 10))
    assert caller.settle("a", 8, digest="one here").was == "open"  # late, but first
    assert said(caller.settle("a", 9, digest="one there")) == ("settled", True)
    assert caller.state() == (8, 8)


def test_a_keyed_hold_that_was_released_is_charged_if_it_is_committed_after_all(caller: Caller) -> None:
    caller.reserve("a", 10, digest="one here")
    for actual in (0, 0, 8, 8, 0):
        caller.settle("a", actual, digest="one here")
    assert caller.state() == (8, 8)
    assert caller.reserve("a", 10, digest="one here").gone


def test_a_keyed_record_tells_who_comes_second(caller: Caller) -> None:
    digests = ("one here", "one here", "one there")
    found = [caller.record("r", 5, digest=digest) for digest in digests]
    assert list(map(said, found)) == [("unknown", False), ("settled", False), ("settled", True)]
    with pytest.raises(IdempotencyError):
        caller.record("r", 5, digest="two there")
    assert caller.state() == (5, 5)


def test_an_ended_id_is_remembered_for_an_hour_and_with_a_key_for_a_day(caller: Caller, clock: Clock) -> None:
    caller.reserve("a", 10)
    caller.settle("a", 10)
    caller.record("k", 10, digest="one")
    clock.advance(3_599)
    for i in range(50):
        caller.record(f"{i}", 0)
    assert caller.settle("a", 10).was == "settled"
    for i in range(12):
        clock.advance(6_900)
        caller.record(f"later {i}", 0)
    assert caller.record("k", 10, digest="one").was == "settled"


def test_rules_are_stored_and_removed_and_tell_it(caller: Caller) -> None:
    caller.store.configure("acme", "tenant a", Override('{"tokens": 1}'))
    caller.store.configure("acme", "tenant b", Override("{}"))
    caller.store.configure("acme", "tenant a", Override('{"tokens": 2}'))
    assert dict(caller.store.overrides("acme")) == {
        "tenant a": Override('{"tokens": 2}'),
        "tenant b": Override("{}"),
    }
    assert caller.store.read("acme", ()).revision == 3
    caller.store.configure("acme", "tenant a", None)
    assert list(caller.store.overrides("acme")) == ["tenant b"]
    assert caller.reserve("a", 1).revision == 4


def test_a_reset_forgets_what_was_used_in_the_window_of_now_and_keeps_holds(caller: Caller, clock: Clock) -> None:
    yesterday = day(clock.now_s - DAY_S, "k")
    caller.settle("y", 3, yesterday)
    for line in (day(clock.now_s, "k"), rolling(key="r")):
        caller.record(f"r {line.key}", 10, line)
        caller.reserve(f"h {line.key}", 5, line)
        caller.store.configure("acme", line.key, Reset())
        assert caller.state(line) == (0, 5)
    assert caller.state(yesterday) == (3, 3)


def test_accounts_are_listed_by_key_a_page_at_a_time(caller: Caller, clock: Clock) -> None:
    caller.settle("old", 3, day(clock.now_s - DAY_S))
    for i in range(PAGE + 5):
        caller.record(f"{i}", i + 1, lifetime(f"k{i:03}"))
    caller.reserve("h", 7, rolling(60, "z"), lifetime("k104"))
    caller.record("r", 1, rolling(60, "z"))
    first = caller.store.accounts("acme")
    assert [one.key for one in first] == [f"k{i:03}" for i in range(PAGE)]
    assert first[2] == Stored("k002", *lifetime()[1:4], tokens(3), tokens(3))
    second = caller.store.accounts("acme", first[-1].key)
    assert second[-2:] == [
        Stored("k104", *lifetime()[1:4], tokens(105), tokens(112)),
        Stored("z", 0, 60, True, tokens(1), tokens(8)),
    ]
    assert not caller.store.accounts("acme", "z")
    assert not caller.store.accounts("nobody")


def test_odd_names_are_names(caller: Caller) -> None:
    odd = lifetime("o'; DROP TABLE account; -- \x00 % _ \U0001f980 \n")
    caller.reserve("i'd \x00", 10, odd, shard="s'\x00", digest="'")
    assert caller.state(odd, shard="s'\x00") == (0, 10)
    assert caller.settle("i'd \x00", 10, odd, shard="s'\x00").was == "open"


def test_half_a_surrogate_pair_which_json_may_bring_is_a_name_too(caller: Caller) -> None:
    odd = lifetime("\ud800")
    caller.reserve("\udfff", 10, odd, rolling(60, "\ud801"), shard="\ud800", digest="\ud800")
    assert caller.state(odd, shard="\ud800") == (0, 10)
    assert caller.settle("\udfff", 10, odd, rolling(60, "\ud801"), shard="\ud800").was == "open"
    assert caller.state(rolling(60, "\ud801"), shard="\ud800") == (10, 10)
    assert caller.state(lifetime("\ud802"), shard="\ud800") == (0, 0)
    caller.store.configure("\ud800", "\ud801", Override("1"))
    caller.store.configure("\ud800", "\ud801", Override("2"))
    caller.store.configure("\ud800", "é", Override("3"))
    assert caller.store.overrides("\ud800") == {"\ud801": Override("2"), "é": Override("3")}
    caller.store.configure("\ud800", "\ud801", None)
    assert caller.store.overrides("\ud800") == {"é": Override("3")}


async def test_coroutines_get_the_same_answers(caller: Caller) -> None:
    store = caller.store
    asked = Reserve("a", "acme", (lifetime(),), tokens(10), NOTHING, NOTHING, 60.0)
    assert await store.areserve(asked) == store.reserve(asked)
    assert await store.aread("acme", (lifetime(),)) == store.read("acme", (lifetime(),))
    ended = Settle("a", "acme", (lifetime(),), tokens(10), tokens(5), NOTHING)
    assert (await store.asettle(ended)).was == "open"
    answers = await asyncio.gather(*(store.areserve(asked._replace(id=f"{i}")) for i in range(20)))
    assert sorted(lane(answer.states[0][1], 1) for answer in answers) == [5 + 10 * i for i in range(1, 21)]


async def test_a_closed_store_says_so_and_is_closed_twice(caller: Caller) -> None:
    caller.record("a", 1)
    store = caller.store
    store.close()
    store.close()
    ways: list[Callable[[], object]] = [
        lambda: caller.reserve("b", 1),
        lambda: caller.settle("b", 1),
        lambda: caller.state(),
        lambda: store.accounts("acme"),
    ]
    for way in ways:
        with pytest.raises(StoreError):
            way()
    with pytest.raises(StoreError):
        await store.aread("acme", (lifetime(),))
