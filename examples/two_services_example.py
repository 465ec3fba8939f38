"""One run, two services: a writer asks a searcher over HTTP, and both spend one budget.

    python examples/two_services_example.py redis://localhost:6379/0

Without an address they share a file.
"""

from __future__ import annotations

import http.client
import multiprocessing
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

from opentelemetry import propagate

import otelbudget
from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.config import Inbound, StoreConfig


def set_up(store: str) -> None:
    # In budgets.yaml: `store: redis://...`, `inbound: {run: true}`. Nobody but the writer can reach the searcher here.
    config = Config(store=StoreConfig(store, timeout_s=5), inbound=Inbound(run=True))
    otelbudget.setup(config, instrument=False, exporter="none", metrics_port=None)


class Searcher(BaseHTTPRequestHandler):
    """The other service: it knows nothing of the run but what the request carries."""

    def do_GET(self) -> None:
        try:
            with otelbudget.continue_run(self.headers) as run, run.reserve(tokens=500) as held:
                held.commit(Usage(input_tokens=350, output_tokens=150))  # a model reads what was found
                status, answer = 200, f"found something, {run.remaining()['tokens']} tokens left"
        except BudgetExceeded as stopped:
            status, answer = 429, f"no: {stopped}"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


def serve(store: str, parent: Connection) -> None:
    set_up(store)
    with ThreadingHTTPServer(("127.0.0.1", 0), Searcher) as server:
        threading.Thread(target=server.serve_forever).start()
        parent.send(server.server_port)
        parent.recv()  # until the writer is done
        server.shutdown()
    otelbudget.shutdown()


def search(port: int) -> str:
    headers: dict[str, str] = {}
    propagate.inject(headers)  # an instrumented HTTP client does this by itself
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/search", headers=headers)
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def write(port: int) -> None:
    with otelbudget.run(RunBudget(max_tokens=3_300, name="report"), tenant="acme", shared=True) as run:
        for chapter in range(1, 10):
            with run.reserve(tokens=400) as held:
                held.commit(Usage(input_tokens=300, output_tokens=100))
            print(f"chapter {chapter}: written, {run.remaining()['tokens']} tokens left")
            print(f"  the searcher: {search(port)}")


def main(store: str) -> None:
    set_up(store)
    here, there = multiprocessing.Pipe()
    searcher = multiprocessing.get_context("spawn").Process(target=serve, args=(store, there))
    searcher.start()
    try:
        write(here.recv())
    except BudgetExceeded as stopped:
        print(f"the writer: {stopped}")
        print(stopped.receipt)
    finally:
        here.send("done")
        searcher.join()
    otelbudget.shutdown()


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:///{folder}/runs.db")
