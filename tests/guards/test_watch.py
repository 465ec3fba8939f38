"""Answers dropped by the garbage collector: settled before a run tells what is left, and before it refuses."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai_ways import CHAT
from provider import Provider, Reply
from world import used

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import watch
from otelbudget.manager import BudgetManager
from otelbudget.runs.run import BudgetRun

INPUT = count_input(CHAT)
SPENT = INPUT + estimate_tokens("one ")
LIMIT = 500
#: As much as does not fit beside a dropped stream's hold, and fits once that has been settled.
MUCH = 300


@pytest.fixture
def run(server: Provider, manager: BudgetManager, client: OpenAI) -> Iterator[BudgetRun]:
    """A run whose stream was dropped after its first chunk, and is still held."""
    manager.engine.overdue.append(watch.settle_dropped)
    server.enqueue(Reply(chunks=("one ", "two ", "three")))
    with manager.run(RunBudget(max_tokens=LIMIT)) as run:
        stream = client.chat.completions.create(**CHAT, stream=True, max_tokens=400)
        circle: list[Any] = [stream]
        circle.append(circle)
        while not next(stream).choices[0].delta.content:
            pass
        del stream, circle
        gc.collect()
        assert (run._state.account.holds, used(run)) == (1, [0] * 7)
        yield run


LOOKS: dict[str, Callable[[BudgetRun], Any]] = {
    "usage": lambda run: run.usage.tokens,
    "direct usage": lambda run: run.direct_usage.tokens,
    "remaining": lambda run: LIMIT - run.remaining()["tokens"],
    "receipt": lambda run: run.receipt().used["tokens"],
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_a_run_shows_counts_a_stream_that_was_dropped(run: BudgetRun, look: str) -> None:
    assert LOOKS[look](run) == SPENT
    assert run._state.account.holds == 0


ASKS: dict[str, Callable[[BudgetRun], Any]] = {
    "check": lambda run: run.check(steps=1, tokens=MUCH),
    "can_proceed": lambda run: run.can_proceed(tokens=MUCH) or pytest.fail("refused"),
    "reserve": lambda run: run.reserve(tokens=MUCH).release(),
}


@pytest.mark.parametrize("ask", ASKS)
def test_a_request_is_not_refused_for_the_sake_of_a_stream_that_was_dropped(run: BudgetRun, ask: str) -> None:
    ASKS[ask](run)
    assert (run._state.account.holds, run.receipt().denials, run.usage.tokens) == (0, 0, SPENT)


@pytest.mark.parametrize("ask", ["acheck", "acan_proceed", "areserve"])
async def test_nor_is_one_of_a_coroutine(run: BudgetRun, ask: str) -> None:
    assert await getattr(run, ask)(tokens=MUCH)
    assert (run.receipt().denials, run.usage.tokens) == (0, SPENT)


def test_what_does_not_fit_even_so_is_refused_by_its_limit(run: BudgetRun) -> None:
    with pytest.raises(BudgetExceeded) as denied:
        run.check(tokens=LIMIT)
    assert (denied.value.reason, denied.value.used, denied.value.reserved) == ("limit", SPENT, 0)
    run.acknowledge()


def test_nothing_is_settled_by_who_looks_with_the_lock_held(run: BudgetRun) -> None:
    with run._state.engine.ledger.lock:  # as the collector and signal handlers may, in the middle of a charge
        assert run.usage.tokens == 0
    assert run.usage.tokens == SPENT


def test_nothing_is_settled_inside_the_collector(run: BudgetRun) -> None:
    watch._note_collection("start", {})
    try:
        assert run.usage.tokens == 0
        assert not watch.settle_dropped()
    finally:
        watch._note_collection("stop", {})
    assert run.usage.tokens == SPENT
