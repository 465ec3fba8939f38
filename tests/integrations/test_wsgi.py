"""Under the WSGI middleware each request is a run, and a denial that nobody deals with is its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import otelbudget
from otelbudget import BudgetExceeded
from otelbudget.demo import DemoServer
from otelbudget.integrations.wsgi import BudgetMiddleware

Ask = Callable[[], str]
Setup = Callable[..., otelbudget.BudgetManager]
ONE = "default_budget: one\nbudgets:\n  one: {max_steps: 1}\n  two: {max_steps: 2}\n"
TEXT = [("content-type", "text/plain")]


def get(app: Any, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """One request to *app*, held to the letter of the specification."""
    environ: dict[str, Any] = {"QUERY_STRING": "", "REQUEST_METHOD": method} | {
        f"HTTP_{name.upper()}": value for name, value in headers.items()
    }
    setup_testing_defaults(environ)
    said: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        said[:] = [int(status[:3]), dict(headers)]
        return lambda _: None

    with closing(validator(app)(environ, start)) as answer:
        body = b"".join(answer)
    return said[0], said[1], body.decode()


def calling(ask: Ask, number: int) -> Any:
    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        for _ in range(number):
            ask()
        start("200 OK", TEXT)
        return [b"done"]

    return app


def test_each_request_is_a_run_of_its_own(setup: Setup, ask: Ask, server: DemoServer) -> None:
    setup(ONE)
    assert [get(BudgetMiddleware(calling(ask, 2), "two"))[0] for _ in range(3)] == [200] * 3
    status, headers, body = get(BudgetMiddleware(calling(ask, 3), "two"))
    assert server.requests == 8
    assert (status, headers["content-type"]) == (429, "application/problem+json")
    assert json.loads(body)["resource"] == "steps"
    assert otelbudget.current_run() is None


def test_a_refusal_has_no_body_where_only_its_head_was_asked_for(setup: Setup, ask: Ask) -> None:
    setup(ONE)
    status, headers, body = get(BudgetMiddleware(calling(ask, 2)), "HEAD")
    assert (status, headers["content-type"], body) == (429, "application/problem+json", "")


def test_a_quota_says_when_to_come_again_and_whose_it_is_a_header_says(setup: Setup, ask: Ask) -> None:
    setup("quotas:\n  default: [{steps: 1, per: day}]\n")
    app = BudgetMiddleware(calling(ask, 1), tenant_header="X-Tenant", status=402)
    assert get(app, x_tenant="acme")[0] == 200
    status, headers, _ = get(app, x_tenant="acme")
    assert status == 402
    assert 0 < int(headers["retry-after"]) <= 86_400
    assert get(app, x_tenant="globex")[0] == 200


def test_a_framework_that_makes_a_server_error_of_a_denial_is_corrected(setup: Setup, ask: Ask) -> None:
    setup(ONE)

    def framework(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        try:
            return list(calling(ask, 2)(environ, start))
        except RuntimeError:
            start("500 Internal Server Error", TEXT)
            return [b"sorry"]

    status, _, body = get(BudgetMiddleware(framework))
    assert status == 429
    assert "sorry" not in body


def test_a_stream_is_in_the_run_of_its_request_and_is_closed(setup: Setup, ask: Ask, server: DemoServer) -> None:
    setup(ONE)
    closed: list[bool] = []

    def streaming(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", TEXT)
        try:
            for _ in range(2):
                yield ask().encode()
        finally:
            closed.append(True)

    pieces = iter(BudgetMiddleware(streaming)({}, lambda *_: None))
    assert next(pieces) == b"answered"
    assert otelbudget.current_run() is None  # between two pieces the server's thread does other things
    with pytest.raises(BudgetExceeded):  # its status is sent: the connection breaks, as for any error there
        next(pieces)
    given_up = iter(BudgetMiddleware(streaming)({}, lambda *_: None))
    next(given_up)
    given_up.close()  # type: ignore[attr-defined] # as servers do when the client has gone
    assert closed == [True, True]
    assert server.requests == 2


def test_errors_of_the_application_pass(setup: Setup) -> None:
    setup(ONE)

    def broken(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        raise LookupError("a mistake")

    with pytest.raises(LookupError, match="a mistake"):
        get(BudgetMiddleware(broken))
