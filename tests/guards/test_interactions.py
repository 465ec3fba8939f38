"""Google's Interactions, which have a client of their own: stopped before they are sent, charged what they used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google_ways import gemini, in_a_loop

from otelbudget import BudgetExceeded, RunBudget, Usage
from otelbudget.guards import GUARDS
from otelbudget.guards.watch import settle_dropped
from otelbudget.manager import BudgetManager

pytest.importorskip("google.genai._gaos.basesdk")
#: Warnings of the SDK itself.
pytestmark = pytest.mark.filterwarnings("ignore")

ASK: dict[str, Any] = {"model": "gemini-2.5-flash", "input": "Say it."}
USAGE = {
    "total_input_tokens": 80,
    "total_output_tokens": 20,
    "total_thought_tokens": 5,
    "total_cached_tokens": 30,
    "total_tool_use_tokens": 2,
    "total_tokens": 107,
}
DONE = {"id": "i-1", "model": "gemini-2.5-flash", "status": "completed", "steps": [], "usage": USAGE}
Served = list[tuple[str, dict[str, Any]]]


def said(body: dict[str, Any]) -> tuple[int, Any]:
    if not body.get("stream"):
        return 200, DONE
    pieces = [{"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": f"{word} "}} for word in "abc"]
    events = [*pieces, {"event_type": "interaction.completed", "interaction": DONE}]
    return 200, b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events)


async def _ask(client: Any) -> None:
    await client.aio.interactions.create(**ASK)


async def _stream(client: Any) -> None:
    assert len([one async for one in await client.aio.interactions.create(**ASK, stream=True)]) == 4


WAYS: dict[str, Callable[[Any], object]] = {
    "sync": lambda client: client.interactions.create(**ASK),
    "stream": lambda client: len(list(client.interactions.create(**ASK, stream=True))),
    "async": in_a_loop(_ask),
    "async stream": in_a_loop(_stream),
}


@pytest.fixture
def sdk() -> str:
    return "google_genai.interactions"


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, gateway: str, answer: dict[str, Any], manager: BudgetManager) -> Iterator[Any]:
    answer["make"] = said

    def call() -> None:
        client = gemini(gateway)
        try:
            WAYS[request.param](client)
        finally:
            client.close()

    return call


def test_it_is_charged_what_it_used(ask: Callable[[], None], manager: BudgetManager) -> None:
    with manager.run() as run:
        ask()
    usage = run.usage
    assert (usage.steps, usage.input_tokens, usage.output_tokens) == (1, 82, 25)
    assert not usage.estimated
    told = Usage.of(DONE)
    assert (told.cache_read_tokens, told.reasoning_tokens, told.response_id) == (30, 5, "i-1")


def test_it_is_stopped_before_it_is_sent(ask: Callable[[], None], manager: BudgetManager, served: Served) -> None:
    for steps in (0, 1):
        with manager.run(RunBudget(max_steps=steps)) as run:
            for _ in range(steps):
                ask()
            with pytest.raises(BudgetExceeded):
                ask()
            run.acknowledge()
    assert len(served) == 1


def test_what_is_asked_of_one_that_is_there_is_no_call(
    gateway: str, answer: dict[str, Any], manager: BudgetManager, served: Served
) -> None:
    answer["make"] = said
    client = gemini(gateway)
    with manager.run(RunBudget(max_steps=0)):
        client.interactions.cancel(id="i-1")
    client.close()
    assert len(served) == 1


def test_decisions_are_charged_and_stopped_too(
    gateway: str, answer: dict[str, Any], manager: BudgetManager, served: Served
) -> None:
    answer["make"] = lambda _: (200, {"answers": {}, "usage": USAGE})
    client = gemini(gateway)
    if not hasattr(client, "decisions"):
        pytest.skip("this google-genai has none")
    asked: dict[str, Any] = {**ASK, "questions": {"q": {"type": "noul", "instructions": "Is it?"}}}
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        client.decisions.create(**asked)
        with pytest.raises(BudgetExceeded):
            client.decisions.create(**asked)
    client.close()
    assert (len(served), run.usage.tokens) == (1, 107)


def test_a_stream_lets_go_when_its_reader_does(gateway: str, answer: dict[str, Any], manager: BudgetManager) -> None:
    answer["make"] = said
    client = gemini(gateway)
    with manager.run(RunBudget(max_tokens=2_000)) as run:
        stream = client.interactions.create(**ASK, stream=True)
        for _ in stream:
            break
        settle_dropped()
        assert not list(manager.engine.ledger.open)
    assert run.usage.estimated
    client.close()


def test_all_clients_reach_the_guard_and_none_once_it_is_out(manager: BudgetManager) -> None:
    guard = GUARDS["google_genai.interactions"]
    assert guard.unreached() == []
    guard.uninstall()
    assert guard.unreached()
    guard.install()


def test_its_maximum_is_held_and_what_it_goes_on_from_counts(
    gateway: str, answer: dict[str, Any], manager: BudgetManager, served: Served
) -> None:
    answer["make"] = said
    client = gemini(gateway)
    with manager.run(RunBudget(max_tokens=300)) as run:
        with pytest.raises(BudgetExceeded, match="requested"):
            client.interactions.create(**ASK, generation_config={"max_output_tokens": 400})
        first = client.interactions.create(**ASK, generation_config={"max_output_tokens": 100})
        with pytest.raises(BudgetExceeded):
            client.interactions.create(
                **ASK, previous_interaction_id=first.id, generation_config={"max_output_tokens": 100}
            )
        run.acknowledge()
    client.close()
    assert len(served) == 1
