"""A FastMCP server charges each tool call to its tenant and tells the client of a refused one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.utilities.tests import run_server_async

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.fastmcp import BudgetMiddleware

Setup = Callable[..., otelbudget.BudgetManager]


async def test_a_tenants_quota_of_tool_calls_holds_over_http(setup: Setup) -> None:
    setup("quotas:\n  tenants:\n    acme: [{tool_calls: 2, per: day}]\n")
    ran: list[str] = []
    server = FastMCP("tools", middleware=[BudgetMiddleware(tenant_header="X-Tenant")])

    @server.tool
    def search(query: str) -> str:
        ran.append(query)
        run = otelbudget.current_run()
        return "nobody" if run is None else run.tenant

    async with run_server_async(server) as url:
        async with Client(StreamableHttpTransport(url, headers={"x-tenant": "acme"})) as client:
            assert [(await client.call_tool("search", {"query": str(i)})).data for i in range(2)] == ["acme"] * 2
            with pytest.raises(ToolError, match=r"Not run: .*tool_calls"):
                await client.call_tool("search", {"query": "3"})
        async with Client(StreamableHttpTransport(url, headers={"x-tenant": "globex"})) as client:
            assert (await client.call_tool("search", {"query": "4"})).data == "globex"
    assert ran == ["0", "1", "4"]


async def test_a_denial_inside_a_tool_is_told_and_other_errors_are_as_before(setup: Setup) -> None:
    setup()
    server = FastMCP("tools", middleware=[BudgetMiddleware(RunBudget(max_steps=0))])

    @server.tool
    def ask() -> str:
        otelbudget.current_run().check()  # type: ignore[union-attr]
        return "never"

    @server.tool
    def swallow() -> str:
        try:
            return ask.fn() if hasattr(ask, "fn") else ask()
        except BudgetExceeded:
            otelbudget.current_run().acknowledge()  # type: ignore[union-attr]
            return "half an answer"

    @server.tool
    def broken() -> str:
        raise ToolError("a mistake")

    async with Client(server) as client:
        with pytest.raises(ToolError, match=r"Not run: .*steps"):
            await client.call_tool("ask", {})
        assert (await client.call_tool("swallow", {})).data == "half an answer"
        with pytest.raises(ToolError, match="a mistake"):
            await client.call_tool("broken", {})


def test_of_five_tool_calls_one_is_made(setup: Setup, row: Callable[..., int]) -> None:
    setup("quotas:\n  tenants:\n    acme: [{tool_calls: 1, per: day}]\n")
    ran: list[str] = []
    server = FastMCP("tools", middleware=[BudgetMiddleware(tenant_header="X-Tenant")])

    @server.tool
    def search(query: str) -> str:
        ran.append(query)
        return "found"

    async def five() -> None:
        async with (
            run_server_async(server) as url,
            Client(StreamableHttpTransport(url, headers={"x-tenant": "acme"})) as client,
        ):
            for i in range(5):
                await client.call_tool("search", {"query": str(i)})

    how = {"budget": None, "wanted": "5 tool calls", "sent": lambda: len(ran)}
    assert row("fastmcp", "fastmcp.BudgetMiddleware", five, **how) == 1
