"""What a forked process has of its own: page, exporters, the follower of its file; and what its parent says of it."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Script = Callable[..., "CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

START = """
import json, logging, multiprocessing, os, sys, time, urllib.request, warnings
import otelbudget
from otelbudget.bootstrap import facts

warnings.filterwarnings("ignore", ".*multi-threaded.*fork.*")
logging.basicConfig(level="INFO", format="%(process)d %(message)s")

def setup(config=otelbudget.RunBudget(max_steps=3), **options):
    return otelbudget.setup(config, instrument=False, **options)

def spend():
    with otelbudget.run(tenant="acme") as run:
        run.check()
        run.record_call(10)

def page(url=None):
    text = urllib.request.urlopen(url or facts().metrics_url, timeout=5).read().decode()
    return [line.split()[1] for line in text.splitlines() if line.startswith("otelbudget_records_total{")]

def forked(work):
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writes, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writes)
    said = open(reads).read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(said)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A place that takes OTLP over HTTP, and what came there."""
    came: list[bytes] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


def test_children_and_theirs_have_a_page_of_their_own_from_the_first_check_on(script: Script) -> None:
    done = script(
        START
        + """
def child():
    spend()
    return [facts().metrics_url, page(), forked(grandchild)]

def grandchild():
    before = facts().metrics_url
    spend()
    return [before, facts().metrics_url, page()]

setup(metrics_port=int(sys.argv[1]))
spend(); spend()
mine, (its, shown, (before, theirs, last)) = facts().metrics_url, forked(child)
print(json.dumps([before, len({mine, its, theirs}), page(), shown, last]))
page()
""",
        str(free_port()),
    )
    assert json.loads(done.stdout) == [None, 3, ["2.0"], ["1.0"], ["1.0"]], done.stderr
    said = [line for line in done.stderr.splitlines() if "this page tells of process" in line]
    assert len(said) == 1
    parent = said[0].split()[0]
    assert f"this page tells of process {parent} alone" in said[0]
    assert done.stderr.count("which was forked, go to http://") == 2


def test_a_child_does_not_keep_the_port_of_a_parent_that_is_gone(script: Script) -> None:
    done = script(
        START
        + """
setup(metrics_port=int(sys.argv[1]))
reads, writes = os.pipe()
if os.fork() == 0:
    os.close(writes)
    os.read(reads, 1)  # until the parent has gone
    spend()
    print(facts().metrics_url, page(), flush=True)
    os._exit(0)
os.close(reads)
otelbudget.shutdown()
os._exit(0)
""",
        port := str(free_port()),
    )
    assert done.stdout == f"http://127.0.0.1:{port}/metrics ['1.0']\n", done.stderr
    assert "is in use" not in done.stderr


def test_where_all_ports_are_taken_a_process_starts_without_a_page_and_says_so(script: Script) -> None:
    done = script(
        START
        + """
import socket
held = []
for port in range(int(sys.argv[1]), int(sys.argv[1]) + 16):
    try:
        held.append(socket.create_server(("127.0.0.1", port)))
    except OSError:
        pass
setup(metrics_port=int(sys.argv[1]))
spend()
print(facts().metrics, facts().metrics_url)
""",
        str(free_port() - 100),
    )
    assert done.stdout == "nowhere None\n", done.stderr
    assert "can't serve metrics of process" in done.stderr
    assert "OTEL_METRICS_EXPORTER=otlp" in done.stderr


def test_accounts_in_a_shared_store_are_not_said_to_be_a_childs_own(script: Script) -> None:
    source = (
        START
        + """
setup(store=sys.argv[1], metrics_port=None)
forked(spend)
"""
    )
    assert "keeps its accounts in memory" not in script(source, "sqlite:///quotas.db").stderr
    assert script(source, "memory").stderr.count("keeps its accounts in memory") == 1


def test_the_spans_of_a_child_are_delivered_when_it_ends(script: Script, collector: tuple[str, list[bytes]]) -> None:
    endpoint, came = collector
    done = script(
        START
        + """
def child():
    with otelbudget.run(tenant="of-the-child"):
        pass
    otelbudget.shutdown()

setup(metrics_port=None)
forked(child)
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )
    assert any(b"of-the-child" in body for body in came), done.stderr
    assert "was not delivered" not in done.stderr


def test_a_child_of_multiprocessing_delivers_when_it_ends_by_itself(
    script: Script, collector: tuple[str, list[bytes]]
) -> None:
    endpoint, came = collector
    done = script(
        START
        + """
setup(metrics_port=None)
child = multiprocessing.get_context("fork").Process(target=spend)
child.start()
child.join()
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )
    assert any(b"acme" in body for body in came), done.stderr


def test_a_child_follows_the_file_as_its_parent_does(script: Script, tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text("default_budget: {max_steps: 1}\n")
    done = script(
        START
        + """
def child():
    spend()
    open("budgets.yaml", "w").write("default_budget: {max_steps: 70}\\n")
    for _ in range(500):
        with otelbudget.run() as run:
            if run.remaining()["steps"] == 70:
                return "followed"
        time.sleep(0.02)

setup(None, metrics_port=None, reload_s=0.02)
print(forked(child))
"""
    )
    assert done.stdout == "followed\n", done.stderr


def test_with_prometheus_multiproc_dir_each_process_serves_its_own_and_a_registry_given_is_warned_of(
    script: Script, tmp_path: Path
) -> None:
    done = script(
        START
        + """
from prometheus_client import CollectorRegistry, Counter, generate_latest, multiprocess

def child():
    Counter("orders", "of the application").inc()
    spend()
    return page()

setup(metrics_port=0)
print(forked(child))
shared = CollectorRegistry()
multiprocess.MultiProcessCollector(shared)
text = generate_latest(shared)
print(b"orders_total 1.0" in text, b"otelbudget" in text)
otelbudget.shutdown()
setup(registry=CollectorRegistry())
""",
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert done.stdout == "['1.0']\nTrue False\n", done.stderr
    assert done.stderr.count("PROMETHEUS_MULTIPROC_DIR is set: a page made of that folder shows none") == 1
