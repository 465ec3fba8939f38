"""What can be imported from `otelbudget` is what it says, and says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import otelbudget

NAMES = {
    "BudgetError", "BudgetExceeded", "BudgetManager", "BudgetRun", "Config", "ConfigError", "Decision", "Denial",
    "IdempotencyError", "PricingError", "Quota", "QuotaService", "Quotas", "Receipt", "RunBudget", "StoreError",
    "Usage",
    "__version__", "continue_run", "current_run", "estimate_tokens", "is_budget_exceeded", "load_budget_config",
    "resume", "run", "setup", "shutdown", "wrap",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(otelbudget.__all__) == NAMES
    assert list(otelbudget.__all__) == sorted(otelbudget.__all__)
    assert dir(otelbudget) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_name_loads_and_explains_itself(name: str) -> None:
    thing = getattr(otelbudget, name)
    assert inspect.getdoc(thing)
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_") and callable(value):
            assert inspect.getdoc(value), f"{name}.{member} has no docstring"


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = otelbudget.nonsense


def test_the_type_checker_agrees_with_every_public_call() -> None:
    folder = Path(__file__).parent / "typing"
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
