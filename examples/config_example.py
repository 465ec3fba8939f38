"""Budgets live in a YAML file, by name; a mistake in it is one clear message that says where."""

from __future__ import annotations

import tempfile
from pathlib import Path

import otelbudget
from otelbudget import ConfigError, load_budget_config
from otelbudget.demo import ResearchAgent

BUDGETS = Path(__file__).parent.parent / "budgets.yaml"
WRONG = """\
budgets:
  quick_answer: {max_step: 5, max_tokens: -1, max_seconds: 5:00}
"""


def main() -> None:
    config = load_budget_config(BUDGETS)
    for name, budget in config.items():
        print(f"{name}: steps {budget.max_steps}, tokens {budget.max_tokens}, seconds {budget.max_seconds}")

    otelbudget.setup(config, metrics_port=None)
    # The budget is asked for by its name; so would `with otelbudget.run("quick_answer"):` around any other agent.
    result = ResearchAgent("quick_answer", documents=1).answer("How does a token bucket work?")
    print(f"\n{result['answer'][:90]}...\nused {result['budget_used']['steps']} steps")

    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.yaml"
        wrong.write_text(WRONG, "utf-8")
        try:
            load_budget_config(wrong)
        except ConfigError as error:
            print(f"\nA file with three mistakes:\n{str(error).replace(folder, '.')}")


if __name__ == "__main__":
    main()
