"""The guard of SDKs made by Speakeasy, on Mistral's: stopped before it is sent, and charged what it used."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget
from otelbudget.config import Estimates
from otelbudget.engine import context as contexts
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

client_module = pytest.importorskip("mistralai.client")
from mistralai.client import Mistral, basesdk, errors, utils  # noqa: E402 - they need the SDK
from mistralai.client._hooks.sdkhooks import SDKHooks  # noqa: E402
from mistralai.client.utils.retries import TemporaryError  # noqa: E402

#: Warnings of the SDK itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mistralai")

GUARD = GUARDS["mistralai"]
CHAT: dict[str, Any] = {
    "model": "mistral-small-latest",
    "messages": [{"role": "user", "content": "Say it."}],
    "max_tokens": 100,
}
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20)


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def manager(config: Config) -> Iterator[BudgetManager]:
    manager = BudgetManager(config)
    contexts.activate(manager.engine)
    GUARD.install()
    manager.engine.guarded.add("mistralai")
    yield manager
    GUARD.uninstall()
    contexts.deactivate(manager.engine)


def _mistral(server: Provider, **options: Any) -> Mistral:
    return Mistral(api_key="none", server_url=f"{server.root_url}/mistral", **options)


@pytest.fixture
def client(server: Provider, manager: BudgetManager) -> Iterator[Mistral]:
    with _mistral(server) as made:
        yield made


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


def _text(events: Any) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in events)


def _stream(client: Mistral) -> None:
    assert _text(client.chat.stream(**CHAT)) == "one two three"


def _stream_with(client: Mistral) -> None:
    with client.chat.stream(**CHAT) as events:
        assert _text(events) == "one two three"


async def _astream(client: Mistral) -> None:
    async for _ in await client.chat.stream_async(**CHAT):
        pass


def _in_a_loop(ask: Callable[[Mistral], Any]) -> Callable[[Mistral], object]:
    async def all_of_it(client: Mistral) -> None:
        async with client:
            await ask(client)

    return lambda client: asyncio.run(all_of_it(client))


FIM = {"model": "codestral-latest", "prompt": "def f(", "suffix": "return", "max_tokens": 100}
AGENT = {"agent_id": "ag_1", "messages": CHAT["messages"], "max_tokens": 100}
WAYS: dict[str, Callable[[Mistral], object]] = {
    "sync": lambda c: c.chat.complete(**CHAT),
    "stream": _stream,
    "stream with": _stream_with,
    "fim": lambda c: c.fim.complete(**FIM),
    "fim stream": lambda c: list(c.fim.stream(**FIM)),
    "agents": lambda c: c.agents.complete(**AGENT),
    "async": _in_a_loop(lambda c: c.chat.complete_async(**CHAT)),
    "async stream": _in_a_loop(_astream),
}


@pytest.mark.parametrize("way", WAYS)
def test_denied_from_the_start_no_request_and_one_step_of_five_is_one(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(USED)
    for steps, seen in ((0, 5), (1, 4)):
        denials = []
        with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
            for _ in range(5):
                try:
                    WAYS[way](_mistral(server))
                except BudgetExceeded as denial:
                    denials.append(denial.__cause__)
            assert _charged(run) == (steps, 80 * steps, 20 * steps)
        assert denials == [None] * seen
        assert server.requests == steps


@pytest.mark.parametrize("config", [Config(quotas=Quotas(default=[Quota(steps=1, per="day")]))])
@pytest.mark.parametrize("way", ["sync", "stream", "async", "async stream"])
def test_a_tenant_s_quota_of_one_step_is_one_request(way: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(USED)
    with manager.run(tenant="acme", reraise=False):
        WAYS[way](_mistral(server))
        for _ in range(4):
            with pytest.raises(BudgetExceeded):
                WAYS[way](_mistral(server))
    assert server.requests == 1


def test_embeddings_hold_no_output_and_other_endpoints_pass(
    server: Provider, manager: BudgetManager, client: Mistral
) -> None:
    with manager.run(RunBudget(max_output_tokens=0)) as run:
        client.embeddings.create(model="mistral-embed", inputs=["Say it."])
        assert run.usage.steps == 1
    with manager.run(RunBudget(max_steps=0)) as run:
        for other in (client.models.list, lambda: client.classifiers.moderate(model="m", inputs=["fine"])):
            with pytest.raises(errors.SDKError, match="404"):
                other()
        assert _charged(run) == (0, 0, 0)


def test_a_stream_left_early_is_charged_what_was_read(
    server: Provider, manager: BudgetManager, client: Mistral
) -> None:
    given = count_input(CHAT)
    server.enqueue(USED, USED)
    with manager.run() as run, client.chat.stream(**CHAT) as events:
        next(event for event in events if "one" in (event.data.choices[0].delta.content or ""))
    assert _charged(run) == (1, given, estimate_tokens("one "))
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
    for replies, charged in cases:
        server.enqueue(*replies)
        manager.engine.learned = type(manager.engine.learned)()
        client = _mistral(server, retry_config=_retrying())
        ask = _in_a_loop(lambda c: c.chat.complete_async(**CHAT)) if asynchronous else WAYS["sync"]
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                ask(client)
            except errors.SDKError:
                assert charged[2] == 0
            assert _charged(run) == charged
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
        assert _charged(run) == (0, 0, 0)
    server.enqueue(Reply(fault="hang"))
    with manager.run() as run:
        with pytest.raises(httpx2.ReadTimeout):
            WAYS[way](_mistral(server, timeout_ms=200))
        assert _charged(run) == (1, count_input(CHAT), 0)


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
            assert _charged(run) == (2, 160, 54)
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
                assert _charged(run) == (1, 80, 20)
                with pytest.raises(BudgetExceeded):
                    ask(**CHAT)
    finally:
        guard.uninstall()
        contexts.deactivate(manager.engine)
    assert len(served) == 1


# --- coming and going


def test_the_sdk_is_as_before_when_the_guard_is_out(server: Provider) -> None:
    classes = (basesdk.BaseSDK, Mistral, SDKHooks, TemporaryError)

    def state() -> list[Any]:
        found = [f for cls in classes for f in vars(cls).values() if inspect.isfunction(f)]
        return [(f, f.__code__, f.__kwdefaults__, dict(vars(f)), inspect.signature(f)) for f in found]

    before, attributes = state(), [dict(vars(cls)) for cls in classes]
    GUARD.install()
    changed = {f.__name__ for f, code, *_ in before if f.__code__ is not code}
    assert changed == {"do_request", "do_request_async", "before_request", "after_error", "__init__"}
    assert GUARD.unreached() == []
    GUARD.uninstall()
    assert state() == before
    assert [dict(vars(cls)) for cls in classes] == attributes
    assert GUARD.unreached()
    with _mistral(server) as client:
        client.chat.complete(**CHAT)


def test_a_class_that_goes_its_own_way_is_named(manager: BudgetManager) -> None:
    class Own(basesdk.BaseSDK):
        def do_request(self, *args: Any, **how: Any) -> Any:
            return None

    assert [name.rpartition(".")[2] for name in GUARD.unreached()] == ["Own"]
    del Own
    gc.collect()  # a class is in a cycle with itself
    assert GUARD.unreached() == []
