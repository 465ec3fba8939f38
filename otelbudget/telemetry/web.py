"""What the metrics server answers: the page on `/metrics`, whether it is alive on `/-/healthy`, and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import choose_encoder, gzip_accepted

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from otelbudget.telemetry.page import Page

_Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


def application(shown: Collector | Page) -> _Answer:
    """The WSGI application that shows a page of our own, or everything of a registry."""
    collects = hasattr(shown, "collect")
    metrics: _Answer = make_wsgi_app(shown) if collects else _page(shown)  # type: ignore[arg-type]

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if method not in ("GET", "HEAD", "OPTIONS"):
            start("405 Method Not Allowed", [("Allow", "GET, HEAD, OPTIONS"), _TEXT])
            return [b"use GET\n"]
        if path in ("/metrics", "/"):
            body = list(metrics({**environ, "REQUEST_METHOD": "GET" if method == "HEAD" else method}, start))
        elif path == "/-/healthy":
            start("200 OK", [_TEXT])
            body = [b"OK\n"]
        else:
            start("404 Not Found", [_TEXT])
            body = [b"metrics are on /metrics\n"]
        return [] if method == "HEAD" else body

    return answer


def _page(page: Page) -> _Answer:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start("200 OK", [("Allow", "GET, HEAD, OPTIONS")])
            return []
        _, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        body, headers = page.text("openmetrics" in kind), [("Content-Type", kind)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = zlib.compress(body, level=1, wbits=31)  # level 9 takes longer than the page itself
            headers.append(("Content-Encoding", "gzip"))
        start("200 OK", headers)
        return [body]

    return answer
