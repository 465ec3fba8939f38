"""Accounts and holds: what is held, charged, given back, refused and told, on every level or on none."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import reserved_of, used_of

from otelbudget import Config
from otelbudget.engine.engine import Engine
from otelbudget.ledger.account import INSIDE, NORMAL, Account, Crossing, Hold, QuotaAccount, Refusal
from otelbudget.ledger.judging import left, refusal, tightest, warning
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import NANOS, NOTHING, RESOURCES, UNLIMITED, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.vector import lane, pack
from otelbudget.model.windows import Window, WindowSpec

MILLION = 1_000_000
FOREVER = Window("lifetime", -inf, inf)


class Owner:
    """Keeps a hold alive, as a reservation does."""


def rule(*, full: int | None = None, warn: bool = False, marks: bool = False, **limits: int) -> Rule:
    def bounds(**given: int) -> tuple[int, ...]:
        return tuple(given.get(name, UNLIMITED) for name in RESOURCES)

    whole = bounds(**limits) if full is None else bounds(**{**limits, "tokens": full})
    return Rule("b", (bounds(**limits),) * 3, whole, (0.8, 0.95, 1.0) if marks else (), warn)


def account(*, full: int | None = None, warn: bool = False, marks: bool = False, **limits: int) -> Account:
    return Account((rule(full=full, warn=warn, marks=marks, **limits),))


def quota(scope: str, **limits: int) -> QuotaAccount:
    made = QuotaAccount(Where(scope, ("mine",)), WindowSpec("lifetime"), FOREVER, {})
    Ledger().limit(made, (rule(**limits),))
    return made


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(ttl_s=60)


def tokens(amount: int) -> Amounts:
    return Amounts(tokens=amount)


def asked(accounts: tuple[Account, ...], amounts: Amounts, wrapping: Account | None = None) -> Refusal | None:
    return refusal(accounts, pack(amounts), NORMAL, wrapping)


def grow(ledger: Ledger, hold: Hold, more: int) -> Refusal | None:
    return ledger.resize(hold, tokens(more), grow=True)


def charge(ledger: Ledger, accounts: tuple[Account, ...], amounts: Amounts) -> list[float]:
    """Charge it; the ratios of the thresholds that it crosses."""
    crossed = ledger.charge(accounts, pack(amounts), (), [])
    assert isinstance(crossed, list)
    return [one.ratio for one in crossed if isinstance(one, Crossing)]


def new_hold(accounts: tuple[Account, ...], amounts: Amounts, on_expiry: Amounts = NOTHING) -> Hold:
    return Hold(None, accounts, amounts, pack(amounts), on_expiry)


def held(
    ledger: Ledger,
    accounts: tuple[Account, ...],
    amounts: Amounts,
    *,
    owner: object = None,
    now_s: float = 0,
    on_expiry: Amounts = NOTHING,
) -> Hold:
    """An open hold; without an *owner* one that lives on."""
    hold = new_hold(accounts, amounts, on_expiry)
    assert ledger.hold(hold, hold if owner is None else owner, (), round(now_s * NANOS), []) is None
    return hold


def state(one: Account) -> tuple[int, int, int]:
    rest = left((one,), 1, NORMAL)
    assert rest is not None
    return used_of(one)[1], reserved_of(one)[1], rest


# --- holding, charging, refusing


@pytest.mark.parametrize(("actual", "after"), [(3000, (3000, 0, 997_000)), (8000, (8000, 0, 992_000))])
def test_a_commit_charges_the_actual_and_returns_the_rest(
    ledger: Ledger, actual: int, after: tuple[int, int, int]
) -> None:
    run = account(tokens=MILLION)
    hold = held(ledger, (run,), tokens(5000))
    assert state(run) == (0, 5000, 995_000)
    ledger.settle(hold, pack(tokens(actual)), "committed")
    assert state(run) == after


def test_overage_is_charged_and_blocks_what_follows(ledger: Ledger) -> None:
    run = account(tokens=MILLION)
    charge(ledger, (run,), tokens(990_000))
    ledger.settle(held(ledger, (run,), tokens(1000)), pack(tokens(50_000)), "committed")
    assert state(run) == (1_040_000, 0, 0)
    assert asked((run,), tokens(1)) == (run, run.rule, 1, 1_040_000, 0, MILLION, 1, False)
    assert asked((run,), tokens(0)) is None


def test_spending_exactly_the_limit_is_allowed_and_one_more_is_not(ledger: Ledger) -> None:
    run = account(tokens=10)
    charge(ledger, (run,), tokens(4))
    assert asked((run,), tokens(6)) is None
    assert asked((run,), tokens(7)) is not None


def test_all_levels_hold_or_none_and_the_first_that_its_use_alone_blocks_decides(ledger: Ledger) -> None:
    user = quota("user", tokens=20)
    lineage = (quota("org", tokens=20), quota("tenant", tokens=20), user, account(tokens=20))
    hold = held(ledger, lineage, tokens(10))
    assert [reserved_of(one)[1] for one in lineage] == [10] * 4
    charge(ledger, (user,), tokens(15))
    refused = asked(lineage, tokens(11))
    assert refused is not None
    assert (refused.account, refused.busy) == (user, False)
    assert [reserved_of(one)[1] for one in lineage] == [10] * 4
    ledger.settle(hold, 0, "released")
    assert [reserved_of(one)[1] for one in lineage] == [0] * 4


def test_busy_is_said_only_if_nothing_but_open_holds_is_in_the_way(ledger: Ledger) -> None:
    run = account(tokens=10)
    held(ledger, (run,), tokens(8))
    refused = asked((run,), tokens(3))
    assert refused is not None
    assert refused.busy
    charge(ledger, (run,), tokens(9))
    refused = asked((run,), tokens(3))
    assert refused is not None
    assert not refused.busy


def test_of_several_rules_the_first_that_refuses_is_named_and_each_binds(ledger: Ledger) -> None:
    run = Account((rule(tokens=20), rule(tokens=10, steps=5), rule(tokens=10)))
    refused = asked((run,), tokens(11))
    assert refused is not None
    assert (refused.rule, refused.limit) == (run.rules[1], 10)
    refused = asked((run,), tokens(21))
    assert refused is not None
    assert refused.rule is run.rules[0]
    assert asked((run,), Amounts(5, 10)) is None
    assert asked((run,), Amounts(6, 10)) is not None


def test_of_several_rules_the_one_that_what_is_used_blocks_comes_before_one_that_is_only_busy(ledger: Ledger) -> None:
    run = Account((rule(tokens=20), rule(tokens=12)))
    ledger.charge((run,), pack(tokens(8)), (), [])
    held(ledger, (run,), tokens(4))
    refused = asked((run,), tokens(9))
    assert refused is not None
    assert (refused.rule, refused.busy) == (run.rules[1], False)
    refused = asked((run,), tokens(4))
    assert refused is not None
    assert (refused.rule, refused.busy) == (run.rules[1], True)


def test_each_priority_has_limits_of_its_own() -> None:
    low, normal, high = ((UNLIMITED, limit, *(UNLIMITED,) * 5) for limit in (6, 8, 10))
    run = Account((Rule("b", (low, normal, high), high),))
    allowed = [[refusal((run,), pack(tokens(n)), priority) is None for n in (6, 7, 9, 10, 11)] for priority in range(3)]
    assert allowed == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, True, False],
    ]


def test_a_hold_that_has_ended_is_not_settled_again(ledger: Ledger) -> None:
    run = account(tokens=10)
    hold = held(ledger, (run,), tokens(6))
    assert ledger.settle(hold, pack(tokens(2)), "committed") == []
    assert ledger.settle(hold, pack(tokens(2)), "committed") is None
    assert ledger.settle(hold, pack(tokens(2)), "committed", was="released") is None
    assert state(run) == (2, 0, 8)


def test_what_is_used_after_a_release_is_charged_once(ledger: Ledger) -> None:
    run = account(tokens=10)
    hold = held(ledger, (run,), tokens(6))
    ledger.settle(hold, 0, "released")
    assert ledger.settle(hold, pack(tokens(2)), "committed", was="released") == []
    assert ledger.settle(hold, pack(tokens(2)), "committed", was="released") is None
    assert state(run) == (2, 0, 8)


def test_a_hold_grows_under_the_admission_rule_and_a_refusal_leaves_it_unchanged(ledger: Ledger) -> None:
    run = account(tokens=10)
    hold = held(ledger, (run,), tokens(6))
    assert grow(ledger, hold, 4) is None
    assert grow(ledger, hold, 1) is not None
    assert (hold.amounts.tokens, state(run)) == (10, (0, 10, 0))


def test_what_a_call_holds_itself_is_not_worth_waiting_for(ledger: Ledger) -> None:
    run = account(tokens=10)
    hold = held(ledger, (run,), tokens(6))
    refused = grow(ledger, hold, 5)
    assert refused is not None
    assert not refused.busy
    other = held(ledger, (run,), tokens(3))
    refused = grow(ledger, hold, 4)
    assert refused is not None
    assert refused.busy
    ledger.settle(other, 0, "released")
    assert grow(ledger, hold, 4) is None


def test_a_hold_that_becomes_smaller_or_keeps_a_resource_is_not_asked_for_it_again(ledger: Ledger) -> None:
    run = account(tokens=10, steps=1)
    hold = held(ledger, (run,), Amounts(1, 6))
    charge(ledger, (run,), Amounts(1, 9))
    assert ledger.resize(hold, Amounts(1, 2)) is None
    refused = ledger.resize(hold, Amounts(1, 3))
    assert refused is not None
    assert (refused.resource, hold.amounts) == (1, Amounts(1, 2))
    assert ledger.resize(hold, Amounts(1, 3), force=True) is None


def test_a_hold_that_asks_for_more_of_one_resource_and_less_of_another_is_told_what_is_one_short(
    ledger: Ledger,
) -> None:
    run = account(input_tokens=10)
    hold = held(ledger, (run,), Amounts(tokens=8, input_tokens=4))
    refused = ledger.resize(hold, Amounts(tokens=5, input_tokens=11))
    assert refused is not None
    assert (refused.resource, refused.asked, refused.limit) == (2, 7, 10)
    assert ledger.resize(hold, Amounts(tokens=5, input_tokens=10)) is None


def test_quotas_that_join_a_hold_are_asked_for_all_of_it_and_hold_it_before_the_runs(ledger: Ledger) -> None:
    tenant, run = quota("tenant", tokens=10), account(tokens=10)
    hold = held(ledger, (tenant, run), tokens(6))
    small, wide = quota("model", tokens=7), quota("model", tokens=20)
    refused = ledger.resize(hold, tokens(8), joining=(small,))
    assert refused is not None
    assert (refused.account, refused.busy, hold.accounts, small.taken) == (small, False, (tenant, run), 0)
    refused = ledger.resize(hold, tokens(11), joining=(small,))
    assert refused is not None
    assert refused.account in (tenant, small)
    assert ledger.resize(hold, tokens(8), joining=(wide,)) is None
    assert hold.accounts == (tenant, wide, run)
    assert [(reserved_of(one)[1], one.holds) for one in hold.accounts] == [(8, 1)] * 3
    ledger.settle(hold, pack(tokens(3)), "committed")
    assert [(used_of(one)[1], reserved_of(one)[1], one.holds) for one in hold.accounts] == [(3, 0, 0)] * 3


def test_a_resize_does_not_compete_with_its_own_hold(ledger: Ledger) -> None:
    run = account(tokens=10)
    hold = held(ledger, (run,), tokens(6))
    assert ledger.resize(hold, tokens(10)) is None
    assert ledger.resize(hold, tokens(11)) is not None
    assert (hold.amounts.tokens, reserved_of(run)[1]) == (10, 10)
    assert ledger.resize(hold, tokens(2)) is None
    assert reserved_of(run)[1] == 2


def test_a_rule_that_warns_never_refuses_and_tells_what_it_would_have(ledger: Ledger) -> None:
    run = account(tokens=10, warn=True)
    charge(ledger, (run,), tokens(10))
    assert asked((run,), tokens(1)) is None
    assert warning((run,), pack(tokens(1)), NORMAL) == (run, run.rule, 1, 10, 0, 10, 1, False)
    assert warning((run,), pack(tokens(0)), NORMAL) is None
    assert warning((account(tokens=5),), pack(tokens(9)), NORMAL) is None


def test_an_account_that_wraps_up_is_judged_by_its_full_limit() -> None:
    run = account(tokens=70, full=100)
    assert asked((run,), tokens(80)) is not None
    assert asked((run,), tokens(80), run) is None
    assert asked((run,), tokens(101), run) is not None


def test_what_children_spend_is_kept_apart_from_an_accounts_own(ledger: Ledger) -> None:
    parent, child = account(tokens=100), account(tokens=100)
    charge(ledger, (parent, child), tokens(30))
    charge(ledger, (parent,), tokens(5))
    assert [(used_of(one)[1], lane(one.below, 1), one.own()[1]) for one in (parent, child)] == [
        (35, 30, 5),
        (30, 0, 30),
    ]


@pytest.mark.parametrize(("first", "then", "reported"), [(7, 1, [0.8]), (7, 2, [0.8]), (7, 3, [0.8, 0.95, 1.0])])
def test_a_threshold_is_reported_once_when_it_is_reached(
    ledger: Ledger, first: int, then: int, reported: list[float]
) -> None:
    run = account(tokens=10, marks=True)
    assert charge(ledger, (run,), tokens(first)) == []
    assert charge(ledger, (run,), tokens(then)) == reported
    assert charge(ledger, (run,), tokens(0)) == []


def test_a_raised_limit_and_a_reset_rearm_the_thresholds_that_are_ahead_again(ledger: Ledger) -> None:
    run = account(tokens=10, marks=True)
    charge(ledger, (run,), tokens(10))
    ledger.limit(run, (rule(tokens=20, marks=True),))
    assert charge(ledger, (run,), tokens(6)) == [0.8]
    assert lane(ledger.forget(run), 1) == 16
    assert charge(ledger, (run,), tokens(16)) == [0.8]


def test_the_tightest_resource_is_the_one_with_the_greatest_share_taken(ledger: Ledger) -> None:
    run = account(tokens=100, steps=4)
    assert tightest((run,)) == (0, 4)
    charge(ledger, (run,), Amounts(1, 50))
    held(ledger, (run,), Amounts(0, 30))
    assert tightest((run,)) == (1, 20)
    assert tightest((account(),)) is None
    assert tightest((account(tokens=0),)) == (1, 0)


@given(limit=st.integers(1, 10**6), charges=st.lists(st.integers(0, 10**5), max_size=30))
def test_every_threshold_is_reported_exactly_when_first_reached(limit: int, charges: list[int]) -> None:
    ledger, run = Ledger(), account(tokens=limit, marks=True)
    total, reported = 0, []
    for amount in charges:
        total += amount
        reported += charge(ledger, (run,), tokens(amount))
        assert reported == [percent / 100 for percent in (80, 95, 100) if total * 100 >= limit * percent]


@given(st.data())
def test_what_is_held_and_left_follows_every_change(data: st.DataObject) -> None:
    ledger = Ledger()
    run = account(tokens=data.draw(st.integers(0, 200)), steps=9)
    limit = run.rule.full[1]
    open_holds: list[Hold] = []
    for _ in range(data.draw(st.integers(0, 30))):
        step = data.draw(st.sampled_from(("hold", "settle", "extend", "resize", "expire")))
        amount = tokens(data.draw(st.integers(0, 60)))
        if step == "hold":
            if asked((run,), amount) is None:
                open_holds.append(held(ledger, (run,), amount))
        elif open_holds:
            hold = open_holds[data.draw(st.integers(0, len(open_holds) - 1))]
            if step == "extend":
                grow(ledger, hold, amount.tokens)
            elif step == "resize":
                ledger.resize(hold, amount)
            else:
                open_holds.remove(hold)
                actual = tokens(min(amount.tokens, hold.amounts.tokens))
                ledger.settle(hold, pack(actual if step == "settle" else hold.on_expiry), "committed")
        kept = sum(hold.amounts.tokens for hold in open_holds)
        assert (reserved_of(run)[1], run.holds) == (kept, len(open_holds))
        assert state(run)[2] == limit - used_of(run)[1] - kept


# --- holds that nobody settles


def reclaimed(ledger: Ledger, now_s: float) -> list[Hold]:
    """What a sweep at that time has ended."""
    ledger.expired.clear()
    ledger.sweep(round(now_s * NANOS))
    return [hold for hold, _ in ledger.expired]


def opened(ledger: Ledger, owner: Owner, now_s: float = 0, on_expiry: int = 0) -> tuple[Account, Hold]:
    run = account(tokens=100)
    return run, held(ledger, (run,), tokens(60), owner=owner, now_s=now_s, on_expiry=tokens(on_expiry))


def test_a_hold_whose_owner_lives_is_never_reclaimed(ledger: Ledger) -> None:
    owner = Owner()
    run, hold = opened(ledger, owner)
    for now_s in (64, 66, 1000, 10**6):
        assert reclaimed(ledger, now_s) == []
    assert (hold.state, state(run)) == ("open", (0, 60, 40))


def test_a_lost_hold_comes_back_after_ttl_and_grace_and_charges_what_it_stored(ledger: Ledger) -> None:
    owner = Owner()
    run, hold = opened(ledger, owner, on_expiry=7)
    del owner
    gc.collect()
    assert reclaimed(ledger, 64.9) == []
    assert reclaimed(ledger, 65) == [hold]
    assert (hold.state, state(run), run.holds) == ("expired", (7, 0, 93), 0)
    assert reclaimed(ledger, 10**6) == []


def test_a_lost_hold_comes_back_to_whoever_asks_for_its_room(ledger: Ledger) -> None:
    run, _ = opened(ledger, Owner())
    gc.collect()
    another = new_hold((run,), tokens(41))
    for now_s, refused in ((64, True), (65, False)):
        found = ledger.hold(another, another, (), now_s * NANOS, [])
        assert (found is not None) is refused


def test_an_owner_that_dies_after_a_renewal_gives_back_one_ttl_later(ledger: Ledger) -> None:
    owner = Owner()
    _, hold = opened(ledger, owner)
    assert reclaimed(ledger, 100) == []
    del owner
    gc.collect()
    assert reclaimed(ledger, 164) == []
    assert reclaimed(ledger, 165) == [hold]


def test_open_holds_are_counted_with_the_age_of_the_oldest(ledger: Ledger) -> None:
    owner = Owner()
    assert ledger.open.age(5) == (0, 0.0)
    opened(ledger, owner, now_s=1)
    _, second = opened(ledger, owner, now_s=3)
    assert ledger.open.age(4 * NANOS) == (2, 3.0)
    ledger.settle(second, pack(tokens(1)), "committed")
    assert ledger.open.age(4 * NANOS) == (1, 3.0)


def test_whoever_waits_is_told_of_what_comes_back_by_any_way(ledger: Ledger) -> None:
    told: list[str] = []
    ledger.bells.add(partial(told.append, "room"))
    owner = Owner()
    run, hold = opened(ledger, owner)
    assert told == []
    for change in (
        lambda: ledger.resize(hold, tokens(50)),
        lambda: ledger.settle(hold, 0, "released"),
        lambda: ledger.limit(run, (rule(tokens=200),)),
        lambda: ledger.forget(run),
    ):
        told.clear()
        change()
        assert told == ["room"]
    opened(ledger, Owner())
    gc.collect()
    told.clear()
    assert len(reclaimed(ledger, 70)) == 1
    assert told == ["room"]


def test_holds_without_a_run_expire_quietly_on_an_engines_ledger() -> None:
    engine = Engine(Config())
    run, _ = opened(engine.ledger, Owner(), on_expiry=3)
    gc.collect()
    engine.ledger.sweep(65 * NANOS)
    assert state(run) == (3, 0, 97)


# --- inside another operation


def test_what_asks_inside_another_operation_of_its_thread_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    run = account(tokens=100)
    hold = held(ledger, (run,), tokens(10))
    with ledger.lock:
        another = new_hold((run,), tokens(1))
        assert ledger.hold(another, another, (), 0, []) is INSIDE
        assert ledger.resize(hold, tokens(11)) is INSIDE
        assert ledger.take((run,), pack(tokens(1)), (), NORMAL, 0, force=False) is INSIDE
    assert (another.state, state(run)) == ("new", (0, 10, 90))


def test_what_is_put_off_is_done_in_its_order_as_soon_as_the_operation_inside_of_which_it_came_is_over(
    ledger: Ledger,
) -> None:
    done: list[int] = []
    run = account(tokens=100)
    assert not ledger.later(partial(done.append, 0))
    with ledger.lock:
        assert ledger.later(partial(done.append, 1))
        assert ledger.later(partial(done.append, 2))
        assert ledger.later(partial(ledger.mirror, (run,), [(pack(tokens(5)), pack(tokens(7)))]))
    assert done == []
    ledger.after()
    assert (done, state(run)) == ([1, 2], (5, 2, 93))


# --- carved children, beside a bookkeeping that adds everything up again


class Node:
    """A run as the test sees it."""

    def __init__(self, parent: Node | None, limit: int) -> None:
        self.parent = parent
        self.lineage: list[Node] = [*(parent.lineage if parent else []), self]
        self.children: list[Node] = []
        self.account = account(tokens=limit)
        self.carved: int | None = None
        self.used = 0
        self.own: list[Hold] = []
        if parent is not None:
            parent.children.append(self)

    def held(self, *, only: int | None = None, path: Sequence[Node] = ()) -> int:
        """What it holds; or would, if a call of *only* by the last of *path* were the only one."""
        if only is None:
            own = sum(hold.amounts.tokens for hold in self.own)
            return own + sum(child.part() for child in self.children)
        if path[-1] is self:
            return only
        return next(child.part(only, path) for child in self.children if child in path)

    def part(self, only: int | None = None, path: Sequence[Node] = ()) -> int:
        """What its parent holds for it."""
        held = self.held(only=only, path=path)
        return held if self.carved is None else max(held, self.carved - self.used)

    def accounts(self, above: Account) -> tuple[Account, ...]:
        return (above, *(node.account for node in self.lineage))


def expected(node: Node, amount: int, above: Account) -> tuple[Account, bool] | None:
    """Who refuses *amount* to *node*, and whether it is busy: tried out on the simple books."""
    before = [(above, used_of(above)[1], reserved_of(above)[1], 0)]
    before += [(one.account, one.used, one.held(), one.held(only=amount, path=node.lineage)) for one in node.lineage]
    trial = Hold()
    trial.amounts = tokens(amount)
    node.own.append(trial)
    after = [reserved_of(above)[1] + amount] + [one.held() for one in node.lineage]
    node.own.remove(trial)
    refusing = [
        (one, used + (amount if one is above else alone) <= one.rule.full[1])
        for (one, used, held, alone), then in zip(before, after, strict=True)
        if then > held and used + then > one.rule.full[1]
    ]
    return min(refusing, key=lambda found: found[1], default=None)


@settings(max_examples=300)
@given(st.data())
def test_carved_shared_and_plain_holds_agree_with_books_that_add_up_again(data: st.DataObject) -> None:
    amounts = st.integers(0, 60)
    ledger, above = Ledger(), quota("tenant", tokens=data.draw(st.sampled_from((80, 10**6))))
    nodes = [Node(None, data.draw(st.integers(0, 200)))]
    for _ in range(data.draw(st.integers(0, 30))):
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        step = data.draw(st.sampled_from(("open", "hold", "hold", "charge", "settle", "resize", "reset", "close")))
        amount = data.draw(amounts)
        if step == "open" and len(nodes) < 6:
            runs = tuple(one.account for one in node.lineage)
            fits = expected(node, amount, quota("tenant")) is None
            assert (asked(runs, tokens(amount)) is None) == fits
            child = Node(node, 100)
            if data.draw(st.booleans()):
                refused = ledger.set_floor((*runs, child.account), partial(pack, tokens(amount)), NORMAL)
                assert (refused is None) == fits
                child.carved = amount
            if fits:
                nodes.append(child)
            else:
                node.children.remove(child)
        elif step == "hold":
            refused = asked(node.accounts(above), tokens(amount))
            assert (refused and (refused.account, refused.busy)) == expected(node, amount, above)
            if refused is None:
                node.own.append(held(ledger, node.accounts(above), tokens(amount)))
        elif step == "charge":
            charge(ledger, node.accounts(above), tokens(amount))
            for one in node.lineage:
                one.used += amount
        elif step == "reset":
            if node.carved is not None:
                node.carved = max(0, node.carved - node.used)
            ledger.forget(node.account)
            node.used = 0
        elif step == "close" and node.carved is not None:
            ledger.set_floor(tuple(one.account for one in node.lineage), int)
            node.carved = None
        elif node.own and step == "settle":
            ledger.settle(node.own.pop(0), pack(tokens(amount)), "committed")
            for one in node.lineage:
                one.used += amount
        elif node.own and step == "resize":
            ledger.resize(node.own[0], tokens(amount))
        agree(nodes, above)


def agree(nodes: list[Node], above: Account) -> None:
    assert reserved_of(above)[1] == sum(hold.amounts.tokens for node in nodes for hold in node.own)
    for node in nodes:
        assert (used_of(node.account)[1], reserved_of(node.account)[1]) == (node.used, node.held())
        rest = left(node.accounts(above), 1, NORMAL)
        assert rest is not None
        assert expected(node, rest, above) is None
        assert expected(node, rest + 1, above) is not None
