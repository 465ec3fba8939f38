"""The demo as a user starts it, serving load and its page until it is told to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_server import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def serving(directory: Path) -> Iterator[int]:
    """The port of the page of a demo that goes on until the block ends, and for five minutes at most."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "otelbudget", "demo", "--serve", "--for", "5m", "--metrics-port", str(port)]
    theirs = ("OTEL_", "OPENAI_")  # a developer's own settings must not send the demo elsewhere
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    log = directory / "demo.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=directory)
        try:
            until(lambda: process.poll() is not None or _answers(port), 60, "the demo serves its page")
            assert process.poll() is None, log.read_text("utf-8")[-2000:]
            yield port
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return bool(answer.status == 200)
