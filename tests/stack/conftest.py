"""The parts of the stack that the tests start for real."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_server import Missing, prometheus_binary

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Who names nothing but this directory wants all of it, and not what the default suite takes of it."""
    paths = [(config.invocation_params.dir / name.partition("::")[0]).resolve() for name in config.args]
    if config.option.markexpr == "not slow" and all(path.is_relative_to(HERE) for path in paths):
        config.option.markexpr = "stack"


def pytest_itemcollected(item: pytest.Item) -> None:
    """All that is here is of the stack; pytest asks only for what is here."""
    item.add_marker("stack")


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """The script that makes the dashboards."""
    sys.path.insert(0, str(ROOT / "grafana"))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.remove(str(ROOT / "grafana"))


@pytest.fixture(scope="session")
def scrape_config() -> str:
    """Configuration of a Prometheus that scrapes the page on ``{port}`` every second."""
    return """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: otelbudget
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture(scope="session")
def has_prometheus() -> None:
    """Skip without a Prometheus, or fail where services are required."""
    try:
        prometheus_binary()
    except Missing as missing:
        if os.environ.get("OTELBUDGET_REQUIRE_SERVICES") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
