"""A world to try budgets in: an OpenAI-compatible server on loopback, a small library of documents, a research agent.

Nothing here needs a key or the network. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otelbudget.demo.agent import ResearchAgent
    from otelbudget.demo.library import Library
    from otelbudget.demo.script import Reply, Request
    from otelbudget.demo.server import DemoServer

__all__ = ["DemoServer", "Library", "Reply", "Request", "ResearchAgent"]

_HOME = {
    "DemoServer": "server",
    "Library": "library",
    "Reply": "script",
    "Request": "script",
    "ResearchAgent": "agent",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
