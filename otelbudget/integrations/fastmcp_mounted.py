"""For FastMCP servers that mount others: a call of a mounted tool, which has a name in each of them, is one tool call.

`setup()` calls `count_once()` where servers can be mounted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from fastmcp.server.providers.fastmcp_provider import FastMCPProviderTool
except ImportError as missing:
    raise ImportError("this is for FastMCP 3.0 or newer: pip install 'otelbudget[fastmcp]'") from missing


def count_once() -> Callable[[], None]:
    """From now on, know a tool call that a server in this process hands on to a mounted one. Gives what ends that."""
    return Entries((FastMCPProviderTool, "_run", _handed_on), (FastMCPProviderTool, "run", _handed_on))


async def _handed_on(original: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    hooks.renamed()
    return await original(*args, **options)
