"""The `/metrics` page over HTTP: prometheus_client's own server on a daemon thread, with a port that can be had."""

from __future__ import annotations

import errno
import logging
import socket
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Final

from otelbudget.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.registry import Collector

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "MetricsServer"]

#: Host and port that OpenTelemetry gives its own Prometheus page (OTEL_EXPORTER_PROMETHEUS_HOST, _PORT) by default.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9464
#: How many ports after the default one are tried.
_MORE_PORTS: Final = 15

_log = logging.getLogger(__name__)


class MetricsServer:
    """A running page; `close` it to give the port back.

    Attributes:
        host: The address it listens on.
        port: The port it listens on, never 0.
        url: Where a browser on this machine finds the page.
    """

    def __init__(self, server: WSGIServer, thread: Thread, host: str) -> None:
        self._server = server
        self._thread = thread
        self.host = host
        self.port: int = server.server_port
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
        self._door = (shown, self.port)
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/metrics"

    @classmethod
    def start(
        cls, registry: Collector, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, explicit: bool = False
    ) -> MetricsServer:
        """Serve *registry* on *host* and *port* (0: any free one).

        Args:
            registry: What the page shows, a ``CollectorRegistry``.
            host: Address to listen on; ``0.0.0.0`` lets other machines and containers in.
            port: Where; with *explicit* this port and no other, else the next free one of the 15 after it.
            explicit: Whether somebody asked for this very port.

        Raises:
            ConfigError: The port is in use, or the address can't be listened on.
        """
        for candidate in range(port, port + (1 if explicit or port == 0 else _MORE_PORTS + 1)):
            try:
                server = _serve(registry, host, candidate)
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ConfigError(f"can't serve metrics on {host}:{candidate}: {error}") from error
                continue
            if candidate != port:
                _log.warning("port %d is in use, metrics are on %s instead", port, server.url)
            return server
        raise ConfigError(_in_use(host, port, explicit))

    def close(self) -> None:
        """Stop serving; the port is free and the thread gone when this returns. Closing twice does nothing."""
        if self._thread.is_alive():
            stopping = Thread(target=self._server.shutdown, name="otelbudget-metrics-stop", daemon=True)
            stopping.start()
            # The server looks for the stop sign every half second, or as soon as somebody knocks.
            while stopping.is_alive():
                with suppress(OSError):
                    socket.create_connection(self._door, timeout=0.1).close()
                stopping.join(0.02)
            self._thread.join()
        self._server.server_close()


def _serve(registry: Collector, host: str, port: int) -> MetricsServer:
    # Late: an application without a page never pays for it.
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, addr=host, registry=registry)
    thread.name = "otelbudget-metrics"
    return MetricsServer(server, thread, host)


def _in_use(host: str, port: int, explicit: bool) -> str:
    ports = f"port {port}" if explicit else f"every port from {port} to {port + _MORE_PORTS}"
    return (
        f"can't serve metrics: {ports} on {host} is in use. Stop what listens there, or choose another port "
        "(metrics_port=..., OTEL_EXPORTER_PROMETHEUS_PORT, 0 for any free one), or none (metrics_port=None)"
    )
