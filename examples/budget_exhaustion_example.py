"""What an agent can do when its budget runs out: stop with what it has, wrap up in one last call, or ask for more."""

from __future__ import annotations

import textwrap

from otelbudget import BudgetRun, Denial, RunBudget
from otelbudget.demo import ResearchAgent

QUESTION = "What makes an agent loop forever, and what stops it?"


def grant_two_more(denial: Denial, run: BudgetRun) -> bool:
    """Called when a limit is reached; True means: look again. Here a person could be asked instead."""
    if run.budget.max_steps is None or denial.limit != run.budget.max_steps:
        return False  # granted once already
    run.extend(steps=2, actor="on-call", reason="one more look")
    print(f"  (granted two more steps after: {denial.resource} {denial.used} of {denial.limit})")
    return True


BUDGETS = {
    "Stop at the limit: the answer is quoted from what was read": RunBudget(max_steps=3),
    "Keep one step aside: the last call sums up": RunBudget(max_steps=3, wrap_up={"steps": 1}),
    "Ask somebody: on_exhausted extends the run once": RunBudget(max_steps=3, on_exhausted=grant_two_more),
}


def main() -> None:
    for title, budget in BUDGETS.items():
        print(f"\n{title}")
        result = ResearchAgent(budget, documents=12).answer(QUESTION)
        print(show(textwrap.shorten(result["answer"], 280, placeholder=" ...")))
        print(f"  (documents read: {len(result['documents'])}, steps: {result['budget_used']['steps']})")
        print(show(result["message"] or "It ended within its budget."))


def show(text: str) -> str:
    return textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ")


if __name__ == "__main__":
    main()
