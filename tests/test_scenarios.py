"""The tables of input and expected outcome that define what budgets do."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from world import World, reserved_of, said

import otelbudget
from otelbudget import BudgetExceeded, Config, IdempotencyError, RunBudget, Usage
from otelbudget.calls.model_call import ModelCall, ModelRequest, begin
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs.run import BudgetRun

Calls = list[tuple[int, int]]


def checked(run: BudgetRun, calls: Calls) -> list[int]:
    """Check, call, record: the tokens used after each call that was made."""
    after = []
    for given, made in calls:
        try:
            run.check()
        except BudgetExceeded:
            break
        run.record(Usage(given, made))
        after.append(run.usage.tokens or 0)
    return after


def reserved(run: BudgetRun, calls: Calls) -> list[int]:
    """Reserve the known input and output, call, commit."""
    after = []
    for given, made in calls:
        try:
            with run.reserve(input_tokens=given, output_tokens=made) as reservation:
                reservation.commit(Usage(given, made))
        except BudgetExceeded:
            break
        after.append(run.usage.tokens or 0)
    return after


# --- runs


def test_s1_nothing_fires_while_everything_fits(world: World) -> None:
    with world.run(RunBudget(max_steps=4)) as run:
        used = []
        for given, made in [(80, 20), (120, 20), (160, 20), (200, 25)]:
            run.check()
            run.record(Usage(given, made))
            used.append(run.usage.tokens)
            if len(used) < 4:
                with run.tool_call("look"):
                    pass
        assert used == [100, 240, 420, 645]
        assert run.remaining()["steps"] == 0
        assert (run.usage.tool_calls, run.receipt().denials) == (3, 0)
    assert world.span("otelbudget.run").attributes["otelbudget.outcome"] == "completed"  # type: ignore[index]


@pytest.mark.parametrize(("limit", "calls", "tokens"), [(3, 3, 525), (1, 1, 125), (0, 0, 0)])
def test_s2_a_loop_that_never_stops_is_stopped_before_the_next_call(
    world: World, limit: int, calls: int, tokens: int
) -> None:
    loop = [(100 + 50 * i, 25) for i in range(9)]
    with world.run(RunBudget(max_steps=limit), reraise=False) as run:
        assert len(checked(run, loop)) == calls
        assert (run.usage.tokens, run.receipt().resource) == (tokens, "steps")


@pytest.mark.parametrize(("limit", "ran"), [(2, 2), (3, 3), (0, 0)])
def test_s4_tools_of_one_response_run_one_by_one_up_to_the_limit(world: World, limit: int, ran: int) -> None:
    done = 0
    with world.run(RunBudget(max_tool_calls=limit), reraise=False) as run:
        for name in ("a", "b", "c"):
            try:
                with run.tool_call(name):
                    done += 1
            except BudgetExceeded as denied:
                assert denied.resource == "tool_calls"  # noqa: PT017 - the loop goes on
    assert (done, run.usage.tool_calls) == (ran, ran)


S6 = [(60, 25), (120, 30), (160, 25), (190, 30), (220, 30)]


def test_s6_checks_alone_overshoot_by_the_last_call_and_then_stop(world: World) -> None:
    with world.run(RunBudget(max_tokens=600), reraise=False) as run:
        assert checked(run, S6) == [85, 235, 420, 640]
        assert run.receipt().overage == {"tokens": 40}
        assert run.remaining()["tokens"] == 0


@pytest.mark.parametrize(
    ("budget", "used"),
    [
        (RunBudget(max_tokens=600), [85, 235, 420]),
        (RunBudget(max_output_tokens=600), [85, 235, 420, 640, 890]),
        (RunBudget(max_input_tokens=600), [85, 235, 420, 640]),
    ],
)
def test_s6_reserving_denies_before_the_call_that_does_not_fit(
    world: World, budget: RunBudget, used: list[int]
) -> None:
    with world.run(budget, reraise=False) as run:
        assert reserved(run, S6) == used


def test_s7_streams_count_like_answers(world: World) -> None:
    world.activate()

    def stream(input_tokens: int, chunks: int) -> ModelCall:
        call = begin(ModelRequest(provider="p", operation="chat", model="demo", input_tokens=input_tokens))
        assert call is not None
        for chunk in range(chunks):
            call.grow(chunk)
        return call

    with world.run(RunBudget(max_tokens=2000)) as run:
        for usage, chunks, tokens in ((Usage(80, 35), 3, 115), (Usage(180, 40), 5, 335)):
            stream(usage.input_tokens or 0, chunks).commit(usage)
            assert (run.usage.tokens, run.remaining()["tokens"]) == (tokens, 2000 - tokens)
        stream(80, 3).commit(None)
        assert (run.usage.tokens or 0) > 335
        left = stream(80, 1)
        before, known = run.usage.tokens or 0, left.input_tokens
        left.unknown(7)
        assert (run.usage.tokens, run._state.account.holds) == (before + known + 7, 0)
    estimated = [
        bool(a.get("otelbudget.estimated")) for span in world.spans("chat") for n, a in said(span) if "record" in n
    ]
    assert (estimated, world.records()) == ([False, False, True, True], 4)


def test_s11_a_tool_that_times_out_counts_and_so_does_the_call_that_asked_for_it(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=1), reraise=False) as run:
        run.reserve(input_tokens=100, output_tokens=50).commit(Usage(100, 20))
        with pytest.raises(TimeoutError), run.tool_call("search"):
            raise TimeoutError
        assert (run.usage.tool_calls, run.usage.tokens, run.usage.steps) == (1, 120, 1)
        with pytest.raises(BudgetExceeded):
            run.tool_call("search").__enter__()


S9 = [(540, 25), (840, 30), (1150, 25)]


def test_s9_the_system_prompt_is_paid_every_turn(world: World) -> None:
    with world.run(RunBudget(max_tokens=1500), reraise=False) as run:
        assert checked(run, S9)[-1] == 1435 + 1175
    with world.run(RunBudget(max_tokens=1500), reraise=False) as run:
        assert reserved(run, S9) == [565, 1435]


@pytest.mark.parametrize("workers", [1, 2, 8, 32, 128])
def test_s13_twenty_five_cent_calls_on_a_dollar_are_twenty_in_threads(world: World, workers: int) -> None:
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:
        bought: list[int] = []

        def buy() -> None:
            while True:
                try:
                    with run.reserve(cost_usd=0.05) as reservation:
                        reservation.commit(Usage(cost_usd=0.05))
                except BudgetExceeded as denied:
                    if denied.reason == "busy":
                        continue
                    return
                bought.append(1)

        threads = [threading.Thread(target=buy) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(bought), run.usage.cost_usd) == (20, Decimal(1))
    assert world.spent()[2] == 10**9


@pytest.mark.parametrize("workers", [1, 2, 8, 32, 128])
async def test_s13_twenty_five_cent_calls_on_a_dollar_are_twenty_in_tasks(world: World, workers: int) -> None:
    async with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:

        async def buy() -> int:
            bought = 0
            while True:
                try:
                    async with await run.areserve(cost_usd=0.05) as reservation:
                        await asyncio.sleep(0)
                        reservation.commit(Usage(cost_usd=0.05))
                except BudgetExceeded as denied:
                    if denied.reason == "busy":
                        await asyncio.sleep(0)
                        continue
                    return bought
                bought += 1

        assert sum(await asyncio.gather(*(buy() for _ in range(workers)))) == 20
        assert run.usage.cost_usd == Decimal(1)


@pytest.mark.parametrize("workers", [1, 8, 32, 128])
def test_s13_holds_for_checks_and_records_under_one_lock_too(world: World, workers: int) -> None:
    with world.run(RunBudget(max_steps=20), reraise=False) as run, ThreadPoolExecutor(workers) as pool:

        def call() -> bool:
            try:
                run.reserve().commit(Usage(1, 1))
            except BudgetExceeded:
                return False
            return True

        made = sum(pool.map(lambda _: call(), range(400)))
        assert made == run.usage.steps == 20


# --- the ledger, through a run

MILLION = RunBudget(max_tokens=1_000_000)


@pytest.mark.parametrize(("actual", "left"), [(3000, 997_000), (8000, 992_000)])
def test_a_commit_charges_the_actual(world: World, actual: int, left: int) -> None:
    with world.run(MILLION) as run:
        reservation = run.reserve(tokens=5000)
        assert reservation.held == {"steps": 1, "tokens": 5000, "input_tokens": 5000}
        reservation.commit(Usage(tokens=actual))
        assert (run.usage.tokens, run.remaining()["tokens"], reservation.held) == (actual, left, {})


def test_overage_is_shown_and_denies_until_extended(world: World) -> None:
    with world.run(MILLION, reraise=False) as run:
        run.record(Usage(tokens=990_000))
        run.reserve(tokens=1000).commit(Usage(tokens=50_000))
        assert (run.remaining()["tokens"], run.receipt().overage) == (0, {"tokens": 40_000})
        for _ in range(2):
            with pytest.raises(BudgetExceeded):
                run.check()
        run.extend(tokens=50_000)
        assert run.check()


def test_a_second_release_changes_nothing_and_says_so(world: World) -> None:
    with world.run(MILLION) as run:
        reservation = run.reserve(tokens=5000)
        assert reservation.release() is True
        assert reservation.release() is False
        assert (run.usage.steps, run.remaining()["tokens"]) == (0, 1_000_000)


def test_a_second_commit_replays_or_is_an_error(world: World) -> None:
    with world.run(MILLION) as run:
        reservation = run.reserve(tokens=5000)
        assert [reservation.commit(Usage(tokens=10)).replayed for _ in range(2)] == [False, True]
        with pytest.raises(IdempotencyError):
            reservation.commit(Usage(tokens=11))
        with pytest.raises(IdempotencyError):
            reservation.commit()
        assert run.usage.tokens == 10


def test_a_crashed_explicit_hold_comes_back_at_every_level(world: World) -> None:
    with world.run(MILLION) as run, run.child(MILLION) as child:
        child.reserve(tokens=999_999)
        gc.collect()
        world.advance(64.9)
        with pytest.raises(BudgetExceeded, match="busy"):
            child.check(tokens=1_000_000)
        world.advance(0.2)
        child.reserve(tokens=1_000_000).release()
        child.acknowledge()
        run.acknowledge()
        assert (run.usage.steps, child.usage.steps) == (0, 0)


def test_a_crashed_guards_hold_keeps_a_step_and_its_input_estimate(world: World) -> None:
    world.activate()
    with world.run(RunBudget(max_tokens=1000)) as run:
        begin(ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=900))
        gc.collect()
        world.advance(66)
        run.reserve(tokens=960).release()
        assert (run.usage.steps, run.usage.input_tokens, run.usage.output_tokens) == (1, 40, 0)
        assert run.usage.cost_usd == Decimal("0.00004")


def test_a_dollar_held_by_eight_is_busy_for_the_sixth_and_can_be_spent_to_the_end(world: World) -> None:
    with world.run(RunBudget(max_cost_usd=1)) as run:
        open_holds = [run.reserve(cost_usd=0.2) for _ in range(5)]
        with pytest.raises(BudgetExceeded, match="busy") as denied:
            run.reserve(cost_usd=0.2)
        assert (denied.value.reason, denied.value.retry_after_s is not None) == ("busy", True)
        for hold in open_holds:
            hold.commit(Usage(cost_usd=0.02))
        while run.can_proceed(cost_usd=0.2):
            run.reserve(cost_usd=0.2).commit(Usage(cost_usd=0.02))
        run.reserve(cost_usd=run.remaining()["cost_usd"]).commit()
        assert run.usage.cost_usd == Decimal(1)
    assert world.span("otelbudget.run").attributes["otelbudget.outcome"] == "completed"  # type: ignore[index]


def test_a_refused_tool_never_blocks_a_model_call(world: World) -> None:
    with world.run(RunBudget(max_tool_calls=2), reraise=False) as run:
        for _ in range(2):
            with run.tool_call("a"):
                pass
        for _ in range(2):
            with pytest.raises(BudgetExceeded) as denied:
                run.tool_call("a").__enter__()
            assert denied.value.reason == "limit"
        assert run.check()
        assert run.reserve(tokens=5)


async def test_parallel_tools_are_not_nested(world: World) -> None:
    async with world.run(RunBudget(max_nested_tool_calls=0)) as run:

        async def tool(name: str) -> None:
            async with run.tool_call(name):
                await asyncio.sleep(0)

        await asyncio.gather(*(tool(name) for name in "abcd"))
        assert run.usage.tool_calls == 4


def test_a_limit_raised_after_exhaustion_admits_more_and_rearms(world: World) -> None:
    with world.run(RunBudget(max_steps=2)) as run:
        checked(run, [(1, 1)] * 5)
        assert run.state == "exhausted"
        run.extend(to={"steps": 4})
        assert run.state == "active"
        assert checked(run, [(1, 1)] * 2) == [6, 8]
    ratios = [dict(a)["otelbudget.ratio"] for n, a in said(world.span("otelbudget.run")) if n.endswith("threshold")]
    assert ratios == [0.8, 0.95, 1.0, 0.8, 0.95, 1.0]


def test_observe_mode_admits_counts_and_says_warn(world: World) -> None:
    with world.run(RunBudget(max_steps=1, on_exhausted="warn")) as run:
        assert len(checked(run, [(1, 1)] * 3)) == 3
        assert run.check().warned
    assert world.counted() == {("check", "allow", ""): 1, ("check", "warn", "limit"): 3}


@pytest.mark.parametrize("tight", [None, "org", "tenant", "user", "run"])
def test_ten_are_held_on_organisation_tenant_user_and_run_or_on_none(
    make_world: Callable[..., World], tight: str | None
) -> None:
    scopes = ("org", "tenant", "user", "run")
    limit = {scope: 9 if scope == tight else 10 for scope in scopes}
    quotas = {scope: (Quota(tokens=limit[scope]),) for scope in scopes[:3]}
    quotas = Quotas(org=quotas["org"], default=quotas["tenant"], users={"eve": quotas["user"]})
    world = make_world(config=Config(quotas=quotas))
    with world.run(RunBudget(max_tokens=limit["run"]), user="eve", reraise=False) as run:
        denied = None
        try:
            hold = run.reserve(tokens=10)
        except BudgetExceeded as error:
            denied = error.scope
        assert denied == tight
        accounts = run._state.binding().accounts
        held = {account.scope: reserved_of(account)[1] for account in accounts}
        assert held == dict.fromkeys(scopes, 10 if tight is None else 0)
        if tight is None:
            hold.release()
            assert not any(any(reserved_of(account)) for account in accounts)


def test_only_one_of_three_children_gets_its_ninety_cents_of_a_dollar(world: World) -> None:
    admitted = 0
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:
        for _ in range(3):
            with run.child(RunBudget(max_cost_usd=0.9), reraise=False) as child:
                try:
                    child.reserve(cost_usd=0.9).commit()
                    admitted += 1
                except BudgetExceeded as denied:
                    assert (denied.used, denied.limit) == (Decimal("0.9"), Decimal(1))  # noqa: PT017 - the loop goes on
        assert (admitted, run.usage.cost_usd) == (1, Decimal("0.9"))


def test_an_unknown_model_under_a_cost_limit_is_denied_unpriced(world: World) -> None:
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="mystery", input_tokens=5)
    with world.run(RunBudget(max_cost_usd=1), reraise=False), pytest.raises(BudgetExceeded, match="mystery") as denied:
        begin(request)
    assert denied.value.reason == "unpriced"


# --- what leaves the run


def test_an_acknowledged_denial_is_quiet_and_another_is_raised_again(world: World) -> None:
    with world.run(RunBudget(max_steps=0)) as run:
        with pytest.raises(BudgetExceeded):
            run.check()
        run.acknowledge()
    raised: list[BudgetExceeded] = []

    def swallows() -> None:
        with world.run(RunBudget(max_steps=0)) as run:
            try:
                run.check()
            except BudgetExceeded as denied:
                raised.append(denied)

    with pytest.raises(BudgetExceeded) as again:
        swallows()
    assert again.value is raised[0]


# --- telemetry truth


def test_with_sampling_off_limits_hold_counters_are_exact_and_nothing_is_exported(
    make_world: Callable[..., World],
) -> None:
    world = make_world(sampler=ALWAYS_OFF)
    with world.run(RunBudget(max_steps=3), reraise=False) as run:
        assert len(checked(run, [(10, 5)] * 9)) == 3
    assert (world.spent()[:2], world.records()) == ((30, 15), 3)
    assert world.counted() == {("check", "allow", ""): 3, ("check", "deny", "limit"): 1}
    assert world.spans() == []


def test_totals_on_the_run_span_come_from_the_runs_own_accounting(world: World) -> None:
    with world.run() as run:
        for given, made in [(100, 50), (80, 70), (70, 80)]:
            run.record(Usage(given, made))
    attributes = dict(world.span("otelbudget.run").attributes or {})
    assert attributes["otelbudget.used.steps"] == 3
    assert attributes["otelbudget.used.tokens"] == 450
    assert attributes["otelbudget.used.direct.tokens"] == 450


async def test_runs_of_tasks_and_threads_do_not_mix(world: World) -> None:
    world.activate()

    async def task(number: int) -> None:
        async with world.run(RunBudget(max_steps=number), tenant=f"task{number}") as run:
            for _ in range(number):
                await asyncio.sleep(0)
                here = otelbudget.current_run()
                assert here == run
                here.record_call(10 * number)
            assert run.usage.tokens == 10 * number**2

    def thread(number: int) -> None:
        with world.run(RunBudget(max_steps=50), tenant=f"thread{number}") as run:
            for _ in range(50):
                here = otelbudget.current_run()
                assert here == run
                here.record_call(number)
            assert run.usage.tokens == 50 * number

    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(thread, number) for number in range(10)]
        await asyncio.gather(task(2), task(3))
        for future in futures:
            future.result()
    assert world.spent()[0] == 40 + 90 + 50 * 45


def test_many_runs_and_tenants_keep_the_sum_and_the_bounds(world: World) -> None:
    spent: dict[str, int] = {}
    for number in range(10_000):
        with world.run(tenant=f"t{number % 700}") as run:
            run.record(Usage(number, 1, model=f"model-{number % 90}"))
            spent[run.tenant] = spent.get(run.tenant, 0) + (run.usage.tokens or 0)
    snapshot = world.engine.meters.snapshot()
    counted = (sum(c.input for c in snapshot.spends), sum(c.output for c in snapshot.spends))
    assert counted == (sum(range(10_000)), 10_000)
    assert (sum(counted), len(spent)) == (sum(spent.values()), 700)
    assert len({c.tenant for c in snapshot.spends}) <= 501
    assert len({c.model for c in snapshot.spends}) <= 52
    assert snapshot.label_overflow > 0
