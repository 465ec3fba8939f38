"""The guard of SDKs made by Speakeasy, on Mistral's: stopped before it is sent, and charged what it used."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from kits import USED, charged
from mistral_ways import CHAT, WAYS, in_a_loop, mistral
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.engine import context as contexts
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

client_module = pytest.importorskip("mistralai.client")
from mistralai.client import Mistral, errors, utils  # noqa: E402 - they need the SDK

#: Warnings of the SDK itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mistralai")

GUARD = GUARDS["mistralai"]


@pytest.fixture
def sdk() -> str:
    return "mistralai"


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Mistral]:
    with mistral(server.root_url) as made:
        yield made


def test_embeddings_hold_no_output_and_other_endpoints_pass(
    server: Provider, manager: BudgetManager, client: Mistral
) -> None:
    with manager.run(RunBudget(max_output_tokens=0)) as run:
        client.embeddings.create(model="mistral-embed", inputs=["Say it."])
        assert run.usage.steps == 1
    with manager.run(RunBudget(max_steps=0)) as run:
        with pytest.raises(errors.SDKError, match="404"):
            client.models.list()
        assert charged(run) == (0, 0, 0)


def test_a_stream_left_early_is_charged_what_was_read(
    server: Provider, manager: BudgetManager, client: Mistral
) -> None:
    given = count_input(CHAT)
    server.enqueue(USED, USED)
    with manager.run() as run, client.chat.stream(**CHAT) as events:
        next(event for event in events if "one" in (event.data.choices[0].delta.content or ""))
    assert charged(run) == (1, given, estimate_tokens("one "))
    with manager.run() as run:
        left = client.chat.stream(**CHAT)
        next(event for event in left if "one" in (event.data.choices[0].delta.content or ""))
        del left
        gc.collect()
        client.embeddings.create(model="mistral-embed", inputs=["next"])  # settles what was dropped
        assert run._state.account.holds == 0


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_what_is_sent(server: Provider, manager: BudgetManager, client: Mistral) -> None:
    with manager.run(RunBudget(max_output_tokens=40), reraise=False):
        client.chat.complete(**CHAT)
    assert server.recent[-1].body["max_tokens"] == 40
    assert server.recent[-1].headers["authorization"] == "Bearer none"


def _retrying() -> Any:
    backoff = utils.BackoffStrategy(1, 1, 1.0, 60_000, jitter_ms=0)
    return utils.RetryConfig("backoff", backoff, True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_retries_of_the_sdk_are_one_step_and_each_lost_attempt_costs_its_input(
    asynchronous: bool, server: Provider, manager: BudgetManager
) -> None:
    given = count_input(CHAT)
    cases: tuple[tuple[tuple[Reply, ...], tuple[int, int, int]], ...] = (
        ((Reply(status=429), Reply(status=500), USED), (1, 80, 20)),
        ((Reply(fault="reset"), USED), (1, 80 + given, 20)),
        ((Reply(fault="reset"), Reply(status=400)), (1, given, 0)),
        ((Reply(status=400),), (1, 0, 0)),
    )
    for replies, owed in cases:
        server.enqueue(*replies)
        manager.engine.learned = type(manager.engine.learned)()
        client = mistral(server.root_url, retry_config=_retrying())
        ask = in_a_loop(lambda c: c.chat.complete_async(**CHAT)) if asynchronous else WAYS["sync"]
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                ask(client)
            except errors.SDKError:
                assert owed[2] == 0
            assert charged(run) == owed
    assert server.requests == sum(len(replies) for replies, _ in cases)


@pytest.mark.parametrize("way", ["sync", "stream", "async", "async stream"])
def test_what_never_left_is_given_back_and_a_timeout_after_sending_charges_the_input(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with manager.run() as run:
        with pytest.raises(Exception, match=r"refused|attempts failed"):
            WAYS[way](Mistral(api_key="none", server_url=nobody))
        assert charged(run) == (0, 0, 0)
    server.enqueue(Reply(fault="hang"))
    with manager.run() as run:
        with pytest.raises(httpx2.ReadTimeout):
            WAYS[way](mistral(server.root_url, timeout_ms=200))
        assert charged(run) == (1, count_input(CHAT), 0)


# --- conversations

DONE = {"prompt_tokens": 80, "completion_tokens": 20, "total_tokens": 107, "connector_tokens": 7}


# What the SDK imports for them, it does at the first use.
@pytest.mark.filterwarnings("ignore:ast\\.[A-Za-z]+ is deprecated:DeprecationWarning")
@pytest.mark.parametrize("stream", [False, True])
def test_conversations_are_counted_with_what_their_connectors_use(
    stream: bool, manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    said = {"object": "conversation.response", "conversation_id": "conv_1", "outputs": [], "usage": DONE}
    events = [
        {"type": "conversation.response.started", "conversation_id": "conv_1"},
        {"type": "message.output.delta", "id": "m", "content": "one two", "role": "assistant"},
        {"type": "conversation.response.done", "usage": DONE},
    ]
    lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    answer["make"] = lambda _: (200, lines.encode() if stream else said)
    answer["content_type"] = "text/event-stream" if stream else "application/json"
    with Mistral(api_key="none", server_url=gateway) as client:
        made = client.beta.conversations
        start, append = (made.start_stream, made.append_stream) if stream else (made.start, made.append)
        arguments = {"max_tokens": 50}
        with manager.run(RunBudget(max_steps=2, max_output_tokens=80), reraise=False) as run:
            for ask in (
                lambda: start(inputs="Say it.", model="mistral-small-latest", completion_args=arguments),
                lambda: append(conversation_id="conv_1", inputs="Again.", completion_args=arguments),
            ):
                found = ask()
                assert not stream or len(list(found)) == 3
            assert charged(run) == (2, 160, 54)
            with pytest.raises(BudgetExceeded):
                start(inputs="Say it.", model="mistral-small-latest")
    assert len(served) == 2


# --- its other clients


@pytest.mark.parametrize("sdk", ["azure", "gcp"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_for_other_clouds_are_guarded_too(
    sdk: str, stream: bool, config: Config, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    module = pytest.importorskip(f"mistralai.{sdk}.client")
    cls = {"azure": "MistralAzure", "gcp": "MistralGCP"}[sdk]
    options = {"azure": {"api_key": "none"}, "gcp": {"access_token": "none", "project_id": "project"}}[sdk]
    usage = {"prompt_tokens": 80, "completion_tokens": 20, "total_tokens": 100}
    head = {"id": "c", "object": "chat", "created": 1, "model": "mistral-small", "usage": usage}
    says = {
        "index": 0,
        "finish_reason": "stop",
        "delta" if stream else "message": {"role": "assistant", "content": "one"},
    }
    said = head | {"choices": [says]}
    answer["make"] = lambda _: (200, f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode() if stream else said)
    manager, guard = BudgetManager(config), GUARDS[f"mistralai.{sdk}"]
    contexts.activate(manager.engine)
    guard.install()
    try:
        assert guard.unreached() == []
        with getattr(module, cls)(server_url=gateway, **options) as client:
            ask = client.chat.stream if stream else client.chat.complete
            with manager.run(RunBudget(max_steps=1), reraise=False) as run:
                found = ask(**CHAT)
                assert not stream or len(list(found)) == 1
                assert charged(run) == (1, 80, 20)
                with pytest.raises(BudgetExceeded):
                    ask(**CHAT)
    finally:
        guard.uninstall()
        contexts.deactivate(manager.engine)
    assert len(served) == 1
