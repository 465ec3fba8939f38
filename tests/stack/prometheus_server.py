"""A real Prometheus for tests: the version of the stack if Go can build it, else the one on the PATH.

The build takes two minutes once; `go.mod` beside this file pins it and its checksums, and the binary is kept in a cache
directory outside the tree (OTELBUDGET_TEST_CACHE, else the user's cache), by version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
COMPOSE = HERE.parents[1] / "docker-compose.yml"
MODULE = "github.com/prometheus/prometheus"
#: Where what the tests build is kept.
CACHE = Path(os.environ.get("OTELBUDGET_TEST_CACHE") or Path.home() / ".cache" / "otelbudget-test")


class Missing(Exception):
    """No Prometheus can be had on this machine; the message says why."""


def pinned_version() -> str:
    """The version in `go.mod`, for example ``v0.314.0`` (which is Prometheus 3.14.0)."""
    found = re.search(rf"{re.escape(MODULE)} (v\S+)", (HERE / "go.mod").read_text("utf-8"))
    assert found is not None
    return found[1]


def prometheus_binary(name: str = "prometheus") -> Path:
    """The binary to run, or another of its tools, built if need be.

    Raises:
        Missing: There is none and none can be built.
    """
    built = CACHE / f"prometheus-{pinned_version()}" / name
    if built.exists():
        return built
    problem = "Go is not installed"
    if shutil.which("go"):
        problem = _build(built)
        if not problem:
            return built
    elsewhere = shutil.which(name)
    if elsewhere:
        return Path(elsewhere)
    raise Missing(f"no {name} on the PATH, and it can't be built: {problem}")


def shipped_command(service: str) -> list[str]:
    """The command of a *service* of the compose file, its variables at their defaults."""
    command = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"][service]["command"]
    return [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", argument) for argument in command]


def prometheus_help() -> str:
    """What the binary says about its own options."""
    done = subprocess.run([str(prometheus_binary()), "--help"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _build(target: Path) -> str:
    """Build *target*; what went wrong, or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        command = ["go", "build", "-mod=readonly", "-trimpath", "-tags", "remove_all_sd", "-o", str(made)]
        done = subprocess.run(
            [*command, f"{MODULE}/cmd/{target.name}"], cwd=HERE, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return done.stderr.strip()[-500:]
        made.replace(target)
    return ""


@dataclass(frozen=True)
class Prometheus:
    """A running server, asked through its HTTP API."""

    url: str

    def ask(self, path: str, parameters: Mapping[str, Any]) -> Any:
        """The data of an API call.

        Raises:
            AssertionError: Prometheus refused it; the message is its own.
        """
        body = urllib.parse.urlencode(parameters, doseq=True).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", body, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            with refused:
                raise AssertionError(f"{parameters}: {json.load(refused)['error']}") from refused

    def query(self, expr: str) -> list[Any]:
        """What *expr* gives now."""
        found: list[Any] = self.ask("query", {"query": expr})["result"]
        return found

    def wait_for(self, expr: str, timeout_s: float = 60) -> list[Any]:
        """What *expr* gives as soon as it gives anything."""
        return until(lambda: self.query(expr), timeout_s, expr)


def until(found: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """What *found* returns once it is not empty.

    Raises:
        AssertionError: It stayed empty for *timeout_s*.
    """
    ends = time.monotonic() + timeout_s
    while True:
        try:
            value = found()
        except OSError:
            value = None
        if value:
            return value
        assert time.monotonic() < ends, f"nothing after {timeout_s:.0f} s: {what}"
        time.sleep(0.1)


@contextmanager
def running(config: str, directory: Path, extra: Sequence[str] = ()) -> Iterator[Prometheus]:
    """A Prometheus as it is shipped, but with *config*, data under *directory*, on a free port of the loopback."""
    binary = prometheus_binary()
    (directory / "prometheus.yaml").write_text(config, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {"=/etc/prometheus": f"={directory}", "=/prometheus": f"={directory / 'data'}"}
    shipped = shipped_command("prometheus")
    for place, here in places.items():
        shipped = [argument.replace(place, here) for argument in shipped]
    command = [str(binary), *shipped, f"--web.listen-address=127.0.0.1:{port}", *extra]
    server = Prometheus(f"http://127.0.0.1:{port}")
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or _ready(server.url), 60, "Prometheus gets ready")
            assert process.poll() is None, log.read_text("utf-8")[-2000:]
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)
