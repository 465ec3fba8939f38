"""For the OpenAI Agents SDK: agents have the budgets of their names, and no refused tool runs.

`setup()` calls `budget_agents()` where the SDK is imported. A refused function tool tells the model why, as one that
fails does; one of the other local tools (computer, shell, patches, ...) raises BudgetExceeded out of ``Runner.run``, as
a refused model call does. With `BudgetHooks` each refused tool raises. A tool that waits for an approval, or is an
agent that does, is charged when it goes on. Tools that the provider runs, with or without approval, are not seen here.

await Runner.run(agent, "Go on.", hooks=BudgetHooks())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import Token
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.context import attach, detach

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries
from otelbudget.runs.tool_call import ToolCall
from otelbudget.spans.tree import within

try:
    from agents import AgentSpanData, FunctionTool, RunHooks
    from agents import tool as tools
    from agents.agent_tool_state import (
        consume_agent_tool_run_result,
        get_agent_tool_state_scope,
        peek_agent_tool_run_result,
    )
    from agents.lifecycle import RunHooksBase
    from agents.run import AgentRunner
    from agents.tracing.spans import NoOpSpan, SpanImpl
except ImportError as missing:
    raise ImportError("this is for OpenAI Agents 0.20 or newer: pip install 'otelbudget[openai-agents]'") from missing

#: What the spans of its tools, which `_invoke` sees, are known by.
_HELD: Final = "openai_agents" if hasattr(tools, "_invoke_function_tool_with_metadata") else ""
#: Set on the context of a function tool that `BudgetHooks` have admitted: its call.
_CALL: Final = "_otelbudget_call"


class BudgetHooks(RunHooks[Any]):
    """Holds each local tool call on the run before the tool is invoked, without any instrumentation.

    A refusal raises BudgetExceeded out of ``Runner.run``, as one of a model call does, and no tool that was refused
    runs, parallel ones included. Hooks of yours go on: ``BudgetHooks(yours)``.
    """

    def __init__(self, inner: RunHooks[Any] | None = None) -> None:
        self._inner = RunHooks[Any]() if inner is None else inner

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """Admit the tool call, or refuse it."""
        call_id, invoked = getattr(context, "tool_call_id", None), isinstance(tool, FunctionTool)
        held = invoked and hooks.is_holding(_HELD)  # else nobody is told of a tool that fails
        call = hooks.tool_call(tool.name, call_id, pauses=() if held else None)
        if isinstance(call, ToolCall):
            await call.admit()  # what the tool does is not inside of this hook
            if held:
                setattr(context, _CALL, call)
        try:
            await self._inner.on_tool_start(context, agent, tool)
        except BaseException:  # the tool isn't going to run
            if isinstance(call, ToolCall):
                call.pause()
            raise


def _passed_on(name: str) -> Callable[..., Awaitable[None]]:
    async def hook(self: BudgetHooks, *args: Any, **named: Any) -> None:
        await getattr(self._inner, name)(*args, **named)

    return hook


for _name in ("on_llm_start", "on_llm_end", "on_agent_start", "on_agent_end", "on_handoff", "on_tool_end"):
    setattr(BudgetHooks, _name, _passed_on(_name))


class _OtherTools(BudgetHooks):
    """For the tools that aren't invoked as functions."""

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """Charge the tool call, or refuse it."""
        start = self._inner.on_tool_start if isinstance(tool, FunctionTool) else super().on_tool_start
        await start(context, agent, tool)


def budget_agents() -> Callable[[], None]:
    """From now on, let each agent in this process have the budget and the quotas of its name, and hold each tool call.

    Hooks of yours go on, and the SDK's tracing may be off. Gives what ends that.
    """
    of_spans = (("start", _start), ("finish", _finish))
    return Entries(
        (AgentRunner, "run", _run),
        (AgentRunner, "run_streamed", _run_streamed),
        (tools, "_invoke_function_tool_with_metadata", _invoke),
        *((span, name, hook) for span in (SpanImpl, NoOpSpan) for name, hook in of_spans),  # tracing on, or off
    )


async def _run(original: Callable[..., Awaitable[Any]], runner: Any, *args: Any, **options: Any) -> Any:
    with hooks.holding(_HELD):
        return await original(runner, *args, **_hooked(options))


def _run_streamed(original: Callable[..., Any], runner: Any, *args: Any, **options: Any) -> Any:
    with hooks.holding(_HELD):  # the task that it begins has this context
        return original(runner, *args, **_hooked(options))


def _hooked(options: dict[str, Any]) -> dict[str, Any]:
    theirs = options.get("hooks")
    if theirs is None or (isinstance(theirs, RunHooksBase) and not isinstance(theirs, BudgetHooks)):
        options["hooks"] = _OtherTools(theirs)
    return options


async def _invoke(original: Callable[..., Awaitable[Any]], *, function_tool: Any, context: Any, **options: Any) -> Any:
    async with AsyncExitStack() as stack:
        call = getattr(context, _CALL, None)
        if call is not None:
            stack.push_async_exit(call)
        else:
            try:
                held = hooks.tool_call(function_tool.name, context.tool_call_id, pauses=())
                call = await stack.enter_async_context(held)
            except BudgetExceeded as denial:
                hooks.acknowledge(denial)  # the model is told
                _below(context, consume_agent_tool_run_result)  # or it would be waited for
                return tools._FunctionToolInvocationResult(hooks.not_run(denial), is_sdk_generated_error=True)
        found = await original(function_tool=function_tool, context=context, **options)
        if call is not None and getattr(_below(context, peek_agent_tool_run_result), "interruptions", None):
            call.pause()
        return found


def _below(context: Any, seen: Callable[..., Any]) -> Any:
    """The run of the agent that is a tool and has paused: it waits for an approval, or has been given it; else None."""
    call = getattr(context, "tool_call", None)
    return None if call is None else seen(call, scope_id=get_agent_tool_state_scope(context))


#: The work of agents that goes on: a span of the SDK -> that in the OpenTelemetry context.
_open: WeakKeyDictionary[Any, tuple[trace.Span, Token[Any]]] = WeakKeyDictionary()


def _start(original: Callable[..., None], span: Any, *args: Any, **options: Any) -> None:
    """Begin the work of an agent; it is the task that does it which calls."""
    before = trace.get_current_span()
    original(span, *args, **options)
    if isinstance(span.span_data, AgentSpanData):
        here = trace.get_current_span()  # that of an instrumentation, which would not be inside of ours
        ours = hooks.agent_span(span.span_data.name, None if here is before else here)
        if ours is not None:
            _open[span] = ours, attach(within(ours))


def _finish(original: Callable[..., None], span: Any, *args: Any, **options: Any) -> None:
    """End it."""
    ours, token = _open.pop(span, (None, None))
    if ours is not None and token is not None:
        detach(token)
        ours.end()
    original(span, *args, **options)
