"""For Google's ADK: `budget_adk()` refuses tool calls; the model is told.

`setup()` calls it where ADK is imported; it holds for agents and runners that are there, too. ADK's own spans give
agents the budgets and the quotas of their names (from version 1.20 on), or spans of ours where those are dropped. A
refused model call raises, by the guard of the model's SDK; with a `BudgetPlugin` the agent ends with a message instead.
A tool that waits for a confirmation or a credential is charged when it is called anew with that, also if a person has
said no:

runner = InMemoryRunner(agent, plugins=[BudgetPlugin()])
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import Span

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries
from otelbudget.runs.decorator import driven_async
from otelbudget.runs.tool_call import ToolCall
from otelbudget.spans.tree import within

try:
    from google.adk import agents
    from google.adk.models.llm_response import LlmResponse
    from google.adk.plugins.base_plugin import BasePlugin
    from google.adk.plugins.plugin_manager import PluginManager
    from google.adk.tools.tool_context import ToolContext
    from google.genai.types import Content, Part
except ImportError as missing:
    raise ImportError("this is for Google's Agent Development Kit: pip install 'otelbudget[google-adk]'") from missing

Events = AsyncGenerator[Any, Any]
#: ADK is about to remove all but the first.
_AGENTS: Final = ("LlmAgent", "LoopAgent", "ParallelAgent", "SequentialAgent")
#: Set on the context of a tool: the call that goes on.
_CALL: Final = "_otelbudget_call"


class BudgetPlugin(BasePlugin):
    """Answers a refused model call with a message, and gives the model one for a refused tool.

    The message has the error code ``BUDGET_EXCEEDED``.

    Args:
        acknowledge: Whether these messages deal with denials; False lets them be raised again when the run is left.
    """

    def __init__(self, *, acknowledge: bool = True) -> None:
        super().__init__("otelbudget")
        self._acknowledge = acknowledge

    async def on_model_error_callback(self, *, callback_context: Any, llm_request: Any, error: Exception) -> Any:  # noqa: ARG002
        """What the agent ends with, if a denial is the error."""
        denial = found_in(error)
        if denial is None:
            return None
        self._dealt_with()
        said = hooks.ended(denial)
        content = Content(role="model", parts=[Part(text=said)])
        return LlmResponse(content=content, error_code="BUDGET_EXCEEDED", error_message=said)

    async def before_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any) -> dict[str, Any] | None:  # noqa: ARG002
        """Charge the tool call; what the model is told where it is refused."""
        call = hooks.tool_call(tool.name, tool_context.function_call_id, pauses=())
        try:
            await call.__aenter__()
        except BudgetExceeded as denial:
            self._dealt_with(denial)
            return {"error": hooks.not_run(denial)}
        setattr(tool_context, _CALL, call)
        task = asyncio.current_task()
        if isinstance(call, ToolCall) and task is not None:
            task.add_done_callback(lambda _: call.end())  # ADK doesn't say that one is cancelled, or a callback raises
        return None

    async def after_tool_callback(self, *, tool_context: Any, **_: Any) -> None:
        """Charge the tool call."""
        _end(tool_context)

    async def on_tool_error_callback(self, *, tool_context: Any, **_: Any) -> None:
        """Charge the tool call."""
        _end(tool_context)

    def _dealt_with(self, told: BudgetExceeded | None = None) -> None:
        if self._acknowledge:
            hooks.acknowledge(told)


_plugin = BudgetPlugin()


def budget_adk() -> Callable[[], None]:
    """From now on, hold each tool call in this process.

    Plugins and callbacks of yours go on. A tool that a plugin answers for is not charged; one that a callback of its
    agent answers for is. Gives what ends that.
    """
    return Entries(
        *((kind, "_run_async_impl", _work) for name in _AGENTS if (kind := getattr(agents, name, None))),
        (PluginManager, "run_before_tool_callback", _before_tool),
        (PluginManager, "run_after_tool_callback", _after_tool),
        (PluginManager, "run_on_tool_error_callback", _after_tool),
        (ToolContext, "request_confirmation", _pause),
        (ToolContext, "request_credential", _pause),
    )


def _work(original: Callable[..., Events], agent: Any, *args: Any, **options: Any) -> Events:
    """Do the work of an agent inside of a span of its name, if ADK's isn't there."""
    span, events = hooks.agent_span(agent.name), original(agent, *args, **options)
    return events if span is None else driven_async(_until_ended(span), events)


@contextmanager
def _until_ended(span: Span) -> Iterator[Context]:
    try:
        yield within(span)
    finally:
        span.end()


async def _before_tool(original: Callable[..., Awaitable[Any]], manager: Any, **call: Any) -> Any:
    answer = await original(manager, **call)
    if answer is not None or any(isinstance(one, BudgetPlugin) for one in manager.plugins):
        return answer  # the tool isn't going to run, or that plugin has charged it
    return await _plugin.before_tool_callback(**call)


async def _after_tool(original: Callable[..., Awaitable[Any]], manager: Any, **call: Any) -> Any:
    _end(call["tool_context"])
    return await original(manager, **call)


def _end(tool_context: Any) -> None:
    call = vars(tool_context).pop(_CALL, None)
    if call is not None:
        call.__exit__(None, None, None)


def _pause(original: Callable[..., None], tool_context: Any, *args: Any, **options: Any) -> None:
    """Somebody is to be asked, and then ADK calls the tool anew."""
    original(tool_context, *args, **options)
    call = getattr(tool_context, _CALL, None)
    if isinstance(call, ToolCall):
        call.pause()
