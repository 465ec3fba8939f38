"""What is special about Claude: its spans, its caches, its maximum, its platforms, and who may answer in its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from provider import Provider, Reply
from provider.bedrock import frame

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config import Estimates
from otelbudget.engine import context as contexts
from otelbudget.estimate.media import PER_IMAGE
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

anthropic = pytest.importorskip("anthropic")
from anthropic_ways import ANSWER, ASYNC_WAYS, CHAT, STOPS, WAYS, aclient, client  # noqa: E402 - they need the SDK

INPUT = count_input(CHAT)
USED = Reply(text=ANSWER, input_tokens=80, output_tokens=20, cached_tokens=30, written_tokens=7)
Served = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def manager(config: Config) -> Iterator[BudgetManager]:
    manager = BudgetManager(config)
    contexts.activate(manager.engine)
    GUARDS["anthropic"].install()
    manager.engine.guarded.add("anthropic")
    yield manager
    GUARDS["anthropic"].uninstall()
    contexts.deactivate(manager.engine)


@pytest.fixture
def claude(server: Provider, manager: BudgetManager) -> Iterator[Any]:
    with client(server.root_url) as made:
        yield made


def _charged(run: Any) -> tuple[int, int | None, int | None]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


# --- every way of calling


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_charged_once_and_stopped_before_it_is_sent(
    way: str, server: Provider, manager: BudgetManager, claude: Any
) -> None:
    server.enqueue(USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        WAYS[way](claude)
        assert _charged(run) == (1, 80, 20)
        with pytest.raises(BudgetExceeded) as caught:
            WAYS[way](claude)
        assert (type(caught.value), caught.value.__cause__) == (BudgetExceeded, None)
    assert server.requests == 1


@pytest.mark.parametrize("way", ASYNC_WAYS)
async def test_each_async_way_is_charged_once_and_stopped_before_it_is_sent(
    way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(USED)
    async with aclient(server.root_url) as claude, manager.run(RunBudget(max_steps=1), reraise=False) as run:
        await ASYNC_WAYS[way](claude)
        assert _charged(run) == (1, 80, 20)
        with pytest.raises(BudgetExceeded) as caught:
            await ASYNC_WAYS[way](claude)
        assert (type(caught.value), caught.value.__cause__) == (BudgetExceeded, None)
    assert server.requests == 1


@pytest.mark.parametrize("way", STOPS)
def test_a_stream_left_early_is_charged_the_input_it_told_and_the_output_seen(
    way: str, server: Provider, manager: BudgetManager, claude: Any
) -> None:
    server.enqueue(USED)
    with manager.run() as run:
        STOPS[way](claude)
        assert _charged(run) == (1, 80, estimate_tokens(ANSWER.split()[0]))


def test_a_dropped_stream_and_one_that_ends_in_an_error_are_charged_what_was_seen(
    server: Provider, manager: BudgetManager, claude: Any, gateway: str, answer: dict[str, Any]
) -> None:
    server.enqueue(Reply(chunks=("one ",) * 20, input_tokens=80, fault="drop"))
    with manager.run() as run:
        with pytest.raises(Exception, match=r"peer closed|reset|Connection"):
            list(claude.messages.create(**CHAT, stream=True))
        steps, given, made = _charged(run)
        assert (steps, given) == (1, 80)
        assert 0 < (made or 0) < estimate_tokens("one " * 20)
    events = [
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ]
    answer.update(make=lambda _: (200, _sse(events)), content_type="text/event-stream")
    with client(gateway) as overloaded, manager.run() as run:
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            list(overloaded.messages.create(**CHAT, stream=True))
        assert _charged(run) == (1, 9, 1)


# --- what is held


def test_the_maximum_of_the_request_is_held(server: Provider, manager: BudgetManager, claude: Any) -> None:
    with manager.run(RunBudget(max_output_tokens=99), reraise=False), pytest.raises(BudgetExceeded) as caught:
        claude.messages.create(**CHAT)
    assert (caught.value.resource, caught.value.requested) == ("output_tokens", 100)
    assert server.requests == 0


@pytest.mark.parametrize("config", [Config(estimates=Estimates(clamp=True, min_output_tokens=8))])
def test_a_lowered_maximum_is_sent_unless_it_has_to_cover_a_budget_for_thinking(
    server: Provider, manager: BudgetManager, claude: Any
) -> None:
    with manager.run(RunBudget(max_output_tokens=40), reraise=False) as run:
        claude.messages.create(**CHAT)
        assert server.recent[-1].body["max_tokens"] == 40
    with manager.run(RunBudget(max_output_tokens=40), reraise=False) as run, pytest.raises(BudgetExceeded):
        claude.messages.create(**{**CHAT, "max_tokens": 2000}, thinking={"type": "enabled", "budget_tokens": 1024})
    assert run.usage.steps == 0
    assert server.requests == 1


def test_tools_system_and_images_count_as_input() -> None:
    tool = {"name": "search", "description": "Finds documents.", "input_schema": {"type": "object"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 90_000}}
    words = "word " * 2000
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": words}}
    page = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}}
    for more in ({"system": "Answer in one short sentence."}, {"tools": [tool]}):
        assert count_input({**CHAT, **more}) > INPUT + 5

    def holding(block: dict[str, Any]) -> int:
        return count_input({**CHAT, "messages": [{"role": "user", "content": [block]}]})

    assert PER_IMAGE < holding(image) < PER_IMAGE + 20
    assert holding(document) >= estimate_tokens(words)
    assert 10_000 < holding(page) < 20_000
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    assert PER_IMAGE < holding(result) < PER_IMAGE + 20


def test_a_cached_input_costs_what_the_list_says(server: Provider, manager: BudgetManager, claude: Any) -> None:
    """Claude Haiku 4.5: $1 a million in, $5 out, $0.10 read from a cache and $1.25 written to one."""
    pytest.importorskip("genai_prices")
    server.enqueue(Reply(text="one", input_tokens=1000, output_tokens=100, cached_tokens=600, written_tokens=100))
    with manager.run() as run:
        claude.messages.create(**{**CHAT, "model": "claude-haiku-4-5"})
    assert run.usage.cost_usd == Decimal("0.000300") + Decimal("0.00006") + Decimal("0.000125") + Decimal("0.0005")


# --- its own spans


@pytest.mark.parametrize("stream", [False, True])
def test_its_own_span_carries_the_one_check_and_the_one_charge(
    stream: bool, server: Provider, manager: BudgetManager
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(manager)
    server.enqueue(USED)
    with client(server.root_url, open_telemetry={"tracer_provider": provider}) as claude:
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            list(claude.messages.create(**CHAT, stream=stream))
            with pytest.raises(BudgetExceeded):
                claude.messages.create(**CHAT)
        assert _charged(run) == (1, 80, 20)
    native = [span for span in exporter.get_finished_spans() if span.name.startswith("anthropic")]
    assert [[event.name for event in span.events].count("otelbudget.check") for span in native] == [1, 1]
    assert [span.attributes["otelbudget.decision"] for span in native if span.attributes] == ["allow", "deny"]


# --- who answers in its place


def test_what_a_middleware_answers_itself_is_free_and_what_it_sends_again_is_charged(
    server: Provider, manager: BudgetManager
) -> None:
    kept = anthropic.types.Message.model_validate(
        {"id": "kept", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn"}
        | {"stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 9}}
    )
    with client(server.root_url, middleware=[lambda request, call_next: kept]) as claude, manager.run() as run:
        assert claude.messages.create(**CHAT).id == "kept"
        assert _charged(run) == (0, 0, 0)

    def again(request: Any, call_next: Any) -> Any:
        try:
            return call_next(request)
        except anthropic.APIConnectionError:
            return call_next(request)

    server.enqueue(Reply(fault="reset"), USED)
    with client(server.root_url, middleware=[again]) as claude, manager.run() as run:
        claude.messages.create(**CHAT)
        assert _charged(run) == (1, 80 + INPUT, 20)
    assert server.requests == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_middleware_that_asks_again_though_it_has_an_answer_makes_another_call(
    steps: int, streamed: bool, server: Provider, manager: BudgetManager
) -> None:
    def twice(request: Any, call_next: Any) -> Any:
        call_next(request).http_response.close()
        return call_next(request)

    server.enqueue(USED, USED)
    budget = RunBudget(max_steps=steps)
    with client(server.root_url, middleware=[twice]) as claude, manager.run(budget, reraise=False) as run:
        with pytest.raises(BudgetExceeded) if steps == 1 else nullcontext():
            list(claude.messages.create(**CHAT, stream=streamed))
        charged = _charged(run)
    assert (charged[0], server.requests) == (steps, steps)
    assert streamed or charged[1:] == (steps * 80, steps * 20)


def test_what_it_asks_again_and_never_sends_costs_nothing(server: Provider, manager: BudgetManager) -> None:
    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        server.close()
        return call_next(request)

    server.enqueue(USED)
    with client(server.root_url, middleware=[twice]) as claude, manager.run() as run:
        with pytest.raises(anthropic.APIConnectionError):
            claude.messages.create(**CHAT)
        assert _charged(run) == (1, 80, 20)


async def test_an_asynchronous_one_too(server: Provider, manager: BudgetManager) -> None:
    async def twice(request: Any, call_next: Any) -> Any:
        await call_next(request)
        return await call_next(request)

    server.enqueue(USED, USED)
    async with aclient(server.root_url, middleware=[twice]) as claude:
        with manager.run(RunBudget(max_steps=2)) as run:
            await claude.messages.create(**CHAT)
            assert _charged(run) == (2, 160, 40)
        with manager.run(RunBudget(max_steps=1), reraise=False), pytest.raises(BudgetExceeded):
            await claude.messages.create(**CHAT)
    assert server.requests == 3


# --- its platforms

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-demo",
    "content": [{"type": "text", "text": "one"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 60, "cache_read_input_tokens": 20, "output_tokens": 5},
}
EVENTS = (
    {"type": "message_start", "message": MESSAGE | {"content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one two"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 25}},
    {"type": "message_stop"},
)
PLATFORMS = {
    "AnthropicBedrock": {"aws_access_key": "key", "aws_secret_key": "secret", "aws_region": "us-east-1"},
    "AnthropicVertex": {"access_token": "token", "project_id": "project", "region": "here"},
    "AnthropicFoundry": {"api_key": "key"},
}


def _sse(events: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


@pytest.fixture
def platform(request: pytest.FixtureRequest, gateway: str, manager: BudgetManager) -> Iterator[Any]:
    pytest.importorskip({"AnthropicBedrock": "boto3", "AnthropicVertex": "google.auth"}.get(request.param, "anthropic"))
    with getattr(anthropic, request.param)(base_url=gateway, max_retries=0, **PLATFORMS[request.param]) as made:
        yield made


@pytest.mark.parametrize("platform", PLATFORMS, indirect=True)
def test_other_platforms_are_stopped_and_charged_exactly(
    platform: Any, manager: BudgetManager, answer: dict[str, Any], served: Served
) -> None:
    answer["make"] = lambda _: (200, MESSAGE)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        platform.messages.create(**CHAT)
        assert _charged(run) == (1, 80, 5)
        for stream in (False, True):
            with pytest.raises(BudgetExceeded):
                platform.messages.create(**CHAT, stream=stream)
    assert len(served) == 1


@pytest.mark.parametrize("platform", PLATFORMS, indirect=True)
@pytest.mark.parametrize("whole", [True, False])
def test_streams_of_other_platforms_are_charged_exactly(
    platform: Any, whole: bool, manager: BudgetManager, answer: dict[str, Any]
) -> None:
    if "Bedrock" in type(platform).__name__:
        answer.update(content_type="application/vnd.amazon.eventstream")
        answer["make"] = lambda _: (200, b"".join(frame({"chunk": event}) for event in EVENTS))
    else:
        answer.update(make=lambda _: (200, _sse(EVENTS)), content_type="text/event-stream")
    with manager.run() as run, platform.messages.create(**CHAT, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                assert event.delta.text == "one two"
                if not whole:
                    break
    assert _charged(run) == (1, 80, 25 if whole else 5)
