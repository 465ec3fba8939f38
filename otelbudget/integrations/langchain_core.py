"""For tools of LangChain: `budget_tools()` holds each call of one, whoever makes it: an agent, a graph, code of yours.

`setup()` calls it where they are imported. A refused tool doesn't run: where a model asked for it, that is told so in a
`ToolMessage`; where the tool is called with bare arguments, BudgetExceeded is raised. A tool that LangGraph's
``interrupt`` pauses begins anew when it goes on, and is charged only then.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from langchain_core.messages import ToolMessage
    from langchain_core.tools.base import BaseTool
except ImportError as missing:
    raise ImportError("this is for LangChain 1.0 or newer: pip install 'otelbudget[langchain]'") from missing


def budget_tools() -> Callable[[], None]:
    """From now on, hold each call of a tool in this process on the run of there. Gives what ends that."""
    return Entries((BaseTool, "run", _run), (BaseTool, "arun", _arun))


def _run(original: Callable[..., Any], tool: Any, *args: Any, tool_call_id: str | None = None, **options: Any) -> Any:
    with ExitStack() as stack:
        try:
            stack.enter_context(hooks.tool_call(tool.name, tool_call_id, pauses=_pauses()))
        except BudgetExceeded as denial:
            return _refused(tool, tool_call_id, denial)
        return original(tool, *args, tool_call_id=tool_call_id, **options)


async def _arun(
    original: Callable[..., Awaitable[Any]], tool: Any, *args: Any, tool_call_id: str | None = None, **options: Any
) -> Any:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(hooks.tool_call(tool.name, tool_call_id, pauses=_pauses()))
        except BudgetExceeded as denial:
            return _refused(tool, tool_call_id, denial)
        return await original(tool, *args, tool_call_id=tool_call_id, **options)


def _pauses() -> tuple[type[BaseException], ...] | None:
    """What LangGraph, where there is one, pauses a tool with."""
    pause = getattr(sys.modules.get("langgraph.errors"), "GraphInterrupt", None)
    return None if pause is None else (pause,)


def _refused(tool: Any, tool_call_id: str | None, denial: BudgetExceeded) -> ToolMessage:
    if tool_call_id is None:
        raise denial
    hooks.acknowledge(denial)  # the model is told
    return ToolMessage(hooks.not_run(denial), name=tool.name, tool_call_id=tool_call_id, status="error")
