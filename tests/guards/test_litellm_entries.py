"""The other ways into litellm: its functions that are asked for a coroutine, and those that call others of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from kits import charged
from provider import Provider, Reply
from sdks import beside_openai

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}], "max_tokens": 100}
INPUT: dict[str, Any] = {"input": "Say it.", "max_output_tokens": 100}
USED = Reply(chunks=("one ", "two"), input_tokens=80, output_tokens=20)
PICTURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture(params=["alone", "with openai's"])
def litellm(request: pytest.FixtureRequest, manager: BudgetManager) -> Iterator[Any]:
    litellm = pytest.importorskip("litellm")
    with beside_openai(litellm, guarded=request.param != "alone"):
        yield litellm


def _how(root: str) -> dict[str, Any]:
    return {"model": "openai/gpt-4o-mini", "api_base": root, "api_key": "none"}


async def _in_the_end(made: Callable[[], Any]) -> None:
    found = made()
    found = await found if inspect.isawaitable(found) else found
    if hasattr(getattr(found, "completion_stream", found), "__anext__"):  # litellm's own can be read either way
        async for _ in found:
            ...
    elif hasattr(found, "__next__"):
        list(found)
    await import_module("litellm").close_litellm_async_clients()


def _ask(made: Callable[[], Any]) -> None:
    asyncio.run(_in_the_end(made))


def _once(made: Callable[[], Any], manager: BudgetManager, requests: Callable[[], int]) -> None:
    """Nothing is sent without a step, one request with one, and a denial comes at once and as it is."""
    for steps in (0, 1):
        before = requests()
        with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
            for _ in range(steps):
                _ask(made)
            asked_s = time.monotonic()
            with pytest.raises(BudgetExceeded) as caught:
                _ask(made)
            assert time.monotonic() - asked_s < 2.5
            assert caught.value.__cause__ is None
            assert charged(run)[0] == steps
        assert requests() == before + steps


#: A function -> what has it give a coroutine, and what else it is given.
COROUTINES: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": ("acompletion", SAY),
    "embedding": ("aembedding", {"input": ["Say it."]}),
    "responses": ("aresponses", INPUT),
    "anthropic_messages_handler": ("is_async", SAY),
    "compact_responses": ("acompact_responses", {"input": "Say it."}),
    "image_edit": ("async_call", {"prompt": "A dog.", "image": PICTURE}),
    "image_variation": ("async_call", {"image": PICTURE}),
    "speech": ("aspeech", {"input": "Say it.", "voice": "alloy"}),
}


@pytest.mark.parametrize("name", COROUTINES)
def test_a_function_that_is_asked_for_a_coroutine_sends_nothing_without_a_step(
    name: str, gateway: str, served: list[Any], manager: BudgetManager, litellm: Any
) -> None:
    flag, given = COROUTINES[name]
    with manager.run(RunBudget(max_steps=0), reraise=False), pytest.raises(BudgetExceeded):
        _ask(lambda: getattr(litellm, name)(**given, **_how(gateway), **{flag: True}))
    assert served == []


@pytest.mark.parametrize("name", ["compact_responses", "image_edit", "image_variation", "speech"])
def test_it_is_one_step_with_one(
    name: str, gateway: str, served: list[Any], manager: BudgetManager, litellm: Any, answer: dict[str, Any]
) -> None:
    flag, given = COROUTINES[name]
    answer["make"] = lambda _: (200, {"id": "x", "object": "x", "created_at": 1, "output": [], "data": []})
    _once(lambda: getattr(litellm, name)(**given, **_how(gateway), **{flag: True}), manager, lambda: len(served))


@pytest.mark.parametrize("streamed", [False, True])
def test_responses_that_are_asked_for_as_a_coroutine_are_charged_what_they_say(
    streamed: bool, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    server.enqueue(USED)
    with manager.run() as run:
        _ask(lambda: litellm.responses(**INPUT, **_how(server.base_url), aresponses=True, stream=streamed))
        assert charged(run) == (1, 80, 20)
        assert not run.usage.estimated


@pytest.mark.parametrize("flag", ["async_call", "aimg_generation"])
def test_a_flag_of_another_function_is_none(flag: str, server: Provider, manager: BudgetManager, litellm: Any) -> None:
    with manager.run(RunBudget(max_steps=0), reraise=False), pytest.raises(BudgetExceeded):
        litellm.completion(**SAY, **_how(server.base_url), **{flag: True})
    assert server.requests == 0


#: Functions that call another, again if it fails.
RETRYING: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "completion": lambda made, how: made.completion_with_retries(**SAY, **how),
    "acompletion": lambda made, how: made.acompletion_with_retries(**SAY, **how),
    "acompletion of its own": lambda made, how: made.acompletion_with_retries(
        **SAY, **how, original_function=made.acompletion
    ),
    "responses": lambda made, how: made.responses_with_retries(**INPUT, **how),
    "aresponses": lambda made, how: made.aresponses_with_retries(**INPUT, **how),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", RETRYING)
def test_a_denial_is_not_tried_again(
    name: str, streamed: bool, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    how = {**_how(server.base_url), "stream": streamed, "retry_strategy": "exponential_backoff_retry"}
    server.enqueue(USED)
    _once(lambda: RETRYING[name](litellm, dict(how)), manager, lambda: server.requests)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", RETRYING)
def test_its_retries_are_one_call_that_is_charged_what_the_last_says(
    name: str, streamed: bool, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    server.enqueue(Reply(status=500), USED)
    with manager.run(RunBudget(max_steps=1)) as run:
        _ask(lambda: RETRYING[name](litellm, {**_how(server.base_url), "stream": streamed}))
        assert charged(run) == (1, 80, 20)
    assert server.requests == 2


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("elsewhere", ["task", "thread"])
def test_what_a_callback_tries_again_elsewhere_is_a_call_of_its_own(
    elsewhere: str, steps: int, server: Provider, manager: BudgetManager, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[str] = []

    def ask() -> None:
        if became:
            return
        became.append("sent")
        try:
            litellm.completion_with_retries(**SAY, **_how(server.base_url))
        except BudgetExceeded:
            became[0] = "denied"

    async def ask_in_a_task() -> None:
        ask()

    class Callback(litellm.integrations.custom_logger.CustomLogger):  # type: ignore[misc, name-defined]
        async def async_pre_call_deployment_hook(self, kwargs: Any, _: Any) -> Any:
            await (asyncio.create_task(ask_in_a_task()) if elsewhere == "task" else asyncio.to_thread(ask))
            return kwargs

    monkeypatch.setattr(litellm, "callbacks", [Callback()])
    server.enqueue(USED, USED)
    with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
        _ask(lambda: litellm.acompletion(**SAY, **_how(server.base_url)))
        assert charged(run) == (steps, 80 * steps, 20 * steps)
    assert (server.requests, became) == (steps, ["sent" if steps == 2 else "denied"])


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize("streamed", [False, True])
def test_interactions_are_charged_what_they_say(
    streamed: bool,
    twin: str,
    gateway: str,
    answer: dict[str, Any],
    served: list[Any],
    manager: BudgetManager,
    litellm: Any,
) -> None:
    usage = {"total_input_tokens": 80, "total_output_tokens": 20, "total_tokens": 100}
    whole = {"id": "i", "object": "interaction", "model": "gemini-2.5-flash", "status": "completed", "usage": usage}
    events = [
        {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "Said."}},
        {"event_type": "interaction.completed", "interaction": whole},
    ]
    said = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    answer["make"] = lambda _: (200, said if streamed else whole)
    how = {"model": "gemini/gemini-2.5-flash", "input": "Say it.", "api_base": gateway, "api_key": "none"}

    def ask() -> Any:
        return getattr(litellm.interactions, f"{twin}create")(stream=streamed, **how)

    with manager.run() as run:
        _ask(ask)
        assert charged(run) == (1, 80, 20)
        assert not run.usage.estimated
    served.clear()
    _once(ask, manager, lambda: len(served))


@pytest.mark.parametrize("twin", ["", "a"])
def test_a_denial_of_an_interaction_that_another_function_answers_is_raised_as_it_is(
    twin: str, server: Provider, manager: BudgetManager, litellm: Any
) -> None:
    made = getattr(litellm.interactions, f"{twin}create")
    server.enqueue(USED)
    _once(lambda: made(input="Say it.", **_how(server.base_url)), manager, lambda: server.requests)


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize("name", ["decisions", "systemone"])
def test_decisions_are_charged_what_they_say(
    name: str, twin: str, gateway: str, answer: dict[str, Any], manager: BudgetManager, served: list[Any], litellm: Any
) -> None:
    if not hasattr(litellm, name):
        pytest.skip("this litellm has none")
    usage = {"input_tokens": 80, "output_tokens": 20, "total_tokens": 100}
    answer["make"] = lambda _: (200, {"model": "m", "answers": [] if name == "decisions" else {}, "usage": usage})
    given: dict[str, Any] = (
        {"model": "openai/m", "input": "It.", "questions": [{"type": "predicate", "instructions": "Is it?"}]}
        if name == "decisions"
        else {"model": "azure_ai/m", "state": {"it": 1}, "questions": {"q": {"type": "noul", "instructions": "Is it?"}}}
    )

    def ask() -> Any:
        return getattr(litellm, twin + name)(**given, api_base=gateway, api_key="none")

    with manager.run() as run:
        _ask(ask)
        assert charged(run) == (1, 80, 20)
    served.clear()
    _once(ask, manager, lambda: len(served))
