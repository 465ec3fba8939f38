"""Where the demo's agents find their model: the service that the environment names, else a server on loopback."""

from __future__ import annotations

import atexit
import os
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from otelbudget.demo.server import DemoServer

if TYPE_CHECKING:
    import openai


class Service(NamedTuple):
    """A place that speaks OpenAI's protocol; of URL and key, None leaves it to the client."""

    base_url: str | None
    api_key: str | None
    model: str


def find_service() -> Service:
    """The service that ``OPENAI_API_KEY`` (and ``OPENAI_BASE_URL``) name, else a demo server of this process.

    The model is ``OTELBUDGET_DEMO_MODEL``, if that is set.
    """
    model = os.environ.get("OTELBUDGET_DEMO_MODEL")
    if os.environ.get("OPENAI_API_KEY"):
        return Service(None, None, model or "gpt-4.1-mini")
    return Service(_shared_server().base_url, "none", model or "demo-small")


def connect(service: Service, **options: Any) -> openai.OpenAI:
    """A client of *service*; *options* go to ``openai.OpenAI``."""
    client: openai.OpenAI = openai_module().OpenAI(base_url=service.base_url, api_key=service.api_key, **options)
    return client


def openai_module() -> Any:
    """The ``openai`` package; if it is not installed, an ImportError that says how to."""
    try:
        import openai
    except ImportError as error:
        raise ImportError("the research agent needs the openai client: pip install 'otelbudget[openai]'") from error
    return openai


@cache
def _shared_server() -> DemoServer:
    """The demo server of this process, started at first use and closed at exit."""
    server = DemoServer()
    atexit.register(server.close)
    return server
