"""Rolling windows: what was charged counts for the window's length, whatever the clock does meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import PRICES, World, said

from otelbudget import BudgetExceeded, Config, Quota, QuotaService, Usage
from otelbudget.model.quota import Quotas
from otelbudget.model.windows import BUCKETS

BEGAN_S = 1.75e9
HOUR_S = 3600
YEAR_S = 366 * 86_400


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now_s: float = BEGAN_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def service_of(clock: Clock, length_s: int = HOUR_S, tokens: int = 10**9) -> QuotaService:
    return QuotaService(Quota(tokens=tokens, per=f"rolling {length_s}s"), clock_s=clock)


def used(service: QuotaService) -> int:
    return service.usage("acme").tokens


def test_a_charge_counts_for_the_length_of_the_window_and_at_most_a_sixtieth_more() -> None:
    clock = Clock(30.0)
    service = service_of(clock)
    service.consume_quota("acme", 5)
    for now_s, left in ((3659.9, 5), (3660.0, 0), (9999.0, 0)):
        clock.now_s = now_s
        assert used(service) == left


def test_charges_of_one_bucket_fall_out_together_and_those_of_others_by_themselves() -> None:
    clock = Clock()
    service = service_of(clock)
    for at_s in (0.0, 59.0, 60.0, 200.0):
        clock.now_s = at_s
        service.consume_quota("acme", 1)
    left = []
    for at_s in (3659.9, 3660.0, 3720.0, 3839.9, 3840.0):
        clock.now_s = at_s
        left.append(used(service))
    assert left == [4, 2, 1, 1, 0]


def test_forgetting_everything_leaves_nothing_to_fall_out() -> None:
    clock = Clock()
    service = service_of(clock)
    service.consume_quota("acme", 5)
    service.reset("acme")
    service.consume_quota("acme", 2)
    assert used(service) == 2
    clock.now_s += 2 * HOUR_S
    assert used(service) == 0


def test_what_is_held_counts_until_it_is_settled_and_what_it_comes_to_counts_from_then() -> None:
    clock = Clock()
    service = service_of(clock, tokens=100)
    held = service.reserve("acme", 60)
    clock.now_s += 2 * HOUR_S
    assert service.remaining("acme") == 40
    held.commit(30)
    clock.now_s += HOUR_S
    assert service.remaining("acme") == 70
    clock.now_s += HOUR_S / BUCKETS
    assert service.remaining("acme") == 100


def test_a_threshold_is_told_again_once_enough_has_fallen_out_below_it() -> None:
    quotas = Quotas(default=(Quota(tokens=10, per="rolling 1h", thresholds=(0.8,)),))
    world = World(config=Config(quotas=quotas, prices=PRICES))
    with world.run() as run:
        for hours in (0.0, 0.5, 1.0, 2.5):
            world.wall_s = BEGAN_S + hours * HOUR_S
            run.record(Usage(8, 0))
    told = [attributes for name, attributes in said(world.span("otelbudget.run")) if name == "otelbudget.threshold"]
    assert [one["otelbudget.ratio"] for one in told] == [0.8, 0.8]


# --- the clock

LENGTHS = st.one_of(st.integers(1, 200), st.sampled_from([HOUR_S, 86_400, YEAR_S]))
AMOUNTS = st.integers(1, 9)


@given(LENGTHS, st.integers(0, 3 * 10**9), st.lists(st.tuples(st.floats(0, 0.3), AMOUNTS), max_size=60))
def test_all_of_the_windows_length_counts_and_nothing_a_sixtieth_older(
    length_s: int, began_s: int, charges: list[tuple[float, int]]
) -> None:
    clock = Clock(float(began_s))
    service = service_of(clock, length_s)
    made: list[tuple[float, int]] = []
    for step, amount in charges:
        clock.now_s += step * length_s
        assert used(service) >= sum(a for at_s, a in made if clock.now_s < at_s + length_s)
        assert used(service) <= sum(a for at_s, a in made if clock.now_s < at_s + length_s * (1 + 1 / BUCKETS))
        service.consume_quota("acme", amount)
        made.append((clock.now_s, amount))
    clock.now_s += length_s * (1 + 1 / BUCKETS) + 0.001
    assert used(service) == 0


@given(LENGTHS, st.lists(st.tuples(st.floats(-5, 5), AMOUNTS), min_size=1, max_size=60))
def test_a_clock_that_steps_back_and_forth_forgets_nothing_however_far_it_steps(
    length_s: int, charges: list[tuple[float, int]]
) -> None:
    clock = Clock()
    service = service_of(clock, length_s)
    made: list[tuple[float, int]] = []
    for jump, amount in charges:
        clock.now_s += jump * length_s
        # What the clock has yet to come to counts as well: it was spent a moment ago.
        assert used(service) >= sum(a for at_s, a in made if clock.now_s < at_s + length_s)
        service.consume_quota("acme", amount)
        made.append((clock.now_s, amount))
    clock.now_s = max(at_s for at_s, _ in made) + length_s * (1 + 1 / BUCKETS) + 0.001
    assert used(service) == 0


@pytest.mark.parametrize("jump_s", [90, HOUR_S - 1, HOUR_S + 90, 2 * HOUR_S, 86_400, YEAR_S])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_clock_that_was_wrong_for_a_while_finds_all_that_was_spent_when_it_is_right_again(
    jump_s: int, direction: int
) -> None:
    clock = Clock()
    service = service_of(clock)
    service.consume_quota("acme", 5)
    for _ in range(3):
        clock.now_s += direction * jump_s
        service.consume_quota("acme", 1)
        clock.now_s -= direction * jump_s
        assert used(service) >= 5


def test_what_is_spent_now_counts_also_where_a_clock_that_was_ahead_has_left_many_charges() -> None:
    clock = Clock()
    service = service_of(clock)
    for _ in range(5 * BUCKETS):
        clock.now_s += HOUR_S / BUCKETS
        service.consume_quota("acme", 1)
    clock.now_s = BEGAN_S - YEAR_S
    before = used(service)
    for n in range(1, 4 * BUCKETS):
        clock.now_s += HOUR_S / BUCKETS
        service.consume_quota("acme", 100)
        assert used(service) >= before + 100 * min(n, BUCKETS)


def test_a_bounded_number_of_pieces_is_kept() -> None:
    clock = Clock()
    service = service_of(clock, 1)
    for _ in range(5000):
        clock.now_s += 0.001
        service.consume_quota("acme", 1)
    for jump_s in range(500):
        clock.now_s -= jump_s
        service.consume_quota("acme", 1)
    (account,) = service._engine.directory.accounts
    assert account.buckets is not None
    assert len(account.buckets) <= 3 * BUCKETS


def test_a_clock_that_was_ahead_while_visitors_were_forgotten_finds_what_others_had_spent() -> None:
    clock = Clock()
    service = service_of(clock, tokens=100)
    service.consume_quota("acme", 90)
    clock.now_s += 2 * HOUR_S
    assert service.remaining("acme") == 100
    for i in range(3000):
        service.check_quota(f"visitor-{i}", 1)
    clock.now_s -= 2 * HOUR_S
    assert service.remaining("acme") == 10


def test_visitors_whose_charges_fell_out_long_ago_fill_no_memory() -> None:
    clock = Clock()
    service = service_of(clock, 60)
    for i in range(5000):
        clock.now_s += 60
        service.consume_quota(f"visitor-{i}", 1)
    assert len(list(service._engine.directory.accounts)) < 2100


# --- when it fits again


def test_a_refusal_says_when_the_oldest_charges_fall_out_and_when_the_same_request_fits() -> None:
    clock = Clock(0.0)
    service = service_of(clock, tokens=100)
    for _ in range(10):
        service.consume_quota("acme", 10)
        clock.now_s += 60
    clock.now_s = 1800.0
    with pytest.raises(BudgetExceeded) as denied:
        service.reserve("acme", 25)
    assert denied.value.resets_at is not None
    assert denied.value.resets_at.timestamp() == 3660.0
    assert denied.value.retry_after_s == 3780.0 - 1800.0
    with pytest.raises(BudgetExceeded) as denied:
        service.reserve("acme", 101)
    assert denied.value.retry_after_s is None


@given(
    st.one_of(st.integers(1, 200), st.sampled_from([HOUR_S, 86_400, YEAR_S // 2])),
    st.floats(1e9, 3e9),
    st.lists(st.tuples(st.floats(-0.2, 0.4), st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=20),
    st.integers(0, 30),
    st.integers(1, 100),
)
def test_after_the_time_that_a_refusal_says_the_same_request_fits_and_a_moment_before_it_does_not(
    length_s: int, began_s: float, charges: list[tuple[float, int, int]], held: int, asked: int
) -> None:
    clock = Clock(began_s + 10 * length_s)
    quotas = [Quota(tokens=100, per=f"rolling {length_s}s"), Quota(steps=9, per=f"rolling {2 * length_s}s")]
    service = QuotaService(quotas, clock_s=clock)
    kept = service.reserve("acme", held, steps=0)
    for step, tokens, steps in charges:
        clock.now_s += step * length_s
        service.consume_quota("acme", tokens, steps=steps)
    if service.check_quota("acme", asked):
        return
    with pytest.raises(BudgetExceeded) as denied:
        service.reserve("acme", asked)
    after_s = denied.value.retry_after_s
    if denied.value.reason == "busy":
        assert after_s == 1
    elif after_s is None:
        assert kept.held.get("tokens", 0) + asked > 100
    else:
        clock.now_s += after_s
        assert service.check_quota("acme", asked)
        clock.now_s -= 0.001
        assert not service.check_quota("acme", asked)
