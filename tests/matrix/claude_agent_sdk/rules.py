"""The loop of the Claude Agent SDK, in its subprocess, keeps what is left of a budget and is charged what it used."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ResultError, ResultMessage
from provider import Provider, Reply

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.integrations.claude_agent import query

Setup = Callable[..., otelbudget.BudgetManager]
#: A model that never has enough; Haiku 4.5: $1 a million in, $5 out, so each answer costs 0.1005.
AGAIN = Reply(text="", tool_calls=[("Bash", {"command": "true"})], input_tokens=100_000, output_tokens=100)
EACH = Decimal("0.1005")


@pytest.fixture
def loop(server: Provider, tmp_path: Path, setup: Setup) -> Callable[..., Any]:
    """Run a loop to its end; gives the subtype of its result."""
    setup()
    env = {
        "ANTHROPIC_BASE_URL": server.root_url,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "HOME": str(tmp_path),
        "IS_SANDBOX": "1",
    }

    async def run(messages: int | None = None, **options: Any) -> str | None:
        server.enqueue(*[AGAIN] * 10)
        given = {"model": "claude-haiku-4-5", "tools": ["Bash"], "permission_mode": "bypassPermissions", **options}
        stream = query(prompt="loop", options=ClaudeAgentOptions(env=env, cwd=tmp_path, setting_sources=[], **given))
        found, seen = None, 0
        try:
            async for message in stream:
                seen += 1
                found = message.subtype if isinstance(message, ResultMessage) else found
                if seen == messages:
                    break
        except ResultError:
            pass
        await stream.aclose()
        return found

    return run


async def test_it_makes_as_many_calls_as_are_left(loop: Callable[..., Any], server: Provider) -> None:
    async with otelbudget.run(RunBudget(max_steps=3), reraise=False) as run:
        assert await loop() == "error_max_turns"
        with pytest.raises(BudgetExceeded):
            await loop()
    assert (run.usage.steps, server.requests) == (3, 3)
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.cost_usd) == (300_000, 300, 3 * EACH)


async def test_it_spends_what_is_left_and_finishes_the_request_in_which_that_ends(
    loop: Callable[..., Any], server: Provider
) -> None:
    async with otelbudget.run(RunBudget(max_cost_usd=0.25), reraise=False) as run:
        assert await loop() == "error_max_budget_usd"
        with pytest.raises(BudgetExceeded):
            await loop()
    assert (run.usage.cost_usd, run.usage.tokens, server.requests) == (3 * EACH, 300_300, 3)
    assert not run.usage.estimated


async def test_its_own_smaller_cap_holds_and_is_no_denial(loop: Callable[..., Any], server: Provider) -> None:
    async with otelbudget.run(RunBudget(max_steps=50, max_cost_usd=100)) as run:
        assert await loop(max_budget_usd=0.05) == "error_max_budget_usd"
        assert run.remaining()["steps"] == 49
    assert (run.usage.steps, run.usage.cost_usd) == (1, EACH)


async def test_one_that_is_left_early_is_charged_what_was_seen(loop: Callable[..., Any]) -> None:
    async with otelbudget.run(RunBudget(max_steps=5, max_cost_usd=100)) as run:
        assert await loop(messages=4) is None
        assert run.remaining()["steps"] == 5 - run.usage.steps  # nothing is held any more
    assert run.usage.steps >= 1
    assert run.usage.input_tokens == run.usage.steps * 100_000
    assert run.usage.estimated


async def test_a_refusal_of_the_provider_costs_a_step(loop: Callable[..., Any], server: Provider) -> None:
    server.enqueue(Reply(status=402, error="no money"))
    async with otelbudget.run(RunBudget(max_steps=5, max_cost_usd=100)) as run:
        assert await loop() == "success"  # as the SDK has it, with an error
    assert (run.usage.steps, run.usage.tokens, run.usage.cost_usd) == (1, 0, 0)


async def test_without_budgets_it_is_the_sdks_own(loop: Callable[..., Any], server: Provider) -> None:
    otelbudget.shutdown()
    assert await loop(max_turns=2) == "error_max_turns"
    assert server.requests == 2


def test_of_five_calls_one_is_made(loop: Callable[..., Any], row: Callable[..., int]) -> None:
    assert row("claude-agent-sdk", "claude_agent.query", lambda: loop(max_turns=5)) == 1
