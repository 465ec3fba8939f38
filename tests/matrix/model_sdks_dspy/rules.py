"""dspy's own client, in each format that it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from provider import Provider, Reply

import otelbudget
from otelbudget import RunBudget
from otelbudget.guards import GUARDS

PACKAGE, SAW = "dspy", "LMUnexpectedError, which says why"
SAID = "[[ ## answer ## ]]\none two\n\n[[ ## completed ## ]]"
USED = Reply(text=SAID, input_tokens=80, output_tokens=20)


@pytest.fixture(autouse=True)
def _guarded(setup: Callable[..., otelbudget.BudgetManager]) -> None:
    setup()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


def _model(route: str, server: Provider, **how: Any) -> Any:
    urls = {
        "openai/gpt-4o-mini": server.base_url,
        "anthropic/claude-haiku-4-5": server.base_url,
        "gemini/gemini-2.5-flash": f"{server.root_url}/v1beta",
    }
    name = next(name for name in urls if name.startswith(route))
    return dspy.LM(name, api_base=urls[name], api_key="none", **{"max_tokens": 100, **how})


async def _streamed(model: Any) -> None:
    with dspy.context(lm=model):
        listener = dspy.streaming.StreamListener("answer")
        async for _ in dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])(question="So?"):
            ...


WAYS: dict[str, Callable[[Any], object]] = {
    "sync": lambda model: model("Say it."),
    "async": lambda model: asyncio.run(model.acall("Say it.")),
    "async stream": lambda model: asyncio.run(_streamed(model)),
}


def _charged(run: Any) -> tuple[int, int, int]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.input_tokens, run.usage.output_tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("steps", [0, 1])
def test_of_five_calls_as_many_are_sent_as_there_are_steps(
    steps: int, route: str, way: str, server: Provider, sent: dict[int, list[int]]
) -> None:
    server.enqueue(*[USED] * steps)
    model, became = _model(route, server), []
    with otelbudget.run(RunBudget(max_steps=steps), reraise=False) as run:
        for _ in range(5):
            try:
                WAYS[way](model)
                became.append("answered")
            except dspy.LMUnexpectedError as error:  # which says what it comes of, for streams in words alone
                became.append("denied" if "exhausted: steps" in str(error) else repr(error))
        assert _charged(run) == (steps, 80 * steps, 20 * steps)
        assert not run.usage.estimated
    assert became == ["answered"] * steps + ["denied"] * (5 - steps)
    assert server.requests == steps
    sent[steps].append(server.requests)


@pytest.mark.parametrize("way", WAYS)
def test_a_call_without_an_answer_ends_with_the_run_s_time(way: str, server: Provider) -> None:
    server.enqueue(*[Reply(fault="hang")] * 4)
    with otelbudget.run(RunBudget(max_seconds=0.3), reraise=False) as run:
        with pytest.raises(dspy.LMUnexpectedError, match="out of time"):
            WAYS[way](_model("openai", server))
        assert _charged(run)[0] == 1
    assert server.requests == 1


def test_a_stream_that_outgrows_the_budget_is_cut(server: Provider) -> None:
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    with otelbudget.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        with pytest.raises(dspy.LMUnexpectedError, match="exhausted: output_tokens"):
            asyncio.run(_streamed(_model("openai", server, max_tokens=None)))
        assert 500 < _charged(run)[2] < 610


def test_its_guard_reaches_its_transports() -> None:
    assert GUARDS["dspy"].unreached() == []
