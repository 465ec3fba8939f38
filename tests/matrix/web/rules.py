"""FastAPI, Flask and Django with the middlewares: a run per request, and 429 for a denial."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import django
import flask
import httpx
import openai
import pytest
from django import urls
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from provider import Provider

import otelbudget
from otelbudget import RunBudget
from otelbudget.integrations.asgi import BudgetMiddleware
from otelbudget.integrations.wsgi import BudgetMiddleware as WsgiBudgetMiddleware

Setup = Callable[..., otelbudget.BudgetManager]
ONE = "default_budget: one\nbudgets:\n  one: {max_steps: 1}\n"


def ask() -> str:
    with openai.OpenAI(max_retries=0) as client:
        client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])
    return "answered"


async def get(app: Any, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get(path)


def fastapi_of(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/calls/{number}")
    def calls(number: int) -> str:  # in a thread
        return [ask() for _ in range(number)][-1]

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(ask() for _ in range(1))

    return app


async def test_fastapi(setup: Setup, server: Provider) -> None:
    setup(ONE)
    app = fastapi_of()
    app.add_middleware(BudgetMiddleware)
    for path, status in (("/calls/1", 200), ("/calls/2", 429), ("/stream", 200), ("/calls/1", 200)):
        assert (await get(app, path)).status_code == status
    assert server.requests == 4


async def test_around_a_tracing_application_it_says_that_it_belongs_inside(
    setup: Setup, server: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    setup(ONE)
    assert (await get(BudgetMiddleware(fastapi_of(telemetry={"tracing": False})), "/calls/2")).status_code == 429
    assert "dropped the run" not in caplog.text
    for _ in range(2):
        await get(BudgetMiddleware(fastapi_of()), "/calls/1")
    assert caplog.text.count("dropped the run of its request") == 1


@pytest.mark.parametrize(("tracing", "kept"), [(False, True), (True, False)])
async def test_a_run_in_a_dependency_that_yields_reaches_the_endpoint_where_fastapi_traces_nothing(
    setup: Setup, tracing: bool, kept: bool
) -> None:
    setup()
    app = FastAPI(telemetry={"tracing": tracing})

    async def budgeted() -> AsyncIterator[otelbudget.BudgetRun]:
        with otelbudget.run(RunBudget(max_steps=1), tenant="acme") as run:
            yield run

    @app.get("/here")
    async def here(run: Annotated[Any, Depends(budgeted)]) -> bool:
        return otelbudget.current_run() == run

    assert (await get(app, "/here")).json() is kept


def flask_of() -> flask.Flask:
    app = flask.Flask(__name__)
    app.wsgi_app = WsgiBudgetMiddleware(app.wsgi_app, tenant_header="x-tenant")  # type: ignore[method-assign]

    @app.get("/calls/<int:number>")
    def calls(number: int) -> str:
        return [ask() for _ in range(number)][-1]

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(ask() for _ in range(1))

    return app


def test_flask(setup: Setup, server: Provider) -> None:
    setup(ONE)
    client = flask_of().test_client()
    for path, status in (("/calls/1", 200), ("/calls/2", 429), ("/stream", 200), ("/calls/1", 200)):
        assert client.get(path).status_code == status
    assert server.requests == 4
    assert client.get("/calls/2").json["resource"] == "steps"


def django_app() -> Any:
    views = [urls.path("calls/<int:number>", lambda _, number: HttpResponse([ask() for _ in range(number)]))]
    if not settings.configured:
        settings.configure(ROOT_URLCONF=tuple(views), ALLOWED_HOSTS=["*"], SECRET_KEY="none", LOGGING_CONFIG=None)
        django.setup()
    return get_asgi_application()


async def test_django(setup: Setup, server: Provider) -> None:
    setup(ONE)
    app = BudgetMiddleware(django_app())
    assert (await get(app, "/calls/1")).status_code == 200
    assert (await get(app, "/calls/2")).status_code == 429
    with httpx.Client(
        transport=httpx.WSGITransport(WsgiBudgetMiddleware(get_wsgi_application())), base_url="http://app"
    ) as client:
        assert client.get("/calls/1").status_code == 200
        assert client.get("/calls/2").status_code == 429


@pytest.mark.parametrize("framework", ["fastapi", "flask", "django"])
def test_of_five_calls_one_is_made(setup: Setup, server: Provider, row: Callable[..., int], framework: str) -> None:
    async def fastapi_asked() -> str:
        app = fastapi_of()
        app.add_middleware(BudgetMiddleware)
        return _line(await get(app, "/calls/5"))

    async def django_asked() -> str:
        return _line(await get(BudgetMiddleware(django_app()), "/calls/5"))

    asked = {
        "fastapi": ("asgi.BudgetMiddleware", fastapi_asked),
        "flask": ("wsgi.BudgetMiddleware", lambda: flask_of().test_client().get("/calls/5").status),
        "django": ("asgi.BudgetMiddleware", django_asked),
    }
    setup(ONE)
    assert row(framework, *asked[framework], budget=None) == 1


def _line(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}"
