"""`DemoServer`: an OpenAI-compatible HTTP server on loopback, in the standard library.

It answers ``POST /v1/chat/completions``, ``/v1/responses`` (both also as streams), ``/v1/embeddings`` and
``GET /v1/models``, counts what it receives, and fails on demand. Answers and usage follow the text of the request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from otelbudget.demo.embeddings import embeddings
from otelbudget.demo.script import Reply, Request, Script, ScriptLike
from otelbudget.demo.wire import Json, chat, chat_events, error, outcome, response, response_events, wrong_number

__all__ = ["DemoServer"]

_log = logging.getLogger(__name__)
_MODELS = ("demo-small", "demo-large", "demo-embed")
_RECENT = 1000

_Events = Iterable["Json | str"]
#: How a path is answered: (body of a plain answer, events of a stream).
_ENDPOINTS: Mapping[str, tuple[Callable[[Request, Reply], Json], Callable[[Request, Reply], _Events] | None]] = {
    "/v1/chat/completions": (lambda r, p: chat(outcome(r, p)), lambda r, p: chat_events(outcome(r, p))),
    "/v1/responses": (lambda r, p: response(outcome(r, p)), lambda r, p: response_events(outcome(r, p))),
    "/v1/embeddings": (embeddings, None),
}


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
        script: ScriptLike = None,
    ) -> None:
        self.latency_s = latency_s
        self.chunk_s = chunk_s
        self.script = Script(script)
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._by_path: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()
        self._recent: deque[Request] = deque(maxlen=_RECENT)
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
        with self._lock:
            return self._by_path.total()

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
        """Prescribe the next replies."""
        self.script.add(*replies)

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
            self._send(200, {"object": "list", "data": models})
        else:
            self._send(404, error(404, f"No such path: {self.path}"))

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path not in _ENDPOINTS:
            self._send(404, error(404, f"No such path: {path}"))
            return
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        known = body if isinstance(body, dict) else {}
        request = self.server.demo.received(path, known, {k.lower(): v for k, v in self.headers.items()})
        if not isinstance(body, dict):
            self._send(400, error(400, "The body is not a JSON object."))
            return
        if wrong := wrong_number(body):
            self._send(400, error(400, wrong))
            return
        self._answer(request, self.server.demo.script.next(request))

    def _answer(self, request: Request, reply: Reply) -> None:
        self._wait(request, reply)
        if reply.fault == "hang":
            self._hang()
        elif reply.fault == "reset":
            self._reset()
        elif reply.status >= 400:
            self._send(reply.status, error(reply.status, reply.error), reply)
        else:
            self._reply(request, reply)

    def _reply(self, request: Request, reply: Reply) -> None:
        plain, streamed = _ENDPOINTS[request.path]
        in_pieces = streamed if request.stream else None
        try:
            answer = plain(request, reply) if in_pieces is None else list(in_pieces(request, reply))
        except (TypeError, ValueError, AttributeError, LookupError) as wrong:
            # Values of other kinds than the protocol has: a real server validates them, this one falls over them.
            self._send(400, error(400, f"The request has a value of a wrong kind: {wrong}"))
            return
        if isinstance(answer, list):
            self._stream(answer, reply)
        else:
            self._send(reply.status, answer, reply)

    def _wait(self, request: Request, reply: Reply) -> None:
        demo = self.server.demo
        ordinary = demo.latency_s(request) if callable(demo.latency_s) else demo.latency_s
        demo.closing.wait(ordinary if reply.latency_s is None else reply.latency_s)

    def _send(self, status: int, body: Json, reply: Reply | None = None) -> None:
        data = json.dumps(body).encode()
        self._head(status, reply, {"content-type": "application/json", "content-length": str(len(data))})
        if reply is not None and reply.fault == "reset_after_headers":
            self._reset()
        elif reply is not None and reply.fault == "drop":
            self.wfile.write(data[: len(data) // 2])
            self._reset()
        else:
            self.wfile.write(data)
            self.wfile.flush()

    def _stream(self, events: list[Json | str], reply: Reply) -> None:
        self._head(200, reply, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        dropped = reply.fault in ("drop", "reset_after_headers")
        last = 0 if reply.fault == "reset_after_headers" else len(events) // 2
        for number, event in enumerate(events):
            if dropped and number >= last:
                self._reset()
                return
            self._chunk(_sse(event))
            self.server.demo.closing.wait(self.server.demo.chunk_s)
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _head(self, status: int, reply: Reply | None, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, **(reply.headers if reply else {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _hang(self) -> None:
        """Wait until the client gives up or the server closes; a readable socket is the client's end of file."""
        self.close_connection = True
        while not self.server.demo.closing.is_set() and not select.select([self.connection], [], [], 0.05)[0]:
            pass

    def _reset(self) -> None:
        """Cut the connection with RST, not FIN, as a crashed server does; what was written goes out first."""
        self.wfile.flush()
        if self.server.demo.chunk_s == 0:
            time.sleep(0.01)  # RST discards what the client's kernel has not handed over yet
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _sse(event: Json | str) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()
