"""For Google's ADK: `budget_adk()` refuses tool calls; the model is told.

`setup()` calls it where ADK is imported; it holds for agents and runners that are there, too. ADK's own spans give
agents the budgets and the quotas of their names (from version 1.20 on). A refused model call raises, by the guard of
the model's SDK; with a `BudgetPlugin` the agent ends with a message instead:

runner = InMemoryRunner(agent, plugins=[BudgetPlugin()])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries

try:
    from google.adk.models.llm_response import LlmResponse
    from google.adk.plugins.base_plugin import BasePlugin
    from google.adk.plugins.plugin_manager import PluginManager
    from google.genai.types import Content, Part
except ImportError as missing:
    raise ImportError("this is for Google's Agent Development Kit: pip install 'otelbudget[google-adk]'") from missing


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
        try:
            # Goes on until the task ends: ADK has one for each call, and awaits what the tool does in that.
            await hooks.tool_call(tool.name, tool_context.function_call_id).__aenter__()
        except BudgetExceeded as denial:
            self._dealt_with()
            return {"error": hooks.not_run(denial)}
        return None

    def _dealt_with(self) -> None:
        if self._acknowledge:
            hooks.acknowledge()


_plugin = BudgetPlugin()


def budget_adk() -> Callable[[], None]:
    """From now on, hold each tool call in this process.

    Plugins and callbacks of yours go on. A tool that a plugin answers for is not charged; one that a callback of its
    agent answers for is. Gives what ends that.
    """
    return Entries((PluginManager, "run_before_tool_callback", _before_tool))


async def _before_tool(original: Callable[..., Awaitable[Any]], manager: Any, **call: Any) -> Any:
    answer = await original(manager, **call)
    if answer is not None or any(isinstance(one, BudgetPlugin) for one in manager.plugins):
        return answer  # the tool isn't going to run, or that plugin has charged it
    return await _plugin.before_tool_callback(**call)
