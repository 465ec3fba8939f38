"""What the metrics server answers: the page on `/metrics`, whether it is alive on `/-/healthy`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import choose_encoder, gzip_accepted

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from otelbudget.telemetry.page import Page

_Start = Callable[[str, list[tuple[str, str]]], Any]
#: A WSGI application, as far as one of these needs it.
_Application = Callable[[dict[str, Any], _Start], Iterable[bytes]]

_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_METHODS: Final = ("Allow", "GET, HEAD, OPTIONS")


def application(shown: Collector | Page) -> _Application:
    """The WSGI application that shows a page of our own, or everything of a registry."""
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
    def answer(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        _, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        gzipped = gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        start("200 OK", [("Content-Type", kind), *([("Content-Encoding", "gzip")] if gzipped else ())])
        return [page.text("openmetrics" in kind, gzipped)]

    return answer
