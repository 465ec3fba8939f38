"""Switching otelbudget on and off for a process: `setup`, `shutdown`, and `facts` about what is on.

One setting up goes through: `arguments` (checked), `providers` (a tracer provider, joined or made, that reaches us
through `dispatcher`, `forwarder` and `sampler`), `exporters` and `delivery` (spans out), `metrics` (one route),
`threads` (the context in threads), `guarding` with `imports` and `instrumentors` (the client SDKs); `assembly` puts
them together and takes them apart.
"""

from __future__ import annotations

from otelbudget.errors import ConfigError

try:
    import opentelemetry.sdk.trace  # noqa: F401
except ModuleNotFoundError as missing:
    raise ConfigError(
        "otelbudget.setup() needs the OpenTelemetry SDK, and only its API is installed: pip install opentelemetry-sdk"
    ) from missing

from otelbudget.bootstrap.lifecycle import facts, setup, shutdown
from otelbudget.bootstrap.summary import Facts

__all__ = ["Facts", "facts", "setup", "shutdown"]
