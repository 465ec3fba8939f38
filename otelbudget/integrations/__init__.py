"""Budgets in the native hooks of frameworks: a file per framework, imported by whoever uses it, or by `setup()`.

Each composes with the user's own hooks and needs no instrumentor. To add one: a file here, a row in `HOOKS`, a group in
``tests/matrix`` that runs the real framework; and where a process can be served without code of its user's, a function
that gives the `entries.Entries` which all tool calls and agents pass, and a row in `PROCESS_WIDE`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

#: Module of a framework -> what a user takes from here.
HOOKS: Final = {
    "langchain": "langchain.BudgetMiddleware",
    "agents": "openai_agents.BudgetHooks",
    "pydantic_ai": "pydantic_ai.BudgetCapability",
    "google.adk": "google_adk.BudgetPlugin",
    "agent_framework": "agent_framework.budget_middleware",
    "crewai": "crewai.budget_crews",
    "fastmcp": "fastmcp.BudgetMiddleware",
    "claude_agent_sdk": "claude_agent.query",
    "celery": "celery.BudgetTask",
    "starlette": "asgi.BudgetMiddleware",
    "fastapi": "asgi.BudgetMiddleware",
    "flask": "wsgi.BudgetMiddleware",
    "django": "asgi.BudgetMiddleware or wsgi.BudgetMiddleware",
}
#: Module -> what serves a whole process and gives what takes it out: `setup()` calls it when the module is imported.
PROCESS_WIDE: Final = {
    "agents": "openai_agents.budget_agents",
    "crewai": "crewai.budget_crews",
    "langchain_core.tools.base": "langchain_core.budget_tools",
    "langgraph.pregel.main": "langgraph.budget_graphs",
    "pydantic_ai": "pydantic_ai.budget_agents",
    "google.adk.runners": "google_adk.budget_adk",
    "agent_framework": "agent_framework.budget_agents",
    "fastmcp.tools": "fastmcp_tools.budget_tools",
    "fastmcp.server.providers.fastmcp_provider": "fastmcp_mounted.count_once",
    "celery.app.task": "celery.deny_retries",
}


def file_of(module: str) -> str:
    """The module here that has the hook of one of `PROCESS_WIDE`."""
    return f"{__name__}.{PROCESS_WIDE[module].partition('.')[0]}"


def hook_of(module: str) -> Callable[[], Callable[[], None]]:
    """What puts the hook of one of `PROCESS_WIDE` in, and gives what takes it out.

    Raises:
        ImportError: It is an old version, or another module of that name.
    """
    found: Callable[[], Callable[[], None]] = getattr(
        import_module(file_of(module)), PROCESS_WIDE[module].partition(".")[2]
    )
    return found
