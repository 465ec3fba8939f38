"""For Pydantic AI: a refused tool doesn't run and the model is told why, an agent has the budget of its name.

`setup()` calls `budget_agents()` where it is imported, which gives `BudgetCapability` to each run of an agent, whenever
that was made; the capability among an agent's own is for where nothing calls that. A tool that waits for a person is
charged when it goes on; one whose result comes later (``CallDeferred``) when it is begun, and one that is carried out
elsewhere not at all. Where a toolset gives another name to a tool of a FastMCP server in this process, its calls are
charged under both.

agent = Agent("openai:gpt-4o", name="researcher", capabilities=[BudgetCapability()])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from otelbudget.errors import BudgetExceeded
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import ApprovalRequired, ToolFailed, UserError
except ImportError as missing:
    raise ImportError("this is for Pydantic AI 2.16 or newer: pip install 'otelbudget[pydantic-ai]'") from missing


class BudgetCapability(AbstractCapability[Any]):
    """Holds each tool call on the run, and each run of an agent on the budget and the quotas of its name.

    A refused tool call does not run and tells the model why. A refused model call raises BudgetExceeded, as Pydantic
    AI's own limits raise; the guard of the provider's SDK sees to that. No instrumentation is needed.
    """

    async def wrap_run(self, ctx: Any, *, handler: Callable[[], Awaitable[Any]]) -> Any:
        """Do a run of the agent as its piece of work."""
        with hooks.agent(None if ctx.agent is None else ctx.agent.name), hooks.holding("pydantic_ai"):
            return await handler()

    async def wrap_tool_execute(
        self,
        ctx: Any,  # noqa: ARG002 - Pydantic AI's signature
        *,
        call: Any,
        tool_def: Any,  # noqa: ARG002
        args: Any,
        handler: Callable[[Any], Awaitable[Any]],
    ) -> Any:
        """Run a tool, if a tool call is left."""
        async with AsyncExitStack() as stack:
            try:
                held = hooks.tool_call(call.tool_name, call.tool_call_id, pauses=(ApprovalRequired,))
                await stack.enter_async_context(held)
            except BudgetExceeded as denial:
                hooks.acknowledge(denial)  # the model is told
                raise ToolFailed(hooks.not_run(denial)) from denial
            return await handler(args)


def budget_agents() -> Callable[[], None]:
    """From now on, do what `BudgetCapability` does in each run of an agent in this process. Gives what ends that.

    Not in a durable workflow (Temporal's, DBOS'), which takes only the capabilities that its agent was made with.
    """
    return Entries((Agent, "iter", _iter))  # the other ways to run one go through it


def _iter(original: Callable[..., Any], agent: Any, *args: Any, capabilities: Any = None, **options: Any) -> Any:
    if _takes_more(agent):
        capabilities = [*(capabilities or ()), BudgetCapability()]
    return original(agent, *args, capabilities=capabilities, **options)


def _takes_more(agent: Any) -> bool:
    """Whether a run of *agent* can have capabilities that it wasn't made with."""
    validate = getattr(agent.root_capability, "_validate_runtime_capabilities", lambda *_: None)
    try:
        validate(None, [BudgetCapability()])
    except UserError:
        return False
    return True
