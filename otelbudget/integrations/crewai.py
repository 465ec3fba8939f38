"""For CrewAI: `budget_crews()` gives agents the budgets of their roles, and refuses tool calls; the model is told.

`setup()` calls it where CrewAI is imported. The guard of the provider's SDK refuses model calls; CrewAI lets a denial
through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final

from otelbudget.errors import BudgetExceeded
from otelbudget.guards.patching import Takeover, innermost, is_coroutine
from otelbudget.integrations import hooks

try:
    from crewai import Agent
    from crewai.hooks import (
        get_before_tool_call_hooks,
        register_after_tool_call_hook,
        register_before_tool_call_hook,
        unregister_after_tool_call_hook,
        unregister_before_tool_call_hook,
    )
except ImportError as missing:
    raise ImportError("this is for CrewAI 1.15 or newer: pip install 'otelbudget[crewai]'") from missing

#: What an agent does its work in, alone or in a crew.
_WORK: Final = ("execute_task", "aexecute_task", "kickoff", "akickoff")
#: The tool calls that go on here, the innermost last, each with its input, which both hooks are given.
_open: ContextVar[tuple[tuple[Any, AbstractContextManager[Any]], ...]] = ContextVar("otelbudget_crewai", default=())
_taken: list[Takeover] = []


def budget_crews() -> Callable[[], None]:
    """From now on, let each agent in this process have the budget and the quotas of its role, and hold each tool call.

    Hooks of yours go on. Gives what ends that, if it has not been so before.
    """
    if _before_tool_call in get_before_tool_call_hooks():
        return lambda: None
    register_before_tool_call_hook(_before_tool_call)
    register_after_tool_call_hook(_after_tool_call)
    work = (innermost(getattr(Agent, name, None)) for name in _WORK)
    _taken.extend(Takeover(one, _awork if is_coroutine(one) else _work) for one in work if one is not None)
    return _end


def _end() -> None:
    unregister_before_tool_call_hook(_before_tool_call)
    unregister_after_tool_call_hook(_after_tool_call)
    while _taken:
        _taken.pop().undo()


def _work(original: Callable[..., Any], agent: Any, *args: Any, **options: Any) -> Any:
    with hooks.agent(agent.role.strip()):
        return original(agent, *args, **options)


async def _awork(original: Callable[..., Awaitable[Any]], agent: Any, *args: Any, **options: Any) -> Any:
    with hooks.agent(agent.role.strip()):
        return await original(agent, *args, **options)


def _before_tool_call(context: Any) -> bool | None:
    call: AbstractContextManager[Any] = hooks.tool_call(context.tool_name, any_name=True)
    try:
        call.__enter__()
    except BudgetExceeded:
        hooks.acknowledge()  # CrewAI tells the model that it was blocked
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
