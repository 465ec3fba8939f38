"""For CrewAI: `budget_crews()` gives agents the budgets of their roles, and refuses tool calls; the model is told.

`setup()` calls it where CrewAI is imported. The guard of the provider's SDK refuses model calls; CrewAI lets a denial
through. A tool call that a hook of yours refuses after ours is charged all the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from crewai import Agent
    from crewai.hooks import (
        get_before_tool_call_hooks,
        register_after_tool_call_hook,
        register_before_tool_call_hook,
        unregister_after_tool_call_hook,
        unregister_before_tool_call_hook,
    )
    from crewai.utilities.agent_utils import is_inside_event_loop
except ImportError as missing:
    raise ImportError("this is for CrewAI 1.15 or newer: pip install 'otelbudget[crewai]'") from missing

#: The tool calls that go on here, the innermost last, each with its input, which both hooks are given.
_open: ContextVar[tuple[tuple[Any, AbstractContextManager[Any]], ...]] = ContextVar("otelbudget_crewai", default=())


def budget_crews() -> Callable[[], None]:
    """From now on, let each agent in this process have the budget and the quotas of its role, and hold each tool call.

    Hooks of yours go on. Gives what ends that, if it has not been so before.
    """
    if _before_tool_call in get_before_tool_call_hooks():
        return lambda: None
    register_before_tool_call_hook(_before_tool_call)
    register_after_tool_call_hook(_after_tool_call)
    # What an agent does its work in, alone or in a crew.
    work = (("execute_task", _work), ("aexecute_task", _awork), ("kickoff", _kickoff), ("kickoff_async", _awork))
    return _Crews(*((Agent, name, hook) for name, hook in work))


class _Crews(Entries):
    def __call__(self) -> None:
        super().__call__()
        unregister_before_tool_call_hook(_before_tool_call)
        unregister_after_tool_call_hook(_after_tool_call)


def _work(original: Callable[..., Any], agent: Any, *args: Any, **options: Any) -> Any:
    with hooks.agent(agent.role.strip()):
        return original(agent, *args, **options)


async def _awork(original: Callable[..., Awaitable[Any]], agent: Any, *args: Any, **options: Any) -> Any:
    with hooks.agent(agent.role.strip()):
        return await original(agent, *args, **options)


def _kickoff(original: Callable[..., Any], agent: Any, *args: Any, **options: Any) -> Any:
    # In an event loop it gives the coroutine of `kickoff_async`.
    return (original if is_inside_event_loop() else partial(_work, original))(agent, *args, **options)


def _before_tool_call(context: Any) -> bool | None:
    call: AbstractContextManager[Any] = hooks.tool_call(context.tool_name, any_name=True)
    try:
        call.__enter__()
    except BudgetExceeded as denial:
        hooks.acknowledge(denial)  # CrewAI tells the model that it was blocked
        return False
    _open.set((*_open.get(), (context.tool_input, call)))
    return None


def _after_tool_call(context: Any) -> None:
    """Called for refused ones, too, and not for those that were cancelled."""
    going_on = _open.get()
    for i, (given, call) in enumerate(going_on):
        if given is context.tool_input:
            _open.set(going_on[:i])
            call.__exit__(None, None, None)
            return
