"""Quotas of tenants for code that does its own calls: checked, consumed, held, changed, reset by the clock."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from world import PRICES, World, said

import otelbudget
from otelbudget import (
    BudgetExceeded,
    Config,
    ConfigError,
    IdempotencyError,
    Quota,
    QuotaService,
    Usage,
)
from otelbudget.config import StoreConfig
from otelbudget.engine import context
from otelbudget.model.quota import Quotas
from otelbudget.runs import reserving

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
CENT = Decimal("0.01")


class Clock:
    now_s = NOON

    def __call__(self) -> float:
        return self.now_s

    def at(self, *when: int) -> None:
        self.now_s = datetime(*when, tzinfo=UTC).timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def used(service: QuotaService, tenant: str = "acme") -> int:
    return service.usage(tenant).tokens


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A manager whose tenants may use 100 tokens a day, each."""
    return platform(make_world, quotas=Quotas(default=(Quota(tokens=100),)))


def platform(make_world: Callable[..., World], **options: Any) -> World:
    return make_world(config=Config(prices=PRICES, **options))


def test_exactly_the_quota_may_be_used() -> None:
    service = QuotaService(1000)
    service.consume_quota("acme", 400)
    assert service.check_quota("acme", 600)
    assert not service.check_quota("acme", 601)
    assert (service.remaining("acme"), used(service)) == (600, 400)


def test_tenants_do_not_share_and_may_have_their_own() -> None:
    service = QuotaService(100, quotas={"big": 5000, "none": Quota(tokens=0), "trial-*": [Quota(tokens=1)]})
    service.consume_quota("small", 100)
    assert not service.check_quota("small", 1)
    assert service.check_quota("other", 100)
    assert service.check_quota("big", 5000)
    assert not service.check_quota("none", 1)
    assert service.check_quota("none", 0)
    assert (service.remaining("trial-1"), service.remaining("trial-2")) == (1, 1)


def test_consuming_may_exceed_and_the_rest_is_zero_not_negative() -> None:
    service = QuotaService(100)
    service.consume_quota("acme", 250)
    assert (service.remaining("acme"), used(service)) == (0, 250)


def test_a_usage_is_consumed_as_a_run_records_it() -> None:
    service = QuotaService([Quota(tokens=100), Quota(steps=10)])
    service.consume_quota("acme", Usage(20, 5))
    assert (used(service), service.remaining_of("acme")["steps"]) == (25, 9)


def test_quotas_of_any_resource_and_window_all_bind(clock: Clock) -> None:
    service = QuotaService(
        [Quota(tokens=1000), Quota(cost_usd=Decimal("0.05"), per="month"), Quota(steps=3, per="rolling 1h")],
        clock_s=clock,
    )
    assert service.check_quota("acme", 1000, cost_usd=0.05)
    assert not service.check_quota("acme", 1000, cost_usd=0.06)
    assert not service.check_quota("acme", 1, steps=4)
    service.consume_quota("acme", 900, cost_usd=0.02, steps=3)
    assert not service.check_quota("acme", 1)  # its step
    assert service.check_quota("acme", 1, steps=0)
    assert service.remaining_of("acme") == {
        "steps": 0,
        "tokens": 100,
        "input_tokens": None,
        "output_tokens": None,
        "cost_usd": Decimal("0.03"),
        "tool_calls": None,
        "nested_tool_calls": None,
    }
    clock.now_s += 3700
    assert service.check_quota("acme", 1)


def test_without_amounts_a_check_asks_for_one_call() -> None:
    service = QuotaService([Quota(tokens=10), Quota(cost_usd=CENT)])
    assert service.check_quota("acme")
    service.consume_quota("acme", cost_usd=CENT)
    assert not service.check_quota("acme")
    assert service.check_quota("acme", 10)  # says nothing of money


def test_where_nothing_limits_tokens_as_many_remain_as_can_be_asked_for() -> None:
    service = QuotaService(None, quotas={"acme": Quota(cost_usd=1)})
    for tenant in ("acme", "visitor"):
        assert service.remaining(tenant) == 2**53 - 1
        assert service.check_quota(tenant, service.remaining(tenant))
    assert service.usage("visitor").resets_at is None
    service.consume_quota("visitor", 5)
    assert service.usage("visitor").lines == ()


def test_the_next_day_begins_at_zero_without_anybody_resetting(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    service.consume_quota("acme", 100)
    clock.at(2026, 11, 24, 23, 59, 59)
    assert not service.check_quota("acme", 1)
    assert service.usage("acme").resets_at == datetime(2026, 11, 25, tzinfo=UTC)
    clock.now_s += 1
    assert service.check_quota("acme", 100)
    assert service.remaining("acme") == 100


def test_the_day_is_that_of_the_zone(clock: Clock) -> None:
    service = QuotaService(100, timezone="Asia/Tokyo", clock_s=clock)
    service.consume_quota("acme", 100)
    clock.at(2026, 11, 24, 15)
    assert service.check_quota("acme", 100)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 24), 24)])
def test_a_day_has_as_many_hours_as_its_clocks_say(clock: Clock, day: tuple[int, int, int], hours: int) -> None:
    service = QuotaService(100, timezone="Europe/Berlin", clock_s=clock)
    clock.at(*day, 6)
    begins_s = clock.now_s
    while service.usage("acme").lines[0].window == f"{day[0]}-{day[1]:02}-{day[2]:02}":
        begins_s = clock.now_s
        clock.now_s -= 1800
    clock.now_s = begins_s
    service.consume_quota("acme", 100)
    clock.now_s += hours * 3600 - 1
    assert not service.check_quota("acme", 1)
    clock.now_s += 1
    assert service.check_quota("acme", 100)


def test_a_clock_that_jumps_finds_what_each_day_had(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    service.consume_quota("acme", 70)
    for jump_s in (86_400, -86_400, 40 * 86_400):
        clock.now_s += jump_s
        service.consume_quota("acme", 5)
    assert used(service) == 5
    clock.now_s = NOON  # forty days back: nobody means such a jump, so its day is not free
    assert (used(service), service.check_quota("acme", 26)) == (75, False)


def test_the_clock_may_be_set_back_to_a_day_whose_quota_has_changed_since(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    service.consume_quota("acme", 70)
    clock.now_s += 86_400
    service.set_quota("acme", 80)
    clock.now_s -= 86_400
    assert service.remaining("acme") == 10


# --- priorities


def test_lower_priorities_stop_before_what_is_kept_for_higher_ones() -> None:
    service = QuotaService(100, reserve_for={"high": 0.2, "normal": 0.2})
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 60, p)] == ["low", "normal", "high"]
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 61, p)] == ["normal", "high"]
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 81, p)] == ["high"]
    assert service.check_quota("acme", 100, "high")
    assert [service.remaining("acme", priority=p) for p in ("low", "normal", "high")] == [60, 80, 100]
    assert service.remaining("acme") == 100
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 61, "low")
    assert (caught.value.limit, caught.value.requested) == (60, 61)


def test_a_quota_that_says_itself_what_it_keeps_is_left_alone() -> None:
    own = {"plain": Quota(tokens=100), "none": Quota(tokens=100, reserve_for={})}
    service = QuotaService(quotas=own, reserve_for={"high": 0.5})
    assert [service.remaining(name, priority="normal") for name in ("plain", "none")] == [50, 100]


@given(
    limit=st.integers(0, 1000),
    spent=st.integers(0, 1200),
    kept=st.sampled_from([None, {"high": 0.2, "normal": 0.3}, {"high": 1.0}]),
    priority=st.sampled_from(["low", "normal", "high"]),
)
def test_what_remains_is_the_most_that_a_check_allows(limit: int, spent: int, kept: Any, priority: str) -> None:
    service = QuotaService(limit, reserve_for=kept)
    service.consume_quota("acme", spent)
    left = service.remaining("acme", priority=priority)
    assert service.check_quota("acme", left, priority)
    assert not service.check_quota("acme", left + 1, priority)


def test_an_unknown_priority_is_an_error() -> None:
    for priority in ("urgent", "", None):
        with pytest.raises(ValueError, match="known are low, normal, high"):
            QuotaService().check_quota("acme", 1, priority)  # type: ignore[arg-type]


# --- reservations


def test_a_reservation_holds_until_it_is_settled(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    held = service.reserve("acme", 80)
    assert (service.remaining("acme"), held.held["tokens"]) == (20, 80)
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 30)
    assert caught.value.reason == "busy"
    assert not held.commit(10).replayed
    assert held.commit(10).replayed
    with pytest.raises(IdempotencyError):
        held.commit(99)
    assert (held.release(), held.already_settled) == (False, True)
    assert (used(service), service.remaining("acme"), held.settled) == (10, 90, True)
    service.reserve("acme", 90).release()
    service.reserve("acme", 90).commit()
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 1)
    error = caught.value
    assert (error.reason, error.scope, error.used, error.limit) == ("limit", "tenant", 100, 100)
    assert (error.budget, error.receipt) == ("tokens per day", None)
    assert error.resets_at == datetime(2026, 11, 25, tzinfo=UTC)
    assert error.retry_after_s == 12 * 3600
    assert "acme" in str(error)
    assert "resets at 2026-11-25" in str(error)


def test_a_block_left_without_a_commit_charges_all_and_names_the_place(caplog: pytest.LogCaptureFixture) -> None:
    service = QuotaService(100)
    with service.reserve("acme", 60):
        pass
    assert used(service) == 60
    assert f"near {__file__}:" in caplog.text
    with pytest.raises(KeyError), service.reserve("acme", 30):
        raise KeyError
    with pytest.raises(KeyError), service.reserve("acme", 10, on_unknown="open"):
        raise KeyError
    assert used(service) == 90


def test_a_reservation_can_grow_and_is_settled_by_a_usage() -> None:
    service = QuotaService([Quota(tokens=100), Quota(steps=10)])
    held = service.reserve("acme", 50)
    held.extend(tokens=50)
    with pytest.raises(BudgetExceeded):
        held.extend(tokens=1)
    held.commit(Usage(input_tokens=20, output_tokens=5, steps=2))
    assert (used(service), service.remaining_of("acme")["steps"]) == (25, 8)
    with pytest.raises(ValueError, match="settled"):
        held.extend(tokens=1)


@pytest.mark.parametrize(("asked", "steps"), [({}, 1), ({"steps": 3}, 3), ({"steps": 0}, 0)])
def test_committing_tokens_charges_the_steps_that_were_reserved(asked: dict[str, int], steps: int) -> None:
    service = QuotaService([Quota(tokens=100), Quota(steps=10)])
    service.reserve("acme", 50, **asked).commit(40)
    assert (used(service), service.remaining_of("acme")["steps"]) == (40, 10 - steps)


def test_a_hold_is_charged_to_the_day_in_which_it_was_made(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    held = service.reserve("acme", 80)
    clock.now_s += 24 * 3600
    assert service.remaining("acme") == 100
    held.commit(80)
    assert used(service) == 0
    clock.now_s -= 24 * 3600
    assert used(service) == 80


def test_a_reservation_that_is_lost_gives_back_what_it_held(world: World) -> None:
    service = QuotaService(store=world.manager)
    service.reserve("acme", 80)
    gc.collect()
    assert not service.check_quota("acme", 21)
    world.advance(66)
    assert service.check_quota("acme", 100)
    assert used(service) == 0


def test_a_key_makes_one_reservation_and_one_charge_also_when_others_came_between() -> None:
    service = QuotaService(100)
    first = service.reserve("acme", 80, idempotency_key="job-1")
    service.consume_quota("other", 5, idempotency_key="job-2")
    for i in range(5):
        service.consume_quota(f"visitor-{i}", 1)
    again = service.reserve("acme", 80, idempotency_key="job-1")
    assert (first.replayed, again.replayed, service.remaining("acme")) == (True, True, 20)
    service.consume_quota("other", 5, idempotency_key="job-2")
    assert used(service, "other") == 5
    with pytest.raises(IdempotencyError):
        service.reserve("acme", 70, idempotency_key="job-1")
    with pytest.raises(IdempotencyError):
        service.consume_quota("other", 6, idempotency_key="job-2")


def test_a_key_is_the_tenants_whichever_user_priority_or_service_it_comes_through(world: World) -> None:
    service, other = QuotaService(store=world.manager), QuotaService(store=world.manager)
    first = service.reserve("acme", 40, idempotency_key="job")
    for again in (
        service.reserve("acme", 40, "high", idempotency_key="job"),
        service.reserve("acme", 40, user="ann", idempotency_key="job"),
        other.reserve("acme", 40, model="demo", idempotency_key="job"),
    ):
        assert (again.replayed, again.held) == (True, first.held)
    with pytest.raises(IdempotencyError):
        other.consume_quota("acme", 40, user="ann", idempotency_key="job")
    assert service.remaining("acme") == 60
    assert not service.reserve("rival", 40, idempotency_key="job").replayed
    service.consume_quota("acme", 5, idempotency_key="charge")
    other.consume_quota("acme", 5, user="ann", idempotency_key="charge")
    assert service.remaining("acme") == 55


def test_a_reservation_that_is_given_again_after_it_was_lost_settles_where_it_was_made(world: World) -> None:
    service = QuotaService(store=world.manager)
    service.reserve("acme", 40, "high", idempotency_key="job")
    again = service.reserve("acme", 40, "low", user="ann", idempotency_key="job")
    assert again.commit(30).replayed is False
    assert service.remaining("acme") == 70
    assert {line.reserved for line in service.usage("acme").lines} == {0}


def test_keys_outlive_many_tenants_and_the_oldest_settled_ones_are_forgotten_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reserving, "KEPT", 80)
    service = QuotaService(100)
    held = service.reserve("held", 10, idempotency_key="job")
    for _ in range(2):
        for i in range(70):
            service.consume_quota(f"visitor-{i}", 5, idempotency_key="job")
    assert {used(service, f"visitor-{i}") for i in range(70)} == {5}
    assert not caplog.records
    for i in range(70, 300):
        service.consume_quota(f"visitor-{i}", 5, idempotency_key="job")
    assert [record.getMessage()[:26] for record in caplog.records] == ["idempotency keys beyond 80"]
    service.consume_quota("visitor-0", 5, idempotency_key="job")
    service.consume_quota("visitor-299", 5, idempotency_key="job")
    assert (used(service, "visitor-0"), used(service, "visitor-299")) == (10, 5)
    assert service.reserve("held", 10, idempotency_key="job").held == held.held
    assert service.remaining("held") == 90


# --- changing quotas


def test_a_quota_can_be_changed_and_used_tokens_forgotten() -> None:
    service = QuotaService(100)
    service.consume_quota("acme", 100)
    service.set_quota("acme", 150)
    assert service.remaining("acme") == 50
    service.set_quota("acme", Quota(tokens=10))
    assert service.remaining("acme") == 0
    held = service.reserve("acme", 0, input_tokens=0, steps=1)
    service.reset("acme")
    assert (service.remaining("acme"), used(service)) == (10, 0)
    held.release()
    service.set_quota("acme", None)
    assert service.remaining("acme") == 100


def test_a_reset_keeps_what_is_held_and_says_thresholds_anew(world: World) -> None:
    service = QuotaService(store=world.manager)
    held = service.reserve("acme", 40)
    with world.tracer.start_as_current_span("job"):
        service.consume_quota("acme", 60)  # 60 %
        service.consume_quota("acme", 20)  # 80 %
        service.reset("acme", actor="ops", reason="incident 7")
        service.consume_quota("acme", 80)
    assert service.remaining("acme") == 0
    held.release()
    events = said(world.span("job"))
    assert [event["otelbudget.ratio"] for name, event in events if name == "otelbudget.threshold"] == [0.8, 0.8]
    assert [event for name, event in events if name == "otelbudget.reset"] == [
        {
            "otelbudget.scope": "tenant",
            "otelbudget.tenant": "acme",
            "otelbudget.budget": "tokens per day",
            "otelbudget.resource": "tokens",
            "otelbudget.old": 80.0,
            "otelbudget.new": 0.0,
            "otelbudget.actor": "ops",
            "otelbudget.reason": "incident 7",
        }
    ]


def test_a_number_changes_the_tokens_of_the_daily_quota_and_nothing_else(clock: Clock) -> None:
    daily = Quota(tokens=100, timezone="Asia/Tokyo", reserve_for={"high": 0.5}, name="mine")
    service = QuotaService(quotas={"acme": [Quota(cost_usd=1, per="month"), daily]}, clock_s=clock)
    service.consume_quota("acme", 20)
    service.set_quota("acme", 200)
    assert [service.remaining("acme", priority=p) for p in ("normal", "high")] == [80, 180]
    assert service.remaining_of("acme")["cost_usd"] == 1
    money, tokens = service.usage("acme").lines
    assert (money.overridden, tokens.overridden, tokens.quota, tokens.limit) == (False, True, "mine", 200)


def test_a_quota_of_the_same_window_is_replaced_by_name_or_resources_and_others_come_on_top(clock: Clock) -> None:
    service = QuotaService([Quota(tokens=100, name="a"), Quota(cost_usd=1, name="b")], clock_s=clock)
    service.consume_quota("acme", 50, cost_usd=CENT)
    service.set_quota("acme", [Quota(cost_usd=2, tokens=70, name="b"), Quota(tokens=300)])
    assert [(one.quota, one.resource, one.limit) for one in service.usage("acme").lines] == [
        ("a", "tokens", 300),
        ("b", "tokens", 70),
        ("b", "cost_usd", 2),
    ]
    assert service.remaining("acme") == 20
    service.set_quota("acme", Quota(tokens=60, per="week"))
    assert service.remaining("acme") == 20  # it is another window, which begins at zero
    service.consume_quota("acme", 15)
    assert service.remaining("acme") == 5
    assert len(service.usage("acme").lines) == 4
    service.set_quota("acme", None)
    assert [(one.quota, one.limit) for one in service.usage("acme").lines] == [("a", 100), ("b", 1)]


def test_a_tenant_that_nobody_has_seen_can_be_given_a_quota() -> None:
    service = QuotaService(None)
    service.set_quota("acme", 50)
    assert (service.remaining("acme"), service.check_quota("acme", 51)) == (50, False)
    service.set_quota("acme", 60)
    assert [line.limit for line in service.usage("acme").lines] == [60]
    service.set_quota("acme", None)
    assert service.check_quota("acme", 51)
    service.set_quota("acme", None)


def test_a_change_of_limits_is_an_event_for_each_resource_that_changes(make_world: Callable[..., World]) -> None:
    world = platform(make_world, quotas=Quotas(default=(Quota(tokens=100, cost_usd=1, name="q"),)))
    service = QuotaService(store=world.manager)
    with world.tracer.start_as_current_span("job"):
        service.set_quota("acme", Quota(tokens=100, steps=5, name="q"), actor="ops")
        service.set_quota("acme", None, actor="ops")
    changes = [
        tuple(event.get(f"otelbudget.{key}") for key in ("resource", "old", "new", "actor", "budget"))
        for name, event in said(world.span("job"))
        if name == "otelbudget.extend"
    ]
    assert changes == [
        ("steps", None, 5.0, "ops", "q"),
        ("cost_usd", 1.0, None, "ops", "q"),
        ("steps", 5.0, None, "ops", "q"),
        ("cost_usd", None, 1.0, "ops", "q"),
    ]


def test_a_change_is_logged_where_there_is_no_span(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "otelbudget")
    QuotaService(100).set_quota("acme", 5, actor="ops")
    assert "of quota 'tokens per day' of tenant 'acme': tokens was 100.0 and is 5.0 now (actor ops" in caplog.text


def test_a_bad_quota_changes_nothing(world: World) -> None:
    service = QuotaService(store=world.manager)
    bad: list[Any] = [-1, 1.5, "five", {"acme": 5}, [Quota(tokens=5), 7], Quota(tokens=5, per="run"), True]
    for quota in bad:
        with pytest.raises(ConfigError):
            service.set_quota("acme", quota)
    assert [line.overridden for line in service.usage("acme").lines] == [False]


def test_who_waits_for_a_quota_hears_of_a_new_one() -> None:
    service = QuotaService(100)
    service.consume_quota("acme", 100)
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(lambda: (waiting.set(), service.reserve("acme", 50, wait_s=30)))
        waiting.wait()
        service.set_quota("acme", 150)
        later.result(timeout=10)[1].commit(50)
    assert used(service) == 150


# --- on a manager's accounts


def test_what_a_managers_runs_use_counts_here_and_what_is_consumed_here_counts_there(world: World) -> None:
    service = QuotaService(store=world.manager)
    with world.run(tenant="acme", reraise=False) as run:
        run.record_call(30)
        assert (service.remaining("acme"), run.remaining()["tokens"]) == (70, 70)
        service.consume_quota("acme", 30)
        assert run.remaining()["tokens"] == 40
        assert run.usage.tokens == 30
        held = service.reserve("acme", 30)
        with pytest.raises(BudgetExceeded, match=r"busy.*held 30 of 100"):
            run.check(tokens=11)
        held.commit(40)
        with pytest.raises(BudgetExceeded, match=r"quota 'tokens per day' of tenant 'acme'"):
            run.check(tokens=1)


def test_a_run_that_is_open_is_held_to_a_quota_that_is_set_later(make_world: Callable[..., World]) -> None:
    world = platform(make_world)
    service = QuotaService(store=world.manager)
    with world.run(tenant="acme", reraise=False) as run:
        run.check(steps=1, tokens=100)
        service.set_quota("acme", 50)
        with pytest.raises(BudgetExceeded, match="tokens per day"):
            run.check(steps=1, tokens=100)
        service.set_quota("acme", None)
        run.check(steps=1, tokens=100)


def test_after_setup_a_service_is_about_the_quotas_of_that_manager_and_its_metrics(world: World) -> None:
    world.activate()
    service = QuotaService()
    service.consume_quota("acme", 30)
    with world.run(tenant="acme") as run:
        assert (service.remaining("acme"), run.remaining()["tokens"]) == (70, 70)
    assert world.spent()[0] == 30


@pytest.mark.parametrize("stores", [{}, {"store": "manager"}], ids=["setup", "manager"])
@pytest.mark.parametrize(
    "said",
    [
        {"default_daily_quota": 10_000},
        {"default_daily_quota": None},
        {"quotas": {}},
        {"timezone": "Asia/Tokyo"},
        {"reserve_for": {"high": 0.5}},
        {"clock_s": Clock()},
    ],
    ids=lambda said: next(iter(said)),
)
def test_where_a_manager_decides_nothing_else_can_be_said(world: World, stores: Any, said: dict[str, Any]) -> None:
    world.activate()
    with pytest.raises(ConfigError, match=rf"^{next(iter(said))} can't be given here.*pass store='memory'"):
        QuotaService(**said, **({"store": world.manager} if stores else {}))


def test_a_service_with_a_store_of_its_own_stands_alone_also_after_setup(world: World) -> None:
    world.activate()
    for store in ("memory", StoreConfig()):
        service = QuotaService(50, store=store)
        service.consume_quota("acme", 30)
        assert service.remaining("acme") == 20
    assert QuotaService().remaining("acme") == 100


def test_services_share_a_file_by_its_address(tmp_path: Path) -> None:
    one, other = (QuotaService(50, store=f"sqlite:///{tmp_path}/quotas.db") for _ in range(2))
    one.consume_quota("acme", 30)
    assert (other.remaining("acme"), other.check_quota("acme", 21)) == (20, False)
    with other.reserve("acme", 20) as held:
        assert one.remaining("acme") == 0
        held.commit(5)
    assert one.usage("acme").tokens == 35


def test_before_setup_a_service_stands_alone_also_where_runs_are_open() -> None:
    with otelbudget.run(tenant="acme") as run:
        service = QuotaService(50)
        service.consume_quota("acme", 30)
        assert (service.remaining("acme"), run.remaining()["tokens"]) == (20, None)
    context.deactivate(run._state.engine)


def test_quotas_of_organisation_user_and_model_have_their_say(make_world: Callable[..., World]) -> None:
    quotas = Quotas(
        org=(Quota(tokens=500),),
        default=(Quota(tokens=1000),),
        users={"u*": (Quota(tokens=50),)},
        models={"demo": (Quota(cost_usd=CENT),)},
    )
    world = platform(make_world, quotas=quotas, tenants={"acme": "big", "labs": "big"})
    service = QuotaService(store=world.manager)
    service.consume_quota("labs", 100)
    assert service.remaining("acme") == 400
    assert service.remaining("acme", user="u1") == 50
    assert not service.check_quota("acme", 51, user="u1")
    assert service.check_quota("acme", 51, user="other")
    assert not service.check_quota("acme", 400, model="demo", cost_usd=0.02)
    service.consume_quota("acme", 40, user="u1", model="demo")
    assert not service.check_quota("acme", 11, user="u1")
    report = service.usage("acme", user="u1")
    assert [(line.scope, line.used, line.remaining) for line in report.lines] == [
        ("org", 140, 360),
        ("tenant", 40, 960),
        ("user", 40, 10),
    ]
    assert (report.tenant, report.tokens, used(service, "labs")) == ("acme", 40, 100)


def test_without_enforcement_nothing_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(quotas=Quotas(default=(Quota(tokens=10),))), enforce=False)
    service = QuotaService(store=world.manager)
    assert service.check_quota("acme", 11)
    service.reserve("acme", 20).commit()
    assert world.counted() == {("check", "warn", "limit"): 1, ("reserve", "warn", "limit"): 1}


def test_a_quota_that_was_set_outlives_a_reload_and_others_follow_it(world: World) -> None:
    service = QuotaService(store=world.manager)
    service.set_quota("acme", 150)
    service.consume_quota("acme", 50)
    service.consume_quota("other", 50)
    world.engine.reload(Config(prices=PRICES, quotas=Quotas(default=(Quota(tokens=60),))))
    assert [service.remaining(name) for name in ("acme", "other")] == [100, 10]
    service.set_quota("acme", None)
    assert service.remaining("acme") == 10


# --- telemetry


def test_a_check_is_an_event_on_the_current_span_and_a_count_under_the_quota_that_denies(
    make_world: Callable[..., World],
) -> None:
    world = platform(make_world, quotas=Quotas(default=(Quota(tokens=100, name="daily"),)))
    service = QuotaService(store=world.manager)
    with world.tracer.start_as_current_span("job"):
        assert service.check_quota("acme", 60)
        assert not service.check_quota("acme", 101)
        service.reserve("acme", 70).release()
    kept = {"otelbudget.decision", "otelbudget.reason", "otelbudget.resource", "otelbudget.budget", "otelbudget.scope"}
    events = [{k.removeprefix("otelbudget."): v for k, v in e.items() if k in kept} for _, e in said(world.span("job"))]
    assert events == [
        {"decision": "allow", "resource": "tokens"},
        {"decision": "deny", "reason": "limit", "resource": "tokens", "budget": "daily", "scope": "tenant"},
        {"decision": "allow", "resource": "tokens"},
        {"resource": "steps,tokens,input_tokens"},
    ]
    assert world.counted() == {("check", "allow", ""): 1, ("check", "deny", "limit"): 1, ("reserve", "allow", ""): 1}
    denied = next(cell for cell in world.engine.meters.snapshot().budgets if cell.budget == "daily")
    assert (denied.tenant, {key: tally.n for key, tally in denied.rare.items()}) == (
        "acme",
        {("check", "deny", "limit", "tokens"): 1},
    )


def test_the_span_of_a_run_or_call_stays_that_runs_or_calls(world: World) -> None:
    service = QuotaService(store=world.manager)
    with world.run(tenant="acme") as run:
        service.check_quota("other", 5)
        service.check_quota("other", 101)
        service.consume_quota("other", 5, cost_usd=1)
        with world.tracer.start_as_current_span("call"):
            service.consume_quota("other", 5, cost_usd=1)
    attributes = dict(world.span("otelbudget.run").attributes or {})
    assert (attributes["otelbudget.run.id"], attributes["otelbudget.tenant"]) == (run.run_id, "acme")
    assert "otelbudget.decision" not in attributes
    assert dict(world.span("call").attributes or {}) == {}
    assert run.receipt().denials == 0


def test_what_is_consumed_is_counted_as_spend_and_no_run_is_shown_for_it(world: World) -> None:
    service = QuotaService(store=world.manager)
    service.consume_quota("acme", 30, model="demo")
    service.reserve("acme", 10).commit(Usage(5, 5, cost_usd=0))
    assert world.spent() == (35, 5, 60_000, 0)
    snapshot = world.engine.meters.snapshot()
    assert (snapshot.active_runs, [cell.active for cell in snapshot.tenants if cell.tenant == "acme"]) == ([], [0])
    assert world.engine.explicit_runs == 0


def test_a_service_keeps_no_span_alive(world: World) -> None:
    service = QuotaService(store=world.manager)
    world.activate()
    span = world.tracer.start_span("job")
    with trace.use_span(span, end_on_exit=True):
        service.check_quota("acme", 1)
        service.consume_quota("acme", 1)
        held = service.reserve("acme", 1, idempotency_key="job")
    watched = weakref.ref(span)
    del span
    gc.collect()
    assert (watched(), held.settled) == (None, False)


def test_a_model_without_a_price_refuses_checks_of_it_and_does_not_stop_others(
    make_world: Callable[..., World],
) -> None:
    world = platform(make_world, quotas=Quotas(default=(Quota(cost_usd=1),)))
    service = QuotaService(store=world.manager)
    assert not service.check_quota("acme", 5, model="who")
    service.consume_quota("acme", 5, model="who")
    service.consume_quota("acme", 5)
    assert service.check_quota("acme", 5, model="demo")
    assert service.check_quota("acme", 5, cost_usd=0.5)


# --- many at once


@pytest.mark.parametrize("workers", [2, 8, 32])
def test_threads_never_get_more_than_the_quota(workers: int) -> None:
    service = QuotaService(1000)

    def work(_: int) -> int:
        try:
            service.reserve("acme", 30).commit(30)
        except BudgetExceeded:
            return 0
        return 1

    with ThreadPoolExecutor(workers) as pool:
        admitted = sum(pool.map(work, range(200)))
    while admitted < 33:  # `busy` refusals may leave room behind
        admitted += work(0)
    assert (used(service), work(0)) == (990, 0)


def test_threads_that_change_quotas_lose_no_charge() -> None:
    service = QuotaService(10**6)

    def work(i: int) -> None:
        service.consume_quota("acme", 3)
        if i % 10 == 0:
            service.set_quota("acme", None if i % 20 else i + 1)
            service.usage("acme")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert used(service) == 1200


def test_visitors_fill_no_memory_beyond_their_windows(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    directory = service._engine.directory
    for day in range(4):
        for i in range(1500):
            service.consume_quota(f"visitor-{day}-{i}", 1)
            service.check_quota(f"looker-{day}-{i}", 1)
        clock.now_s += 2 * 86_400
    assert len(list(directory.accounts)) < 2 * 2 * 1500 + 1024
    gc.collect()
    assert len(directory._owners) == 0


# --- what is wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuotaService(-1), "tokens must be"),
        (lambda: QuotaService(1.5), "tokens must be a whole number"),
        (lambda: QuotaService("50 thousand"), "tokens must be a whole number"),
        (lambda: QuotaService([5]), r"a list of quotas holds Quota\(...\) only, got 5"),
        (lambda: QuotaService(Quota(tokens=5, per="run")), "a quota per run binds runs"),
        (lambda: QuotaService([Quota(tokens=5), Quota(tokens=6)]), "is called 'tokens per day' too"),
        (lambda: QuotaService(quotas={"a": True}), "tokens must be"),
        (lambda: QuotaService(quotas={"": 5}), "a name must be a text"),
        (lambda: QuotaService(quotas=["acme"]), "quotas must map tenants"),
        (lambda: QuotaService(timezone="Nowhere"), "IANA name"),
        (lambda: QuotaService(None, timezone="Nowhere"), "IANA name"),
        (lambda: QuotaService(reserve_for={"vip": 0.1}), "unknown priority 'vip'"),
        (lambda: QuotaService(reserve_for={"high": 2}), "share from 0 to 1"),
        (lambda: QuotaService(reserve_for={"high": 0.8, "normal": 0.8}), "more than the whole"),
        (lambda: QuotaService(store="mysql://x"), r"store\.url must be memory, sqlite:///path\.db or redis://"),
        (
            lambda: QuotaService(store=5),
            "store must be a BudgetManager, 'memory', 'sqlite:///path.db', 'redis://host:port/db'",
        ),
    ],
)
def test_bad_arguments_say_what_is_wrong(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "5", 2**53])
def test_bad_amounts_change_nothing(tokens) -> None:
    service = QuotaService(100)
    for call in (service.consume_quota, service.check_quota, service.reserve):
        with pytest.raises(ValueError, match="tokens must be"):
            call("acme", tokens)
    with pytest.raises((ValueError, TypeError), match="tokens"):
        service.reserve("acme", 1).commit(tokens)
    assert used(service) == 0
    with pytest.raises(TypeError, match="unknown resource 'minutes'"):
        service.consume_quota("acme", minutes=5)
    with pytest.raises(ValueError, match="seconds can't be reserved"):
        service.reserve("acme", seconds=5)
    with pytest.raises(TypeError, match="takes a Usage, or amounts and a model"):
        service.consume_quota("acme", Usage(1, 1), cost_usd=1)


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_tenant_or_user_is_a_name(name) -> None:
    service = QuotaService(100)
    for call in (service.remaining, service.usage, service.reset, service.consume_quota):
        with pytest.raises(ValueError, match="tenant must be a name"):
            call(name)
    if name is not None:
        with pytest.raises(ValueError, match="user must be a name"):
            service.check_quota("acme", 1, user=name)


def test_quotas_that_are_set_at_the_same_moment_are_all_in_force() -> None:
    windows, switched_s = ("minute", "hour", "week", "month"), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(150):
                service = QuotaService(10_000)
                ready = threading.Barrier(4)

                def change(per: str, service: QuotaService = service, ready: threading.Barrier = ready) -> None:
                    ready.wait()
                    service.set_quota("acme", Quota(steps=5, per=per, name=per))

                list(pool.map(change, windows))
                assert {line.per for line in service.usage("acme").lines} == {"day", *windows}
    finally:
        sys.setswitchinterval(switched_s)
