"""The demo and its Redis as the compose file starts them, on this machine, until they are told to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_server import shipped_command, until
from tools import found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def serving(directory: Path) -> Iterator[int]:
    """The port of the page of a demo that goes on until the block ends, and for five minutes at most."""
    page, store = _free_ports(2)
    here = {"otelbudget": "-m otelbudget", "0.0.0.0": "127.0.0.1", "redis://redis:6379/0": f"redis://127.0.0.1:{store}"}
    shipped = [word for argument in shipped_command("demo") for word in here.get(argument, argument).split()]
    demo = [sys.executable, *shipped, "--for", "5m", "--metrics-port", str(page)]
    redis, *options = shipped_command("redis")
    server = [found(redis), *options, "--port", str(store), "--dir", str(directory)]
    with (
        _process(server, directory / "redis.log", store, signal.SIGTERM),
        _process(demo, directory / "demo.log", page, signal.SIGINT),
    ):
        with urllib.request.urlopen(f"http://127.0.0.1:{page}/metrics", timeout=5) as answer:
            assert answer.status == 200
        yield page


@contextmanager
def _process(command: list[str], log: Path, port: int, end: signal.Signals) -> Iterator[None]:
    """*command* from when it listens on *port*, until the block ends."""
    theirs = ("OTEL_", "OPENAI_")  # a developer's own settings must not send the demo elsewhere
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
        try:
            until(lambda: process.poll() is not None or _listens(port), 60, f"{command[0]} listens")
            assert process.poll() is None, log.read_text("utf-8")[-2000:]
            yield
        finally:
            if process.poll() is None:
                process.send_signal(end)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def _free_ports(number: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports
