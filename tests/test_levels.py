"""Quotas of agents, conversations and tags: asked, held and charged together with those of everybody else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from world import PRICES, World, reserved_of, used_of

from otelbudget import BudgetExceeded, Config, Quota, RunBudget, Usage, current_run
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.model.amounts import TOKENS
from otelbudget.model.quota import Quotas
from otelbudget.runs.run import BudgetRun

MakeWorld = Callable[..., World]


def tokens(limit: int, **options: Any) -> tuple[Quota, ...]:
    return (Quota(tokens=limit, **options),)


def configured(make_world: MakeWorld, *, tenants: dict[str, str] | None = None, **quotas: Any) -> World:
    world = make_world(config=Config(quotas=Quotas(**quotas), tenants=tenants or {}, prices=PRICES))
    world.activate()
    return world


def agent(world: World, name: str, conversation: str | None = None) -> Any:
    """The span of an agent."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    if conversation is not None:
        attributes["gen_ai.conversation.id"] = conversation
    return world.tracer.start_as_current_span(f"invoke_agent {name}", attributes=attributes)


def accounts(world: World) -> dict[tuple[str, ...], tuple[int, int]]:
    """(scope, names) -> (used, held) tokens of everything that was used or is held."""
    return {
        (account.scope, *account.where.names): (used_of(account)[TOKENS], reserved_of(account)[TOKENS])
        for account in world.engine.directory.accounts
        if account.taken
    }


def here() -> BudgetRun:
    run = current_run()
    assert run is not None
    return run


def refused(run: BudgetRun, **amounts: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as denied:
        run.reserve(**amounts)
    run.acknowledge()
    return denied.value


# --- together with all others

EVERYBODY = {
    ("org", "big"),
    ("tenant", "big", "acme"),
    ("user", "big", "acme", "eve"),
    ("model", "big", "demo"),
    ("agent", "big", "acme", "search"),
    ("conversation", "big", "acme", "c1"),
    ("tag", "big", "team", "docs"),
    ("tag", "big", "env", "prod"),
}


def everybody(make_world: MakeWorld, **limits: int) -> World:
    def quota(scope: str) -> tuple[Quota, ...]:
        return tokens(limits.get(scope, 1000))

    return configured(
        make_world,
        tenants={"acme": "big"},
        org=quota("org"),
        default=quota("tenant"),
        users={"*": quota("user")},
        models={"demo": quota("model")},
        agents={"search": quota("agent")},
        conversations={"*": quota("conversation")},
        tags={"team": {"docs": quota("tag")}, "env": {"*": tokens(1000)}},
    )


def whole(world: World) -> Any:
    return world.run(tenant="acme", user="eve", conversation="c1", tags={"team": "docs", "env": "prod"}, reraise=False)


def test_a_request_is_held_on_every_level_and_charged_on_every_level(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with whole(world) as run, agent(world, "search"):
        hold = run.reserve(tokens=10, model="demo")
        assert accounts(world) == dict.fromkeys(EVERYBODY, (0, 10))
        hold.commit(Usage(4, 3, model="demo"))
        assert accounts(world) == dict.fromkeys(EVERYBODY, (7, 0))
        run.record(Usage(2, 1, model="demo"))
        assert accounts(world) == dict.fromkeys(EVERYBODY, (10, 0))


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("agent", "quota 'tokens per day' of agent 'search' of tenant 'acme' (org 'big')"),
        ("conversation", "quota 'tokens per day' of conversation 'c1' of tenant 'acme' (org 'big')"),
        ("tag", "quota 'tokens per day' of tag team 'docs' (org 'big')"),
    ],
)
def test_one_level_that_refuses_keeps_every_level_free_and_is_named(
    make_world: MakeWorld, scope: str, said: str
) -> None:
    world = everybody(make_world, **{scope: 9})
    with whole(world) as run, agent(world, "search"):
        denied = refused(run, tokens=10, model="demo")
        assert (denied.reason, denied.scope, denied.resource) == ("limit", scope, "tokens")
        assert (denied.used, denied.reserved, denied.limit, denied.requested) == (0, 0, 9, 10)
        assert said in str(denied)
        assert accounts(world) == {}
        assert run.remaining()["tokens"] == 9
        held = run.reserve(tokens=9, model="demo")
        assert refused(run, tokens=1).reason == "busy"
        held.commit()


def test_they_are_asked_after_models_and_before_runs_in_one_order(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with whole(world) as run, agent(world, "search"):
        order = [one.scope for one in run._state.binding("demo", run._state.around().owner).accounts]
    assert order == ["org", "tenant", "user", "model", "agent", "conversation", "tag", "tag", "run"]


def test_a_guarded_call_is_held_on_all_of_them_and_charged_in_full(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with whole(world), agent(world, "search"):
        call = begin(ModelRequest(provider="p", operation="chat", model="demo", input_tokens=20, max_output_tokens=30))
        assert call is not None
        assert accounts(world) == dict.fromkeys(EVERYBODY, (0, 50))
        call.commit(Usage(20, 5, model="demo"))
    assert accounts(world) == dict.fromkeys(EVERYBODY, (25, 0))


def test_a_tool_call_counts_on_them_too(make_world: MakeWorld) -> None:
    one = (Quota(tool_calls=1),)
    world = configured(make_world, agents={"*": one}, conversations={"*": one}, tags={"team": {"*": one}})
    for whose in ({"conversation": "c1"}, {"tags": {"team": "docs"}}):
        with world.run(reraise=False, **whose) as run:
            with run.tool_call("look"):
                pass
            with pytest.raises(BudgetExceeded), run.tool_call("look"):
                pass
    with world.run(reraise=False) as run, agent(world, "search"):
        with run.tool_call("look"):
            pass
        with pytest.raises(BudgetExceeded) as denied, run.tool_call("look"):
            pass
        assert denied.value.scope == "agent"


def test_a_quota_that_only_warns_charges_and_refuses_nothing(make_world: MakeWorld) -> None:
    world = configured(make_world, tags={"team": {"docs": tokens(5, on_exhausted="warn")}})
    with world.run(tags={"team": "docs"}) as run:
        assert run.check(tokens=6).warned
        run.reserve(tokens=6).commit()
    assert accounts(world) == {("tag", "default", "team", "docs"): (6, 0)}


# --- agents


def test_an_agents_span_says_whose_call_it_is_with_and_without_a_run(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"search": tokens(10)})
    with agent(world, "search"):
        here().record(Usage(6, 0))
    with world.run(reraise=False) as run:
        assert run.remaining()["tokens"] is None
        with agent(world, "search"):
            assert run.remaining()["tokens"] == 4
            assert refused(run, tokens=5).scope == "agent"
            assert not run.can_proceed(tokens=5)
            with pytest.raises(BudgetExceeded):
                run.check(tokens=5)
            run.acknowledge()
            run.record(Usage(1, 0))
        assert run.reserve(tokens=100)
    assert accounts(world) == {("agent", "default", "default", "search"): (7, 0)}


def test_a_request_without_amounts_asks_one_of_what_the_agents_quota_limits(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"search": tokens(10)})
    with world.run(reraise=False) as run:
        with agent(world, "search"):
            run.record(Usage(10, 0))
            assert not run.can_proceed()
            assert refused(run).scope == "agent"
        assert run.can_proceed()


def test_a_model_without_a_price_is_refused_where_the_agents_quota_limits_money(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"search": (Quota(cost_usd=1),)})
    request = ModelRequest(provider="p", operation="chat", model="mystery", input_tokens=1, max_output_tokens=1)
    with world.run(reraise=False) as run:
        assert run.can_proceed(tokens=5, model="mystery")
        with agent(world, "search"):
            assert refused(run, tokens=5, model="mystery").reason == "unpriced"
            with pytest.raises(BudgetExceeded) as denied:
                begin(request)
            assert (denied.value.reason, denied.value.scope) == ("unpriced", "agent")


def test_the_innermost_agent_pays(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"*": tokens(10)})
    with agent(world, "outer"):
        here().record(Usage(1, 0))
        with agent(world, "inner"):
            here().record(Usage(2, 0))
            with world.tracer.start_as_current_span("step"):
                here().record(Usage(2, 0))
        here().record(Usage(1, 0))
    assert accounts(world) == {
        ("agent", "default", "default", "outer"): (2, 0),
        ("agent", "default", "default", "inner"): (4, 0),
    }


def test_a_run_inside_of_an_agents_span_is_that_agents_wherever_it_goes(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"*": tokens(100)})
    with agent(world, "search"), world.run(tenant="acme", reraise=False) as run, run.child() as child:
        child.record(Usage(2, 0))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, lambda: child.record(Usage(2, 0))).result()
    assert accounts(world) == {("agent", "default", "acme", "search"): (4, 0)}


def test_each_tenant_has_an_account_of_an_agent_and_patterns_give_one_to_each_agent(make_world: MakeWorld) -> None:
    world = configured(make_world, agents={"search-*": tokens(10)})
    for tenant, name in (("a", "search-x"), ("a", "search-y"), ("b", "search-x"), ("b", "other")):
        with world.run(tenant=tenant), agent(world, name):
            here().record(Usage(5, 0))
    assert accounts(world) == {
        ("agent", "default", tenant, name): (5, 0)
        for tenant, name in (("a", "search-x"), ("a", "search-y"), ("b", "search-x"))
    }


def test_a_quota_of_agents_that_a_reload_brings_binds_runs_in_progress(make_world: MakeWorld) -> None:
    world = configured(make_world)
    with world.run(reraise=False) as run, agent(world, "search"):
        assert run.can_proceed(tokens=50)
        world.engine.reload(Config(quotas=Quotas(agents={"search": tokens(10)}), prices=PRICES))
        assert refused(run, tokens=50).scope == "agent"


# --- conversations


def test_a_conversation_is_that_of_the_run_else_that_of_the_span(make_world: MakeWorld) -> None:
    world = configured(make_world, conversations={"*": tokens(10)})
    with world.run(conversation="mine"), agent(world, "a", "spans"):
        here().record(Usage(1, 0))
    with world.run(), agent(world, "a", "spans"):
        here().record(Usage(2, 0))
    with agent(world, "a", "spans"):
        here().record(Usage(3, 0))
        with world.run() as run:
            run.record(Usage(3, 0))
    with world.run():
        here().record(Usage(9, 0))
    assert accounts(world) == {
        ("conversation", "default", "default", "mine"): (1, 0),
        ("conversation", "default", "default", "spans"): (8, 0),
    }


def test_the_conversation_of_a_model_calls_own_span_counts(make_world: MakeWorld) -> None:
    world = configured(make_world, conversations={"*": tokens(1000)})
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo", "gen_ai.conversation.id": "c"}
    with world.run():
        span = world.tracer.start_span("chat demo", attributes=attributes)
        span.set_attributes({"gen_ai.usage.input_tokens": 4, "gen_ai.usage.output_tokens": 3})
        span.end()
    assert accounts(world) == {("conversation", "default", "default", "c"): (7, 0)}


def test_a_model_calls_own_span_is_held_to_its_conversation_and_a_tools_span_too(make_world: MakeWorld) -> None:
    world = configured(make_world, conversations={"*": (Quota(tokens=10, tool_calls=1),)})
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo", "gen_ai.conversation.id": "c"}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look", "gen_ai.conversation.id": "c"}
    with world.run(reraise=False):
        with world.tracer.start_as_current_span("execute_tool look", attributes=tool):
            pass
        with pytest.raises(BudgetExceeded) as denied:
            world.tracer.start_span("execute_tool look", attributes=tool)
        assert (denied.value.scope, denied.value.resource) == ("conversation", "tool_calls")
        with pytest.raises(BudgetExceeded) as denied:
            world.tracer.start_span("chat demo", attributes=chat)  # one token and 256 of output
        assert (denied.value.scope, denied.value.resource) == ("conversation", "tokens")


def test_children_and_detached_runs_stay_in_the_conversation(make_world: MakeWorld) -> None:
    world = configured(make_world, conversations={"*": tokens(100)})
    with world.run(conversation="c"):
        for mode in ("shared", "detached"):
            with world.run(mode=mode) as inside:
                inside.record(Usage(2, 0))
        with world.run(mode="carve", carve={"tokens": 5}, budget=RunBudget(max_tokens=5)) as inside:
            inside.record(Usage(2, 0))
    assert accounts(world) == {("conversation", "default", "default", "c"): (6, 0)}


# --- tags


def test_all_tenants_of_an_organisation_share_a_tag_and_other_organisations_do_not(make_world: MakeWorld) -> None:
    world = configured(make_world, tenants={"a": "one", "b": "one", "c": "two"}, tags={"team": {"docs": tokens(10)}})
    for tenant in ("a", "b", "c"):
        with world.run(tenant=tenant, tags={"team": "docs"}) as run:
            run.record(Usage(5, 0))
    assert accounts(world) == {("tag", "one", "team", "docs"): (10, 0), ("tag", "two", "team", "docs"): (5, 0)}


def test_children_keep_their_parents_tags_and_may_add_and_change_some(make_world: MakeWorld) -> None:
    world = configured(make_world, tags={"team": {"*": tokens(100)}, "env": {"*": tokens(100)}})
    with world.run(tags={"team": "docs"}) as root:
        with world.run(tags={"env": "prod"}) as inside:
            inside.record(Usage(1, 0))
        with world.run(tags={"team": "search"}, mode="detached") as inside:
            inside.record(Usage(2, 0))
        root.record(Usage(4, 0))
    assert accounts(world) == {
        ("tag", "default", "team", "docs"): (5, 0),
        ("tag", "default", "env", "prod"): (1, 0),
        ("tag", "default", "team", "search"): (2, 0),
    }


def test_a_tag_that_no_quota_names_counts_nowhere(make_world: MakeWorld) -> None:
    world = configured(make_world, tags={"team": {"docs": tokens(10)}})
    with world.run(tags={"team": "other", "env": "prod"}) as run:
        run.record(Usage(50, 0))
    assert accounts(world) == {}


def test_eight_tags_are_allowed_and_a_ninth_is_an_error_here_and_with_those_of_the_run_around(world: World) -> None:
    eight = {f"t{i}": "x" for i in range(8)}
    with world.run(tags=eight):
        with world.run(tags={"t0": "y"}):
            pass
        with pytest.raises(ValueError, match="at most 8 tags, got 9"):
            world.run(tags={"ninth": "x"}).open()
    with pytest.raises(ValueError, match="at most 8 tags, got 9"):
        world.run(tags={**eight, "ninth": "x"})


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ("team", TypeError),
        ({"team": 5}, TypeError),
        ({5: "x"}, TypeError),
        ({"": "x"}, ValueError),
        ({"a": ""}, ValueError),
    ],
)
def test_tags_that_are_none_are_a_clear_error(world: World, tags: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tag"):
        world.run(tags=tags)


# --- what is shown


def shown(world: World) -> set[tuple[str, ...]]:
    amounts = world.engine.meters.snapshot().quotas.amounts
    return {
        tuple(part for part in (labels.scope, labels.org, labels.tenant, labels.agent, labels.tag) if part)
        for labels, _ in amounts
    }


def test_agents_and_tags_are_gauges_with_labels_and_conversations_are_not_named(make_world: MakeWorld) -> None:
    world = everybody(make_world)
    with whole(world) as run, agent(world, "search"):
        run.record(Usage(5, 0))
    found = shown(world)
    assert {("agent", "big", "acme", "search"), ("tag", "big", "team=docs"), ("tag", "big", "env=prod")} <= found
    assert not {one for one in found if one[0] in ("user", "conversation")}
