"""otelbudget: hard budgets for AI agents, enforced and observed through OpenTelemetry.

::

    import otelbudget

    otelbudget.setup("budgets.yaml")
    with otelbudget.run("deep_research", tenant="acme") as run:
        agent.invoke(...)  # no instrumented model or tool call goes out that the run can't pay for

Names load on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otelbudget._version import __version__

if TYPE_CHECKING:
    from otelbudget.bootstrap import setup, shutdown
    from otelbudget.config import Config, load_budget_config
    from otelbudget.errors import (
        BudgetError,
        BudgetExceeded,
        ConfigError,
        IdempotencyError,
        PricingError,
        StoreError,
        is_budget_exceeded,
    )
    from otelbudget.estimate.tokens import estimate_tokens
    from otelbudget.manager import BudgetManager
    from otelbudget.model.budget import RunBudget
    from otelbudget.model.decision import Decision, Denial
    from otelbudget.model.quota import Quota, Quotas
    from otelbudget.model.usage import Usage
    from otelbudget.quota import QuotaService
    from otelbudget.runs.api import continue_run, current_run, resume, run, wrap
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.view import Receipt

__all__ = [
    "BudgetError",
    "BudgetExceeded",
    "BudgetManager",
    "BudgetRun",
    "Config",
    "ConfigError",
    "Decision",
    "Denial",
    "IdempotencyError",
    "PricingError",
    "Quota",
    "QuotaService",
    "Quotas",
    "Receipt",
    "RunBudget",
    "StoreError",
    "Usage",
    "__version__",
    "continue_run",
    "current_run",
    "estimate_tokens",
    "is_budget_exceeded",
    "load_budget_config",
    "resume",
    "run",
    "setup",
    "shutdown",
    "wrap",
]

_HOME = {
    **dict.fromkeys(("setup", "shutdown"), "bootstrap"),
    **dict.fromkeys(("Config", "load_budget_config"), "config"),
    **dict.fromkeys(("Decision", "Denial"), "model.decision"),
    **dict.fromkeys(
        (
            "BudgetError",
            "BudgetExceeded",
            "ConfigError",
            "IdempotencyError",
            "PricingError",
            "StoreError",
            "is_budget_exceeded",
        ),
        "errors",
    ),
    "estimate_tokens": "estimate.tokens",
    "BudgetManager": "manager",
    "RunBudget": "model.budget",
    "Usage": "model.usage",
    "QuotaService": "quota",
    **dict.fromkeys(("Quota", "Quotas"), "model.quota"),
    **dict.fromkeys(("continue_run", "current_run", "resume", "run", "wrap"), "runs.api"),
    "Receipt": "runs.view",
    "BudgetRun": "runs.run",
}


if not TYPE_CHECKING:  # a type checker shall see a misspelt name

    def __getattr__(name: str) -> Any:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
