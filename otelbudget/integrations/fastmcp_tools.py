"""For FastMCP servers: `budget_tools()` refuses tool calls; the client's model is told by an error.

`setup()` calls it where servers are imported; it holds for servers that are there, too. Who pays is the run of the
request, which FastMCP's own span is, else the process-wide one; `fastmcp.BudgetMiddleware` opens a run for each call,
of its tenant. What FastMCP's span of a mounted server is refused, FastMCP says in its own words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from fastmcp.exceptions import ToolError
    from fastmcp.tools import Tool
except ImportError as missing:
    raise ImportError("this is for FastMCP 3.0 or newer: pip install 'otelbudget[fastmcp]'") from missing


def budget_tools() -> Callable[[], None]:
    """From now on, hold each tool call that a server in this process carries out.

    One of a mounted server is held there. Middlewares of yours go on. Gives what ends that.
    """
    return Entries((Tool, "_run", _run))


async def _run(original: Callable[..., Awaitable[Any]], tool: Any, *args: Any, **options: Any) -> Any:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(hooks.tool_call(tool.name))
        except BudgetExceeded as denial:
            hooks.acknowledge(denial)
            raise ToolError(hooks.not_run(denial)) from denial
        return await original(tool, *args, **options)
