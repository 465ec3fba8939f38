"""A world to try budgets in: an OpenAI-compatible server on loopback, a small library of documents, a research agent.

Nothing here needs a key or the network.
"""

from __future__ import annotations

from otelbudget.demo.agent import ResearchAgent
from otelbudget.demo.library import Library
from otelbudget.demo.server import DemoServer

__all__ = ["DemoServer", "Library", "ResearchAgent"]
