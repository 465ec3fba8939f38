"""Switching otelbudget on and off for a process: `setup`, `shutdown`, and `facts` about what is on.

Read `assembly` first: it puts the parts together, in order, and takes them apart.
"""

from __future__ import annotations

from otelbudget.errors import ConfigError

try:
    import opentelemetry.sdk.trace  # noqa: F401
except ModuleNotFoundError as missing:
    raise ConfigError(
        "otelbudget.setup() needs the OpenTelemetry SDK, and only its API is installed: pip install opentelemetry-sdk"
    ) from missing

from otelbudget.bootstrap.assembly import Facts
from otelbudget.bootstrap.lifecycle import facts, setup, shutdown

__all__ = ["Facts", "facts", "setup", "shutdown"]
