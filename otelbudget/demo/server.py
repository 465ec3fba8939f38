"""`DemoServer`: an OpenAI-compatible HTTP server on loopback, in the standard library.

It answers ``POST /v1/chat/completions``, ``/v1/responses`` (both also as streams), ``/v1/embeddings`` and
``GET /v1/models``, counts what it receives, and fails on demand. Answers and usage follow the text of the request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from otelbudget.demo.script import Reply, Request, Script
from otelbudget.demo.wire import PATHS, Event, Json, answer, error, wrong

_log = logging.getLogger(__name__)
_MODELS = ("demo-small", "demo-large", "demo-embed")
_ORDINARY = Reply()


class DemoServer:
    """An OpenAI-compatible server, listening from construction to `close`.

    Example:
        >>> with DemoServer() as server:
        ...     server.base_url.endswith("/v1"), server.requests
        (True, 0)

    Args:
        port: Port on *host*; 0 takes a free one.
        host: Where to listen.
        latency_s: Seconds before each answer begins, or a callable that says it for a `Request`.
        chunk_s: Seconds between the pieces of a stream.
        script: Prescribed replies, used up in order of arrival, or a callable ``(Request) -> Reply | None``.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        latency_s: float | Callable[[Request], float] = 0.0,
        chunk_s: float = 0.0,
        script: Script = (),
    ) -> None:
        self.latency_s = latency_s
        self.chunk_s = chunk_s
        self.closing = threading.Event()
        self._choose = script if callable(script) else lambda _: None
        self._prescribed: deque[Reply] = deque(() if callable(script) else script)
        self._lock = threading.Lock()
        self._by_path: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()
        self._recent: deque[Request] = deque(maxlen=1000)
        self._http = _Http((host, port), self)
        # A short poll, since shutdown() waits for the next one.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="demo-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._http.server_address[1])

    @property
    def base_url(self) -> str:
        """What to give the ``openai`` client as ``base_url``."""
        return f"http://{self._http.server_address[0]!s}:{self.port}/v1"

    @property
    def requests(self) -> int:
        """How many POSTs to model endpoints it has received, failed ones and retries included."""
        return sum(self.requests_by_path.values())

    @property
    def requests_by_path(self) -> dict[str, int]:
        """The same by path, such as ``/v1/chat/completions``."""
        with self._lock:
            return dict(self._by_path)

    @property
    def requests_by_user(self) -> dict[str, int]:
        """The same by the body's ``user`` or the header ``x-demo-user``; requests without one are not in it."""
        with self._lock:
            return dict(self._by_user)

    @property
    def recent(self) -> list[Request]:
        """The last 1000 of them, oldest first."""
        with self._lock:
            return list(self._recent)

    def enqueue(self, *replies: Reply) -> None:
        """Prescribe the next replies; they go before what a callable chooses."""
        with self._lock:
            self._prescribed.extend(replies)

    def close(self) -> None:
        """Stop listening and cut every open connection. Calling it again does nothing."""
        if not self.closing.is_set():
            self.closing.set()
            self._http.shutdown()
            self._http.server_close()
            self._http.cut_connections()
            self._thread.join(2)

    def received(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        """Count one POST; called by the handler when the whole request has arrived."""
        with self._lock:
            self._by_path[path] += 1
            request = Request(self._by_path.total(), path, body, headers)
            self._recent.append(request)
            if request.user:
                self._by_user[request.user] += 1
        return request

    def reply(self, request: Request) -> Reply:
        """What is prescribed for *request*; called by the handler."""
        with self._lock:
            if self._prescribed:
                return self._prescribed.popleft()
        return self._choose(request) or _ORDINARY


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a hundred clients may connect at once

    def __init__(self, address: tuple[str, int], demo: DemoServer) -> None:
        self.demo = demo
        self._open: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        with self._changed:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def cut_connections(self) -> None:
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=1)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        # Called in the except block of socketserver; a client that went away is no error of ours.
        if not self.demo.closing.is_set():
            _log.debug("demo server: connection from %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "otelbudget"} for name in _MODELS]
            self._body(200, {"object": "list", "data": models})
        else:
            self._error(404, f"No such path: {self.path}")

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path not in PATHS:
            self._error(404, f"No such path: {path}")
            return
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        known, headers = body if isinstance(body, dict) else {}, {k.lower(): v for k, v in self.headers.items()}
        request = self.server.demo.received(path, known, headers)
        if problem := wrong(body):
            self._error(400, problem)
        else:
            self._answer(request, self.server.demo.reply(request))

    def _answer(self, request: Request, reply: Reply) -> None:
        demo = self.server.demo
        ordinary_s = demo.latency_s(request) if callable(demo.latency_s) else demo.latency_s
        demo.closing.wait(ordinary_s if reply.latency_s is None else reply.latency_s)
        if reply.fault == "hang":
            self.close_connection = True
            demo.closing.wait()
        elif reply.fault == "reset":
            self._reset()
        elif reply.status >= 400:
            self._error(reply.status, reply.error, reply)
        else:
            try:
                said = answer(request, reply)
            except (TypeError, ValueError, AttributeError, LookupError) as problem:
                # Values of other kinds than the protocol has: a real server validates them, this one falls over them.
                self._error(400, f"The request has a value of a wrong kind: {problem}")
                return
            if isinstance(said, list):
                self._stream(said, reply)
            else:
                self._body(reply.status, said, reply)

    def _error(self, status: int, message: str | None, reply: Reply = _ORDINARY) -> None:
        self._body(status, error(status, message), reply)

    def _body(self, status: int, body: Json, reply: Reply = _ORDINARY) -> None:
        data = json.dumps(body).encode()
        middle = len(data) // 2 if reply.fault == "drop" else len(data)
        headers = {"content-type": "application/json", "content-length": str(len(data))}
        self._send(status, headers, [data[:middle], data[middle:]], reply)

    def _stream(self, events: Sequence[Event], reply: Reply) -> None:
        pieces = [b"%x\r\n%s\r\n" % (len(data), data) for data in map(_sse, events)]
        pieces[-1] += b"0\r\n\r\n"
        headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        self._send(200, headers, pieces, reply, self.server.demo.chunk_s)

    def _send(
        self, status: int, headers: Mapping[str, str], pieces: Sequence[bytes], reply: Reply, pause_s: float = 0.0
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = {"reset_after_headers": 0, "drop": len(pieces) // 2}.get(reply.fault or "", len(pieces))
        for piece in pieces[:sent]:
            self.wfile.write(piece)
            self.wfile.flush()
            self.server.demo.closing.wait(pause_s)
        if reply.fault:
            self._reset()

    def _reset(self) -> None:
        """Cut the connection with RST, not FIN, as a crashed server does; what was written goes out first."""
        self.wfile.flush()
        if self.server.demo.chunk_s == 0:
            time.sleep(0.01)  # RST discards what the client's kernel has not handed over yet
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _sse(event: Event) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()
