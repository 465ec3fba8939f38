"""A demo server, a manager that is switched on, and the guard of an SDK around each test."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from provider import Provider

from otelbudget import Config
from otelbudget.engine import context as contexts
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def sdk() -> str:
    """The SDK that is guarded, as `GUARDS` names it; test files have their own."""
    return "openai"


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def manager(sdk: str, config: Config) -> Iterator[BudgetManager]:
    pytest.importorskip(GUARDS[sdk].module)
    manager = BudgetManager(config)
    contexts.activate(manager.engine)
    GUARDS[sdk].install()
    yield manager
    GUARDS[sdk].uninstall()
    contexts.deactivate(manager.engine)


@pytest.fixture
def ticking(manager: BudgetManager, server: Provider) -> None:
    """The manager's clock stands still but for a second that each request takes."""
    manager.engine.clock_ns = lambda: server.requests * 1_000_000_000


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(server: Provider, manager: BudgetManager) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def served() -> list[tuple[str, dict[str, Any]]]:
    """What the gateway has received: (path, body)."""
    return []


@pytest.fixture
def answer() -> dict[str, Any]:
    """What the gateway answers next: ``status`` and ``body``; one answer for all if neither is there."""
    return {}


@pytest.fixture
def gateway(served: list[tuple[str, dict[str, Any]]], answer: dict[str, Any]) -> Iterator[str]:
    """A server that takes every POST, for paths and answers that the demo server does not know."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = self.rfile.read(int(self.headers["content-length"]))
            body = json.loads(said) if said.startswith(b"{") else {}  # or it is a form
            served.append((self.path, body))
            status, said = (answer["make"](body) if "make" in answer else None) or (200, USED)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            kind = "text/event-stream" if data.startswith(b"data:") else "application/json"
            self.send_header("content-type", answer.get("content_type", kind))
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


USED = {
    "id": "any-1",
    "model": "m",
    "choices": [],
    "data": [{"embedding": [0.0], "index": 0}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}
