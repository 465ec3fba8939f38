"""`DemoServer`: a model service on loopback, in the standard library.

It answers ``POST /v1/chat/completions``, whole answers only, in OpenAI's form, and counts what it receives.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from otelbudget.demo.writer import count_tokens, cut, prompt_tokens, write

_log = logging.getLogger(__name__)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One POST to a model endpoint, as the server received it."""

    number: int
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def user(self) -> str | None:
        """The body's ``user``, else the header ``x-demo-user``."""
        user = self.body.get("user") or self.headers.get("x-demo-user")
        return str(user) if user else None


class Handler(BaseHTTPRequestHandler):
    """Reads requests, has them counted, and answers them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    paths: ClassVar[tuple[str, ...]] = ("/v1/chat/completions",)

    def log_message(self, format: str, *args: Any) -> None:
        """To our own logger, not to standard error."""
        _log.debug(format, *args)

    def do_POST(self) -> None:
        """Answer a request to a model."""
        path = self.path.partition("?")[0]
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path not in self.paths:
            self.fail(404, f"No such path: {path}")
            return
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        demo: DemoServer = self.server.demo  # type: ignore[attr-defined]  # that of `_Http`
        request = demo.received(path, body if isinstance(body, dict) else {}, headers)
        if not isinstance(body, dict):
            self.fail(400, "The body is not a JSON object.")
        else:
            self.answer(demo, request)

    def answer(self, demo: DemoServer, request: Request) -> None:
        """Send what *demo* has to say to *request*."""
        demo.closing.wait(demo.latency_s(request) if callable(demo.latency_s) else demo.latency_s)
        try:
            self.send(200, completion(request))
        except (TypeError, ValueError, AttributeError, LookupError) as problem:
            # Values of other kinds than the protocol has: a real server validates them, this one falls over them.
            self.fail(400, f"The request has a value of a wrong kind: {problem}")

    def fail(self, status: int, message: str) -> None:
        """Send an error in OpenAI's form."""
        self.send(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})

    def send(self, status: int, body: Json) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class DemoServer:
    """An OpenAI-compatible server on a free port, listening from construction to `close`.

    Example:
        >>> with DemoServer() as server:
        ...     server.base_url.endswith("/v1"), server.requests
        (True, 0)

    Args:
        latency_s: Seconds before each answer, or a callable that says it for a `Request`.
    """

    handler: ClassVar[type[Handler]] = Handler

    def __init__(self, *, latency_s: float | Callable[[Request], float] = 0.0) -> None:
        self.latency_s = latency_s
        self.closing = threading.Event()
        self.requests = 0
        self._lock = threading.Lock()
        self._http = _Http(self)
        # A short poll, since shutdown() waits for the next one.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="demo-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """What to give the ``openai`` client as ``base_url``."""
        return "http://{}:{}/v1".format(*self._http.server_address)

    def close(self) -> None:
        """Stop listening. Calling it again does nothing."""
        if not self.closing.is_set():
            self.closing.set()
            self._http.shutdown()
            self._http.server_close()
            self._thread.join(2)

    def received(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        """Count one POST; called by the handler when the whole request has arrived."""
        with self._lock:
            self.requests += 1
            return Request(self.requests, path, body, headers)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a hundred clients may connect at once

    def __init__(self, demo: DemoServer) -> None:
        self.demo = demo
        super().__init__(("127.0.0.1", 0), demo.handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        # Called in the except block of socketserver; a client that went away is no error of ours.
        _log.debug("demo server: connection from %s ended", client_address, exc_info=True)


def completion(request: Request) -> Json:
    """The chat completion that answers *request*."""
    body = request.body
    if body.get("stream"):
        raise ValueError("this server gives whole answers; leave out stream=True")
    messages = [_message(message) for message in body["messages"]]
    tools = [tool["function"] for tool in body.get("tools") or ()]
    said = write(messages, research=bool(tools))
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in said.tool_calls]
    text, finish = said.text, "tool_calls" if functions else "stop"
    made = sum(count_tokens(function["name"] + function["arguments"]) + 3 for function in functions)
    made = max(1, made + count_tokens(text))
    maximum = body.get("max_completion_tokens") or body.get("max_tokens") or made
    if made > maximum:
        text, functions, finish, made = cut(text, maximum), [], "length", maximum
    calls = [
        {"id": f"call_{request.number}_{i}", "type": "function", "function": function}
        for i, function in enumerate(functions)
    ]
    message = {"role": "assistant", "content": text or None} | ({"tool_calls": calls} if calls else {})
    asked = prompt_tokens(messages, tools)
    return {
        "id": f"chatcmpl-demo-{request.number:06d}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", "demo-small"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made},
    }


def _message(item: Mapping[str, Any]) -> Json:
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    text = "".join(part.get("text") or "" for part in parts)
    return {
        "role": item["role"],
        "content": text,
        "tool_calls": [call["function"] for call in item.get("tool_calls") or ()],
    }
