"""Every public call as a type checker sees it: a change that breaks a caller's types breaks this file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from email.message import Message
from typing import Any, assert_type

import otelbudget
from otelbudget import (
    BudgetExceeded,
    BudgetManager,
    BudgetRun,
    Config,
    Decision,
    Quota,
    Quotas,
    QuotaService,
    Receipt,
    RunBudget,
    Usage,
)
from otelbudget.quota import QuotaUsage
from otelbudget.runs.reservation import Reservation

budget = RunBudget(max_steps=5, max_tokens=2000, max_seconds=10, max_cost_usd=Decimal("0.05"), wrap_up={"tokens": 500})
usage = Usage(input_tokens=80, output_tokens=20, model="gpt-4o-mini")


written = RunBudget(max_tokens="2k", max_cost_usd="$0.05", max_seconds=timedelta(minutes=2), thresholds=["80%"])
assert_type(written.max_tokens, int | None)


quotas = Quotas(default=[Quota(tokens="1M")], tags={"team": {"search": [Quota(cost_usd=5)]}})


def setting_up() -> None:
    manager = otelbudget.setup(budget, exporter="none", metrics_port=None, instrument=False)
    assert_type(manager, BudgetManager)
    assert_type(manager.check(tokens=100), Decision)
    assert_type(manager.can_proceed(steps=1), bool)
    manager.record_call(350)
    assert_type(manager.remaining(), dict[str, Any])
    assert_type(otelbudget.current_run(), BudgetRun | None)
    assert_type(otelbudget.load_budget_config("budgets.yaml"), Config)
    assert_type(otelbudget.estimate_tokens("hello"), int)
    assert_type(otelbudget.estimate_tokens("hello", "gpt-4o"), int)
    otelbudget.shutdown()


def running() -> None:
    with otelbudget.run("deep_research", tenant="acme", user="u1") as run:
        assert_type(run, BudgetRun)
        assert_type(run.check(steps=1, tokens=100, cost_usd=0.01), Decision)
        with run.reserve(tokens=500) as reservation:
            reservation.extend(tokens=100)
            assert_type(reservation.commit(usage).replayed, bool)
            assert_type(reservation.release(), bool)
        once = run.reserve(tokens=500, idempotency_key="k", on_unknown="input")
        assert_type(once.replayed, bool)
        assert_type(run.record(usage, idempotency_key="r").replayed, bool)
        with run.tool_call("search"):
            run.record(usage)
        with run.child(RunBudget(max_steps=1)) as child:
            child.record_call(10)
        run.extend(steps=2, actor="ops")
        run.acknowledge()
        assert_type(run.usage, Usage)
        assert_type(run.receipt(), Receipt)


def pausing() -> None:
    with otelbudget.run(budget) as run:
        state = run.export_state()
        assert_type(state, dict[str, Any])
    with otelbudget.resume(state, on_exhausted=lambda denial, run: True) as again:
        assert_type(again, BudgetRun)


def sharing() -> None:
    with otelbudget.run(budget, shared=True) as run:
        assert_type(run.run_id, str)
    with otelbudget.continue_run(Message()), otelbudget.continue_run("0" * 32) as again:
        assert_type(again, BudgetRun)
    with otelbudget.continue_run({"baggage": ""}, tenant="acme", on_exhausted=lambda denial, run: True) as again:
        assert_type(again, BudgetRun)


async def running_async() -> None:
    async with otelbudget.run(budget) as run:
        await run.acheck(tokens=1)
        async with await run.areserve(tokens=500) as reservation:
            await reservation.acommit(usage)
        await run.arecord(usage, idempotency_key="r")
        async with run.tool_call("search", call_id="call_2") as call:
            assert_type(call.name, str)
        held = await run.areserve(steps=1, wait_s=2)
        await held.arelease()
        async with run.timeout():
            await run.aextend(seconds=5)
            assert_type(run.deadline, float | None)
        async with run.wrap_up():
            await run.arecord_call(10)


@otelbudget.run(budget)
def plain(question: str) -> str:
    return question


@otelbudget.run(budget)
async def coroutine(question: str) -> str:
    return question


@otelbudget.run(budget)
def generator() -> Iterator[int]:
    yield 1


@otelbudget.run(budget)
async def async_generator() -> AsyncIterator[int]:
    yield 1


assert_type(plain("a"), str)
assert_type(next(generator()), int)


def refused(error: BudgetExceeded) -> None:
    assert_type(error.reason, str)
    assert_type(error.resource, str | None)
    assert_type(otelbudget.is_budget_exceeded(error), bool)


service = QuotaService(10_000, quotas={"acme": 500, "big": [Quota(tokens=10**6), Quota(cost_usd=5, per="month")]})
shared = QuotaService(store=BudgetManager(budget))
alone = QuotaService(None, store="sqlite:///quotas.db", timezone="Europe/Berlin", reserve_for={"high": 0.2})
assert_type(service.check_quota("acme", 100, "normal"), bool)
assert_type(service.check_quota("acme", cost_usd=Decimal("0.05"), model="gpt-4o-mini", user="u1"), bool)
assert_type(service.remaining("acme", priority="low"), int)
assert_type(service.remaining_of("acme"), dict[str, Any])
assert_type(service.usage("acme"), QuotaUsage)
assert_type(service.usage("acme").tokens, int)
assert_type(service.usage("acme").lines[0].resets_at, datetime | None)
assert_type(service.usage("acme").resets_at, datetime | None)
service.consume_quota("acme", 100, steps=1, idempotency_key="job-1")
service.set_quota("acme", 5000, actor="ops")
service.set_quota("acme", Quota(tokens=10))
service.set_quota("acme", None)
service.reset("acme", reason="incident 7")
with service.reserve("acme", 100, "high", wait_s=0.5) as quota_hold:
    assert_type(quota_hold, Reservation)
    quota_hold.extend(tokens=50)
    quota_hold.commit(80)


def reloading(manager: BudgetManager) -> None:
    otelbudget.setup("budgets.yaml", reload_s=5)
    assert_type(manager.reload(), bool)
    assert_type(manager.reload("other.yaml"), bool)
    assert_type(manager.reload(Config()), bool)
