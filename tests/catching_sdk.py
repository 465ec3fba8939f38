"""An SDK of OpenTelemetry that catches what span processors raise, as opentelemetry-python PR #5626 would have it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk import trace as sdk


def patch() -> None:
    """Make the SDK of this process one."""
    for processors in (sdk.SynchronousMultiSpanProcessor, sdk.ConcurrentMultiSpanProcessor):
        for name in ("on_start", "_on_ending", "on_end"):
            setattr(processors, name, _catching(name))


def _catching(name: str) -> Callable[..., None]:
    def method(self: Any, *args: Any, **how: Any) -> None:
        for one in self._span_processors:
            try:
                getattr(one, name)(*args, **how)
            except Exception:
                logging.getLogger("sdk").debug("caught", exc_info=True)

    return method
