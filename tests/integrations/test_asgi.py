"""Under the ASGI middleware each request is a run, and a denial that nobody deals with is its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import otelbudget
from otelbudget import BudgetExceeded
from otelbudget.demo import DemoServer
from otelbudget.integrations.asgi import BudgetMiddleware
from otelbudget.integrations.web import Requests

Ask = Callable[[], str]
Setup = Callable[..., otelbudget.BudgetManager]
ONE = "default_budget: one\nbudgets:\n  one: {max_steps: 1}\n  two: {max_steps: 2}\n"
QUOTAS = "quotas:\n  default: [{steps: 1, per: day}]\n"


def application(ask: Ask, **options: Any) -> Starlette:
    async def calls(request: Request) -> Response:
        for _ in range(int(request.path_params["number"])):
            await asyncio.to_thread(ask)
        return PlainTextResponse("done")

    async def careful(_: Request) -> Response:
        try:
            for _ in range(2):
                await asyncio.to_thread(ask)
        except BudgetExceeded:
            return PlainTextResponse("half an answer", status_code=206)
        return PlainTextResponse("done")

    async def stream(request: Request) -> Response:
        async def pieces() -> AsyncIterator[str]:
            for _ in range(int(request.path_params["number"])):
                yield await asyncio.to_thread(ask)

        return StreamingResponse(pieces())

    async def broken(_: Request) -> Response:
        raise LookupError("a mistake")

    routes = [
        Route("/calls/{number}", calls),
        Route("/careful", careful),
        Route("/stream/{number}", stream),
        Route("/broken", broken),
    ]
    return Starlette(routes=routes, middleware=[Middleware(BudgetMiddleware, **options)] if options else [])


async def get(app: Any, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get(path, headers=headers)


async def test_each_request_is_a_run_of_its_own(setup: Setup, ask: Ask, server: DemoServer) -> None:
    setup(ONE)
    app = application(ask, budget="two")
    assert [(await get(app, "/calls/2")).status_code for _ in range(3)] == [200] * 3
    refused = await get(app, "/calls/3")
    assert server.requests == 8
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json() == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "The budget of this request does not allow it.",
        "reason": "limit",
        "resource": "steps",
        "scope": "run",
    }
    assert "retry-after" not in refused.headers


async def test_a_denial_that_the_application_deals_with_is_its_own_matter(setup: Setup, ask: Ask) -> None:
    setup(ONE)
    answer = await get(application(ask, status=429), "/careful")
    assert (answer.status_code, answer.text) == (206, "half an answer")


async def test_a_quota_says_when_to_come_again_and_whose_it_is_a_header_says(setup: Setup, ask: Ask) -> None:
    setup(QUOTAS)
    app = application(ask, tenant_header="X-Tenant", status=402)
    assert (await get(app, "/calls/1", **{"x-tenant": "acme"})).status_code == 200
    refused = await get(app, "/calls/1", **{"x-tenant": "acme"})
    assert refused.status_code == 402
    assert (refused.json()["scope"], refused.json()["title"]) == ("tenant", "Payment Required")
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert (await get(app, "/calls/1", **{"x-tenant": "globex"})).status_code == 200


@pytest.mark.parametrize("trusted", [True, False])
async def test_baggage_names_the_tenant_where_it_is_trusted(setup: Setup, ask: Ask, trusted: bool) -> None:
    manager = setup(QUOTAS + ("tenant_from: {baggage: tenant}\n" if trusted else ""))
    app = application(ask, budget=None)
    assert (await get(app, "/calls/1", baggage="tenant=acme")).status_code == 200
    used = otelbudget.QuotaService(store=manager).usage("acme").lines[0].used
    assert used == (1 if trusted else 0)


async def test_a_framework_that_makes_a_server_error_of_a_denial_is_corrected(setup: Setup, ask: Ask) -> None:
    setup(ONE)
    app = BudgetMiddleware(application(ask))  # around the framework's own handler of errors
    assert (await get(app, "/calls/2")).status_code == 429
    assert (await get(app, "/calls/1")).status_code == 200
    with pytest.raises(LookupError):
        await get(app, "/broken")


async def test_a_stream_is_in_the_run_of_its_request(setup: Setup, ask: Ask, server: DemoServer) -> None:
    setup(ONE)
    app = application(ask, budget=None)
    assert [(await get(app, "/stream/1")).text for _ in range(2)] == ["answered"] * 2
    with pytest.raises(BudgetExceeded):  # its status is sent: the connection breaks, as for any error there
        await get(app, "/stream/2")
    assert server.requests == 3


async def test_errors_of_the_application_pass(setup: Setup, ask: Ask) -> None:
    setup(ONE)
    with pytest.raises(LookupError, match="a mistake"):
        await get(application(ask, budget=None), "/broken")


async def test_a_websocket_has_a_run_and_the_lifespan_has_none(setup: Setup) -> None:
    setup(ONE)
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        run = otelbudget.current_run()
        seen.append((scope["type"], run and run.tenant))

    for kind in ("websocket", "lifespan"):
        await BudgetMiddleware(app, tenant_header="x-tenant")(
            {"type": kind, "headers": [(b"x-tenant", b"acme")]}, None, None
        )
    assert seen == [("websocket", "acme"), ("lifespan", None)]


def test_a_store_that_is_away_is_not_the_clients_fault() -> None:
    refusal = Requests(None, None, None, 429).refusal(BudgetExceeded("away", reason="store_unavailable"))
    assert refusal.status == 503


def test_a_status_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="999"):
        BudgetMiddleware(lambda *_: None, status=999)
