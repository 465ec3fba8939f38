"""The `/metrics` page over HTTP: which port it gets, what a busy one says, and that closing gives it back."""

from __future__ import annotations

import logging
import os
import socket
import threading
import urllib.request
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from otelbudget.errors import ConfigError
from otelbudget.telemetry.prometheus import PrometheusCollector
from otelbudget.telemetry.server import DEFAULT_PORT, MetricsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Traffic

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextmanager
def _listening(port: int = 0) -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        yield listener.getsockname()[1]


@contextmanager
def _occupied(ports: range) -> Iterator[range]:
    """Keep *ports* busy; those that somebody else has are busy already."""
    held = []
    try:
        for port in ports:
            try:
                held.append(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        yield ports
    finally:
        for listener in held:
            listener.close()


def _read(server: MetricsServer, accept: str = "text/plain") -> tuple[str, str]:
    request = urllib.request.Request(server.url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def page(registry: CollectorRegistry, *place: Any) -> MetricsServer:
    server = MetricsServer.start(registry, *place)
    assert server is not None
    return server


@pytest.fixture
def registry(busy: Traffic) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(busy.meters))
    return registry


def test_the_page_is_served_in_both_formats(registry: CollectorRegistry) -> None:
    with closing(page(registry, "127.0.0.1", 0)) as server:
        assert server.host == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        kind, classic = _read(server)
        assert kind.startswith("text/plain")
        assert 'otelbudget_cost_usd_total{model="small-1",tenant="acme"} 0.05' in classic
        assert "trace_id" not in classic
        kind, openmetrics = _read(server, OPENMETRICS)
        assert kind.startswith("application/openmetrics-text")
        assert '# {span_id="b7ad6b7169203331",trace_id="0af7651916cd43dd8448eb211c80319c"}' in openmetrics
        assert openmetrics.endswith("# EOF\n")


def test_a_port_in_use_is_an_error_that_says_what_to_do_where_all_is_strict(registry: CollectorRegistry) -> None:
    with _listening() as port, pytest.raises(ConfigError) as refused:
        MetricsServer.start(registry, "127.0.0.1", port, strict=True)
    assert f"port {port} on 127.0.0.1 is in use" in str(refused.value)
    assert "metrics_port=None" in str(refused.value)


def test_a_port_in_use_takes_the_next_free_one_and_warns_once(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with _occupied(range(DEFAULT_PORT, DEFAULT_PORT + 3)), caplog.at_level(logging.WARNING):
        server = page(registry)
        with closing(server):
            assert DEFAULT_PORT + 3 <= server.port <= DEFAULT_PORT + 15
            assert "otelbudget_build_info" in _read(server)[1]
    [warning] = caplog.records
    assert warning.getMessage() == (
        f"port {DEFAULT_PORT} is in use, metrics of process {os.getpid()} are on {server.url} instead"
    )


def test_sixteen_busy_ports_leave_a_process_without_a_page_and_say_so(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with _occupied(range(DEFAULT_PORT, DEFAULT_PORT + 16)):
        assert MetricsServer.start(registry) is None
    [warning] = caplog.records
    assert "every port from 9464 to 9479 on 127.0.0.1 is in use" in warning.getMessage()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 9464), ("127.0.0.1", 99_999)])
def test_an_address_that_is_not_ours_is_an_error(registry: CollectorRegistry, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f"can't serve metrics on {host}:{port}"):
        MetricsServer.start(registry, host, port)


def test_closing_frees_the_port_as_often_as_you_like(registry: CollectorRegistry) -> None:
    first = page(registry, "127.0.0.1", 0)
    port = first.port
    first.close()
    for _ in range(3):
        with closing(page(registry, "127.0.0.1", port)) as server:
            assert "otelbudget_build_info" in _read(server)[1]
        with _listening(port):
            pass


def test_closing_leaves_no_thread_and_may_be_repeated(registry: CollectorRegistry) -> None:
    before = set(threading.enumerate())
    server = page(registry, "127.0.0.1", 0)
    [thread] = set(threading.enumerate()) - before
    assert (thread.name, thread.daemon) == ("otelbudget-metrics", True)
    server.close()
    server.close()
    assert not thread.is_alive()


def test_a_page_for_all_addresses_says_where_to_look_on_this_machine(registry: CollectorRegistry) -> None:
    with closing(page(registry, "0.0.0.0", 0)) as server:
        assert server.host == "0.0.0.0"
        assert server.url.startswith("http://127.0.0.1:")
        assert "otelbudget_build_info" in _read(server)[1]
