"""An agent that searches and reads until it can answer, under a budget for steps, tokens, money and time at once."""

from __future__ import annotations

import textwrap

from otelbudget import RunBudget
from otelbudget.demo import ResearchAgent

QUESTION = "How can a quota be shared fairly between tenants?"
BUDGET = RunBudget(
    name="deep_research", max_steps=20, max_tokens=50_000, max_cost_usd=0.25, max_seconds=60, max_nested_tool_calls=10
)


def main() -> None:
    result = ResearchAgent(BUDGET, documents=6, tenant="acme").answer(QUESTION)

    print(f"{QUESTION}\n")
    print(textwrap.fill(result["answer"], 100))
    print(f"\nread: {', '.join(result['documents'])}")
    print("\nused:")
    for resource, amount in result["budget_used"].items():
        limit = getattr(BUDGET, f"max_{resource}")
        print(f"  {resource:<18} {amount:>12.6g}" + (f"  of {limit:g}" if limit is not None else ""))
    print(f"\nended by a limit: {result['exhausted']}")


if __name__ == "__main__":
    main()
