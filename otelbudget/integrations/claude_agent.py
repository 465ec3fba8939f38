"""For the Claude Agent SDK: its `query`, which is stopped when the budget of the run of here is.

Its loop calls models in a subprocess, where nothing of ours is. So what is left is reserved and passed down, as
``max_turns`` and ``max_budget_usd``, which the loop itself keeps; and what it has used is charged at its end.

async for message in query(prompt="Go on.", options=ClaudeAgentOptions(max_budget_usd=0.5)): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from otelbudget.integrations import hooks
from otelbudget.model.amounts import NANOS
from otelbudget.model.usage import Usage
from otelbudget.runs.run import BudgetRun

try:
    import claude_agent_sdk as sdk
except ImportError as missing:
    raise ImportError("this is for the Claude Agent SDK: pip install 'otelbudget[claude-agent]'") from missing

#: Input that no cache had to do with, output, read from a cache, written to one.
_OF_ANSWERS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_OF_MODELS: Final = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")


async def query(*, prompt: Any, options: Any = None, **more: Any) -> AsyncIterator[Any]:
    """``claude_agent_sdk.query`` with the same arguments and messages.

    It holds, until its end, what it passes down: the smaller of what *options* allow and of what is left of the run and
    its quotas, so a loop with a small ``max_budget_usd`` leaves the rest to others. The request in which the loop
    reaches a limit is finished, and may go over it. Tokens can't be passed down: they are charged, and stop the next.

    Raises:
        BudgetExceeded: Nothing is left for it; no loop is started.
    """
    run = hooks.run_here()
    if run is None:
        async for message in sdk.query(prompt=prompt, options=options, **more):
            yield message
        return
    here, options = BudgetRun(run), options or sdk.ClaudeAgentOptions()
    await here.acheck()
    passed = _passed_down(options, await here.aremaining(fresh=True))
    held = await here.areserve(steps=passed.get("max_turns", 1), cost_usd=passed.get("max_budget_usd", 0))
    seen, messages = _Seen(), sdk.query(prompt=prompt, options=replace(options, **passed), **more)
    try:
        async for message in messages:
            seen.note(message)
            yield message
    finally:
        if seen.began:
            held.commit(seen.usage())
        else:
            held.release()
        await messages.aclose()


def _passed_down(options: Any, left: dict[str, Any]) -> dict[str, Any]:
    """The limits that the loop is given."""
    turns = [n for n in (options.max_turns, left["steps"]) if n is not None]
    money = [usd for usd in (options.max_budget_usd, left["cost_usd"]) if usd is not None]
    passed: dict[str, Any] = {"max_turns": max(1, min(turns))} if turns else {}
    return passed | ({"max_budget_usd": max(float(min(money)), 1 / NANOS)} if money else {})


class _Seen:
    """What the messages of a loop have told of its use: all of it in the last result, else a part."""

    def __init__(self) -> None:
        self.began = False
        self._answers: dict[str | None, Any] = {}
        self._result: Any = None

    def note(self, message: Any) -> None:
        """Take note of one."""
        self.began = True
        if isinstance(message, sdk.ResultMessage):
            self._result = message
        elif isinstance(message, sdk.AssistantMessage) and message.model != "<synthetic>":
            self._answers[message.message_id] = message

    def usage(self) -> Usage:
        """What to charge."""
        told, names, cost = [one.usage or {} for one in self._answers.values()], _OF_ANSWERS, None
        model = next((one.model for one in self._answers.values()), None)
        if self._result is not None:
            told, names = [*(self._result.model_usage or {}).values()], _OF_MODELS
            # By its own reckoning it is stopped, so by that it is charged.
            cost = Decimal(str(self._result.total_cost_usd or 0))
        given, made, read, written = (sum(one.get(name) or 0 for one in told) for name in names)
        return Usage(
            given + read + written,
            made,
            cost_usd=cost,
            steps=max(1, len(self._answers)),
            cache_read_tokens=read,
            cache_write_tokens=written,
            model=model,
            provider="anthropic",
            estimated=self._result is None,
        )
