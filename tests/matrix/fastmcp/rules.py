"""A FastMCP server runs no refused tool and tells the client, and each tool call can be a run of its tenant."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.server.middleware import Middleware
from fastmcp.tools import Tool
from fastmcp.utilities.tests import run_server_async

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.fastmcp import BudgetMiddleware

Setup = Callable[..., otelbudget.BudgetManager]
#: A server in a process of its own, so that only its own calls are charged there.
SERVER = """
import asyncio, sys
import fastmcp, otelbudget

earlier, mounted = "earlier" in sys.argv, "mounted" in sys.argv
if not earlier:
    otelbudget.setup("budgets.yaml", exporter="none", metrics_port=None, instrument=False)
server = fastmcp.FastMCP("tools")

@server.tool
def search(query: str) -> str:
    return "found"

@server.tool
async def asearch(query: str) -> str:
    await asyncio.sleep(0)
    return "found"

if mounted:
    inner, server = server, fastmcp.FastMCP("outer")
    server.mount(inner)
if earlier:
    otelbudget.setup("budgets.yaml", exporter="none", metrics_port=None, instrument=False)
server.run(show_banner=False)
"""


def server_of(ran: list[str], *middleware: Middleware) -> FastMCP:
    server = FastMCP("tools", middleware=list(middleware))

    @server.tool
    def search(query: str) -> str:
        ran.append(query)
        return "found"

    return server


@pytest.mark.parametrize("how", [[], ["earlier"], ["mounted"]], ids=str)
@pytest.mark.parametrize("tool", ["search", "asearch"])
async def test_of_three_tools_called_at_once_two_run_after_setup_alone(
    tool: str, how: list[str], tmp_path: Path
) -> None:
    (tmp_path / "budgets.yaml").write_text("quotas:\n  default: [{tool_calls: 2, per: day}]\n")
    (tmp_path / "server.py").write_text(SERVER)
    async with Client(StdioTransport(sys.executable, ["server.py", *how], cwd=str(tmp_path))) as client:
        calls = (client.call_tool(tool, {"query": str(i)}) for i in range(3))
        told = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(getattr(one, "data", "") == "found" for one in told) == 2
    (refused,) = (one for one in told if isinstance(one, ToolError))
    # What a mounted server's own span is refused, FastMCP words itself.
    says = r"Error calling tool|Not run: quota" if how == ["mounted"] else r"Not run: quota 'tool_calls per day'"
    assert re.match(says, str(refused))


async def test_beside_the_middleware_a_tool_call_is_charged_once(setup: Setup) -> None:
    setup()
    ran: list[str] = []
    server = server_of(ran, BudgetMiddleware(RunBudget(max_tool_calls=1, max_nested_tool_calls=0)))
    with otelbudget.run() as run:
        await server.call_tool("search", {"query": "it"})
    assert len(ran) == run.usage.tool_calls == 1


@pytest.mark.parametrize("way", ["by name", "transformed"])
async def test_a_tool_of_a_mounted_server_is_one_call_whatever_its_names(setup: Setup, way: str) -> None:
    setup()
    ran: list[str] = []
    outer, middle = FastMCP("outer"), FastMCP("middle")
    middle.mount(server_of(ran), namespace="in")
    outer.mount(middle, namespace="mid")
    name = "mid_in_search"
    if way == "transformed":
        mounted = await outer.get_tool(name)
        assert mounted is not None
        outer.add_tool(Tool.from_tool(mounted, name=(name := "find")))
    with otelbudget.run(RunBudget(max_nested_tool_calls=0)) as run:
        await outer.call_tool(name, {"query": "x"})
    assert (ran, run.usage.tool_calls) == (["x"], 1)


async def test_it_is_taken_out_again(setup: Setup) -> None:
    before = Tool._run.__code__
    for _ in range(2):
        setup()
        assert Tool._run.__code__ is not before
        otelbudget.shutdown()
        assert Tool._run.__code__ is before
    await server_of([]).call_tool("search", {"query": "it"})


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
