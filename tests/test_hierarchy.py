"""Organisation, tenant, user, model and runs: everything that a request counts on, asked and charged together."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from world import PRICES, World, held, opened, reserved_of, said, used, used_of

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.calls.model_call import ModelCall, ModelRequest, begin
from otelbudget.ledger.account import Account, QuotaAccount
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs import asking
from otelbudget.runs.run import BudgetRun

MakeWorld = Callable[..., World]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


def configured(make_world: MakeWorld, *, tenants: dict[str, str] | None = None, **quotas: Any) -> World:
    world = make_world(config=Config(quotas=Quotas(**quotas), tenants=tenants or {}, prices=PRICES))
    world.wall_s = NOON
    return world


def everybody(make_world: MakeWorld, **per_scope: int) -> World:
    """A world where an organisation, its tenants, users and a model have 1000 tokens a day unless said otherwise."""

    def quota(scope: str) -> tuple[Quota, ...]:
        return (Quota(tokens=per_scope.get(scope, 1000)),)

    return configured(
        make_world,
        tenants={"acme": "big"},
        org=quota("org"),
        default=quota("tenant"),
        users={"*": quota("user")},
        models={"demo": quota("model")},
    )


def quotas_of(run: BudgetRun, model: str | None = None) -> dict[str, QuotaAccount]:
    return {one.scope: one for one in run._state.binding(model).accounts if isinstance(one, QuotaAccount)}


def tokens_in(account: Account) -> tuple[int, int]:
    """(used, held) tokens."""
    return used_of(account)[1], reserved_of(account)[1]


def tokens_of(run: BudgetRun, model: str | None = "demo") -> dict[str, tuple[int, int]]:
    """(used, held) tokens of every quota and every run that a request of *run* counts on, by scope or depth."""
    accounts = run._state.binding(model).accounts
    names = [f"run{i}" for i in range(len(run._state.lineage))]
    names = [one.scope for one in accounts if one.scope != "run"] + names
    return {name: tokens_in(one) for name, one in zip(names, accounts, strict=True)}


def refused(run: BudgetRun, **amounts: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.reserve(**amounts)
    return denied.value


MINE = RunBudget(max_tokens=50)
SCOPES = ("org", "tenant", "user", "model", "run0", "run1", "run2")


# --- all or nothing


def test_a_request_is_held_at_every_level_and_charged_at_every_level(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with (
        world.run(RunBudget(max_tokens=1000), tenant="acme", user="eve") as root,
        root.child(RunBudget(max_tokens=1000)) as child,
        child.child() as leaf,
    ):
        hold = leaf.reserve(tokens=10, model="demo")
        assert tokens_of(leaf) == dict.fromkeys(SCOPES, (0, 10))
        hold.commit(Usage(4, 3, model="demo"))
        assert tokens_of(leaf) == dict.fromkeys(SCOPES, (7, 0))
        assert (leaf.org, leaf.tenant, leaf.user) == ("big", "acme", "eve")


@pytest.mark.parametrize("scope", ["org", "tenant", "user", "model"])
def test_one_level_that_refuses_keeps_every_level_free_and_is_the_one_that_is_named(
    make_world: MakeWorld, scope: str
) -> None:
    world = everybody(make_world, **{scope: 9})
    with (
        world.run(RunBudget(max_tokens=1000), tenant="acme", user="eve") as root,
        root.child(reraise=False) as leaf,
    ):
        denied = refused(leaf, tokens=10, model="demo")
        assert (denied.reason, denied.scope, denied.resource) == ("limit", scope, "tokens")
        assert (denied.used, denied.reserved, denied.limit, denied.requested) == (0, 0, 9, 10)
        assert set(tokens_of(leaf).values()) == {(0, 0)}
        assert leaf._state.account.holds == root._state.account.holds == 0
        assert leaf.reserve(tokens=9, model="demo")


@pytest.mark.parametrize(("limits", "named"), [((9, 9), 0), ((None, 9), 1), ((10, 9), 1)])
def test_among_runs_the_outermost_that_refuses_is_named(
    world: World, limits: tuple[int | None, int], named: int
) -> None:
    with (
        world.run(RunBudget(max_tokens=limits[0], name="b0"), reraise=False) as root,
        root.child(RunBudget(max_tokens=limits[1], name="b1"), reraise=False) as child,
    ):
        assert refused(child, tokens=10).budget == f"b{named}"


def test_every_resource_of_every_level_must_fit(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=1000, cost_usd=1), Quota(steps=2, per="hour")))
    with world.run(RunBudget(max_output_tokens=50), reraise=False) as run:
        assert refused(run, input_tokens=10, output_tokens=51).resource == "output_tokens"
        run.extend(output_tokens=0)
        assert refused(run, tokens=10, cost_usd=1.01).resource == "cost_usd"
        assert refused(run, tokens=10, steps=3).budget == "steps per hour"
        assert {one.scope: reserved_of(one) for one in quotas_of(run).values()} == {"tenant": [0] * 7}
        run.reserve(input_tokens=950, output_tokens=50, cost_usd=1, steps=2)


def test_what_its_use_alone_blocks_decides_before_what_only_open_holds_keep_busy(make_world: MakeWorld) -> None:
    world = everybody(make_world, org=100, user=60)
    with (
        world.run(tenant="acme", user="bob") as other,
        world.run(tenant="acme", user="eve", reraise=False, mode="detached") as run,
    ):
        hold = other.reserve(tokens=60)
        run.record(Usage(30, 0))
        busy = refused(run, tokens=11)
        assert (busy.reason, busy.scope, busy.retry_after_s) == ("busy", "org", 1.0)
        denied = refused(run, tokens=31)
        assert (denied.reason, denied.scope) == ("limit", "user")
        hold.release()
        assert run.reserve(tokens=30)


def test_what_is_left_is_the_least_over_runs_and_quotas(make_world: MakeWorld) -> None:
    world = configured(
        make_world,
        org=(Quota(tokens=900, cost_usd=3),),
        default=(Quota(tokens=500, per="hour"), Quota(steps=7)),
        users={"*": (Quota(cost_usd=2),)},
    )
    with world.run(RunBudget(max_tokens=600), user="eve") as root, root.child(RunBudget(max_steps=9)) as run:
        assert run.remaining() == {
            "steps": 7,
            "tokens": 500,
            "input_tokens": None,
            "output_tokens": None,
            "cost_usd": Decimal(2),
            "tool_calls": None,
            "nested_tool_calls": None,
            "seconds": None,
        }
        run.record(Usage(100, 0, cost_usd=0.5))
        hold = run.reserve(tokens=150)
        assert (run.remaining()["steps"], run.remaining()["tokens"], run.remaining()["cost_usd"]) == (
            5,
            250,
            Decimal("1.5"),
        )
        world.advance(3600)  # a new hour: there the run's own 600 are what is least
        assert run.remaining()["tokens"] == 350
        hold.release()
        run.record(Usage(900, 0))
        assert (run.remaining()["tokens"], root.remaining()["tokens"]) == (0, 0)


def test_use_is_kept_as_the_whole_and_what_came_from_below(world: World) -> None:
    with world.run() as root:
        root.record(Usage(5, 0))
        with root.child() as child:
            child.record(Usage(10, 0))
            with child.child() as leaf:
                leaf.record(Usage(20, 0))
            with child.child(mode="detached") as apart:
                apart.record(Usage(40, 0))
        assert (root.usage.tokens, child.usage.tokens, leaf.usage.tokens, apart.usage.tokens) == (35, 30, 20, 40)
    direct = {
        attributes["otelbudget.used.tokens"]: attributes["otelbudget.used.direct.tokens"]
        for span in world.spans("otelbudget.run")
        if (attributes := dict(span.attributes or {}))
    }
    assert direct == {35: 5, 30: 10, 20: 20, 40: 40}


def test_a_detached_run_charges_the_quotas_of_its_owner_and_no_run_around_it(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with (
        world.run(RunBudget(max_tokens=5), tenant="acme") as root,
        world.run(tenant="other", org="big", mode="detached") as apart,
    ):
        apart.record(Usage(10, 0))
        assert tokens_of(apart, None) == {"org": (10, 0), "tenant": (10, 0), "run0": (10, 0)}
        assert tokens_of(root, None) == {"org": (10, 0), "tenant": (0, 0), "run0": (0, 0)}


def test_owners_do_not_share_what_is_not_theirs(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    for tenant, user in (("acme", "eve"), ("acme", "bob"), ("b", "eve"), ("b", None)):
        with world.run(tenant=tenant, user=user) as run:
            run.record(Usage(10, 0, model="demo"))
    with world.run(tenant="acme", user="eve") as run:
        assert tokens_of(run) == {"org": (20, 0), "tenant": (20, 0), "user": (10, 0), "model": (20, 0), "run0": (0, 0)}
    with world.run(tenant="b", user="eve") as run:
        assert tokens_of(run) == {"org": (20, 0), "tenant": (20, 0), "user": (10, 0), "model": (20, 0), "run0": (0, 0)}


# --- the order of evaluation


def test_the_reasons_are_asked_in_one_order(make_world: MakeWorld) -> None:
    config = Config(quotas=Quotas(default=(Quota(tokens=50),)), require_tenant=True, prices=PRICES)
    world = make_world(config=config)
    with world.run(RunBudget(max_tokens=10, max_seconds=1, max_cost_usd=1), reraise=False) as run:
        reasons = []

        def next_reason(undo: Callable[[], object] = lambda: None) -> None:
            undo()
            reasons.append(refused(run, tokens=60).reason)

        world.advance(2)
        run.record(Usage(1, 0, model="mystery"))
        run.freeze()
        next_reason()
        run._state.owner.known = True
        next_reason()
        run._state.unpriced = None
        next_reason(run._state.refresh)
        next_reason(run.unfreeze)
        next_reason(lambda: run.extend(seconds=100))
        blockers = [refused(run, tokens=60).scope]
        run.extend(tokens=100)
        blockers.append(refused(run, tokens=60).scope)
        run.freeze()
    next_reason()
    assert reasons == ["no_tenant", "unpriced", "frozen", "deadline", "limit", "closed"]
    assert blockers == ["tenant", "tenant"]


def test_a_child_of_a_run_without_a_tenant_has_none_either(make_world: MakeWorld) -> None:
    world = make_world(config=Config(require_tenant=True))
    for mode in ("shared", "detached"):
        with world.run(reraise=False), world.run(mode=mode, reraise=False) as child:
            assert refused(child).reason == "no_tenant"
        with world.run(reraise=False), world.run(mode="detached", tenant="acme") as child:
            assert child.check()
    with world.run(tenant="acme") as root, root.child() as child:
        assert child.check()


def test_what_a_quota_or_a_run_refuses_is_refused_as_long_as_it_does_not_fit_and_less_is_admitted(
    make_world: MakeWorld,
) -> None:
    world = configured(make_world, default=(Quota(tokens=100),))
    with world.run(RunBudget(max_tokens=50), reraise=False) as run:
        for tokens, scope in ((101, "tenant"), (51, "run")):
            for _ in range(2):
                denied = refused(run, tokens=tokens)
                assert (denied.scope, denied.reason) == (scope, "limit")
        assert run.state == "active"
        run.reserve(tokens=50).commit()
        assert run.state == "exhausted"


def test_a_quotas_denial_says_whose_it_is_and_when_it_resets(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, timezone="Europe/Berlin", at="06:00"),))
    with world.run(tenant="acme", reraise=False) as run:
        run.record(Usage(70, 0))
        denied = refused(run, tokens=31)
        assert denied.resets_at is not None
        assert denied.resets_at.isoformat() == "2026-11-25T06:00:00+01:00"
        assert denied.retry_after_s == 17 * 3600
        assert "quota 'tokens per day' of tenant 'acme' (org 'default')" in str(denied)
        assert "tokens used 70 of 100, requested 31" in str(denied)
        assert refused(run, tokens=101).retry_after_s is None  # no day has that much


def test_a_request_without_amounts_asks_one_of_what_any_quota_limits(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=10),), models={"demo": (Quota(output_tokens=3, cost_usd=1),)})
    with world.run(reraise=False) as run:
        assert run.reserve().held == {"steps": 1, "tokens": 1, "input_tokens": 1} or run.remaining()
        run.record(Usage(0, 3, model="demo"))
        assert run.can_proceed()
        with pytest.raises(BudgetExceeded) as denied:
            run.check(model="demo")
        assert (denied.value.scope, denied.value.resource) == ("model", "output_tokens")
        run.record(Usage(10, 0))
        assert not run.can_proceed()


def test_a_quota_that_only_warns_charges_flags_and_never_blocks(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=10, on_exhausted="warn"),))
    with world.run() as run:
        assert not run.check(tokens=10).warned
        assert run.check(tokens=11).warned
        run.reserve(tokens=11).commit()
        run.record(Usage(5, 0))
        assert used_of(quotas_of(run)["tenant"])[1] == 16
        assert run.check().warned
    assert world.counted()[("check", "warn", "limit")] == 2
    assert (world.span("otelbudget.run").attributes or {})["otelbudget.outcome"] == "completed"


def test_a_quota_of_money_makes_unpriced_models_denied_and_one_that_warns_does_not(make_world: MakeWorld) -> None:
    for mode, reason in (("raise", "unpriced"), ("warn", None)):
        world = configured(make_world, default=(Quota(cost_usd=1, on_exhausted=mode),))
        with world.run(reraise=False) as run:
            run.record(Usage(5, 5, model="mystery"))
            assert (None if run.can_proceed() else refused(run).reason) == reason


# --- windows


def test_a_hold_is_charged_to_the_window_it_was_made_in_and_a_record_to_the_current_one(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100),))
    with world.run() as run:
        before = quotas_of(run)["tenant"]
        hold, lost = run.reserve(tokens=60), run.reserve(tokens=30)
        world.advance(DAY_S)
        after = quotas_of(run)["tenant"]
        assert (before.window, after.window) == ("2026-11-24", "2026-11-25")
        assert run.remaining()["tokens"] == 100
        hold.extend(output_tokens=10)
        assert refused(run, tokens=101).reason == "limit"
        hold.commit(Usage(50, 0))
        run.record(Usage(5, 0))
        assert (tokens_in(before), tokens_in(after)) == ((50, 30), (5, 0))
        del lost
        gc.collect()
        world.advance(70)
        run.can_proceed()
        assert (tokens_in(before), tokens_in(after)) == ((50, 0), (5, 0))
        run.acknowledge()


def test_a_late_commit_after_an_expiry_goes_to_the_window_of_its_hold(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100),), models={"demo": (Quota(tokens=100),)})
    world.activate()
    with world.run() as run:
        call = begin(ModelRequest(provider="p", operation="chat", model="demo", input_tokens=20, max_output_tokens=30))
        assert call is not None
        before = quotas_of(run, "demo")
        call._hold.owner = lambda: None  # its process hung for a day
        world.advance(DAY_S)
        run.can_proceed()
        assert {scope: tokens_in(one) for scope, one in before.items()} == {
            "tenant": (20, 0),
            "model": (20, 0),
        }
        call.commit(Usage(20, 25))
        assert {tokens_in(one) for one in before.values()} == {(45, 0)}
        assert {tokens_in(one) for one in quotas_of(run, "demo").values()} == {(0, 0)}
        assert run.usage.tokens == 45


def test_a_model_that_is_known_only_after_an_expiry_is_counted_in_full(make_world: MakeWorld) -> None:
    world = configured(make_world, models={"demo": (Quota(tokens=100),)})
    with world.run() as run:
        call = span_call(run, model=None, input_tokens=20)
        call._hold.owner = lambda: None
        world.advance(70)
        run.can_proceed()
        assert used(run)[1] == 20
        call.commit(Usage(20, 5, model="demo"))
        assert (used(run)[1], tokens_in(quotas_of(run, "demo")["model"])) == (25, (25, 0))


def test_ended_windows_are_found_again_by_a_clock_that_is_set_back(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, per="hour"),))
    with world.run(reraise=False) as run:
        run.record(Usage(90, 0))
        for hours, left in ((1, 100), (-1, 10), (1, 100), (-2, 100), (1, 10)):
            world.wall_s += 3600 * hours
            assert run.remaining()["tokens"] == left
        world.wall_s += 3600 * 2
        run.record(Usage(1, 0))
        world.wall_s += DAY_S + 3600
        assert run.remaining()["tokens"] == 100
        world.wall_s -= DAY_S + 3600 * 3
        assert run.remaining()["tokens"] == 10


def test_a_clock_that_jumps_far_ahead_and_comes_back_gives_no_window_twice(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100),))
    with world.run(reraise=False) as run:
        run.record(Usage(90, 0))
        world.wall_s += 3650 * DAY_S
        assert run.remaining()["tokens"] == 100
        world.wall_s -= 3650 * DAY_S
        assert run.remaining()["tokens"] == 10


def test_a_rolling_window_forgets_what_is_older_than_it_and_nothing_younger(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, per="rolling 1h"),))
    with world.run(reraise=False) as run:
        run.record(Usage(60, 0))
        world.advance(1800)
        hold = run.reserve(tokens=40)
        assert refused(run, tokens=1).reason == "busy"
        world.advance(1700)
        hold.commit(Usage(40, 0))
        assert run.remaining()["tokens"] == 0
        world.advance(160)
        assert run.remaining()["tokens"] == 60
        denied = refused(run, tokens=61)
        assert (denied.reason, denied.resets_at is not None) == ("limit", True)
        world.wall_s -= 600  # what had fallen out counts again, and nothing falls out early
        assert run.remaining()["tokens"] == 0
        world.wall_s += 600
        assert run.remaining()["tokens"] == 60
        world.advance(3600)
        assert run.remaining()["tokens"] == 100


def test_a_lifetime_quota_never_comes_back(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=10, per="lifetime"),))
    with world.run(reraise=False) as run:
        run.record(Usage(10, 0))
        world.advance(DAY_S * 5000)
        denied = refused(run, tokens=1)
        assert (denied.resets_at, denied.retry_after_s) == (None, None)
        assert "It never resets." in str(denied)


def test_a_quota_per_run_is_each_root_runs_own_and_its_childrens(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, per="run"), Quota(tokens=150)))
    with world.run(tenant="acme", reraise=False) as one:
        with one.child(reraise=False) as child:
            child.record(Usage(80, 0))
            denied = refused(child, tokens=21)
            assert (denied.scope, denied.budget, denied.resets_at) == ("tenant", "tokens per run", None)
        assert one.remaining()["tokens"] == 20
        assert one.state == "active"
        world.advance(DAY_S)
        assert one.remaining()["tokens"] == 20
    with world.run(tenant="acme") as other:
        assert other.remaining()["tokens"] == 100


def test_quotas_per_run_are_asked_in_their_scopes_turn_and_keep_nothing_alive(make_world: MakeWorld) -> None:
    world = configured(
        make_world,
        org=(Quota(tokens=9, per="run"),),
        default=(Quota(tokens=9),),
        models={"demo": (Quota(tokens=9),)},
    )
    with world.run(reraise=False) as run:
        assert [one.scope for one in run._state.binding("demo").accounts] == ["org", "tenant", "model", "run"]
        assert refused(run, tokens=10, model="demo").budget == "tokens per run"


def test_quotas_per_run_go_with_their_run(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=9, per="run"),))

    def alive() -> int:
        return sum(type(one) is QuotaAccount for one in gc.get_objects())

    def work() -> None:
        with world.run(tenant="acme") as run:
            run.reserve(tokens=5).commit()

    gc.collect()
    before = alive()
    for _ in range(3):
        work()
    gc.collect()
    assert alive() == before


# --- thresholds


def test_thresholds_of_a_quota_are_told_once_per_window_whoever_spends(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=10),))
    for amounts in ((7, 1, 1, 1), (8, 0, 1, 1)):
        for amount in amounts:
            with world.run() as run:
                run.reserve(tokens=amount).commit()
        world.advance(DAY_S)
    ratios = [
        dict(attributes)["otelbudget.ratio"]
        for span in sorted(world.spans("otelbudget.run"), key=lambda span: span.start_time or 0)
        for name, attributes in said(span)
        if name.endswith("threshold")
    ]
    assert ratios == [0.8, 0.95, 1.0, 0.8, 0.95, 1.0]


def test_a_threshold_is_told_again_neither_after_the_clock_went_back_nor_for_another_account(
    make_world: MakeWorld,
) -> None:
    world = configured(make_world, default=(Quota(tokens=10),), org=(Quota(tokens=10, name="ours"),))
    with world.run() as run:
        run.record(Usage(8, 0))
        world.wall_s += DAY_S
        run.record(Usage(8, 0))
        world.wall_s -= DAY_S
        run.record(Usage(1, 0))
    told = [a for n, a in said(world.span("otelbudget.run")) if n.endswith("threshold")]
    assert [a["otelbudget.budget"] for a in told] == ["ours", "tokens per day"] * 2
    assert {a["otelbudget.ratio"] for a in told} == {0.8}


# --- priorities


def test_low_stops_at_sixty_and_normal_at_eighty_percent(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, reserve_for={"high": 0.2, "normal": 0.2}),))
    runs = {name: opened(world.run(priority=name, reraise=False)) for name in ("low", "normal", "high")}
    assert {name: run.remaining()["tokens"] for name, run in runs.items()} == {"low": 60, "normal": 80, "high": 100}
    for name, limit in (("low", 60), ("normal", 80), ("high", 100)):
        run = runs[name]
        spent = used_of(quotas_of(run)["tenant"])[1]
        denied = refused(run, tokens=limit - spent + 1)
        assert (denied.reason, denied.limit) == ("limit", limit)
        while run.can_proceed(tokens=1):
            run.reserve(tokens=1).commit()
        assert used_of(quotas_of(run)["tenant"])[1] == limit
    assert "(what priority 'low' may use of 100)" in str(refused(runs["low"], tokens=1))
    assert "may use" not in str(refused(runs["high"], tokens=1))


def test_a_hold_grows_by_its_own_priority_and_children_take_their_parents(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100, reserve_for={"high": 0.4}),))
    with world.run(priority="high") as high, high.child() as child, child.child(priority="low", reraise=False) as low:
        assert (child.priority, low.priority) == ("high", "low")
        hold = child.reserve(tokens=60)
        assert refused(low, tokens=1).reason == "busy"
        hold.extend(output_tokens=40)
        with pytest.raises(BudgetExceeded):
            hold.extend(output_tokens=1)
        child.acknowledge()


# --- models


def test_a_models_quota_is_counted_and_asked_under_its_name_its_dated_names_and_its_pattern(
    make_world: MakeWorld,
) -> None:
    world = configured(make_world, models={"gpt-4o": (Quota(tokens=100),), "gpt-*": (Quota(tokens=50),)})
    with world.run(reraise=False) as run:
        run.record(Usage(30, 0, model="gpt-4o-2024-08-06"))
        run.record(Usage(20, 0, model="gpt-4o"))
        run.record(Usage(40, 0, model="gpt-4.1"))
        run.record(Usage(1, 0, model="gpt-5"))
        run.record(Usage(99, 0, model="claude"))
        assert tokens_in(quotas_of(run, "gpt-4o")["model"]) == (50, 0)
        assert tokens_in(quotas_of(run, "gpt-5-mini")["model"]) == (41, 0)
        assert quotas_of(run, "claude") == {}
        assert refused(run, tokens=10, model="gpt-9").scope == "model"
        assert run.reserve(tokens=50, model="gpt-4o-2025-01-01")
        assert run.reserve(tokens=1000, model="claude")


def test_all_tenants_of_an_organisation_share_its_models_quota_and_other_organisations_do_not(
    make_world: MakeWorld,
) -> None:
    world = everybody(make_world, model=10)
    for tenant, org in (("a", "one"), ("b", "one"), ("c", "two")):
        with world.run(tenant=tenant, org=org) as run:
            run.record(Usage(5, 0, model="demo"))
    with world.run(tenant="a", org="one", reraise=False) as run:
        assert refused(run, tokens=1, model="demo").scope == "model"
    with world.run(tenant="c", org="two") as run:
        assert run.reserve(tokens=5, model="demo")


def test_a_model_that_only_the_answer_names_is_counted_all_the_same(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with world.run(tenant="acme") as run:
        run.reserve(tokens=50).commit(Usage(7, 3, model="demo"))
        assert tokens_of(run) == {"org": (10, 0), "tenant": (10, 0), "model": (10, 0), "run0": (10, 0)}
        run.reserve(tokens=50, model="demo").commit(Usage(7, 3, model="demo"))
        assert set(tokens_of(run).values()) == {(20, 0)}


def span_call(run: BudgetRun, **known: Any) -> ModelCall:
    """A call that a span has told of and reserved for, as the span processor does it."""
    call = ModelCall(run._state, ModelRequest(provider="p", operation="chat", **known))
    asking.decide(run._state, call.ask())
    return call


def adopted(call: ModelCall, **known: Any) -> None:
    ask = call.take_over(ModelRequest(provider="p", operation="chat", **known), call.site)
    assert ask is not None
    try:
        asking.decide(call.run, ask)
    except BudgetExceeded as error:
        call.refused(error)
        raise


def test_a_guard_that_takes_over_a_spans_hold_puts_it_on_its_models_quota(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with world.run(tenant="acme") as run:
        call = span_call(run, model=None, input_tokens=1)
        assert tokens_of(run)["model"] == (0, 0)
        assert tokens_of(run)["org"] == (0, 257)
        adopted(call, model="demo", input_tokens=20, max_output_tokens=30)
        assert set(tokens_of(run).values()) == {(0, 50)}
        call.commit(Usage(20, 5, model="demo"))
        assert set(tokens_of(run).values()) == {(25, 0)}


def test_what_is_taken_over_asks_the_models_quota_for_what_it_needs_and_not_for_what_was_guessed(
    make_world: MakeWorld,
) -> None:
    world = everybody(make_world, model=50)
    with world.run(tenant="acme", reraise=False) as run:
        adopted(span_call(run, model=None, input_tokens=1), model="demo", input_tokens=20, max_output_tokens=30)
        call = span_call(run, model=None, input_tokens=1)
        with pytest.raises(BudgetExceeded) as denied:
            adopted(call, model="demo", input_tokens=20, max_output_tokens=31)
        assert (denied.value.scope, denied.value.reason) == ("model", "limit")
        assert call.settled
        gc.collect()
        assert tokens_of(run)["org"] == (0, 50)


def test_a_taken_over_hold_is_no_competition_to_itself(world: World) -> None:
    with world.run(RunBudget(max_tokens=300), reraise=False) as run:
        call = span_call(run, model="demo", input_tokens=1)
        adopted(call, model="demo", input_tokens=100, max_output_tokens=200)
        assert held(run)[1] == 300
        other = span_call(run, model="demo", input_tokens=1, max_output_tokens=0) if run.can_proceed(tokens=1) else None
        assert other is None


# --- what is kept, and what is not


def test_accounts_and_owners_of_visitors_are_forgotten_and_those_in_use_are_not(make_world: MakeWorld) -> None:
    world = configured(make_world, default=(Quota(tokens=100),))
    with world.run(tenant="stays") as stays:
        stays.record(Usage(60, 0))
        for number in range(3000):
            with world.run(tenant=f"visitor{number}", mode="detached") as run:
                run.can_proceed(tokens=1)
        gc.collect()
        assert len(list(world.engine.directory.accounts)) < 2100
        assert len(world.engine.directory._owners) < 5
    with world.run(tenant="stays") as again:
        assert again.remaining()["tokens"] == 40


def test_a_run_that_is_over_keeps_neither_its_accounts_nor_its_holds(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    watched = []
    for mode in ("shared", "carve"):
        with world.run(RunBudget(max_tokens=100), tenant="acme") as root, root.child(MINE, mode=mode) as child:
            hold = child.reserve(tokens=5)
            hold.commit()
            watched += [weakref.ref(one) for one in (root._state, child._state, hold)]
        del root, child, hold
    gc.collect()
    assert [one() for one in watched] == [None] * 6


def test_enforce_false_charges_every_quota_and_refuses_nothing(make_world: MakeWorld) -> None:
    config = Config(quotas=Quotas(default=(Quota(tokens=10),)), prices=PRICES)
    world = make_world(config=config, enforce=False)
    with world.run() as run:
        assert run.check(tokens=11).warned
        run.reserve(tokens=11).commit()
        assert tokens_in(quotas_of(run)["tenant"]) == (11, 0)
    assert world.counted()[("reserve", "warn", "limit")] == 1


def test_a_quota_that_begins_to_warn_or_is_raised_counts_at_once(make_world: MakeWorld) -> None:
    quota = Quota(tokens=10)
    world = configured(make_world, default=(quota,))
    with world.run(reraise=False) as run:
        run.record(Usage(10, 0))
        assert refused(run, tokens=1).scope == "tenant"
        world.engine.directory.override("default", replace(quota, tokens=12))
        assert run.reserve(tokens=2)
        world.engine.directory.override("default", replace(quota, on_exhausted="warn"))
        assert run.check(tokens=5).warned


def test_unlimited_resources_stay_unlimited_whatever_is_held(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with world.run(tenant="acme") as run:
        run.record(Usage(0, 0, tool_calls=10**6, cost_usd=9_000_000))
        assert all(run.remaining()[name] is None for name in RESOURCES if name != "tokens")
