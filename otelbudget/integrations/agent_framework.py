"""For Microsoft's Agent Framework: a refused agent ends with a message, a refused tool doesn't run.

agent = Agent(client, name="researcher", tools=[...], middleware=budget_middleware())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations import hooks

try:
    from agent_framework import AgentMiddleware, ChatMiddleware, ChatResponse, FunctionMiddleware, Message
except ImportError as missing:
    raise ImportError("this is for the Agent Framework: pip install 'otelbudget[agent-framework]'") from missing

Next = Callable[[], Awaitable[None]]


def budget_middleware() -> list[Any]:
    """What an agent is given as ``middleware``, beside the user's own."""
    return [BudgetAgentMiddleware(), BudgetChatMiddleware(), BudgetFunctionMiddleware()]


class BudgetAgentMiddleware(AgentMiddleware):
    """Puts the budget and the quotas of the agent's name in force, without any instrumentation.

    Not for streamed runs, whose work is done after this middleware: open a run around those.
    """

    async def process(self, context: Any, call_next: Next) -> None:
        """Do a run of the agent as its piece of work."""
        with hooks.agent(None if context.stream else context.agent.name):
            await call_next()


class BudgetChatMiddleware(ChatMiddleware):
    """Answers a refused model call with a message; a streamed one raises BudgetExceeded."""

    async def process(self, context: Any, call_next: Next) -> None:
        """Call the model; a message instead where the run can't pay."""
        try:
            await call_next()
        except Exception as error:
            denial = found_in(error)
            if denial is None or context.stream:
                raise
            hooks.acknowledge()  # who reads the answer is told
            context.result = ChatResponse(messages=[Message("assistant", [hooks.ended(denial)])], finish_reason="stop")


class BudgetFunctionMiddleware(FunctionMiddleware):
    """Holds each tool call on the run; a refused one does not run and tells the model why."""

    async def process(self, context: Any, call_next: Next) -> None:
        """Run a tool, if a tool call is left."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(hooks.tool_call(context.function.name))
            except BudgetExceeded as denial:
                hooks.acknowledge()
                context.result = hooks.not_run(denial)
                return
            await call_next()
