"""Calls that fail: what never left is given back, what may have been worked on is charged, and only once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI
from openai_ways import ANSWER, CHAT, RESPONSE, Said
from provider import Provider, Reply

from otelbudget import RunBudget
from otelbudget.estimate.tokens import count_input
from otelbudget.guards import call
from otelbudget.guards.dialects.openai import OpenAI as Dialect
from otelbudget.manager import BudgetManager

INPUT = count_input(CHAT)
USED = Reply(text=ANSWER, input_tokens=80, output_tokens=20)
SOON = {"retry-after-ms": "1"}


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


@pytest.fixture
def nobody() -> str:
    """A URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


# --- before anything is sent


@pytest.mark.parametrize("retries", [0, 1])
def test_a_refused_connection_gives_everything_back(retries: int, nobody: str, manager: BudgetManager) -> None:
    with OpenAI(base_url=nobody, api_key="none", max_retries=retries) as client, manager.run() as run:
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT, stream=True)
        assert _charged(run) == (0, 0, 0)


async def test_a_refused_async_connection_gives_everything_back(nobody: str, manager: BudgetManager) -> None:
    async with AsyncOpenAI(base_url=nobody, api_key="none", max_retries=0) as client, manager.run() as run:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**CHAT)
        assert _charged(run) == (0, 0, 0)


def test_a_full_pool_gives_everything_back(server: Provider, manager: BudgetManager) -> None:
    http = httpx2.Client(limits=httpx2.Limits(max_connections=1))
    client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0, http_client=http)
    with client, client.chat.completions.create(**CHAT, stream=True):
        with manager.run() as run, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**CHAT, timeout=httpx2.Timeout(5, pool=0.01))
        assert _charged(run) == (0, 0, 0)
    assert server.requests == 1


def test_a_body_that_can_t_be_written_gives_everything_back(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    with manager.run(RunBudget(max_steps=1)) as run:
        with pytest.raises(TypeError):
            client.chat.completions.create(**CHAT, extra_body={"odd": object()})
        assert _charged(run) == (0, 0, 0)
        client.chat.completions.create(**CHAT)
    assert server.requests == 1


def test_a_client_that_sends_in_its_own_way_is_settled_by_what_it_shows(
    server: Provider, manager: BudgetManager, nobody: str
) -> None:
    class Own(OpenAI):
        def _send_request(self, request: Any, *, stream: bool, **how: Any) -> Any:
            return self._client.send(request, stream=stream, **how)

    server.enqueue(USED, USED, USED, Reply(fault="hang"), Reply(status=400))
    with Own(base_url=server.base_url, api_key="none", max_retries=0) as client, manager.run() as run:
        client.chat.completions.create(**CHAT)
        client.chat.completions.with_raw_response.create(**CHAT)
        list(client.chat.completions.create(**CHAT, stream=True))
        assert _charged(run) == (3, 240, 60)
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**CHAT, timeout=0.6)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**CHAT)
        assert _charged(run) == (5, 240 + 3 * INPUT, 60)  # three answers have taught that counted input is too low
    with Own(base_url=nobody, api_key="none", max_retries=0) as client, manager.run() as run:
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
        assert _charged(run) == (0, 0, 0)


# --- answers with an error


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_answer_is_one_step_without_tokens(
    status: int, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    again = status in (400, 404)  # perhaps since a stream was asked for its usage
    server.enqueue(*[Reply(status=status)] * (3 if again else 2))
    with manager.run() as run:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**CHAT)
        assert caught.value.status_code == status
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(**CHAT, stream=True)
        assert _charged(run) == (2, 0, 0)
    assert server.requests == (3 if again else 2)


def test_usage_in_an_error_answer_is_charged(manager: BudgetManager, gateway: str, answer: dict[str, Any]) -> None:
    used = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    answer["make"] = lambda _: (422, {"error": {"message": "filtered"}, "usage": used})
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(**CHAT)
        assert _charged(run) == (1, 9, 4)


def test_retries_of_the_sdk_are_one_call(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    failing = client.with_options(max_retries=2)
    server.enqueue(Reply(status=429, headers=SOON), Reply(status=500, headers=SOON), USED)
    with manager.run(RunBudget(max_steps=1)) as run:
        failing.chat.completions.create(**CHAT)
    assert _charged(run) == (1, 80, 20)
    server.enqueue(Reply(status=500, headers=SOON), Reply(status=500, headers=SOON), Reply(status=500))
    with manager.run(RunBudget(max_steps=1)) as run, pytest.raises(openai.InternalServerError):
        failing.chat.completions.create(**CHAT)
    assert _charged(run) == (1, 0, 0)
    assert server.requests == 6


# --- nobody knows


@pytest.mark.parametrize("fault", ["reset", "reset_after_headers", "drop"])
def test_a_broken_connection_is_charged_its_input(
    fault: Any, server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(text=ANSWER, fault=fault))
    with manager.run() as run:
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
        assert _charged(run) == (1, INPUT, 0)


def test_a_read_timeout_is_charged_its_input_for_each_attempt(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(fault="hang"), Reply(fault="hang"), Reply(fault="hang"))
    with manager.run() as run:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**CHAT, timeout=0.6)
        assert _charged(run) == (1, INPUT, 0)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(max_retries=1).chat.completions.create(**CHAT, timeout=0.6)
        assert _charged(run) == (2, 3 * INPUT, 0)
    assert server.requests == 3


class _Breaking(httpx2.HTTPTransport):
    """Fails in no way that the SDK knows of once the request is there, as a connection of a closed loop does."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        super().handle_request(request).close()
        raise RuntimeError("Event loop is closed")


def test_an_error_of_the_transport_that_the_sdk_does_not_wrap_is_charged_its_input(
    server: Provider, manager: BudgetManager
) -> None:
    with httpx2.Client(transport=_Breaking()) as http, manager.run() as run:
        client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0, http_client=http)
        with pytest.raises(RuntimeError):
            client.chat.completions.create(**CHAT)
        assert (server.requests, _charged(run)) == (1, (1, INPUT, 0))


@pytest.mark.parametrize(("hook", "charged"), [("request", (0, 0, 0)), ("response", (1, INPUT, 0))])
def test_an_error_of_a_hook_is_charged_where_the_answer_had_come(
    hook: str, charged: tuple[int, int, int], server: Provider, manager: BudgetManager
) -> None:
    def fail(_: Any) -> None:
        raise LookupError("the application's own")

    with openai.DefaultHttpxClient(event_hooks={hook: [fail]}) as http, manager.run() as run:
        client = OpenAI(base_url=server.base_url, api_key="none", http_client=http)
        with pytest.raises(LookupError):
            client.chat.completions.create(**CHAT)
        assert _charged(run) == charged
    assert server.requests == charged[0]


def test_an_answer_after_a_timeout_pays_for_both_attempts(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    retrying = client.with_options(max_retries=1)
    server.enqueue(Reply(fault="reset"), USED, Reply(fault="reset"), USED, Reply(fault="reset"), Reply(status=400))
    with manager.run() as run:
        retrying.chat.completions.create(**CHAT)
        assert _charged(run) == (1, 80 + INPUT, 20)
        list(retrying.chat.completions.create(**CHAT, stream=True))
        assert _charged(run) == (2, 2 * (80 + INPUT), 40)
        with pytest.raises(openai.BadRequestError):
            retrying.chat.completions.create(**CHAT)
        assert _charged(run) == (3, 2 * 80 + 3 * INPUT, 40)
    assert server.requests == 6


def test_a_stream_left_after_a_reset_pays_for_both_attempts(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(fault="reset"), USED)
    with manager.run() as run:
        client.with_options(max_retries=1).chat.completions.create(**CHAT, stream=True).close()
    assert _charged(run) == (1, 2 * INPUT, 0)


async def test_a_cancelled_call_is_charged_its_input(
    server: Provider, manager: BudgetManager, aclient: AsyncOpenAI
) -> None:
    server.enqueue(Reply(fault="hang"), Reply(fault="hang"))
    async with manager.run() as run:
        task = asyncio.create_task(aclient.chat.completions.create(**CHAT))
        while server.requests == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _charged(run) == (1, INPUT, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await aclient.chat.completions.create(**CHAT, stream=True)
        assert _charged(run) == (2, 2 * INPUT, 0)


# --- an answer came, and something after it failed


def test_an_answer_cut_at_its_maximum_is_charged_though_parse_refuses_it(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(USED)
    with manager.run() as run:
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**CHAT, response_format=Said, max_completion_tokens=10)
        assert _charged(run) == (1, 80, 10)


async def test_an_answer_that_does_not_fit_the_format_is_charged(
    server: Provider, manager: BudgetManager, client: OpenAI, aclient: AsyncOpenAI
) -> None:
    server.enqueue(*[Reply(text="not json", input_tokens=80, output_tokens=20)] * 2)
    with manager.run() as run:
        with pytest.raises(pydantic.ValidationError):
            client.chat.completions.parse(**CHAT, response_format=Said)
        with pytest.raises(pydantic.ValidationError):
            await aclient.responses.parse(**RESPONSE, text_format=Said)
        assert _charged(run) == (2, 160, 40)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_an_answer_that_nobody_understands_is_charged_its_hold(
    content_type: str, manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer.update(make=lambda _: (200, b"{ sorry"), content_type=content_type)
    with OpenAI(base_url=gateway, api_key="none", max_retries=0) as client, manager.run() as run:
        try:
            client.chat.completions.create(**CHAT, max_completion_tokens=30)
        except ValueError:
            assert content_type == "application/json"
        assert _charged(run) == (1, INPUT, 30)


def test_a_background_response_is_charged_its_hold(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer["make"] = lambda _: (200, {"id": "resp_1", "status": "queued", "model": "m", "usage": None})
    with OpenAI(base_url=gateway, api_key="none") as client, manager.run() as run:
        client.responses.create(**RESPONSE, background=True, max_output_tokens=50)
    assert _charged(run) == (1, count_input(RESPONSE), 50)


# --- errors of our own


def test_an_error_of_our_own_is_logged_and_the_call_goes_on(
    server: Provider,
    manager: BudgetManager,
    client: OpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> int:
        raise LookupError("ours")

    monkeypatch.setattr(call, "read_input", broken)
    with manager.run(reraise=False), pytest.raises(LookupError):
        client.chat.completions.create(**CHAT)
    assert server.requests == 0  # in tests it is not swallowed
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(Dialect, "usage", broken)
    with manager.run() as run:
        client.chat.completions.create(**CHAT, max_completion_tokens=30)
    assert "reading a request of openai" in caplog.text
    assert "reading an answer of openai" in caplog.text
    assert run.usage.steps == server.requests == 1
    assert run._state.account.holds == 0
