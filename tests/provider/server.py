"""`Provider`: the demo server with streams, responses and embeddings, prescribed replies, and faults."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from otelbudget.demo.server import DemoServer, Handler, Request
from provider.script import Reply, Script
from provider.wire import PATHS, Event, Json, answer, error, framed, wrong

ORDINARY = Reply()


class ScriptedHandler(Handler):
    paths = PATHS

    def setup(self) -> None:
        super().setup()
        self.server.demo.open.add(self.connection)

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # it was reset
            super().finish()
        self.server.demo.open.discard(self.connection)

    def parse_request(self) -> bool:
        """Of an absolute URL, which HTTP has for proxies and aiobotocore's httpx for all, the path."""
        read = super().parse_request()
        if read:
            self.path = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
        return read

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        if self.path != "/v1/models":
            self._error(404, f"No such path: {self.path}")
            return
        self._body(200, {"object": "list", "data": [{"id": "demo-small", "object": "model", "created": 0}]})

    def answer(self, demo: DemoServer, request: Request) -> None:
        if problem := wrong(request.body):
            self._error(400, problem)
            return
        reply = demo.reply(request)
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
                self._error(400, f"The request has a value of a wrong kind: {problem}")
                return
            if isinstance(said, list):
                self._stream(said, reply)
            else:
                self._body(reply.status, said, reply)

    def _error(self, status: int, message: str | None, reply: Reply = ORDINARY) -> None:
        self._body(status, error(self.path, status, message), reply)

    def _body(self, status: int, body: Json, reply: Reply = ORDINARY) -> None:
        data = json.dumps(body).encode()
        middle = len(data) // 2 if reply.fault == "drop" else len(data)
        headers = {"content-type": "application/json", "content-length": str(len(data))}
        self._send(status, headers, [data[:middle], data[middle:]], reply)

    def _stream(self, events: Sequence[Event], reply: Reply) -> None:
        kind, pieces = framed(self.path, events)
        pieces = [b"%x\r\n%s\r\n" % (len(data), data) for data in pieces]
        pieces[-1] += b"0\r\n\r\n"
        headers = {"content-type": kind, "transfer-encoding": "chunked"}
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


class Provider(DemoServer):
    """The demo server, with a *script*: replies used up in order of arrival, or a callable that chooses one.

    *chunk_s* are the seconds between the pieces of a stream. What is not prescribed is as the demo's model has it.
    """

    handler: ClassVar[type[Handler]] = ScriptedHandler

    def __init__(
        self, *, latency_s: float | Callable[[Request], float] = 0.0, chunk_s: float = 0.0, script: Script = ()
    ) -> None:
        self.chunk_s = chunk_s
        self.open: set[Any] = set()
        self.recent: deque[Request] = deque(maxlen=1000)
        self._choose = script if callable(script) else lambda _: None
        self._prescribed: deque[Reply] = deque(() if callable(script) else script)
        super().__init__(latency_s=latency_s)

    def __enter__(self) -> Provider:
        return self

    @property
    def root_url(self) -> str:
        """What to give clients that put ``/v1`` into their paths themselves."""
        return self.base_url.removesuffix("/v1")

    @property
    def requests_by_path(self) -> Counter[str]:
        return Counter(request.path for request in list(self.recent))

    @property
    def requests_by_user(self) -> Counter[str]:
        return Counter(request.user for request in list(self.recent) if request.user)

    def enqueue(self, *replies: Reply) -> None:
        """Prescribe the next replies; they go before what a callable chooses."""
        self._prescribed.extend(replies)

    def close(self) -> None:
        """Stop listening and cut every open connection."""
        super().close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + 1
        while self.open and time.monotonic() < until:
            time.sleep(0.005)

    def received(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        request = super().received(path, body, headers)
        self.recent.append(request)
        return request

    def reply(self, request: Request) -> Reply:
        """What is prescribed for *request*."""
        try:
            return self._prescribed.popleft()
        except IndexError:
            return self._choose(request) or ORDINARY
