"""A tenant's tokens per day: checked, consumed, held, reset by the clock, kept for higher priorities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from otelbudget import BudgetExceeded, ConfigError, Quota, QuotaService

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


class Clock:
    now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_exactly_the_quota_may_be_used() -> None:
    service = QuotaService(1000)
    service.consume_quota("acme", 400)
    assert service.check_quota("acme", 600)
    assert not service.check_quota("acme", 601)
    assert (service.remaining("acme"), service.usage("acme")) == (600, 400)


def test_tenants_do_not_share_and_may_have_their_own() -> None:
    service = QuotaService(100, quotas={"big": 5000, "none": Quota(tokens=0)})
    service.consume_quota("small", 100)
    assert not service.check_quota("small", 1)
    assert service.check_quota("other", 100)
    assert service.check_quota("big", 5000)
    assert not service.check_quota("none", 1)
    assert service.check_quota("none", 0)


def test_consuming_may_exceed_and_the_rest_is_zero_not_negative() -> None:
    service = QuotaService(100)
    service.consume_quota("acme", 250)
    assert (service.remaining("acme"), service.usage("acme")) == (0, 250)


def test_the_next_day_begins_at_zero_without_anybody_resetting(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    service.consume_quota("acme", 100)
    clock.now_s = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC).timestamp()
    assert not service.check_quota("acme", 1)
    assert service.resets_at("acme") == datetime(2026, 11, 25, tzinfo=UTC)
    clock.now_s += 1
    assert service.check_quota("acme", 100)
    assert service.remaining("acme") == 100


def test_the_day_is_that_of_the_zone(clock: Clock) -> None:
    service = QuotaService(100, timezone="Asia/Tokyo", clock_s=clock)
    service.consume_quota("acme", 100)
    clock.now_s = datetime(2026, 11, 24, 15, tzinfo=UTC).timestamp()
    assert service.check_quota("acme", 100)


def test_lower_priorities_stop_before_what_is_kept_for_higher_ones() -> None:
    service = QuotaService(100, reserve_for={"high": 0.2, "normal": 0.2})
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 60, p)] == ["low", "normal", "high"]
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 61, p)] == ["normal", "high"]
    assert [p for p in ("low", "normal", "high") if service.check_quota("acme", 81, p)] == ["high"]
    assert service.check_quota("acme", 100, "high")
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 61, "low")
    assert (caught.value.limit, caught.value.requested) == (60, 61)


def test_an_unknown_priority_is_an_error() -> None:
    with pytest.raises(ValueError, match="known are low, normal, high"):
        QuotaService().check_quota("acme", 1, "urgent")


def test_a_reservation_holds_until_it_is_settled(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    held = service.reserve("acme", 80)
    assert service.remaining("acme") == 20
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 30)
    assert caught.value.reason == "busy"
    held.commit(10)
    held.commit(99)
    held.release()
    assert (service.usage("acme"), service.remaining("acme")) == (10, 90)
    service.reserve("acme", 90).release()
    with service.reserve("acme", 90):
        pass
    with pytest.raises(BudgetExceeded) as caught:
        service.reserve("acme", 1)
    error = caught.value
    assert (error.reason, error.scope, error.used, error.limit) == ("limit", "tenant", 100, 100)
    assert error.resets_at == datetime(2026, 11, 25, tzinfo=UTC)
    assert error.retry_after_s == 12 * 3600
    assert "acme" in str(error)
    assert "resets at 2026-11-25" in str(error)


def test_a_hold_is_charged_to_the_day_in_which_it_was_made(clock: Clock) -> None:
    service = QuotaService(100, clock_s=clock)
    held = service.reserve("acme", 80)
    clock.now_s += 24 * 3600
    held.commit(80)
    assert service.usage("acme") == 0


def test_a_quota_can_be_changed_and_used_tokens_forgotten() -> None:
    service = QuotaService(100)
    service.consume_quota("acme", 100)
    service.set_quota("acme", 150)
    assert service.remaining("acme") == 50
    service.set_quota("acme", Quota(tokens=10))
    assert service.remaining("acme") == 0
    service.reset("acme")
    assert service.remaining("acme") == 10


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
    assert (service.usage("acme"), work(0)) == (990, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuotaService(-1), "tokens must be"),
        (lambda: QuotaService(1.5), "tokens must be a whole number"),
        (lambda: QuotaService(quotas={"a": True}), "tokens must be"),
        (lambda: QuotaService(quotas=["acme"]), "quotas must map tenants"),
        (lambda: QuotaService(timezone="Nowhere"), "IANA name"),
        (lambda: QuotaService(reserve_for={"vip": 0.1}), "unknown priority 'vip'"),
        (lambda: QuotaService(reserve_for={"high": 2}), "share from 0 to 1"),
        (lambda: QuotaService(reserve_for={"high": 0.8, "normal": 0.8}), "more than the whole"),
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
    assert service.usage("acme") == 0
    with pytest.raises(ValueError, match="tenant must be a name"):
        service.remaining("")
