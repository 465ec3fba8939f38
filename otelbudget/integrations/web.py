"""What the middlewares of ASGI and WSGI share: whose run a request is, and how a refusal is said in HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.baggage.propagation import W3CBaggagePropagator

from otelbudget.engine import context as contexts
from otelbudget.errors import BudgetExceeded
from otelbudget.runs.api import run

if TYPE_CHECKING:
    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.scope import RunScope


class Refusal(NamedTuple):
    """A response that says no."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Requests:
    """How the requests of a middleware are budgeted, see `asgi.BudgetMiddleware`."""

    budget: str | RunBudget | None
    tenant_header: str | None
    user_header: str | None
    status: int

    def __post_init__(self) -> None:
        HTTPStatus(self.status)

    def run(self, headers: Mapping[str, str]) -> RunScope:
        """The run of a request with these headers, in lower case."""
        tenant = _named(headers, self.tenant_header) or _tenant_in_baggage(headers)
        return run(self.budget, tenant=tenant, user=_named(headers, self.user_header))

    def refusal(self, denial: BudgetExceeded) -> Refusal:
        """The answer to a request that *denial* ended; it says nothing of amounts, which are not the client's."""
        away = denial.reason == "store_unavailable"
        status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus(self.status)
        later = None if denial.retry_after_s is None else max(1, math.ceil(denial.retry_after_s))
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": "The budget of this request does not allow it" + (f" for {later} s." if later else "."),
            "reason": denial.reason,
            "resource": denial.resource,
            "scope": denial.scope,
            "retry_after_s": later,
        }
        body = json.dumps({name: value for name, value in problem.items() if value is not None}).encode()
        headers = [("content-type", "application/problem+json"), ("content-length", str(len(body)))]
        return Refusal(status, headers + ([] if later is None else [("retry-after", str(later))]), body)


class Middleware:
    """The arguments of both middlewares, see `asgi.BudgetMiddleware`."""

    def __init__(
        self,
        app: Any,
        budget: str | RunBudget | None = None,
        *,
        tenant_header: str | None = None,
        user_header: str | None = None,
        status: int = 429,
    ) -> None:
        self._app = app
        self._requests = Requests(budget, tenant_header, user_header, status)


def unanswered(of: BudgetRun | None, status: int) -> BudgetExceeded | None:
    """The denial that a response with this *status* is due to: frameworks make a server error of what is raised."""
    return None if of is None or status < HTTPStatus.INTERNAL_SERVER_ERROR else of._state.first_pending()


def _named(headers: Mapping[str, str], name: str | None) -> str | None:
    return None if name is None else headers.get(name.lower(), "").strip() or None


def _tenant_in_baggage(headers: Mapping[str, str]) -> str | None:
    """The tenant that the baggage of a request names, where the configuration trusts it (``tenant_from``)."""
    engine = contexts.active_engine()
    if engine is None or "baggage" not in headers:
        return None
    return engine.tenant_said((), W3CBaggagePropagator().extract(headers))
