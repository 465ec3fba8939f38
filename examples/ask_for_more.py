"""Ask the person at the keyboard whether an agent whose budget ran out may go on with a larger one."""

from __future__ import annotations

import textwrap

from otelbudget import BudgetRun, Denial, RunBudget
from otelbudget.demo import ResearchAgent

QUESTION = "What is deep learning?"


def ask(denial: Denial, run: BudgetRun) -> bool:
    """Called where a limit refuses a call; True means: look again. Nobody else waits meanwhile."""
    print(f"\n{textwrap.fill(denial.message, 98)}\n{run.receipt()}")
    try:
        wanted = input("How many more steps may it make? [0] ")
    except (EOFError, OSError, RuntimeError):  # nobody is there
        wanted = ""
    if not wanted.strip().isdigit() or int(wanted) == 0:
        return False
    run.extend(steps=int(wanted), actor="the person at the keyboard")
    return True


def main() -> None:
    result = ResearchAgent(RunBudget(max_steps=2, on_exhausted=ask), documents=12).answer(QUESTION)
    print(f"\n\n{textwrap.fill(textwrap.shorten(result['answer'], 400, placeholder=' ...'), 98)}")
    print(f"steps: {result['budget_used']['steps']}, ended by a limit: {result['exhausted']}")


if __name__ == "__main__":
    main()
