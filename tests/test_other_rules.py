"""Other rules are put on what was used: it belongs to its owner and window, whatever quotas say of it meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from world import PRICES, World, said

from otelbudget import BudgetExceeded, Config, Quota, Usage, semconv
from otelbudget.model.quota import Quotas

MakeWorld = Callable[..., World]

TOKENS = Quota(tokens=100)


def rules(*quotas: Quota, **more: Any) -> Config:
    return Config(prices=PRICES, quotas=Quotas(default=quotas, **more))


def left(world: World, **whose: Any) -> tuple[Any, Any]:
    with world.run(tenant="a", reraise=False, **whose) as run:
        found = run.remaining()
    return found["tokens"], found["steps"]


def use(world: World, tokens: int, **whose: Any) -> None:
    with world.run(tenant="a", reraise=False, **whose) as run:
        run.record_call(tokens)


@pytest.mark.parametrize(
    ("before", "after", "remaining"),
    [
        ([TOKENS], [Quota(tokens=100, steps=50)], (10, 49)),
        ([TOKENS], [Quota(tokens=100, name="daily")], (10, None)),
        ([Quota(tokens=100, steps=50)], [TOKENS], (10, None)),
        ([Quota(tokens=100, steps=50)], [TOKENS, Quota(steps=50)], (10, 49)),
        ([TOKENS, Quota(steps=50)], [Quota(tokens=100, steps=50)], (10, 49)),
        ([TOKENS], [Quota(steps=50)], (None, 49)),
        ([TOKENS], [Quota(tokens=100, name="a"), Quota(tokens=95, name="b")], (5, None)),
        ([TOKENS, Quota(steps=50)], [Quota(tokens=80), Quota(steps=40, name="tokens per day ")], (0, 39)),
    ],
    ids=["gains", "renamed", "loses", "split", "merged", "other", "doubled", "both"],
)
@pytest.mark.parametrize("per", ["day", "rolling 24h", "lifetime"])
def test_what_was_used_in_a_window_stays_used_whatever_its_quotas_limit(
    make_world: MakeWorld, before: list[Quota], after: list[Quota], remaining: tuple[Any, Any], per: str
) -> None:
    def every(quotas: list[Quota]) -> Config:
        amounts = [{"tokens": q.tokens, "steps": q.steps, "name": q.name} for q in quotas]
        return rules(*(Quota(per=per, **one) for one in amounts))  # type: ignore[arg-type]

    world = make_world(config=every(before))
    use(world, 90)
    world.engine.reload(every(after))
    assert left(world) == remaining
    world.engine.reload(every(before))
    use(world, 5)
    if before[0].steps is None and len(before) == 1:
        assert left(world) == (5, None)
    if per == "rolling 24h":
        world.advance(2 * 86_400)
        assert left(world)[0] in (100, None)


@pytest.mark.parametrize("back", [TOKENS, Quota(tokens=100, name="renamed")], ids=["the same", "with a name"])
def test_a_quota_that_a_reload_drops_by_mistake_comes_back_with_what_was_used(
    make_world: MakeWorld, back: Quota
) -> None:
    world = make_world(config=rules(TOKENS))
    with world.run(tenant="a") as run:
        run.record_call(90)
    del run
    world.engine.reload(rules())
    gc.collect()
    world.engine.reload(rules(back))
    assert left(world)[0] == 10


def test_a_quota_of_an_organisation_a_user_and_a_model_is_followed_as_well(make_world: MakeWorld) -> None:
    both = Quota(tokens=100, steps=50)
    world = make_world(config=rules(org=(TOKENS,), users={"u": (TOKENS,)}, models={"demo*": (TOKENS,)}))
    with world.run(tenant="a", user="u") as run:
        run.record(Usage(tokens=90, model="demo"))
    for changed in ({"org": (both,)}, {"users": {"u": (both,)}}, {"models": {"demo*": (both,)}}):
        world.engine.reload(rules(**changed))
        with world.run(tenant="a", user="u", reraise=False) as run:
            assert run.can_proceed(tokens=10, model="demo")
            assert not run.can_proceed(tokens=11, model="demo")
        world.engine.reload(rules(org=(TOKENS,), users={"u": (TOKENS,)}, models={"demo*": (TOKENS,)}))


def test_an_open_call_is_held_and_charged_once_on_each_quota_that_came_out_of_its_own(make_world: MakeWorld) -> None:
    world = make_world(config=rules(Quota(tokens=100, steps=50)))
    with world.run(tenant="a", reraise=False) as run:
        run.record_call(20)
        held = run.reserve(tokens=60)
        world.engine.reload(rules(TOKENS, Quota(steps=50), Quota(input_tokens=90)))
        assert (run.remaining()["tokens"], run.remaining()["steps"], run.remaining()["input_tokens"]) == (20, 48, 10)
        with pytest.raises(BudgetExceeded) as caught:
            run.check(tokens=30)
        assert caught.value.reason == "busy"
        held.commit(Usage(tokens=30))
        assert (run.remaining()["tokens"], run.remaining()["steps"], run.remaining()["input_tokens"]) == (50, 48, 40)
    assert all(account.taken == account.used and not account.holds for account in world.engine.directory.accounts)
    world.engine.reload(rules(Quota(tokens=100, steps=50)))
    assert left(world) == (50, 48)


def test_a_hold_that_had_ended_before_is_charged_late_on_all_of_them(make_world: MakeWorld) -> None:
    world = make_world(config=rules(Quota(tokens=100, steps=50)))
    with world.run(tenant="a", reraise=False) as run:
        held = run.reserve(tokens=60)
        held.release()
        world.engine.reload(rules(TOKENS, Quota(steps=50)))
        held.commit(Usage(tokens=30))
        assert (run.remaining()["tokens"], run.remaining()["steps"]) == (70, 49)


def test_a_run_in_progress_counts_on_the_quotas_in_force(make_world: MakeWorld) -> None:
    world = make_world(config=rules(TOKENS))
    with world.run(tenant="a", reraise=False) as run:
        run.record_call(30)
        world.engine.reload(rules(Quota(tokens=100, steps=2)))
        run.record_call(30)
        assert left(world) == (40, 0)
        with pytest.raises(BudgetExceeded, match=r"quota 'steps \+ tokens per day'"):
            run.check()


def test_merged_and_split_again_nothing_comes_back_from_what_a_call_in_flight_still_refers_to(
    make_world: MakeWorld,
) -> None:
    world = make_world(config=rules(TOKENS, Quota(steps=50)))
    with world.run(tenant="a", reraise=False) as run:
        held = run.reserve(tokens=10)
        world.engine.reload(rules(Quota(tokens=100, steps=50)))
        run.record_call(60)
        world.engine.reload(rules(TOKENS, Quota(steps=50)))
        assert (run.remaining()["tokens"], run.remaining()["steps"]) == (30, 48)
        held.release()
    assert left(world) == (40, 49)


def test_thresholds_that_were_passed_are_told_again_by_no_rule_that_comes_later(make_world: MakeWorld) -> None:
    world = make_world(config=rules(TOKENS))
    use(world, 90)
    world.engine.reload(rules(TOKENS, Quota(tokens=100, name="copy")))
    use(world, 1)
    use(world, 4)
    told = [[name for name, _ in said(span) if name == semconv.EVENT_THRESHOLD] for span in world.spans()]
    assert [len(one) for one in told] == [1, 0, 2]


def test_a_quota_that_was_set_stays_set_under_its_name_when_the_one_in_its_place_is_renamed(
    make_world: MakeWorld,
) -> None:
    world = make_world(config=rules(TOKENS))
    use(world, 90)
    world.engine.directory.override("a", Quota(tokens=500))
    world.engine.reload(rules(Quota(tokens=100, name="daily")))
    assert left(world) == (410, None)
    ((was, now),) = world.engine.directory.restore("a")
    assert (was.name, now) == ("tokens per day", Quota(tokens=100, name="daily"))
    assert left(world) == (10, None)


def test_a_quota_that_is_set_on_top_knows_what_was_used(make_world: MakeWorld) -> None:
    world = make_world(config=rules(TOKENS))
    use(world, 90)
    world.engine.directory.override("a", Quota(steps=3))
    assert left(world) == (10, 2)
