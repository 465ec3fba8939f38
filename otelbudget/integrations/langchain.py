"""`BudgetMiddleware` for LangChain agents: a refused one ends with a message, a refused tool doesn't run.

After `setup()`, tools are held and agents have their budgets without it (`langchain_core`, `langgraph`), and what is
refused a model call raises; it is for ending with a message instead.

agent = create_agent(model, tools, name="researcher", middleware=[BudgetMiddleware()])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, nullcontext
from typing import Annotated, Any, NotRequired, TypedDict

from opentelemetry import trace

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations import hooks
from otelbudget.runs.tool_call import ToolCall

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain_core.messages import AIMessage, ToolMessage
    from langgraph.channels import UntrackedValue
    from langgraph.config import get_config
    from langgraph.errors import GraphInterrupt
except ImportError as missing:
    raise ImportError("this middleware is for LangChain 1.0 or newer: pip install 'otelbudget[langchain]'") from missing


class _State(TypedDict):
    #: Of this invocation; it is in no checkpoint and ends, at the latest, when it is forgotten.
    otelbudget_span: NotRequired[Annotated[Any, UntrackedValue(Any), PrivateStateAttr]]


class BudgetMiddleware(AgentMiddleware):
    """Ends an agent with a message where its run is refused a model call, and gives the model one for a refused tool.

    Tool limits hold, and the budget and quotas of the agent's name apply, without any instrumentation. Put it behind a
    middleware that retries model calls, which sees what it answers and retries nothing, and before one that retries
    tools, whose attempts are one tool call.

    Args:
        agent: Its name in the configuration; None takes the ``name`` of ``create_agent``.
        acknowledge: Whether these messages deal with denials; False lets them be raised again when the run is left.
    """

    state_schema = _State

    def __init__(self, agent: str | None = None, *, acknowledge: bool = True) -> None:
        super().__init__()
        self._agent = agent
        self._acknowledge = acknowledge

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:  # noqa: ARG002 - LangChain's signature
        """Begin the work of the agent of this name."""
        name = self._agent or get_config().get("metadata", {}).get("lc_agent_name")
        span = hooks.agent_span(name, trace.get_current_span())
        return None if span is None else {"otelbudget_span": span}

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:  # noqa: ARG002 - LangChain's signature
        """End it."""
        span = state.get("otelbudget_span")
        if span is not None:
            span.end()
        return None

    # LangChain would call the plain ones, but OpenLLMetry makes it believe that there are these.

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The same for coroutines."""
        return self.before_agent(state, runtime)

    async def aafter_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The same for coroutines."""
        return self.after_agent(state, runtime)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Call the model; a message instead where the run can't pay."""
        with hooks.inside(request.state.get("otelbudget_span")):
            try:
                return handler(request)
            except Exception as error:  # noqa: BLE001 - raised again if it is no denial
                return self._end(error)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """The same for coroutines."""
        with hooks.inside(request.state.get("otelbudget_span")):
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - raised again if it is no denial
                return self._end(error)

    def _end(self, error: Exception) -> AIMessage:
        denial = found_in(error)
        if denial is None:
            raise error
        self._dealt_with()
        return AIMessage(hooks.ended(denial), response_metadata={"finish_reason": "budget_exceeded"})

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Run a tool; the reason instead where no tool call is left."""
        with hooks.inside(request.state.get("otelbudget_span")), ExitStack() as stack:
            try:
                stack.enter_context(_tool_call(request))
            except BudgetExceeded as denial:
                return self._refused(request, denial)
            return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """The same for coroutines."""
        with hooks.inside(request.state.get("otelbudget_span")):
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(_tool_call(request))
                except BudgetExceeded as denial:
                    return self._refused(request, denial)
                return await handler(request)

    def _refused(self, request: Any, denial: BudgetExceeded) -> ToolMessage:
        self._dealt_with(denial)
        call = request.tool_call
        return ToolMessage(hooks.not_run(denial), name=call["name"], tool_call_id=call["id"], status="error")

    def _dealt_with(self, told: BudgetExceeded | None = None) -> None:
        if self._acknowledge:
            hooks.acknowledge(told)


def _tool_call(request: Any) -> ToolCall | nullcontext[None]:
    return hooks.tool_call(request.tool_call["name"], request.tool_call["id"], pauses=(GraphInterrupt,))
