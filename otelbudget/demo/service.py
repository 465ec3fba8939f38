"""Where the demo's agents find their model: the service that the environment names, else a server on loopback."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otelbudget.demo.server import DemoServer

if TYPE_CHECKING:
    import openai

__all__ = ["DEMO_MODEL", "Service", "connect", "find_service", "openai_module"]

DEMO_MODEL = "demo-small"
_REAL_MODEL = "gpt-4.1-mini"

_shared: DemoServer | None = None
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Service:
    """A place that speaks OpenAI's protocol.

    Args:
        base_url: None takes the client's own default.
        api_key: None takes ``OPENAI_API_KEY``.
        model: The model to ask.
    """

    base_url: str | None
    api_key: str | None
    model: str


def find_service() -> Service:
    """The service that ``OPENAI_API_KEY`` (and ``OPENAI_BASE_URL``) name, else a demo server of this process.

    The model is ``OTELBUDGET_DEMO_MODEL``, if that is set.
    """
    model = os.environ.get("OTELBUDGET_DEMO_MODEL")
    if os.environ.get("OPENAI_API_KEY"):
        return Service(None, None, model or _REAL_MODEL)
    return Service(_shared_server().base_url, "none", model or DEMO_MODEL)


def connect(service: Service, **options: Any) -> openai.OpenAI:
    """A client of *service*; *options* go to ``openai.OpenAI``."""
    client: openai.OpenAI = openai_module().OpenAI(base_url=service.base_url, api_key=service.api_key, **options)
    return client


def openai_module() -> Any:
    """The ``openai`` package.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import openai
    except ImportError as error:
        raise ImportError("the research agent needs the openai client: pip install 'otelbudget[openai]'") from error
    return openai


def _shared_server() -> DemoServer:
    """The demo server of this process, started at first use and closed at exit."""
    global _shared
    with _lock:
        if _shared is None or _shared.closing.is_set():
            _shared = DemoServer()
            atexit.register(_shared.close)
        return _shared
