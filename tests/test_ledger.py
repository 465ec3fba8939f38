from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otelbudget.ledger import ledger, thresholds
from otelbudget.ledger.ledger import Account, CarvedAccount, Hold
from otelbudget.model.amounts import NOTHING, RESOURCES, UNLIMITED, Amounts

MILLION = 1_000_000


def account(
    *, scope: str = "run", full: int | None = None, warn: bool = False, marks: bool = False, **limits: int
) -> Account:
    def bounds(**given: int) -> tuple[int, ...]:
        return tuple(given.get(name, UNLIMITED) for name in RESOURCES)

    whole = bounds(**{**limits, "tokens": full}) if full is not None else None
    ratios = (0.8, 0.95, 1.0) if marks else ()
    return Account(bounds(**limits), full=whole, scope=scope, name="b", thresholds=ratios, warn=warn)


def tokens(amount: int) -> Amounts:
    return Amounts(tokens=amount)


def held(accounts: tuple[Account, ...], amounts: Amounts, on_expiry: Amounts = NOTHING) -> Hold:
    assert ledger.refusal(accounts, amounts) is None
    hold = Hold(accounts, amounts, on_expiry=on_expiry)
    ledger.hold(hold)
    return hold


def state(one: Account) -> tuple[int, int, int]:
    return one.used[1], one.reserved[1], one.remaining(1)


@pytest.mark.parametrize(("actual", "left"), [(3000, (3000, 0, 997_000)), (8000, (8000, 0, 992_000))])
def test_a_commit_charges_the_actual_and_returns_the_rest(actual: int, left: tuple[int, int, int]) -> None:
    run = account(tokens=MILLION)
    hold = held((run,), tokens(5000))
    assert state(run) == (0, 5000, 995_000)
    ledger.settle(hold, tokens(actual), "committed")
    assert state(run) == left


def test_overage_is_charged_shown_and_blocks_what_follows() -> None:
    run = account(tokens=MILLION)
    ledger.charge((run,), tokens(990_000))
    ledger.settle(held((run,), tokens(1000)), tokens(50_000), "committed")
    assert (state(run), run.overage(1)) == ((1_040_000, 0, 0), 40_000)
    refused = ledger.refusal((run,), tokens(1))
    assert refused == (run, 1, 1_040_000, 0, MILLION, False)
    assert ledger.refusal((run,), tokens(0)) is None


def test_spending_exactly_the_limit_is_allowed_and_one_more_is_not() -> None:
    run = account(tokens=10)
    ledger.charge((run,), tokens(4))
    assert ledger.refusal((run,), tokens(6)) is None
    assert ledger.refusal((run,), tokens(7)) is not None


def test_all_levels_hold_or_none_and_the_first_that_its_use_alone_blocks_decides() -> None:
    org, tenant, user, run = (account(scope=name, tokens=20) for name in ("org", "tenant", "user", "run"))
    lineage = (org, tenant, user, run)
    hold = held(lineage, tokens(10))
    assert [one.reserved[1] for one in lineage] == [10] * 4
    ledger.charge((user,), tokens(15))
    refused = ledger.refusal(lineage, tokens(11))
    assert refused is not None
    assert (refused.account, refused.busy) == (user, False)
    assert [one.reserved[1] for one in lineage] == [10] * 4
    ledger.settle(hold, NOTHING, "released")
    assert [one.reserved[1] for one in lineage] == [0] * 4


def test_busy_is_said_only_if_nothing_but_open_holds_is_in_the_way() -> None:
    run = account(tokens=10)
    held((run,), tokens(8))
    refused = ledger.refusal((run,), tokens(3))
    assert refused is not None
    assert refused.busy
    ledger.charge((run,), tokens(9))
    refused = ledger.refusal((run,), tokens(3))
    assert refused is not None
    assert not refused.busy


def test_an_expired_hold_returns_all_but_what_it_stored_for_the_case() -> None:
    run = account(tokens=MILLION, steps=9)
    hold = held((run,), Amounts(1, 5000), on_expiry=Amounts(1, 40))
    ledger.settle(hold, hold.on_expiry, "expired")
    assert (run.used[0], state(run)) == (1, (40, 0, MILLION - 40))


def test_a_hold_grows_under_the_admission_rule_and_a_refusal_leaves_it_unchanged() -> None:
    run = account(tokens=10)
    hold = held((run,), tokens(6))
    assert ledger.extend(hold, tokens(4)) is None
    assert ledger.extend(hold, tokens(1)) is not None
    assert (hold.amounts.tokens, state(run)) == (10, (0, 10, 0))


def test_what_a_call_holds_itself_is_not_worth_waiting_for() -> None:
    run = account(tokens=10)
    hold = held((run,), tokens(6))
    refused = ledger.extend(hold, tokens(5))
    assert refused is not None
    assert not refused.busy
    other = held((run,), tokens(3))
    refused = ledger.extend(hold, tokens(4))
    assert refused is not None
    assert refused.busy
    ledger.settle(other, NOTHING, "released")
    assert ledger.extend(hold, tokens(4)) is None


def test_a_hold_that_becomes_smaller_or_keeps_a_resource_is_not_asked_for_it_again() -> None:
    run = account(tokens=10, steps=1)
    hold = held((run,), Amounts(1, 6))
    ledger.charge((run,), Amounts(1, 9))
    assert ledger.resize(hold, Amounts(1, 2)) is None
    refused = ledger.resize(hold, Amounts(1, 3))
    assert refused is not None
    assert (refused.resource, hold.amounts) == (1, Amounts(1, 2))
    assert ledger.resize(hold, Amounts(1, 3), force=True) is None


def test_quotas_that_join_a_hold_are_asked_for_all_of_it_and_hold_it_before_the_runs() -> None:
    tenant, run = account(scope="tenant", tokens=10), account(tokens=10)
    hold = held((tenant, run), tokens(6))
    small, wide = account(scope="model", tokens=7), account(scope="model", tokens=20)
    refused = ledger.resize(hold, tokens(8), [small])
    assert refused is not None
    assert (refused.account, refused.busy, hold.accounts, small.reserved[1]) == (small, False, (tenant, run), 0)
    refused = ledger.resize(hold, tokens(11), [small])
    assert refused is not None
    assert refused.account is tenant
    assert ledger.resize(hold, tokens(8), [wide]) is None
    assert hold.accounts == (tenant, wide, run)
    assert [one.reserved[1] for one in hold.accounts] == [8, 8, 8]
    ledger.settle(hold, tokens(3), "committed")
    assert [(one.used[1], one.reserved[1]) for one in hold.accounts] == [(3, 0)] * 3


def test_a_resize_does_not_compete_with_its_own_hold() -> None:
    run = account(tokens=10)
    hold = held((run,), tokens(6))
    assert ledger.resize(hold, tokens(10)) is None
    assert ledger.resize(hold, tokens(11)) is not None
    assert (hold.amounts.tokens, run.reserved[1]) == (10, 10)
    assert ledger.resize(hold, tokens(2)) is None
    assert run.reserved[1] == 2


def test_a_warning_account_never_refuses_and_tells_what_it_would_have() -> None:
    run = account(tokens=10, warn=True)
    ledger.charge((run,), tokens(10))
    assert ledger.refusal((run,), tokens(1)) is None
    assert ledger.refusal((run,), tokens(1), warn=True) is not None
    assert ledger.refusal((run,), tokens(0), warn=True) is None
    assert ledger.refusal((account(tokens=5),), tokens(9), warn=True) is None


def test_an_account_that_wraps_up_is_judged_by_its_full_limit() -> None:
    run = account(tokens=70, full=100)
    assert ledger.refusal((run,), tokens(80)) is not None
    assert ledger.refusal((run,), tokens(80), run) is None
    assert ledger.refusal((run,), tokens(101), run) is not None


def test_what_children_spend_is_kept_apart_from_an_accounts_own() -> None:
    parent, child = account(tokens=100), account(tokens=100)
    ledger.charge((parent, child), tokens(30))
    ledger.charge((parent,), tokens(5))
    assert (parent.used[1], parent.below and parent.below[1], child.used[1], child.below) == (35, 30, 30, None)


@pytest.mark.parametrize(("first", "then", "reported"), [(7, 1, [0.8]), (7, 2, [0.8]), (7, 3, [0.8, 0.95, 1.0])])
def test_a_threshold_is_reported_once_when_it_is_reached(first: int, then: int, reported: list[float]) -> None:
    run = account(tokens=10, marks=True)
    assert ledger.charge((run,), tokens(first)) == []
    assert [one.ratio for one in ledger.charge((run,), tokens(then))] == reported
    assert [one.ratio for one in ledger.charge((run,), tokens(0))] == []


def test_a_raised_limit_rearms_the_thresholds_that_are_ahead_again() -> None:
    run = account(tokens=10, marks=True)
    ledger.charge((run,), tokens(10))
    limits = [*run.limits]
    limits[1] = 20
    ledger.relimit(run, limits, limits)
    assert [one.ratio for one in ledger.charge((run,), tokens(6))] == [0.8]


def test_the_tightest_resource_is_the_one_with_the_greatest_share_taken() -> None:
    run = account(tokens=100, steps=4)
    assert ledger.tightest((run,)) == (0, 4)
    ledger.charge((run,), Amounts(1, 50))
    held((run,), Amounts(0, 30))
    assert ledger.tightest((run,)) == (1, 20)
    assert ledger.tightest((account(),)) is None
    assert ledger.tightest((account(tokens=0),)) == (1, 0)


@given(limit=st.integers(1, 10**6), charges=st.lists(st.integers(0, 10**5), max_size=30))
def test_every_threshold_is_reported_exactly_when_first_reached(limit: int, charges: list[int]) -> None:
    run = account(tokens=limit, marks=True)
    total, reported = 0, []
    for amount in charges:
        total += amount
        reported += [one.ratio for one in ledger.charge((run,), tokens(amount))]
        due = [
            ratio
            for ratio, mark in zip((0.8, 0.95, 1.0), thresholds._marks(limit, run.thresholds), strict=True)
            if total >= mark
        ]
        assert reported == due


@given(st.data())
def test_room_and_reservations_follow_every_change(data: st.DataObject) -> None:
    run = account(tokens=data.draw(st.integers(0, 200)), steps=9)
    open_holds: list[Hold] = []
    for _ in range(data.draw(st.integers(0, 30))):
        step = data.draw(st.sampled_from(("hold", "settle", "extend", "resize", "expire")))
        amount = tokens(data.draw(st.integers(0, 60)))
        if step == "hold":
            if ledger.refusal((run,), amount) is None:
                open_holds.append(held((run,), amount))
        elif open_holds:
            hold = open_holds[data.draw(st.integers(0, len(open_holds) - 1))]
            if step == "extend":
                ledger.extend(hold, amount)
            elif step == "resize":
                ledger.resize(hold, amount)
            else:
                open_holds.remove(hold)
                actual = tokens(min(amount.tokens, hold.amounts.tokens))
                ledger.settle(hold, actual if step == "settle" else hold.on_expiry, "committed")
        assert run.reserved[1] == sum(hold.amounts.tokens for hold in open_holds)
        assert list(run.room) == [a - b for a, b in zip(run.limits, run.reserved, strict=True)]
        assert run.used[1] + run.reserved[1] <= run.limits[1]


# --- carved children, beside a bookkeeping that adds everything up again


class Node:
    """A run as the test sees it."""

    def __init__(self, parent: Node | None, limit: int) -> None:
        self.parent = parent
        self.lineage: list[Node] = [*(parent.lineage if parent else []), self]
        self.children: list[Node] = []
        self.account: Account = CarvedAccount(account(tokens=limit).limits)
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

    def accounts(self, quota: Account) -> tuple[Account, ...]:
        return (quota, *(node.account for node in self.lineage))


def expected(node: Node, amount: int, quota: Account) -> tuple[Account, bool] | None:
    """Who refuses *amount* to *node*, and whether it is busy: tried out on the simple books."""
    before = [(quota, quota.used[1], quota.reserved[1], 0)]
    before += [(one.account, one.used, one.held(), one.held(only=amount, path=node.lineage)) for one in node.lineage]
    trial = Hold((), tokens(amount))
    node.own.append(trial)
    after = [quota.reserved[1] + amount] + [one.held() for one in node.lineage]
    node.own.remove(trial)
    refusing = [
        (one, used + (amount if one is quota else alone) <= one.limits[1])
        for (one, used, held, alone), then in zip(before, after, strict=True)
        if then > held and used + then > one.limits[1]
    ]
    return min(refusing, key=lambda found: found[1], default=None)


@settings(max_examples=300)
@given(st.data())
def test_carved_shared_and_plain_holds_agree_with_books_that_add_up_again(data: st.DataObject) -> None:
    amounts = st.integers(0, 60)
    quota = account(scope="tenant", tokens=data.draw(st.sampled_from((80, 10**6))))
    nodes = [Node(None, data.draw(st.integers(0, 200)))]
    for _ in range(data.draw(st.integers(0, 30))):
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        step = data.draw(st.sampled_from(("open", "hold", "hold", "charge", "settle", "resize", "reset", "close")))
        amount = data.draw(amounts)
        if step == "open" and len(nodes) < 6:
            runs = tuple(one.account for one in node.lineage)
            refused = ledger.refusal(runs, tokens(amount))
            assert (refused is None) == (expected(node, amount, account(scope="tenant")) is None)
            if refused is None:
                nodes.append(child := Node(node, 100))
                if data.draw(st.booleans()):
                    ledger.carve((*runs, child.account), tokens(amount))
                    child.carved = amount
        elif step == "hold":
            refused = ledger.refusal(node.accounts(quota), tokens(amount))
            assert (refused and (refused.account, refused.busy)) == expected(node, amount, quota)
            if refused is None:
                node.own.append(held(node.accounts(quota), tokens(amount)))
        elif step == "charge":
            ledger.charge(node.accounts(quota), tokens(amount))
            for one in node.lineage:
                one.used += amount
        elif step == "reset":
            if node.carved is not None:
                node.carved = max(0, node.carved - node.used)
            ledger.forget(node.account)
            node.used = 0
        elif step == "close" and node.carved is not None:
            ledger.uncarve(node.accounts(quota))
            node.carved = None
        elif node.own and step == "settle":
            ledger.settle(node.own.pop(0), tokens(amount), "committed")
            for one in node.lineage:
                one.used += amount
        elif node.own and step == "resize":
            ledger.resize(node.own[0], tokens(amount))
        agree(nodes, quota)


def agree(nodes: list[Node], quota: Account) -> None:
    assert quota.reserved[1] == sum(hold.amounts.tokens for node in nodes for hold in node.own)
    for node in nodes:
        one = node.account
        assert (one.used[1], one.reserved[1]) == (node.used, node.held())
        assert list(one.room) == [a - b for a, b in zip(one.limits, one.reserved, strict=True)]
        left = ledger.left(node.accounts(quota), 1)
        assert left is not None
        assert expected(node, left, quota) is None
        assert expected(node, left + 1, quota) is not None
