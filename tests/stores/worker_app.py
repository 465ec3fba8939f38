"""The application of `test_workers`: each request spends five cents, and its answer says which process did, and how.

Set up as it is imported, by what ``WORKER_BUDGETS`` names: in the master under ``gunicorn --preload``, else per worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import otelbudget
from otelbudget import BudgetExceeded, Usage, bootstrap

otelbudget.setup(os.environ["WORKER_BUDGETS"], instrument=False, exporter="none")
IMPORTED_BY = os.getpid()


def spend() -> dict[str, Any]:
    """One request."""
    spent = False
    with otelbudget.run(tenant="acme", reraise=False) as run:
        try:
            run.reserve(cost_usd=0.05).commit(Usage(cost_usd=0.05))
            spent = True
        except BudgetExceeded as stopped:
            if stopped.reason not in ("limit", "busy"):
                raise
    facts = bootstrap.facts()
    return {
        "pid": os.getpid(),
        "preloaded": os.getpid() != IMPORTED_BY,
        "spent": spent,
        "page": facts and facts.metrics_url,
        "renews": [thread.name for thread in threading.enumerate()].count("otelbudget-store"),
    }


def wsgi(environ: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """For gunicorn."""
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(spend()).encode()]


async def asgi(scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """For uvicorn."""
    if scope["type"] == "http":
        said = json.dumps(await asyncio.to_thread(spend)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})


def several(number: int) -> list[dict[str, Any]]:
    """For multiprocessing: so many requests."""
    return [spend() for _ in range(number)]
