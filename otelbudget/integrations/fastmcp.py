"""`BudgetMiddleware` for FastMCP servers: each tool call is a run of a tenant, and refused where that has nothing left.

The tool call itself is held by `fastmcp_tools.budget_tools`, which `setup()` puts in.

server.add_middleware(BudgetMiddleware("tools", tenant_header="x-tenant"))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from otelbudget.errors import found_in
from otelbudget.integrations import hooks
from otelbudget.integrations.web import Requests

try:
    from fastmcp.exceptions import ToolError
    from fastmcp.server.dependencies import get_http_headers
    from fastmcp.server.middleware import Middleware
except ImportError as missing:
    raise ImportError("this is for FastMCP 3.0 or newer: pip install 'otelbudget[fastmcp]'") from missing

if TYPE_CHECKING:
    from otelbudget.model.budget import RunBudget


class BudgetMiddleware(Middleware):
    """Opens a run for each tool call; a denial in it is an error that the client's model reads.

    A client in the same process has a span for the call, which is charged to its own run: if that isn't one around the
    server, both are charged, as if they were two processes.

    Args:
        budget: That of each tool call, as `otelbudget.run` takes it.
        tenant_header, user_header: HTTP headers that name them, set by a gateway of yours.
    """

    def __init__(
        self,
        budget: str | RunBudget | None = None,
        *,
        tenant_header: str | None = None,
        user_header: str | None = None,
    ) -> None:
        self._requests = Requests(budget, tenant_header, user_header, 429)

    async def on_call_tool(self, context: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run a tool."""
        try:
            async with self._requests.run(get_http_headers(include_all=True)):
                return await call_next(context)
        except Exception as error:
            denial = found_in(error)
            if denial is None:
                raise
            raise ToolError(hooks.not_run(denial)) from denial
