"""`BudgetMiddleware` for ASGI: each request is a run, a denial is answered with 429 (FastAPI, Starlette, Django)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from otelbudget.engine import context as contexts
from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.integrations.web import Middleware, Requests, unanswered
from otelbudget.runs.api import current_run

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BudgetMiddleware(Middleware):
    """Opens a run for each request and websocket, until its response has been sent, streamed ones included.

    A denial that the application lets pass, or makes a server error of, becomes a response with ``Retry-After`` and a
    problem+json body (RFC 9457), if none has begun.

    Put it inside of what begins a trace, which drops the context around it: into FastAPI and Starlette with
    ``add_middleware``, where it replaces a dependency that yields inside of ``run()`` (FastAPI's tracing ends the
    context of those before the endpoint is called).

    Example:
        >>> app.add_middleware(BudgetMiddleware, budget="chat", tenant_header="x-tenant")  # doctest: +SKIP

    Args:
        app: The application.
        budget: That of each request, as `otelbudget.run` takes it.
        tenant_header, user_header: Headers that name them. Only for those that a gateway of yours sets: clients could
            name anybody. Without a tenant, ``tenant_from`` of the configuration may find it in the baggage.
        status: Of the response to a denial: 429, or 402 where it means that somebody has to pay.
    """

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _Answer(send, self._requests)
        try:
            async with self._requests.run(headers) as answer.run:
                await self._app(scope, receive, answer.send)
                answer.run.acknowledge()  # what it has answered stands
        except Exception as error:
            denial = found_in(error)
            if denial is None or (answer.began and not answer.refused) or scope["type"] != "http":
                raise
            if not answer.refused:
                await answer.refuse(denial)


class _Answer:
    """The response to one request, as far as it has been sent."""

    def __init__(self, send: Send, requests: Requests) -> None:
        self.run: BudgetRun | None = None
        self.began = self.refused = False
        self._send, self._requests = send, requests

    async def send(self, message: Message) -> None:
        """Send what the application says, or a refusal where that is what it means."""
        if message["type"] == "http.response.start":
            _check_context(self.run)
            denial = unanswered(self.run, message["status"])
            if denial is not None:
                await self.refuse(denial)
            self.began = True
        if not self.refused:
            await self._send(message)

    async def refuse(self, denial: BudgetExceeded) -> None:
        """Answer the request with *denial*."""
        self.refused = True
        status, headers, body = self._requests.refusal(denial)
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status.value, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})


def _check_context(run: BudgetRun | None) -> None:
    """Warn once if the application does its work outside of *run*."""
    engine, here = contexts.active_engine(), current_run()
    while here is not None and here != run:
        here = here.parent
    if engine is not None and here is None:
        engine.warn_once(
            "request",
            "what is around the application dropped the run of its request, so its calls are not charged to that: put"
            " BudgetMiddleware inside of it, with app.add_middleware(BudgetMiddleware)",
        )
