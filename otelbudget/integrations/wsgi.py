"""`BudgetMiddleware` for WSGI: each request is a run, a denial is answered with 429 (Flask, Django)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations.web import Middleware, Requests, unanswered
from otelbudget.runs.api import current_run

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

Environ = dict[str, Any]


class BudgetMiddleware(Middleware):
    """Opens a run for each request, until its response has been sent, streamed ones included.

    Arguments and answers as those of `asgi.BudgetMiddleware`.

    Example:
        >>> app.wsgi_app = BudgetMiddleware(app.wsgi_app, "chat", tenant_header="x-tenant")  # doctest: +SKIP
    """

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request; the application is called as soon as the server asks for the response."""
        headers = {name[5:].replace("_", "-").lower(): str(environ[name]) for name in environ if name[:5] == "HTTP_"}
        # A generator's run is attached while its body executes, not in between, where the server's thread does more.
        return self._requests.run(headers)(self._answered)(environ, start_response)

    def _answered(self, environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
        run = current_run()
        assert run is not None  # opened by `__call__`
        answer = _Answer(start_response, self._requests, run)
        pieces: Iterable[bytes] = ()
        try:
            pieces = self._app(environ, answer.start)
            for piece in pieces:
                if answer.refusal is not None:
                    break
                answer.began = answer.began or bool(piece)
                yield piece
        except Exception as error:
            denial = found_in(error)
            if denial is None or answer.began:
                raise
            answer.refuse(denial, sys.exc_info())
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        if answer.refusal is not None and environ["REQUEST_METHOD"] != "HEAD":  # not each server takes its body away
            yield answer.refusal
        run.acknowledge()  # what has been answered stands


class _Answer:
    """The response to one request, as far as it has been sent."""

    def __init__(self, start_response: Callable[..., Any], requests: Requests, run: BudgetRun) -> None:
        self.began = False
        #: The body of a refusal, where it has been refused.
        self.refusal: bytes | None = None
        self._start, self._requests, self._run = start_response, requests, run

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """What the application is given for ``start_response``."""
        denial = unanswered(self._run, int(status[:3]))
        if denial is None:
            return self._start(status, headers, exc_info)
        self.refuse(denial, exc_info)
        return lambda _: None

    def refuse(self, denial: BudgetExceeded, exc_info: Any) -> None:
        """Answer the request with *denial*."""
        if self.refusal is None:
            status, headers, self.refusal = self._requests.refusal(denial)
            self._start(f"{status.value} {status.phrase}", headers, exc_info)
