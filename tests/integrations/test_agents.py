"""Inside an explicit run, such as a request's, an agent that the configuration names has its budget all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import otelbudget
from otelbudget import BudgetExceeded
from otelbudget.demo import DemoServer
from otelbudget.integrations import hooks
from otelbudget.integrations.asgi import BudgetMiddleware

Ask = Callable[[], str]
Setup = Callable[..., otelbudget.BudgetManager]
NAMED = "agents: {writer: {max_steps: 2}, editor: {max_steps: 1}}\n"


def instrumented(name: str) -> Any:
    """The span that an instrumentor opens for an agent."""
    said = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    return trace.get_tracer("instrumentor").start_as_current_span(f"invoke_agent {name}", attributes=said)


@pytest.fixture(params=[instrumented, hooks.agent], ids=["span", "hook"])
def agent(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    opens: Callable[[str], Any] = request.param
    return opens


@pytest.mark.parametrize("swallowed", [False, True])
async def test_a_request_is_answered_429_when_its_agent_has_spent_its_budget(
    swallowed: bool, agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    setup(NAMED)

    async def work(_: Request) -> Response:
        with agent("writer"):
            for _ in range(5):
                try:
                    await asyncio.to_thread(ask)
                except BudgetExceeded:
                    if swallowed:
                        return PlainTextResponse("something is wrong", status_code=500)
                    raise
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", work)], middleware=[Middleware(BudgetMiddleware)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [429, 429]
    assert server.requests == 4


def test_what_it_spends_is_the_runs_too_and_the_narrower_limit_holds(
    agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    setup(NAMED)
    with otelbudget.run(otelbudget.RunBudget(max_steps=3)) as run:
        with agent("writer"):
            with agent("editor"):
                ask()
                with pytest.raises(BudgetExceeded, match="1 of 1"):
                    ask()
            ask()
            with pytest.raises(BudgetExceeded, match="2 of 2"):
                ask()
        ask()
        with pytest.raises(BudgetExceeded, match="3 of 3"):
            ask()
        run.acknowledge()
    assert run.usage.steps == server.requests == 3


def test_one_that_is_not_named_is_bound_by_the_run_alone(
    agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    setup("default_budget: one\nbudgets: {one: {max_steps: 1}}\n")
    with otelbudget.run(otelbudget.RunBudget(max_steps=3)) as run, agent("nobody"):
        for _ in range(3):
            ask()
    assert run.usage.steps == server.requests == 3


def test_its_own_check_and_its_own_runs_are_inside_of_it(
    agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    manager = setup(NAMED)
    with otelbudget.run(otelbudget.RunBudget(max_steps=5)), agent("editor"):
        with otelbudget.run() as inner:
            ask()
            assert inner.remaining()["steps"] == 0
        assert not manager.can_proceed()
        assert not otelbudget.current_run().can_proceed()  # type: ignore[union-attr]


def test_a_run_that_is_opened_by_an_agent_is_as_it_was(
    agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    setup(NAMED)
    with agent("editor"), otelbudget.run(otelbudget.RunBudget(max_steps=5)) as run:
        ask()
        with pytest.raises(BudgetExceeded, match="1 of 1"):
            ask()
        run.acknowledge()
    assert server.requests == 1


def test_leaving_the_run_raises_what_an_agent_in_it_was_refused(
    agent: Callable[[str], Any], setup: Setup, ask: Ask, server: DemoServer
) -> None:
    setup(NAMED)

    def swallows() -> None:
        with otelbudget.run(), agent("editor"):
            for _ in range(3):
                try:
                    ask()
                except BudgetExceeded:
                    continue

    with pytest.raises(BudgetExceeded, match="1 of 1"):
        swallows()
    assert server.requests == 1
