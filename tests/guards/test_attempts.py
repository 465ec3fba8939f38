"""An SDK's own retries end with the run's time: none is sent, or waited for, that would leave after its deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from provider import Provider, Reply
from sdks import MODELS, WAYS, kit

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.manager import BudgetManager

STAINLESS = tuple(MODELS)
OTHERS = ("mistralai", "google_genai")
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("ticking")]


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


def _stainless(sdk: str, way: str, server: Provider) -> None:
    made = kit(sdk, server, max_retries=3)
    with made.client:
        WAYS[way](made)


def _mistral(server: Provider) -> None:
    from mistralai.client import Mistral, utils

    retrying = utils.RetryConfig("backoff", utils.BackoffStrategy(1, 1, 1.0, 60_000, jitter_ms=0), True)
    with Mistral(api_key="none", server_url=f"{server.root_url}/mistral", retry_config=retrying) as client:
        client.chat.complete(model="mistral-small-latest", messages=[{"role": "user", "content": "Say it."}])


def _gemini(server: Provider) -> None:
    from google import genai
    from google.genai import types

    retrying = types.HttpRetryOptions(attempts=4, initial_delay=0.001, max_delay=0.001, jitter=0.001)
    client = genai.Client(api_key="none", http_options={"base_url": server.root_url, "retry_options": retrying})
    try:
        client.models.generate_content(model="gemini-2.5-flash", contents="Say it.")
    finally:
        client.close()


SEND: dict[str, Callable[[Provider], None]] = {"mistralai": _mistral, "google_genai": _gemini}
CASES = [
    *(
        pytest.param(sdk, lambda server, sdk=sdk, way=way: _stainless(sdk, way, server), id=f"{sdk} {way}")
        for sdk in STAINLESS
        for way in WAYS
    ),
    *(pytest.param(sdk, SEND[sdk], id=sdk) for sdk in OTHERS),
]


@pytest.mark.parametrize(("sdk", "send"), CASES)
def test_no_attempt_is_sent_after_the_deadline(
    sdk: str, send: Callable[[Provider], None], server: Provider, manager: BudgetManager
) -> None:
    soon = {"retry-after-ms": "1"}
    server.enqueue(*(Reply(status=500, headers=soon) for _ in range(4)))
    with manager.run(RunBudget(max_seconds=2), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            send(server)
        assert caught.value.reason == "deadline"
        assert _charged(run) == (1, 0, 0)
    assert server.requests == 2


@pytest.mark.parametrize(("sdk", "way"), [(sdk, way) for sdk in STAINLESS for way in WAYS])
def test_nobody_waits_for_an_attempt_that_would_come_too_late(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(status=500, headers={"retry-after": "30"}))
    with manager.run(RunBudget(max_seconds=20), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            _stainless(sdk, way, server)
        assert (caught.value.reason, caught.value.requested) == ("deadline", 30)
        assert _charged(run) == (1, 0, 0)
    assert server.requests == 1


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_more_time_lets_the_next_attempt_go(sdk: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(Reply(status=500, headers={"retry-after-ms": "1"}), Reply(input_tokens=8, output_tokens=2))
    asked = []

    def more(denial: Any, run: Any) -> bool:
        asked.append(denial.reason)
        run.extend(seconds=10)
        return True

    with manager.run(RunBudget(max_seconds=1, on_exhausted=more)) as run:
        _stainless(sdk, "sync", server)
        assert _charged(run) == (1, 8, 2)
    assert (server.requests, asked) == (2, ["deadline"])


@pytest.mark.parametrize("sdk", ["openai"])
def test_a_run_that_only_watches_retries_as_ever(sdk: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(Reply(status=500, headers={"retry-after-ms": "1"}), Reply(input_tokens=8, output_tokens=2))
    with manager.run(RunBudget(max_seconds=1, on_exhausted="warn")) as run:
        _stainless(sdk, "sync", server)
        assert _charged(run) == (1, 8, 2)
    assert server.requests == 2
