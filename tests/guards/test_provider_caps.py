"""Where the provider's own cap ends a call: that is no denial of ours, nothing is guessed, and we do not ask again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from openai import APIError, AsyncOpenAI, OpenAI, RateLimitError
from openai_ways import CHAT, RESPONSE

from otelbudget import Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

Served = list[tuple[str, dict[str, Any]]]
#: As OpenRouter, OpenAI and Anthropic say it.
CREDITS = {"error": {"code": 402, "message": "No credits", "metadata": {"limit_source": "openrouter_credits"}}}
QUOTA = {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your quota"}}
HARD = {"error": {"type": "invalid_request_error", "code": "billing_hard_limit_reached", "message": "Hard limit"}}
SPENT = {"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your usage limits"}}
BILLING = {"type": "error", "error": {"type": "billing_error", "message": "Pay first"}}
FAILED = {"id": "r", "object": "response", "status": "failed", "output": [], "usage": None, "error": QUOTA["error"]}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.fixture
def openai(gateway: str, manager: BudgetManager) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway, api_key="none") as client:
        yield client


@pytest.fixture
def claude(gateway: str, manager: BudgetManager) -> Iterator[Anthropic]:
    GUARDS["anthropic"].install()
    with Anthropic(base_url=gateway, api_key="none") as client:
        yield client
    GUARDS["anthropic"].uninstall()


def chat(client: OpenAI) -> Any:
    return client.chat.completions.create(**CHAT)


def streamed(client: OpenAI) -> Any:
    return list(client.chat.completions.create(**CHAT, stream=True))


def response(client: OpenAI) -> Any:
    return client.responses.create(**RESPONSE)


def streamed_response(client: OpenAI) -> Any:
    return list(client.responses.create(**RESPONSE, stream=True))


CASES: dict[str, tuple[Callable[[OpenAI], Any], int, Any]] = {
    "402": (chat, 402, CREDITS),
    "402 of a stream": (streamed, 402, CREDITS),
    "402 in an answer": (chat, 200, CREDITS),
    "402 in a stream": (streamed, 200, sse(CREDITS)),
    "quota": (chat, 429, QUOTA),
    "quota of a stream": (streamed, 429, QUOTA),
    "hard limit": (chat, 400, HARD),
    "hard limit of a stream": (streamed, 400, HARD),
    "quota of a stream that says 400": (streamed, 400, QUOTA),
    "failed response": (response, 200, FAILED),
    "quota in a stream of a response": (streamed_response, 200, sse({**QUOTA["error"], "type": "error"})),
    "failed in a stream of a response": (
        streamed_response,
        200,
        sse({"type": "response.failed", "sequence_number": 0, "response": FAILED}),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", [Config(), Config(estimates=Estimates(on_unknown="full"))], ids=["input", "full"])
def test_it_is_a_step_and_nothing_else(
    case: str, manager: BudgetManager, openai: OpenAI, served: Served, answer: dict[str, Any]
) -> None:
    call, status, said = CASES[case]
    answer["make"] = lambda _: (status, said)
    with manager.run(RunBudget(max_tokens=100_000)) as run, suppress(APIError):
        call(openai)
    assert (run.usage.steps, run.usage.tokens, run.usage.estimated, len(served)) == (1, 0, False, 1)


@pytest.mark.parametrize("how", [{}, {"stream": True}])
async def test_an_asynchronous_client_does_not_try_again_either(
    how: dict[str, Any], gateway: str, manager: BudgetManager, served: Served, answer: dict[str, Any]
) -> None:
    answer["make"] = lambda _: (429, QUOTA)
    async with AsyncOpenAI(base_url=gateway, api_key="none") as client:
        with manager.run() as run, pytest.raises(RateLimitError):
            await client.chat.completions.create(**CHAT, **how)
    assert (len(served), run.usage.steps, run.usage.tokens) == (1, 1, 0)


@pytest.mark.parametrize(
    ("stream", "status", "said"),
    [(False, 400, SPENT), (True, 400, SPENT), (False, 402, BILLING), (True, 402, BILLING), (True, 200, sse(BILLING))],
)
def test_so_it_is_of_claude(
    stream: bool,
    status: int,
    said: Any,
    manager: BudgetManager,
    claude: Anthropic,
    served: Served,
    answer: dict[str, Any],
) -> None:
    answer["make"] = lambda _: (status, said)
    with manager.run(RunBudget(max_tokens=100_000)) as run, suppress(anthropic.APIError):
        list(claude.messages.create(model="m", max_tokens=9, messages=CHAT["messages"], stream=stream))
    assert (run.usage.steps, run.usage.tokens, run.usage.estimated, len(served)) == (1, 0, False, 1)
