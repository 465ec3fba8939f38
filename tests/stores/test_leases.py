"""Blocks that a process spends without asking: fewer trips, never over a limit, and nothing lost but to a crash."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from shared_kit import Place, state
from store_kit import NOTHING, Caller, Clock, day, lifetime, limit, tokens, vector
from store_model import ModelStore

import otelbudget
from otelbudget import BudgetExceeded, Config, ConfigError, Quota, Quotas, QuotaService, StoreError, Usage
from otelbudget.config import StoreConfig, load_budget_config
from otelbudget.stores import shared
from otelbudget.stores.base import Line, Reserve, Reset, Settle
from otelbudget.stores.blocks import Blocks
from otelbudget.stores.lease import BLOCK_S, Leased
from otelbudget.stores.memory import MemoryStore

LINE = lifetime(limits=limit(1000))


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()


class Counted(ModelStore):
    """Counts its trips, and fails them while it is *away*."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.trips: list[str] = []
        self.failed: list[bool] = []
        self.away = False

    def now_s(self) -> float:
        if self.away:
            self.failed.append(True)
            raise StoreError("away")
        return super().now_s()

    def reserve(self, asked: Any) -> Any:
        self.trips.append(f"reserve {asked.amounts[1]}")
        return super().reserve(asked)

    def settle(self, ended: Any) -> Any:
        self.trips.append(f"settle {ended.actual[1]}")
        return super().settle(ended)


@pytest.fixture
def central(clock: Clock) -> Counted:
    return Counted(clock)


@pytest.fixture
def mine(central: Counted, clock: Clock) -> Caller:
    return Caller(Leased(central, 0.1, clock))


@pytest.fixture
def other(central: Counted, clock: Clock) -> Caller:
    """Another process."""
    return Caller(Leased(central, 0.1, clock))


def spend(caller: Caller, id: str, amount: int, line: Any = LINE) -> bool:
    if caller.reserve(id, amount, line).refused is not None:
        return False
    caller.settle(id, amount, line)
    return True


def tend(caller: Caller) -> None:
    leased: Any = caller.store
    leased.tend()


def test_calls_inside_a_block_take_no_trip(mine: Caller, central: Counted) -> None:
    assert all(spend(mine, f"{i}", 10) for i in range(10))
    assert central.trips == ["reserve 100"]
    assert spend(mine, "next", 10)
    assert central.trips == ["reserve 100", "settle 100", "reserve 100"]


def test_blocks_that_cannot_be_given_back_at_the_end_are_told(
    mine: Caller, central: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    spend(mine, "a", 10)
    central.away = True
    mine.store.close()
    assert [one.getMessage() for one in caplog.records] == [
        "1 leases were not given back to the model store, which will charge them in full: away"
    ]


def test_the_answers_say_what_is_used_and_held_by_all(mine: Caller, other: Caller) -> None:
    spend(other, "o", 30)
    assert mine.reserve("a", 10, LINE).states[0] == (vector(0), vector(110))
    assert mine.settle("a", 10, LINE).used == (vector(10),)
    assert mine.state(LINE) == (10, 110)
    tend(other)
    assert other.state(LINE) == (30, 130)


def test_two_processes_spend_the_limit_to_the_last_token(mine: Caller, other: Caller, clock: Clock) -> None:
    spent = 0
    for i in range(400):
        spent += 7 * sum(spend(one, f"{n} {i}", 7) for n, one in enumerate((mine, other)))
        spent += sum(spend(one, f"{n} {i} one", 1) for n, one in enumerate((mine, other)))
        assert spent <= 1000
        if i % 20 == 0:
            clock.advance(BLOCK_S + 1)
            tend(mine)
            tend(other)
    assert spent == 1000


def test_a_block_that_does_not_fit_is_halved(mine: Caller, other: Caller, central: Counted, clock: Clock) -> None:
    other.record("r", 940, LINE)
    assert mine.reserve("a", 20, LINE).refused is None
    assert central.trips[1:] == ["reserve 100", "reserve 30"]
    assert other.reserve("b", 20, LINE).refused is None
    assert central.trips[3:] == ["reserve 100", "reserve 20"]
    assert mine.state(LINE) == (940, 980)


def test_what_nobody_needs_of_a_block_is_given_back_after_its_time(
    mine: Caller, central: Counted, clock: Clock
) -> None:
    mine.reserve("a", 10, LINE)
    mine.reserve("b", 20, LINE)
    mine.settle("a", 4, LINE)
    assert Caller(central).state(LINE) == (0, 100)
    clock.advance(BLOCK_S)
    tend(mine)
    assert Caller(central).state(LINE) == (0, 24)
    mine.settle("b", 15, LINE)
    tend(mine)
    assert Caller(central).state(LINE) == (19, 19)


def test_a_crash_charges_one_block_and_no_more(mine: Caller, central: Counted, clock: Clock) -> None:
    for i in range(25):
        spend(mine, f"{i}", 10)
    clock.advance(65)
    assert Caller(central).state(LINE) == (300, 300)


def test_closing_gives_back_all_that_was_not_spent(mine: Caller, central: Counted) -> None:
    spend(mine, "a", 10)
    mine.reserve("open", 30, LINE, on_expiry=tokens(3))
    mine.store.close()
    central.closed = False
    assert Caller(central).state(LINE) == (13, 13)


def test_a_hold_grows_beyond_its_block_under_the_limit_only(mine: Caller, other: Caller, central: Counted) -> None:
    other.reserve("o", 800, LINE)
    mine.reserve("a", 60, LINE)
    assert mine.reserve("a", 200, LINE, held=60).refused is None
    assert mine.reserve("a", 201, LINE, held=200)[:3] == (0, 1, True)
    assert mine.settle("a", 200, LINE).was == "open"
    tend(mine)
    assert Caller(central).state(LINE) == (200, 1000)


def test_a_hold_grows_after_its_window_has_ended(mine: Caller, central: Counted, clock: Clock) -> None:
    line = day(clock.now_s, limits=limit(1000))
    mine.reserve("a", 60, line)
    clock.advance(86_400)
    mine.store.renew("acme", ["a"], 60)
    assert mine.reserve("a", 500, line, held=60).refused is None
    assert mine.reserve("a", 1001, line, held=500)[:3] == (0, 1, False)
    mine.settle("a", 500, line)
    tend(mine)
    assert Caller(central).state(line) == (500, 500)


def test_a_block_of_ones_own_is_in_nobodys_way_here(mine: Caller, central: Counted) -> None:
    users = [lifetime(f"user {i}", limit(1000)) for i in range(10)]
    for i, user in enumerate(users):
        mine.reserve(f"{i}", 10, LINE, user)
        mine.settle(f"{i}", 10, LINE, user)
    assert Caller(central).state(LINE)[1] == 1000
    assert mine.reserve("large", 900, LINE).refused is None
    assert mine.reserve("larger", 1, LINE).refused == 0


@pytest.mark.parametrize("tended", [False, True])
def test_what_a_long_call_does_not_need_of_its_block_is_in_nobodys_way(
    mine: Caller, other: Caller, clock: Clock, tended: bool
) -> None:
    mine.reserve("long", 20, LINE)
    mine.reserve("short", 70, LINE)
    clock.advance(3)
    tend(mine)
    mine.settle("short", 0, LINE)
    if tended:
        clock.advance(1)
        tend(mine)
    assert (other if tended else mine).reserve("large", 980, LINE).refused is None


def test_requests_that_are_large_beside_a_block_are_asked_for_by_themselves(mine: Caller, central: Counted) -> None:
    mine.reserve("a", 150, LINE)
    assert central.trips == ["reserve 150"]


def test_where_nothing_is_left_each_request_is_one_trip(mine: Caller, central: Counted) -> None:
    mine.record("r", 1000, LINE)
    central.trips.clear()
    assert [mine.reserve(f"{i}", 1, LINE)[:3] for i in range(3)] == [(0, 1, False)] * 3
    assert central.trips == ["reserve 100", "reserve 1", "reserve 1", "reserve 1"]


def test_a_block_is_spent_while_the_store_is_away_and_settled_when_it_is_back(
    mine: Caller, central: Counted, clock: Clock
) -> None:
    spend(mine, "a", 10)
    central.away = True
    assert spend(mine, "b", 90)
    with pytest.raises(StoreError):
        mine.reserve("c", 10, LINE)
    clock.advance(BLOCK_S)
    tend(mine)
    central.away = False
    tend(mine)
    assert Caller(central).state(LINE) == (100, 100)


def test_a_block_that_may_have_been_given_is_let_go_of(mine: Caller, central: Counted) -> None:
    answer = central.reserve

    def lost(asked: Any) -> Any:
        answer(asked)
        raise StoreError("the reply was lost")

    central.reserve = lost  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        mine.reserve("a", 10, LINE)
    assert Caller(central).state(LINE) == (0, 100)
    tend(mine)
    assert Caller(central).state(LINE) == (0, 0)


def test_what_is_held_is_never_below_nothing_where_the_store_has_lost_a_block(mine: Caller, central: Counted) -> None:
    spend(mine, "a", 20)
    mine.reserve("b", 10, LINE)
    central.holds.clear()
    used, taken = mine.state(LINE)
    assert used == 20
    assert taken >= used


def test_what_is_being_settled_is_counted_once(
    mine: Caller, central: Counted, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def settle(ended: Settle) -> Any:
        settled = ModelStore.settle(central, ended)
        seen.append(mine.state(LINE))  # as another thread does before this one has the answer
        return settled

    spend(mine, "a", 20)
    monkeypatch.setattr(central, "settle", settle)
    clock.now_s += BLOCK_S
    tend(mine)
    assert seen == [(20, 20)]


@pytest.mark.parametrize("moment", ["open", "seen"])
def test_a_block_that_was_just_taken_is_not_given_back_by_another_thread(
    mine: Caller, central: Counted, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    method = getattr(Blocks, moment)

    def looked_at(self: Any, *given: Any) -> Any:
        self._due_s = 0.0
        tend(mine)
        return method(self, *given)

    monkeypatch.setattr(Blocks, moment, looked_at)
    assert spend(mine, "a", 30)
    mine.store.close()
    central.closed = False
    assert Caller(central).state(LINE) == (30, 30)


def test_a_block_whose_last_hold_ends_while_its_rest_is_given_back_is_settled_all_the_same(
    mine: Caller, central: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.reserve("a", 10, LINE)
    mine.reserve("b", 20, LINE)
    reserve = central.reserve

    def slow(asked: Any) -> Any:
        answer = reserve(asked)
        if asked.amounts[1] == 30:  # the rest of the block
            mine.settle("a", 5, LINE)
            mine.settle("b", 5, LINE)  # as another thread does
        return answer

    monkeypatch.setattr(central, "reserve", slow)
    leased: Any = mine.store
    leased.let_go("acme", LINE.key)
    tend(mine)
    assert Caller(central).state(LINE) == (10, 10)


def test_what_is_held_on_a_block_in_the_moment_it_is_closed_is_charged(
    mine: Caller, central: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.reserve("a", 10, LINE)
    blocks: Any = mine.store._blocks  # type: ignore[attr-defined]
    ((key, lease),) = blocks.live.items()
    limit = blocks._ledger.limit
    late = Reserve("b", "acme", (LINE,), tokens(7), NOTHING, NOTHING, 60.0)

    def slow(account: Any, rules: Any) -> None:  # other threads come in between
        mine.settle("a", 10, LINE)
        tend(mine)
        blocks.live[key] = lease  # one of them had found it before
        assert blocks.hold(late) is not None
        blocks.live.clear()
        limit(account, rules)

    monkeypatch.setattr(blocks._ledger, "limit", slow)
    blocks.close_all()
    mine.settle("b", 7, LINE)
    tend(mine)
    assert Caller(central).state(LINE) == (17, 17)


def test_a_settle_that_is_sent_twice_charges_once(mine: Caller, central: Counted) -> None:
    mine.reserve("a", 10, LINE)
    assert [mine.settle("a", 10, LINE).was for _ in range(2)] == ["open", "settled"]
    tend(mine)
    assert mine.state(LINE) == (10, 10)


def test_a_settle_that_is_interrupted_and_sent_again_charges_once(
    mine: Caller, central: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    mine.reserve("a", 10, LINE)
    with monkeypatch.context() as patched:
        patched.setattr(Blocks, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mine.settle("a", 10, LINE)
    assert mine.settle("a", 10, LINE).was == "settled"
    mine.store.close()
    central.closed = False
    assert Caller(central).state(LINE) == (10, 10)


def test_what_expires_is_charged_once_whenever_it_is_settled(mine: Caller, central: Counted, clock: Clock) -> None:
    mine.reserve("a", 50, LINE, on_expiry=tokens(5))
    for _ in range(4):
        clock.advance(20)
        central.renew("acme", list(mine.store._blocks.all), 60)  # type: ignore[attr-defined]
    tend(mine)
    assert Caller(central).state(LINE) == (5, 5)
    assert [mine.settle("a", 30, LINE).was for _ in range(2)] == ["expired", "settled"]
    assert Caller(central).state(LINE) == (30, 30)


def test_a_reset_comes_after_what_was_spent_before(mine: Caller, central: Counted) -> None:
    spend(mine, "a", 30)
    mine.store.configure("acme", LINE.key, Reset())
    tend(mine)
    assert Caller(central).state(LINE) == (0, 0)


def test_each_priority_has_blocks_of_its_own(mine: Caller) -> None:
    low = lifetime(limits=limit(600))
    assert sum(spend(mine, f"{i}", 5, low) for i in range(200)) == 120
    assert sum(spend(mine, f"high {i}", 5) for i in range(200)) == 80


async def _a_task(store: Leased, name: str, amount: int) -> int:
    asked = Reserve(name, "acme", (LINE,), tokens(amount), NOTHING, NOTHING, 60.0)
    if (await store.areserve(asked)).refused is not None:
        return 0
    await asyncio.sleep(0)
    await store.asettle(Settle(name, "acme", (LINE,), tokens(amount), tokens(amount), NOTHING))
    return amount


def test_threads_and_tasks_spend_a_limit_exactly(clock: Clock) -> None:
    central = MemoryStore(clock_s=clock)
    stores = [Leased(central, 0.1, clock) for _ in range(2)]
    spent: list[int] = []

    async def work(name: int, amount: int) -> None:
        for i in range(20):
            names = [f"{name} {i} {n}" for n in range(10)]
            spent.extend(await asyncio.gather(*(_a_task(stores[name % 2], one, amount) for one in names)))

    for amount in (3, 1):
        threads = [Thread(target=lambda n=n: asyncio.run(work(amount * 10 + n, amount))) for n in range(6)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for store in stores:
            store.accounts("acme")  # settles first
    assert Caller(central).state(LINE) == (1000, 1000)
    assert sum(spent) == 1000


# --- through the whole library


def test_a_store_that_is_away_is_told_once_whatever_leases_answer(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    central, place = Counted(clock), Place("none", tmp_path)
    config = Config(quotas=Quotas(default=[Quota(tokens=1000, per="lifetime")]), store=StoreConfig(lease=0.1))
    place.setup(config, store=central)
    caplog.set_level("INFO", "otelbudget")
    with otelbudget.run(reraise=False) as run:
        run.reserve(tokens=10).release()
        central.away = True
        for _ in range(3):
            run.reserve(tokens=10).commit(Usage(tokens=10))
            with pytest.raises(BudgetExceeded, match="can't be reached"):
                run.check(tokens=10)
        central.away = False
        run.check(tokens=10)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("the model store")]
    starts = [line.split(":")[0] for line in said]
    assert starts == ["the model store can't be reached", "the model store is reached again"]


@pytest.mark.parametrize("how", ["plain", "coroutine"])
def test_a_request_ends_with_the_first_trip_that_fails(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(shared, "RETRY_S", 1_000)  # by then nobody looks any more
    central, place, failed = Counted(clock), Place("none", tmp_path), []
    config = Config(quotas=Quotas(default=[Quota(tokens=1000, per="lifetime")]), store=StoreConfig(lease=0.1))
    leased: Any = place.setup(config, store=central).engine.store.store

    def unavailable(ask: Callable[[], Any]) -> None:
        with pytest.raises(BudgetExceeded) as stopped:
            ask()
        assert stopped.value.reason == "store_unavailable"

    with otelbudget.run(reraise=False) as run:
        asks: list[Callable[[], Any]] = [
            lambda: unavailable(lambda: run.reserve(tokens=60)),
            lambda: unavailable(lambda: run.check(tokens=60)),
            lambda: run.record(Usage(tokens=5)),
            lambda: unavailable(lambda: held[0].extend(tokens=300)),
            lambda: held.pop().commit(Usage(tokens=5)),
            lambda: held.pop().release(),
        ]
        if how == "coroutine":
            asks = [
                lambda: unavailable(lambda: asyncio.run(_await(run.areserve(tokens=60)))),
                lambda: unavailable(lambda: asyncio.run(run.acheck(tokens=60))),
                lambda: unavailable(lambda: asyncio.run(held[0].aextend(tokens=300))),
            ]
        held = [run.reserve(tokens=7) for _ in range(40)]
        central.away, central.failed = True, failed
        for _ in range(4):
            leased._blocks.close_all()
            for ask in asks:
                failed.clear()
                ask()
                assert len(failed) <= 1, ask
        central.away = False
        run.reserve(tokens=1).release()
        while held:
            held.pop().release()
    otelbudget.shutdown()
    central.closed = False
    (account,) = central.accounts("default")
    assert account.used[1] == account.taken[1] == (40 if how == "plain" else 0)


async def _await(asked: Any) -> Any:
    return await asked


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def opened(place: Place, **options: Any) -> QuotaService:
    quotas = Quotas(default=[Quota(tokens=1000, per="lifetime", name="q", thresholds=(0.36, 0.65))])
    config = Config(quotas=quotas, store=StoreConfig(place.url, lease=0.1, **options))
    return QuotaService(store=place.setup(config, store=None))


def test_a_manager_spends_blocks_and_returns_the_rest_at_its_end(place: Place) -> None:
    service = opened(place)
    with otelbudget.run(reraise=False) as run:
        for _ in range(7):
            with run.reserve(tokens=20) as held:
                held.commit(Usage(tokens=15))
        assert state(service) == (105, 0, 895)
        with pytest.raises(BudgetExceeded) as stopped:
            run.reserve(tokens=900)
        assert stopped.value.reason == "limit"
    otelbudget.shutdown()
    assert Caller(place.store()).store.accounts("default")[0].taken[1] == 105


def test_a_threshold_is_told_once_also_where_it_lies_between_two_blocks(place: Place) -> None:
    service = opened(place)
    with otelbudget.run(reraise=False) as run:
        for i in range(20):
            run.reserve(tokens=30).commit(Usage(tokens=30))
            if i == 10:
                opened_too = Leased(place.store(), 0.1)
                (account,) = opened_too.accounts("default")
                line = Line(*account[:4], (-1,) * 7)
                Caller(opened_too).record("of another", 70, line, shard="default")
    assert state(service)[0] == 670
    assert [event["otelbudget.ratio"] for event in place.events("otelbudget.threshold")] == [0.36, 0.65]


def test_a_reset_arms_thresholds_anew(place: Place) -> None:
    service = opened(place)
    with otelbudget.run() as run:
        for _ in range(3):
            run.reserve(tokens=400).commit(Usage(tokens=400))
            service.reset("default")
    assert [event["otelbudget.ratio"] for event in place.events("otelbudget.threshold")] == [0.36] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_plain_call_on_a_loop_waits_for_no_task_of_that_loop(place: Place) -> None:
    service = opened(place)
    leased: Any = otelbudget.setup().engine.store.store

    async def work() -> None:
        with otelbudget.run(reraise=False) as run:
            one, other = run.reserve(tokens=10), run.reserve(tokens=20)
            growing = asyncio.create_task(one.aextend(tokens=300))  # beyond the block of both
            while not (leased._taking or growing.done()):
                await asyncio.sleep(0)
            other.extend(tokens=300)
            await growing
            one.commit(Usage(tokens=310))
            other.commit(Usage(tokens=320))

    thread = Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert state(service) == (630, 0, 370)


def test_a_forked_child_has_leases_of_its_own(place: Place) -> None:
    service = opened(place)
    with otelbudget.run(reraise=False) as run:
        held = run.reserve(tokens=10)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with otelbudget.run(mode="detached", reraise=False) as own:
                    own.reserve(tokens=40).commit(Usage(tokens=40))
                otelbudget.shutdown()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert state(service) == (40, 10, 950)
        held.commit(Usage(tokens=5))
    assert state(service) == (45, 0, 955)


def test_the_yaml_says_how_large_a_block_is(tmp_path: Path) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text("store: {url: redis://localhost, lease: 1%}")
    assert load_budget_config(file).store.lease == 0.01
    assert StoreConfig().lease == 0
    with pytest.raises(ConfigError, match="lease"):
        StoreConfig("redis://localhost", lease=1.5)
