"""Configuration: what every run, agent and model is held to, from ``budgets.yaml`` or from code."""

from __future__ import annotations

import os

from otelbudget.config.parts import Estimates, Inbound, TelemetryConfig, TenantFrom
from otelbudget.config.settings import Config
from otelbudget.config.store import StoreConfig

__all__ = ["Config", "Estimates", "Inbound", "StoreConfig", "TelemetryConfig", "TenantFrom", "load_budget_config"]


def load_budget_config(path: str | os.PathLike[str]) -> Config:
    """Read a ``budgets.yaml``; the file of that name in the project's sources shows everything that may stand in it.

    Example:
        ::

            budgets:
              quick_answer: {max_steps: 5, max_tokens: 2k, max_seconds: 10s, max_cost_usd: $0.05}
            default_budget: quick_answer

    Args:
        path: The file, UTF-8, at most 1 MiB.

    Returns:
        A mapping of budget names to `RunBudget`; everything else the file says is in its attributes.

    Raises:
        ConfigError: The file can't be read or says something that is not understood. All that is wrong is in one
            message, a line ``file:line:column: path: what`` each.
    """
    from otelbudget.config.loader import contents, named, parse

    source = named(path)
    return parse(contents(source), source)
