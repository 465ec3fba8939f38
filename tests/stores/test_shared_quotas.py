"""Quotas mean the same wherever they are counted: in the process, in a store of its memory, in a SQLite file."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from shared_kit import PRICES, Place, await_until, state

import otelbudget
from otelbudget import (
    BudgetExceeded,
    BudgetManager,
    Config,
    IdempotencyError,
    Quota,
    Quotas,
    QuotaService,
    RunBudget,
    Usage,
)

MILLION = 1_000_000
CALLS = [(60, 25), (120, 30), (160, 25), (190, 30), (220, 30)]


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()  # what was left open would be a ResourceWarning, and so a failure


@pytest.fixture(params=["none", "memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every place."""
    return Place(request.param, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every store."""
    return Place(request.param, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Place:
    """A file, whatever else there is."""
    return Place("sqlite", tmp_path)


@pytest.fixture
def beside(file: Place) -> Iterator[Callable[..., BudgetManager]]:
    """Makes further managers on the file, as other processes have them."""
    made: list[BudgetManager] = []

    def one(quotas: Quotas) -> BudgetManager:
        made.append(BudgetManager(Config(quotas=quotas, prices=PRICES, store=f"sqlite:///{file.path}")))
        return made[-1]

    yield one
    for manager in made:
        manager.shutdown()


def refused(ask: Callable[[], Any], reason: str = "limit") -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as stopped:
        ask()
    assert stopped.value.reason == reason
    return stopped.value


# --- the ledger's table


def test_a_commit_charges_the_actual_and_returns_the_rest(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run() as run:
        held = run.reserve(tokens=5000)
        assert state(service) == (0, 5000, 995_000)
        held.commit(Usage(tokens=3000))
        assert state(service) == (3000, 0, 997_000)
        run.reserve(tokens=5000).commit(Usage(tokens=8000))
        assert state(service) == (11_000, 0, 989_000)


def test_what_was_spent_beyond_the_limit_is_charged_and_refuses_what_follows(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=990_000))
        run.reserve(tokens=1000).commit(Usage(tokens=50_000))
        assert state(service) == (1_040_000, 0, 0)
        denial = refused(lambda: run.reserve(tokens=1))
        assert (denial.scope, denial.budget, denial.used, denial.limit) == ("tenant", "q", 1_040_000, MILLION)


def test_a_release_gives_all_back_once(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run() as run:
        held = run.reserve(tokens=5000)
        assert [held.release(), held.release(), held.already_settled] == [True, False, True]
        assert state(service) == (0, 0, MILLION)


def test_a_second_commit_replays_and_another_payload_is_an_error(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run() as run:
        held = run.reserve(tokens=5000)
        assert [held.commit(Usage(tokens=7)).replayed for _ in range(2)] == [False, True]
        with pytest.raises(IdempotencyError):
            held.commit(Usage(tokens=8))
        assert state(service)[0] == 7


def test_a_commit_after_a_release_is_charged_once(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run() as run:
        held = run.reserve(tokens=5000)
        held.release()
        held.commit(Usage(tokens=700))
        held.commit(Usage(tokens=700))
        assert state(service) == (700, 0, MILLION - 700)


def test_a_key_stands_for_one_reservation_and_for_one_charge(place: Place) -> None:
    service = place.quota(tokens=MILLION)
    with otelbudget.run() as run:
        held = [run.reserve(tokens=100, idempotency_key="k") for _ in range(2)]
        assert held[1].replayed
        assert state(service)[1] == 100
        held[0].commit()
        for _ in range(2):
            run.record(Usage(tokens=5), idempotency_key="r")
        assert state(service) == (105, 0, MILLION - 105)
        with pytest.raises(IdempotencyError):
            run.reserve(tokens=200, idempotency_key="k")


def test_a_refused_request_leaves_no_key_behind(place: Place) -> None:
    place.quota(tokens=100)
    with otelbudget.run(reraise=False) as run:
        first = run.reserve(tokens=60)
        refused(lambda: run.reserve(tokens=60, idempotency_key="k"), "busy")
        first.release()
        assert not run.reserve(tokens=60, idempotency_key="k").replayed


def test_a_dollar_that_others_hold_is_busy_and_can_be_spent_to_the_end(place: Place) -> None:
    service = place.quota(cost_usd=1)
    with otelbudget.run(reraise=False) as run:
        held = [run.reserve(cost_usd=0.2) for _ in range(5)]
        assert refused(lambda: run.reserve(cost_usd=0.2), "busy").retry_after_s is not None
        for one in held:
            one.commit(Usage(cost_usd=0.02))
        while run.can_proceed(cost_usd=0.02):
            run.reserve(cost_usd=0.02).commit()
        assert state(service, "cost_usd") == (1, 0, 0)


def test_a_busy_is_raised_at_the_end_unless_a_request_was_admitted_after_it(place: Place) -> None:
    place.quota(tokens=100)
    with pytest.raises(BudgetExceeded, match="busy"), otelbudget.run() as run:  # noqa: PT012
        hold = run.reserve(tokens=80)
        for tokens in (50, 200):
            with pytest.raises(BudgetExceeded):
                run.reserve(tokens=tokens)
        hold.release()
    with otelbudget.run() as run:
        with run.reserve(tokens=80) as hold:
            with pytest.raises(BudgetExceeded):
                run.reserve(tokens=50)
            hold.release()
        run.check(tokens=50)


def test_a_reservation_grows_under_the_rule_and_a_refusal_leaves_it_unchanged(place: Place) -> None:
    service = place.quota(tokens=100)
    with otelbudget.run(reraise=False) as run:
        held = run.reserve(tokens=60)
        held.extend(tokens=40)
        assert state(service) == (0, 100, 0)
        refused(lambda: held.extend(tokens=1))
        assert (state(service), held.held["tokens"]) == ((0, 100, 0), 100)
        held.release()
        assert state(service) == (0, 0, 100)


def test_a_block_left_by_an_exception_charges_what_it_says_and_one_left_unsettled_all(place: Place) -> None:
    service = place.quota(tokens=1000)
    with otelbudget.run() as run:
        for on_unknown in ("full", "input"):
            with pytest.raises(KeyError), run.reserve(input_tokens=60, output_tokens=40, on_unknown=on_unknown):
                raise KeyError
        assert state(service) == (160, 0, 840)
        with run.reserve(tokens=40):
            pass
        assert state(service) == (200, 0, 800)


def test_tool_calls_are_counted_one_by_one_and_all_or_none(place: Place) -> None:
    service = place.quota(tool_calls=2)
    with otelbudget.run(reraise=False) as run:
        refused(lambda: run.reserve(tool_calls=3))
        assert state(service, "tool_calls") == (0, 0, 2)
        for _ in range(2):
            with pytest.raises(TimeoutError), run.tool_call("search"):
                raise TimeoutError
        assert state(service, "tool_calls") == (2, 0, 0)
        assert refused(run.tool_call("search").__enter__).resource == "tool_calls"
        run.check()  # a refused tool blocks no model call
        run.record(Usage(10, 5))


async def test_a_request_sees_what_its_own_task_has_spent_before(place: Place) -> None:
    place.quota(steps=6)
    with otelbudget.run(reraise=False) as run:
        for _ in range(3):
            await run.acheck()
            run.record(Usage(100, 0))
            run.check()
            run.record(Usage(100, 0))
        for ask in (run.acheck, run.check):
            with pytest.raises(BudgetExceeded):
                await ask()


async def test_coroutines_spend_the_same_quota(place: Place) -> None:
    service = place.quota(tokens=100, tool_calls=1)
    with otelbudget.run(reraise=False) as run:
        held = await run.areserve(tokens=60)
        assert (await run.aremaining(fresh=True))["tokens"] == 40
        with pytest.raises(BudgetExceeded):
            await run.areserve(tokens=50)
        await held.acommit(Usage(tokens=70))
        async with run.tool_call("search"):
            pass
        with pytest.raises(BudgetExceeded):
            await run.tool_call("search").__aenter__()
        assert not await run.acan_proceed(tokens=31)
        await run.arecord(Usage(tokens=5))
        await await_until(lambda: state(service) == (75, 0, 25))  # settles go out by themselves


# --- scenarios


@pytest.mark.parametrize(("steps", "tokens"), [(3, 525), (1, 125), (0, 0)])
def test_s2_a_loop_that_never_stops_is_stopped(place: Place, steps: int, tokens: int) -> None:
    service = place.quota(steps=steps)
    with otelbudget.run(reraise=False) as run:
        assert spend(run, [(100 + 50 * i, 25) for i in range(9)], reserving=False) == steps
        assert refused(run.check).resource == "steps"
        assert run.usage.tokens == tokens
    assert state(service, "steps") == (steps, 0, 0)


def spend(run: Any, calls: list[tuple[int, int]], *, reserving: bool) -> int:
    """How many calls are admitted."""
    for done, (sent, got) in enumerate(calls):
        try:
            if reserving:
                run.reserve(input_tokens=sent, output_tokens=got).commit(Usage(sent, got))
            else:
                run.check()
                run.record(Usage(sent, got))
        except BudgetExceeded:
            return done
    return len(calls)


@pytest.mark.parametrize(
    ("limits", "reserving", "admitted", "used"),
    [
        ({"tokens": 600}, False, 4, 640),
        ({"tokens": 600}, True, 3, 420),
        ({"output_tokens": 600}, True, 5, 140),
        ({"input_tokens": 600}, True, 4, 530),
        ({"tokens": 640}, True, 4, 640),
    ],
)
def test_s6_cumulative_tokens(place: Place, limits: dict[str, int], reserving: bool, admitted: int, used: int) -> None:
    service = place.quota(**limits)
    with otelbudget.run(reraise=False) as run:
        assert spend(run, CALLS, reserving=reserving) == admitted
    (resource,) = limits
    assert state(service, resource)[0] == used


@pytest.mark.parametrize(("reserving", "admitted", "used"), [(False, 3, 2610), (True, 2, 1435)])
def test_s9_the_system_prompt_is_paid_every_turn(place: Place, reserving: bool, admitted: int, used: int) -> None:
    service = place.quota(tokens=1500)
    with otelbudget.run(reraise=False) as run:
        assert spend(run, [(540, 25), (840, 30), (1150, 25)], reserving=reserving) == admitted
    assert state(service)[0] == used


def five_cents(_: int) -> int:
    """Whether a call for five cents was admitted, in a run of its own."""
    with otelbudget.run(reraise=False) as run:
        try:
            run.reserve(cost_usd=0.05, wait_s=20).commit(Usage(cost_usd=0.05))
        except BudgetExceeded:
            return 0
    return 1


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_s13_twenty_five_cent_calls_on_one_dollar_in_threads(place: Place, workers: int) -> None:
    service = place.quota(cost_usd=1)
    with ThreadPoolExecutor(workers) as pool:
        assert sum(pool.map(five_cents, range(20))) == 20
    assert state(service, "cost_usd") == (1, 0, 0)
    with otelbudget.run(reraise=False) as run:
        refused(lambda: run.reserve(cost_usd=0.05))


@pytest.mark.parametrize("workers", [2, 32])
async def test_s13_twenty_five_cent_calls_on_one_dollar_in_tasks(place: Place, workers: int) -> None:
    service = place.quota(cost_usd=1)
    free = asyncio.Semaphore(workers)

    async def one() -> int:
        async with free, otelbudget.run(reraise=False) as run:
            try:
                async with await run.areserve(cost_usd=0.05) as held:
                    await held.acommit(Usage(cost_usd=0.05))
            except BudgetExceeded:
                return 0
        return 1

    assert sum(await asyncio.gather(*(one() for _ in range(40)))) == 20
    await await_until(lambda: state(service, "cost_usd") == (1, 0, 0))


def test_unpriced_calls_are_refused_where_a_quota_limits_money(place: Place) -> None:
    place.quota(cost_usd=1)
    with otelbudget.run(reraise=False) as run:
        refused(lambda: run.reserve(tokens=10, model="unheard-of"), "unpriced")
        run.reserve(input_tokens=10, model="demo").release()


# --- levels and priorities

LEVELS = Quotas(
    org=[Quota(tokens=100, per="lifetime", name="org")],
    default=[Quota(tokens=80, per="lifetime", name="tenant")],
    users={"*": [Quota(tokens=60, per="lifetime", name="user")]},
    models={"demo": [Quota(tokens=50, per="lifetime", name="model")]},
    tags={"team": {"search": [Quota(tokens=40, per="lifetime", name="tag")]}},
)


def levels(service: QuotaService) -> dict[str, tuple[Any, Any]]:
    return {line.quota: (line.used, line.reserved) for line in service.usage("acme", user="ada").lines}


def test_a_request_is_held_on_all_levels_or_on_none(place: Place) -> None:
    service = QuotaService(store=place.setup(LEVELS))
    with otelbudget.run(RunBudget(max_tokens=70), tenant="acme", user="ada", reraise=False) as run:
        held = run.reserve(tokens=10)
        assert levels(service) == {"org": (0, 10), "tenant": (0, 10), "user": (0, 10)}
        held.release()
        denial = refused(lambda: run.reserve(tokens=65))
        assert (denial.scope, denial.budget) == ("user", "user")
        assert levels(service) == {"org": (0, 0), "tenant": (0, 0), "user": (0, 0)}
        assert run.remaining(fresh=True)["tokens"] == 60


@pytest.mark.parametrize(
    ("tokens", "options", "scope"),
    [
        (101, {}, "org"),
        (90, {}, "tenant"),
        (70, {}, "user"),
        (55, {"model": "demo"}, "model"),
        (45, {"tags": {"team": "search"}}, "tag"),
        (45, {"tags": {"team": "other"}}, None),
    ],
)
def test_the_first_scope_that_blocks_is_named(
    place: Place, tokens: int, options: dict[str, Any], scope: str | None
) -> None:
    place.setup(LEVELS)
    asked = {"tokens": tokens, **{name: options[name] for name in options if name == "model"}}
    with otelbudget.run(tenant="acme", user="ada", tags=options.get("tags"), reraise=False) as run:
        if scope is None:
            run.reserve(**asked).release()
        else:
            assert refused(lambda: run.reserve(**asked)).scope == scope


def test_a_runs_own_limit_is_named_before_a_wider_quota_that_a_store_keeps(shared: Place) -> None:
    service = QuotaService(store=shared.setup(LEVELS))
    with otelbudget.run(RunBudget(max_tokens=5), tenant="acme", user="ada", reraise=False) as run:
        assert refused(lambda: run.reserve(tokens=200)).scope == "run"
    assert set(levels(service).values()) == {(0, 0)}


def test_a_refusal_by_the_store_leaves_nothing_on_the_run(shared: Place) -> None:
    shared.quota(tokens=50)
    with otelbudget.run(RunBudget(max_tokens=100, max_steps=5), reraise=False) as run:
        refused(lambda: run.reserve(tokens=60))
        assert (run.usage.tokens, run.usage.steps, run.remaining()["tokens"]) == (0, 0, 50)
        with run.child(RunBudget(max_tokens=90), mode="carve", reraise=False) as child:
            refused(lambda: child.reserve(tokens=60))
            child.reserve(tokens=50).commit(Usage(tokens=50))
    assert run.usage.tokens == 50


def test_each_priority_stops_where_the_shares_of_those_above_it_begin(place: Place) -> None:
    service = place.quota(tokens=100, reserve_for={"high": 0.2, "normal": 0.2})
    for priority, most in (("low", 60), ("normal", 80), ("high", 100)):
        with otelbudget.run(priority=priority, reraise=False) as run:
            before = state(service)[0]
            refused(lambda run=run, before=before, most=most: run.reserve(tokens=most - before + 1))
            run.record(Usage(tokens=most - before))
            refused(lambda run=run: run.reserve(tokens=1))
    assert state(service) == (100, 0, 0)


def test_several_quotas_of_one_window_bind_each(place: Place) -> None:
    """They are one account with several rules, of which a store gets the least."""
    quotas = [
        Quota(tokens=100, steps=9, per="lifetime", name="wide"),
        Quota(tokens=70, per="lifetime", name="narrow", reserve_for={"high": 0.5}),
        Quota(tool_calls=1, per="lifetime", name="tools"),
        Quota(tokens=10, per="lifetime", name="lenient", on_exhausted="warn"),
    ]
    place.setup(Quotas(default=quotas))
    with otelbudget.run(priority="high", reraise=False) as run:
        assert refused(lambda: run.reserve(tokens=101)).budget == "wide"
        assert refused(lambda: run.reserve(tokens=71)).budget == "narrow"
        assert refused(lambda: run.reserve(steps=10)).budget == "wide"
        assert refused(lambda: run.reserve(tool_calls=2)).budget == "tools"
        run.reserve(tokens=70).release()
    with otelbudget.run(reraise=False) as run:
        assert refused(lambda: run.reserve(tokens=36)).budget == "narrow"
        run.reserve(tokens=35).release()


# --- thresholds, warnings


def test_a_threshold_is_told_once(place: Place) -> None:
    place.quota(tokens=10, thresholds=[0.8])
    with otelbudget.run() as run:
        for tokens in (7, 1, 1, 1):
            run.reserve(tokens=tokens).commit()
    told = place.events("otelbudget.threshold")
    assert [one["otelbudget.ratio"] for one in told] == [0.8]


def test_a_threshold_is_told_once_to_all_who_share_the_file(file: Place, beside: Callable[..., BudgetManager]) -> None:
    quotas = Quotas(default=[Quota(tokens=10, per="lifetime", name="q", thresholds=[0.8])])
    file.setup(quotas)
    other = beside(quotas)
    with otelbudget.run() as run, other.run() as elsewhere:
        elsewhere.record(Usage(tokens=7))
        run.record(Usage(tokens=1))
        elsewhere.record(Usage(tokens=1))
        run.record(Usage(tokens=1))
    assert len(file.events("otelbudget.threshold")) == 1


def test_a_tool_call_that_reaches_a_threshold_tells_it(place: Place) -> None:
    place.quota(tool_calls=4, thresholds=[0.5])
    with otelbudget.run() as run:
        for _ in range(4):
            with run.tool_call("search"):
                pass
    assert len(place.events("otelbudget.threshold")) == 1


@pytest.mark.parametrize("way", ["reserve", "check"])
def test_a_quota_that_only_warns_admits_and_flags(place: Place, way: str) -> None:
    service = place.quota(tokens=10, on_exhausted="warn")
    with otelbudget.run() as run:
        run.record(Usage(tokens=10))
        if way == "reserve":
            run.reserve(tokens=5).commit()
        else:
            assert run.check(tokens=5).warned
            run.record(Usage(tokens=5))
        assert state(service) == (15, 0, 0)
    decisions = [one["otelbudget.decision"] for one in place.events("otelbudget.check")]
    assert decisions == ["warn"]


def test_a_warning_says_what_was_used_before_the_request(place: Place) -> None:
    place.quota(tokens=10, on_exhausted="warn")
    with otelbudget.run() as run:
        assert not run.check(tokens=10).warned
        run.reserve(tokens=10).commit(Usage(tokens=8))
        denial = run.check(tokens=3).denial
    assert denial is not None
    assert (denial.used, denial.reserved, denial.requested, denial.limit) == (8, 0, 3, 10)


def test_observing_counts_and_flags_and_refuses_nothing(place: Place) -> None:
    service = QuotaService(
        store=place.setup(Quotas(default=[Quota(tokens=10, per="lifetime", name="q")]), enforce=False)
    )
    with otelbudget.run() as run:
        held = run.reserve(tokens=25)
        held.commit(Usage(tokens=30))
    assert state(service) == (30, 0, 0)
    assert [one["otelbudget.decision"] for one in place.events("otelbudget.check")] == ["warn"]


# --- time


def test_what_nobody_holds_any_more_comes_back_at_every_level(shared: Place) -> None:
    service = QuotaService(store=shared.setup(LEVELS))
    with otelbudget.run(tenant="acme", user="ada", reraise=False) as run:
        held = run.reserve(tokens=60)
        refused(lambda: run.reserve(tokens=60), "busy")
        del held
        gc.collect()
        shared.clock.by_s += 66
        run.reserve(tokens=60).release()
    assert set(levels(service).values()) == {(0, 0)}


def test_a_commit_after_the_store_gave_up_on_it_is_charged_once(shared: Place) -> None:
    service = shared.quota(tokens=100)
    with otelbudget.run() as run:
        held = run.reserve(tokens=60)
        shared.clock.by_s += 66
        assert state(service) == (0, 0, 100)
        held.commit(Usage(tokens=30))
        held.commit(Usage(tokens=30))
        assert state(service) == (30, 0, 70)


def test_a_rolling_window_forgets_and_says_when(shared: Place) -> None:
    service = shared.quota(tokens=100, per="rolling 10m")
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=80))
        shared.clock.by_s += 300
        run.record(Usage(tokens=20))
        after_s = refused(lambda: run.reserve(tokens=50)).retry_after_s
        assert after_s is not None
        assert 300 <= after_s <= 610.1
        shared.clock.by_s += 311
        run.reserve(tokens=50).commit()
    assert state(service) == (70, 0, 30)


def test_a_quota_of_a_day_says_when_it_begins_anew(place: Place) -> None:
    place.quota(tokens=100, per="day")
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=100))
        denial = refused(lambda: run.reserve(tokens=1))
        assert denial.resets_at is not None
        assert denial.retry_after_s == pytest.approx(denial.resets_at.timestamp() - time.time(), abs=5)
        assert refused(lambda: run.reserve(tokens=101)).retry_after_s is None


# --- several managers on one file

DOLLAR = Quotas(default=[Quota(cost_usd=1, per="lifetime", name="q")])
HUNDRED = Quotas(default=[Quota(tokens=100, per="lifetime", name="q")])


def test_what_others_spend_is_seen_when_it_is_asked_for(file: Place, beside: Callable[..., BudgetManager]) -> None:
    file.setup(HUNDRED)
    other = beside(HUNDRED)
    with otelbudget.run() as run:
        assert run.remaining()["tokens"] == 100
        with other.run() as elsewhere:
            elsewhere.record(Usage(tokens=30))
        assert run.remaining()["tokens"] == 100
        assert run.remaining(fresh=True)["tokens"] == 70
        assert run.remaining()["tokens"] == 70


async def test_what_others_spend_is_awaited(file: Place, beside: Callable[..., BudgetManager]) -> None:
    file.setup(HUNDRED)
    with beside(HUNDRED).run() as elsewhere:
        held = await elsewhere.areserve(tokens=30)
        with otelbudget.run() as run:
            assert (await run.aremaining(fresh=True))["tokens"] == 70
        held.release()


def test_who_waits_gets_what_another_manager_lets_go(file: Place, beside: Callable[..., BudgetManager]) -> None:
    file.setup(HUNDRED)
    with otelbudget.run() as run, beside(HUNDRED).run() as elsewhere:
        held = elsewhere.reserve(tokens=80)
        timer = threading.Timer(0.3, held.release)
        timer.start()
        began_s = time.monotonic()
        run.reserve(tokens=50, wait_s=5).release()
        assert 0.2 < time.monotonic() - began_s < 4
        timer.join()


async def test_who_awaits_gets_what_another_manager_lets_go(file: Place, beside: Callable[..., BudgetManager]) -> None:
    file.setup(HUNDRED)
    with otelbudget.run() as run, beside(HUNDRED).run() as elsewhere:
        held = await elsewhere.areserve(tokens=80)
        asyncio.get_running_loop().call_later(0.3, held.release)
        (await run.areserve(tokens=50, wait_s=5)).release()
        with pytest.raises(BudgetExceeded) as stopped:
            await run.areserve(tokens=150, wait_s=0.2)
        assert stopped.value.reason == "limit"
        run.acknowledge()


def test_many_who_wait_do_not_wake_each_other_all_the_time(
    file: Place, beside: Callable[..., BudgetManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = file.setup(HUNDRED)
    trips: list[int] = []
    reserve = manager.engine.store.store.reserve
    monkeypatch.setattr(manager.engine.store.store, "reserve", lambda asked: (trips.append(1), reserve(asked))[1])

    def wait(_: int) -> str:
        with otelbudget.run(reraise=False) as run:
            return refused(lambda: run.reserve(tokens=50, wait_s=1), "busy").reason

    with beside(HUNDRED).run() as elsewhere, elsewhere.reserve(tokens=80) as held:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(wait, range(8)))
        held.release()
    assert len(trips) <= 8 * 12


def test_gauges_show_what_the_store_says(shared: Place) -> None:
    shared.quota(tokens=100)
    with otelbudget.run() as run:
        run.record(Usage(tokens=30))
        held = run.reserve(tokens=20)
        assert shared.gauges("otelbudget_budget_used") == {(shared.kind, "tokens"): 30}
        assert shared.gauges("otelbudget_budget_reserved") == {(shared.kind, "tokens"): 20}
        assert shared.gauges("otelbudget_budget_limit") == {(shared.kind, "tokens"): 100}
        held.commit()
        assert shared.gauges("otelbudget_budget_used") == {(shared.kind, "tokens"): 50}


def test_a_quota_service_uses_the_file(file: Place, beside: Callable[..., BudgetManager]) -> None:
    service = QuotaService(store=file.setup(HUNDRED))
    other = QuotaService(store=beside(HUNDRED))
    other.consume_quota("acme", 40)
    assert service.check_quota("acme", 60)
    assert not service.check_quota("acme", 61)
    assert (service.remaining("acme"), service.usage("acme").tokens) == (60, 40)
    assert service.remaining_of("acme")["tokens"] == 60
    with other.reserve("acme", 50) as held:
        assert service.remaining("acme") == 10
        held.commit(60)
    service.consume_quota("acme", 5)
    assert [one.usage("acme").tokens for one in (service, other)] == [105, 105]
    service.reset("acme")
    assert [one.remaining("acme") for one in (service, other)] == [100, 100]
    assert other.usage("acme").tokens == 0
    assert service.usage("nobody").tokens == 0


def test_what_was_used_outlives_the_process(file: Place) -> None:
    service = file.quota(cost_usd=1)
    service.consume_quota("default", cost_usd=Decimal("0.25"))
    otelbudget.shutdown()
    again = Place("sqlite", file.path.parent)
    assert state(again.quota(cost_usd=1), "cost_usd") == (Decimal("0.25"), 0, Decimal("0.75"))


def test_the_yaml_says_where_quotas_are_counted(
    file: Place, beside: Callable[..., BudgetManager], tmp_path: Path
) -> None:
    (tmp_path / "budgets.yaml").write_text(
        "quotas: {default: [{tokens: 100, per: lifetime, name: q}]}\nstore: {url: sqlite:///quotas.db, ttl: 5s}\n"
    )
    manager = file.setup(str(tmp_path / "budgets.yaml"), store=None)
    assert manager.engine.store.ttl_s == 5
    with otelbudget.run() as run:
        run.record(Usage(tokens=30))
    assert QuotaService(store=beside(HUNDRED)).remaining("default") == 70


def test_quotas_per_run_and_budgets_stay_in_the_process(file: Place) -> None:
    quotas = Quotas(default=[Quota(steps=2, per="run", name="each")])
    file.setup(quotas)
    for _ in range(2):
        with otelbudget.run(reraise=False) as run:
            for _ in range(2):
                run.reserve().commit(Usage(1, 1))
            assert refused(run.reserve).scope == "tenant"


def test_a_quota_that_comes_into_force_while_a_call_is_open_binds_the_next_one(shared: Place) -> None:
    manager = shared.setup(Quotas())
    service = QuotaService(store=manager)
    with otelbudget.run(reraise=False) as run:
        held = run.reserve(tokens=10)
        service.set_quota("default", Quota(tokens=5, per="lifetime", name="q"))
        held.extend(tokens=10)
        held.commit(Usage(tokens=20))
        refused(lambda: run.reserve(tokens=6))
        run.reserve(tokens=5).release()
