"""For Microsoft's Agent Framework: `budget_agents()` refuses tool calls, and gives agents the budgets of their names.

`setup()` calls it where the framework is imported; it holds for agents that are there, too. A refused tool doesn't run,
and its model is told. A refused model call raises, by the guard of the model's SDK (clients of the framework wrap that
in an error of their own); with `budget_middleware()` the agent ends with a message instead:

agent = Agent(client, name="researcher", tools=[...], middleware=budget_middleware())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from agent_framework import ChatMiddleware, ChatResponse, FunctionTool, Message, RawAgent, ResponseStream
except ImportError as missing:
    raise ImportError("this is for the Agent Framework: pip install 'otelbudget[agent-framework]'") from missing


def budget_agents() -> Callable[[], None]:
    """From now on, hold each tool call in this process, and let agents have the budgets and the quotas of their names.

    Streamed runs have them from version 1.3 of the framework on. Middlewares of yours go on. Gives what ends that.
    """
    return Entries((RawAgent, "run", _run), (FunctionTool, "invoke", _invoke))


def _run(original: Callable[..., Any], agent: Any, *args: Any, **options: Any) -> Any:
    made = original(agent, *args, **options)
    return _streamed(agent.name, made) if isinstance(made, ResponseStream) else _awaited(agent.name, made)


async def _awaited(name: str | None, made: Awaitable[Any]) -> Any:
    with hooks.agent(name):
        return await made


def _streamed(name: str | None, made: Any) -> Any:
    if not hasattr(made, "with_pull_context_manager"):
        return made
    begun = cache(lambda: hooks.agent_span(name))  # where it is read, which may be elsewhere

    def end() -> None:
        if (span := begun()) is not None:
            span.end()

    return made.with_pull_context_manager(lambda: hooks.inside(begun())).with_cleanup_hook(end)


async def _invoke(original: Callable[..., Awaitable[Any]], tool: Any, **options: Any) -> Any:
    call_id = options.get("tool_call_id")
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(hooks.tool_call(tool.name, call_id))
        except BudgetExceeded as denial:
            if call_id is None:  # no model has asked for it
                raise
            hooks.acknowledge(denial)
            return tool.parse_result(hooks.not_run(denial))
        return await original(tool, **options)


def budget_middleware() -> list[Any]:
    """What an agent is given as ``middleware``, beside the user's own."""
    return [BudgetChatMiddleware()]


class BudgetChatMiddleware(ChatMiddleware):
    """Answers a refused model call with a message; a streamed one raises BudgetExceeded."""

    async def process(self, context: Any, call_next: Callable[[], Awaitable[None]]) -> None:
        """Call the model; a message instead where the run can't pay."""
        try:
            await call_next()
        except Exception as error:
            denial = found_in(error)
            if denial is None or context.stream:
                raise
            hooks.acknowledge()  # who reads the answer is told
            context.result = ChatResponse(messages=[Message("assistant", [hooks.ended(denial)])], finish_reason="stop")
