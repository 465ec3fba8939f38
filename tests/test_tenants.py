"""Whose a run is: as it says itself, else by a span attribute or baggage where that is trusted, else the default's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from world import PRICES, World

from otelbudget import BudgetExceeded, Config, Quota, current_run
from otelbudget.config import TenantFrom
from otelbudget.model.quota import Quotas

AGENT = {"gen_ai.operation.name": "invoke_agent"}
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo"}
BOTH = TenantFrom(span_attribute="app.tenant", baggage="tenant")


def trusting(make_world: Callable[..., World], source: TenantFrom | None = BOTH, **options: Any) -> World:
    world = make_world(config=Config(prices=PRICES, tenant_from=source, **options))
    world.activate()
    return world


def sent(tenant: object) -> Context:
    """The context of a request that was sent with baggage."""
    return baggage.set_baggage("tenant", tenant, Context())


def tenant_in(world: World, attributes: dict[str, Any], context: Context | None = None) -> str:
    """Whose the implicit run of a span with *attributes* is, started in *context*."""
    with world.tracer.start_as_current_span("job", context=context, attributes=attributes):
        run = current_run()
        assert run is not None
        assert run._state.kind == "implicit"
        return run.tenant


@pytest.mark.parametrize("own", [{}, AGENT])
def test_a_span_or_baggage_says_whose_an_implicit_run_is(make_world: Callable[..., World], own: dict[str, Any]) -> None:
    world = trusting(make_world, tenants={"acme": "big"})
    assert tenant_in(world, {**own, "app.tenant": "acme"}, sent("other")) == "acme"
    assert tenant_in(world, {**own, "app.tenant": 42}) == "42"
    assert tenant_in(world, own, sent("acme")) == "acme"
    assert tenant_in(world, own) == "default"
    with world.tracer.start_as_current_span("job", attributes={**own, "app.tenant": "acme"}):
        assert world.manager.current().org == "big"


def test_an_agent_is_whose_the_request_is_that_it_works_for(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.tracer.start_as_current_span("GET /", attributes={"app.tenant": "acme"}):
        with world.tracer.start_as_current_span("step"):
            assert tenant_in(world, AGENT) == "acme"
            assert tenant_in(world, {**AGENT, "app.tenant": "inner"}) == "inner"
        with world.tracer.start_as_current_span("agent", attributes={**AGENT, "app.tenant": "inner"}):
            assert tenant_in(world, {**AGENT, "app.tenant": "third"}) == "inner", "a part of a run is that run's"


def test_the_attribute_may_be_set_after_the_start_and_before_the_first_call(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.tracer.start_as_current_span("GET /") as span:
        span.set_attribute("app.tenant", "acme")
        assert world.manager.current().tenant == "acme"
        span.set_attribute("app.tenant", "other")
        assert world.manager.current().tenant == "acme"


def test_baggage_set_inside_a_request_counts_where_it_came_with_none(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.tracer.start_as_current_span("GET /"):
        token = attach(baggage.set_baggage("tenant", "acme"))
        assert world.manager.current().tenant == "acme"
        detach(token)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "default"),
        (TenantFrom(span_attribute="tenant"), "default"),
        (TenantFrom(baggage="other"), "default"),
        (TenantFrom(baggage="tenant"), "acme"),
    ],
)
def test_baggage_is_believed_only_where_it_is_trusted(
    make_world: Callable[..., World], source: TenantFrom | None, expected: str
) -> None:
    world = trusting(make_world, source)
    assert tenant_in(world, {"app.tenant": "mallory"}, sent("acme")) == expected
    token = attach(sent("acme"))
    with world.run() as run:
        assert run.tenant == expected
    detach(token)


def test_a_run_opened_by_hand_says_it_itself_or_is_told_by_what_is_trusted(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.run() as run:
        assert run.tenant == "default"
    token = attach(sent("acme"))
    with world.run() as run:
        assert run.tenant == "acme"
        with world.run() as child:
            assert child.tenant == "acme"
        with world.run(tenant="other", mode="detached") as detached:
            assert detached.tenant == "other"
    with world.run(tenant="other") as run:
        assert run.tenant == "other"
        with world.run() as child:
            assert child.tenant == "other", "a part of a run is that run's"
    detach(token)
    with world.tracer.start_as_current_span("GET /", attributes={"app.tenant": "acme"}), world.run() as run:
        assert run.tenant == "acme"


@pytest.mark.parametrize("who", [{"tenant": "other"}, {"org": "elsewhere"}, {"user": "bob"}])
def test_inside_an_agents_run_whose_tenant_is_known_somebody_elses_needs_to_be_detached(
    make_world: Callable[..., World], who: dict[str, str]
) -> None:
    world = trusting(make_world)
    with world.tracer.start_as_current_span("agent", attributes={**AGENT, "app.tenant": "acme"}):
        agents = world.manager.current()
        with world.run(tenant="acme") as inner:
            assert inner.parent == agents
        for scope in (world.run(**who), agents.child(**who)):
            with pytest.raises(ValueError, match="pass mode='detached'"), scope:
                pytest.fail("it was entered")
        with world.run(mode="detached", **who) as apart:
            assert apart.parent is None


@pytest.mark.parametrize("first", ["asked", "not asked"])
def test_inside_a_request_whose_tenant_is_known_another_tenants_run_needs_to_be_detached(
    make_world: Callable[..., World], first: str
) -> None:
    world = trusting(make_world)
    with world.tracer.start_as_current_span("GET /", attributes={"app.tenant": "acme"}):
        if first == "asked":
            assert world.manager.current().tenant == "acme"
        with world.run(tenant="acme", user="bob") as run:
            assert (run.parent, run.tenant, run.user) == (None, "acme", "bob")
        for who in ({"tenant": "other"}, {"org": "elsewhere"}):
            with pytest.raises(ValueError, match="pass mode='detached'"), world.run(**who):
                pytest.fail("it was entered")
            with world.run(mode="detached", **who) as apart:
                assert apart.parent is None
    with world.tracer.start_as_current_span("GET /"), world.run(tenant="other") as run:
        assert run.tenant == "other"


def test_inside_an_agents_run_of_the_default_tenant_another_tenants_run_is_apart_from_it(
    make_world: Callable[..., World],
) -> None:
    world = trusting(make_world, quotas=Quotas(default=(Quota(tokens=100), Quota(tokens=50, per="run"))))
    with world.tracer.start_as_current_span("agent", attributes=AGENT):
        agents = world.manager.current()
        with world.run(user="ann") as shared:
            shared.record_call(10)
        with world.run(tenant="acme") as apart:
            apart.record_call(30)
            assert (apart.parent, apart.remaining()["tokens"]) == (None, 20)
        assert (shared.parent, agents.usage.tokens, agents.remaining()["tokens"]) == (agents, 10, 40)
        with pytest.raises(ValueError, match="there is none here"), world.run(tenant="acme", mode="carve", carve=0.5):
            pytest.fail("it was entered")
        with pytest.raises(ValueError, match="pass mode='detached'"), agents.child(tenant="acme"):
            pytest.fail("it was entered")


def test_the_process_wide_run_is_nobodys_in_particular(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    token = attach(sent("acme"))
    assert world.manager.current().tenant == "default"
    detach(token)


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "a\x00", "\ud800", "\u202eevil", True, 1.5, ("a", "b")])
def test_what_is_no_name_is_ignored_with_one_warning(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture, name: object
) -> None:
    world = trusting(make_world)
    assert tenant_in(world, {}, sent(name)) == "default"
    assert tenant_in(world, {}, sent(name)) == "default"
    assert caplog.text.count("tenant_from: a baggage 'tenant' was ignored") == 1
    if isinstance(name, str) and name.strip():
        assert name not in caplog.text


def test_an_attribute_that_is_no_name_leaves_the_word_to_baggage(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    assert tenant_in(world, {"app.tenant": "x" * 201}, sent(" acme ")) == "acme"
    assert tenant_in(world, {"app.tenant": "x" * 200}) == "x" * 200


def test_the_tenants_quota_binds_a_call_that_only_its_span_knows(make_world: Callable[..., World]) -> None:
    world = trusting(make_world, quotas=Quotas(tenants={"acme": (Quota(steps=0),)}))
    denied = pytest.raises(BudgetExceeded, match="quota 'steps per day' of tenant 'acme'")
    with world.tracer.start_as_current_span("GET /", context=sent("acme")), denied:
        world.tracer.start_span("chat", attributes=CHAT)
    with world.tracer.start_as_current_span("GET /"):
        world.tracer.start_span("chat", attributes=CHAT).end()


# --- a tenant is required


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(BudgetExceeded) as caught:
        call()
    return caught.value.reason


def test_where_a_tenant_is_required_runs_of_nobody_are_refused_at_their_first_request(
    make_world: Callable[..., World],
) -> None:
    world = trusting(make_world, require_tenant=True)
    assert refused(world.manager.check) == "no_tenant"
    with world.run(reraise=False) as run:
        assert refused(run.check) == "no_tenant"
        assert refused(run.reserve) == "no_tenant"
        assert not run.can_proceed()
        run.record_call(5)
    for own in ({}, AGENT):
        with world.tracer.start_as_current_span("job", attributes=own):
            assert refused(lambda: world.tracer.start_span("chat", attributes=CHAT)) == "no_tenant"
            assert refused(world.manager.check) == "no_tenant"


def test_where_a_tenant_is_required_one_that_is_told_in_any_way_will_do(make_world: Callable[..., World]) -> None:
    world = trusting(make_world, require_tenant=True)
    with world.run(tenant="default") as run:
        run.check()
    token = attach(sent("acme"))
    with world.run() as run:
        run.check()
    detach(token)
    with world.tracer.start_as_current_span("job", context=sent("acme")):
        world.manager.check()
