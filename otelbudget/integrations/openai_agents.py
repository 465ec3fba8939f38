"""For the OpenAI Agents SDK: `BudgetHooks` hold tool calls, `budget_agents()` gives agents the budgets of their names.

`setup()` calls the latter where the SDK is imported.

await Runner.run(agent, "Go on.", hooks=BudgetHooks())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any

from opentelemetry import trace
from opentelemetry.context import attach, detach

from otelbudget.integrations import hooks

try:
    from agents import AgentSpanData, RunHooks, TracingProcessor, add_trace_processor
except ImportError as missing:
    raise ImportError("this is for the OpenAI Agents SDK: pip install 'otelbudget[openai-agents]'") from missing


class BudgetHooks(RunHooks[Any]):
    """Holds each local tool call on the run before the tool is invoked, without any instrumentation.

    A refusal raises BudgetExceeded out of ``Runner.run``, as one of a model call does, and no tool that was refused
    runs, parallel ones included. Hooks of yours go on: ``BudgetHooks(yours)``.
    """

    def __init__(self, inner: RunHooks[Any] | None = None) -> None:
        self._inner = RunHooks[Any]() if inner is None else inner

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """Charge the tool call, or refuse it."""
        async with hooks.tool_call(tool.name, getattr(context, "tool_call_id", None)):
            pass  # what the tool does is not inside of this hook
        await self._inner.on_tool_start(context, agent, tool)


def _passed_on(name: str) -> Callable[..., Awaitable[None]]:
    async def hook(self: BudgetHooks, *args: Any) -> None:
        await getattr(self._inner, name)(*args)

    return hook


for _name in ("on_llm_start", "on_llm_end", "on_agent_start", "on_agent_end", "on_handoff", "on_tool_end"):
    setattr(BudgetHooks, _name, _passed_on(_name))


def budget_agents() -> Callable[[], None]:
    """From now on, let each agent in this process have the budget and the quotas of its name, in ``Runner.run``.

    It listens to the SDK's own tracing, so it does nothing where that is disabled, or given other processors later.
    Gives what ends that.
    """
    spans = _AgentSpans()
    add_trace_processor(spans)
    return spans.shutdown


class _AgentSpans(TracingProcessor):
    """Makes the work of an agent one in the OpenTelemetry context, too."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[trace.Span, Token[Any]]] = {}
        self._ended = False  # the SDK has no way to take it out

    def on_span_start(self, span: Any) -> None:
        """Begin the work of an agent; it is the task that does it which calls."""
        if isinstance(span.span_data, AgentSpanData) and not self._ended:
            ours = hooks.agent_span(span.span_data.name)
            if ours is not None:
                self._open[span.span_id] = ours, attach(trace.set_span_in_context(ours))

    def on_span_end(self, span: Any) -> None:
        """End it."""
        ours, token = self._open.pop(span.span_id, (None, None))
        if ours is not None and token is not None:
            detach(token)
            ours.end()

    def on_trace_start(self, trace: Any) -> None:
        """Nothing to do."""

    def on_trace_end(self, trace: Any) -> None:
        """Nothing to do."""

    def shutdown(self) -> None:
        """Begin no more."""
        self._ended = True

    def force_flush(self) -> None:
        """Nothing to do."""
