"""A real redis-server or valkey-server for tests, on a free port of the loopback, data in its own directory."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest


class RedisServer:
    """A server that keeps what it has answered, on a port that stays the same when it is started again."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        password: str | None = None,
        tls: Path | None = None,
        program: str = "redis-server",
    ) -> None:
        found = find(program)
        self.port = free_port()
        self.folder = folder
        self._password, self._tls = password, tls
        self.socket = folder / "redis.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [found, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self._command += ["--unixsocket", self.socket, "--appendonly", "yes", "--appendfsync", "always"]
        self._command += ["--enable-debug-command", "local", *options]
        self._command += [f"--{word}" if n == 0 else word for line in secured(self) for n, word in enumerate(line)]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    def sentinel(
        cls, folder: Path, config: str, *, password: str | None = None, tls: Path | None = None
    ) -> RedisServer:
        """A Sentinel with this configuration, of which the first lines are written here."""
        one = cls.__new__(cls)
        one.port, one.folder, one._password, one._tls = free_port(), folder, password, tls
        more = "".join(f"{' '.join(line)}\n" for line in secured(one))
        (folder / "sentinel.conf").write_text(f"port {one.port}\nbind 127.0.0.1\ndir {folder}\n{more}{config}")
        one._command = [find("redis-server"), str(folder / "sentinel.conf"), "--sentinel"]
        one.start()
        return one

    def start(self) -> None:
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        ends_s = time.monotonic() + 20
        while not self._ready():
            assert self._process.poll() is None, (self.folder / "redis.log").read_text("utf-8")[-2000:]
            assert time.monotonic() < ends_s
            time.sleep(0.02)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") in (True, b"PONG")
        return False

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def ask(self, *command: str) -> Any:
        """What the server answers to another client."""
        import redis

        try:
            secure = {} if self._tls is None else {"ssl": True, "ssl_ca_certs": str(self._tls)}
            with redis.Redis(
                host="127.0.0.1", port=self.port, password=self._password, socket_timeout=5, **secure
            ) as client:
                return client.execute_command(*command)
        except redis.ConnectionError as error:
            raise OSError(str(error)) from error

    def calls(self) -> dict[str, int]:
        """How often which command was called since the last ``CONFIG RESETSTAT``, of those that clients sent."""
        stats = self.ask("INFO", "commandstats")
        return {name.removeprefix("cmdstat_"): numbers["calls"] for name, numbers in stats.items()}


def secured(server: RedisServer) -> list[tuple[str, ...]]:
    """What its configuration says of its password and of TLS; one file has its key and the certificate, its own."""
    lines: list[tuple[str, ...]] = []
    if server._password is not None:
        lines += [("requirepass", server._password), ("masterauth", server._password)]
    if server._tls is not None:
        lines += [("port", "0"), ("tls-port", str(server.port)), ("tls-replication", "yes"), ("tls-auth-clients", "no")]
        lines += [(f"tls-{what}-file", str(server._tls)) for what in ("cert", "key", "ca-cert")]
    return lines


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, with its key."""
    made = folder / "tls.pem"
    subject = ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [find("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    done = subprocess.run([*command, "-keyout", "-", "-out", "-"], capture_output=True, check=True)
    made.write_bytes(done.stdout)
    return made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def find(program: str) -> str:
    """Where it is; skips without it, or fails where services are required."""
    found = shutil.which(program)
    if found is None:
        say = pytest.fail if os.environ.get("OTELBUDGET_REQUIRE_SERVICES") == "1" else pytest.skip
        say(f"no {program} on the PATH")
    return found


@cache
def shared_server(program: str) -> RedisServer:
    """One server for all tests that do it no harm."""
    folder = Path(tempfile.mkdtemp(prefix="otelbudget-redis-"))
    server = RedisServer(folder, "--appendonly", "no", program=program)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


def empty_server(program: str = "redis-server") -> RedisServer:
    """The same, with nothing in it."""
    server = shared_server(program)
    server.ask("FLUSHALL")
    return server
