"""For CrewAI: `budget_tools()` refuses tool calls that the run has no room for, and the model is told.

The guard of the provider's SDK refuses model calls; CrewAI lets a denial through.
"""

from __future__ import annotations

from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks

try:
    from crewai.hooks import get_before_tool_call_hooks, register_before_tool_call_hook
except ImportError as missing:
    raise ImportError("this is for CrewAI 1.15 or newer: pip install 'otelbudget[crewai]'") from missing


def budget_tools() -> None:
    """From now on, hold each tool call of every crew in this process on its run; beside hooks of yours."""
    if _before_tool_call not in get_before_tool_call_hooks():
        register_before_tool_call_hook(_before_tool_call)


def _before_tool_call(context: Any) -> bool | None:
    try:
        with hooks.tool_call(context.tool_name):
            return None  # what the tool does is not inside of this hook
    except BudgetExceeded:
        hooks.acknowledge()  # CrewAI tells the model that it was blocked
        return False
