"""For CrewAI: `budget_tools()` refuses tool calls that the run has no room for, and the model is told.

`setup()` calls it where CrewAI is imported. The guard of the provider's SDK refuses model calls; CrewAI lets a denial
through.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks

try:
    from crewai.hooks import (
        get_before_tool_call_hooks,
        register_after_tool_call_hook,
        register_before_tool_call_hook,
        unregister_after_tool_call_hook,
        unregister_before_tool_call_hook,
    )
except ImportError as missing:
    raise ImportError("this is for CrewAI 1.15 or newer: pip install 'otelbudget[crewai]'") from missing

#: The tool calls that go on, by the identity of their input, which both hooks are given.
_open: dict[int, AbstractContextManager[Any]] = {}


def budget_tools() -> Callable[[], None]:
    """From now on, hold each tool call of every crew in this process on its run; beside hooks of yours.

    Gives what ends that, if it has not been so before.
    """
    if _before_tool_call in get_before_tool_call_hooks():
        return lambda: None
    register_before_tool_call_hook(_before_tool_call)
    register_after_tool_call_hook(_after_tool_call)
    return _end


def _end() -> None:
    unregister_before_tool_call_hook(_before_tool_call)
    unregister_after_tool_call_hook(_after_tool_call)


def _before_tool_call(context: Any) -> bool | None:
    call = hooks.tool_call(context.tool_name, any_name=True)
    try:
        call.__enter__()
    except BudgetExceeded:
        hooks.acknowledge()  # CrewAI tells the model that it was blocked
        return False
    _open[id(context.tool_input)] = call
    return None


def _after_tool_call(context: Any) -> None:
    """Called for refused ones, too."""
    call = _open.pop(id(context.tool_input), None)
    if call is not None:
        call.__exit__(None, None, None)
