"""The `/metrics` page over HTTP: prometheus_client's own server on a daemon thread, with a port that can be had.

Whether it is alive it says on `/-/healthy`. An application without a page never imports prometheus_client.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from otelbudget.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.registry import Collector

    from otelbudget.telemetry.page import Page

_Start = Callable[[str, list[tuple[str, str]]], Any]
#: A WSGI application, as far as one of these needs it.
_Application = Callable[[dict[str, Any], _Start], Iterable[bytes]]
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_METHODS: Final = ("Allow", "GET, HEAD, OPTIONS")
#: Host and port that OpenTelemetry gives its own Prometheus page (OTEL_EXPORTER_PROMETHEUS_HOST, _PORT) by default.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9464
#: How many ports after the one asked for are tried.
_MORE_PORTS: Final = 15
_ADVICE: Final = (
    "Stop what listens there, or choose another port (metrics_port=..., OTEL_EXPORTER_PROMETHEUS_PORT, 0 for any free"
    " one), or none (metrics_port=None); many workers had better push them (OTEL_METRICS_EXPORTER=otlp)"
)

_log = logging.getLogger(__name__)


class MetricsServer:
    """A running page, which a browser on this machine finds at `url`; `close` it to give the port back."""

    def __init__(self, server: WSGIServer, thread: Thread, host: str) -> None:
        self._server = server
        self._thread = thread
        self.host = host
        self.port: int = server.server_port
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/metrics"

    @classmethod
    def start(
        cls, registry: Collector | Page, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, strict: bool = False
    ) -> MetricsServer | None:
        """Serve *registry* on *host* and *port* (0: any free one), or on one of the 15 after it unless it is *strict*.

        Returns:
            The page; None, and a warning, where all those ports are in use: that keeps nobody from working.

        Raises:
            ConfigError: The address can't be listened on, or is in use and that is *strict*.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        answer = _application(registry)
        last = port if strict or port == 0 else port + _MORE_PORTS
        for candidate in range(port, last + 1):
            try:
                server, thread = start_http_server(candidate, addr=host, registry=CollectorRegistry())
                server.set_app(answer)
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ConfigError(f"can't serve metrics on {host}:{candidate}: {error}") from error
                continue
            thread.name = "otelbudget-metrics"
            page = cls(server, thread, host)
            if candidate != port:
                _log.warning("port %d is in use, metrics of process %d are on %s instead", port, os.getpid(), page.url)
            return page
        ports = f"port {port}" if last == port else f"every port from {port} to {last}"
        refused = f"can't serve metrics of process {os.getpid()}: {ports} on {host} is in use. {_ADVICE}"
        if strict:
            raise ConfigError(refused)
        _log.warning("%s", refused)
        return None

    def close(self) -> None:
        """Stop serving; the port is free and the thread gone when this returns. Closing twice does nothing."""
        if self._thread.is_alive():  # it is not in a fork
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _application(shown: Collector | Page) -> _Application:
    """The WSGI application that shows a page of our own, or everything of a registry."""
    from prometheus_client import make_wsgi_app

    collects = hasattr(shown, "collect")
    metrics: _Application = make_wsgi_app(shown) if collects else _application_of(shown)  # type: ignore[arg-type]

    def answer(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(_respond(environ, metrics, lambda *head: said.extend(head)))
        status, headers = said
        start(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer


def _respond(environ: dict[str, Any], metrics: _Application, start: _Start) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if method == "OPTIONS":
        start("200 OK", [_METHODS])
        return []
    if method not in ("GET", "HEAD"):
        start("405 Method Not Allowed", [_METHODS, _TEXT])
        return [b"use GET\n"]
    if path in ("/metrics", "/"):
        return metrics({**environ, "REQUEST_METHOD": "GET"}, start)
    if path == "/-/healthy":
        start("200 OK", [_TEXT])
        return [b"OK\n"]
    start("404 Not Found", [_TEXT])
    return [b"metrics are on /metrics\n"]


def _application_of(page: Page) -> _Application:
    from prometheus_client.exposition import choose_encoder, gzip_accepted

    def answer(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        _, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        gzipped = gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        start("200 OK", [("Content-Type", kind), *([("Content-Encoding", "gzip")] if gzipped else ())])
        return [page.text("openmetrics" in kind, gzipped)]

    return answer
