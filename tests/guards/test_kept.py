"""Turns of a conversation that the provider keeps are held at what was seen of it, also side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI
from openai_ways import CHAT, RESPONSE
from provider import Provider, Reply

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.bootstrap import threads
from otelbudget.estimate.learned import KEPT, Learned
from otelbudget.estimate.tokens import count_input
from otelbudget.manager import BudgetManager
from otelbudget.model.amounts import CEILING

OWN = count_input(RESPONSE)
MAXIMUM = 100
OTHER = RESPONSE | {"model": "demo-large"}  # so that its input, which is not what it was counted as, teaches nothing
FIRST = Reply(text="It.", input_tokens=4_000, output_tokens=1_000)


@pytest.fixture(autouse=True)
def _threads_carry_the_run() -> Iterator[None]:
    threads.carry_context()
    yield
    threads.stop_carrying()


def _ask(client: OpenAI, **more: Any) -> Any:
    return client.responses.create(**RESPONSE, max_output_tokens=MAXIMUM, **more)


def test_a_follow_up_is_held_at_least_at_what_the_answer_before_it_used(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(FIRST)
    first = client.responses.create(**OTHER)
    for room, fits in ((5_000 + OWN + MAXIMUM, True), (5_000 + OWN + MAXIMUM - 1, False)):
        with manager.run(RunBudget(max_tokens=room), reraise=False):
            if fits:
                _ask(client, previous_response_id=first.id)
            else:
                with pytest.raises(BudgetExceeded):
                    _ask(client, previous_response_id=first.id)
    assert server.requests == 2


@pytest.mark.parametrize("form", [lambda it: it, lambda it: {"id": it}], ids=["id", "object"])
def test_each_turn_of_a_conversation_is_held_at_the_longest_before_it(
    server: Provider, manager: BudgetManager, client: OpenAI, form: Any
) -> None:
    for used in ((100, 20), (4_000, 1_000), (300, 10)):
        server.enqueue(Reply(text="It.", input_tokens=used[0], output_tokens=used[1]))
        client.responses.create(**RESPONSE, conversation=form("conv_1"))
    with manager.run(RunBudget(max_tokens=5_000 + MAXIMUM), reraise=False), pytest.raises(BudgetExceeded):
        _ask(client, conversation=form("conv_1"))
    with manager.run(RunBudget(max_tokens=5_000 + MAXIMUM)):
        _ask(client, conversation=form("conv_2"))


def test_a_streamed_answer_is_kept_in_mind_too(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    server.enqueue(FIRST)
    with client.responses.create(**RESPONSE, stream=True) as stream:
        first = list(stream)[-1].response.id
    with manager.run(RunBudget(max_tokens=5_000), reraise=False), pytest.raises(BudgetExceeded):
        _ask(client, previous_response_id=first)


def test_eight_follow_ups_side_by_side_never_pass_the_limit(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(FIRST)
    first = client.responses.create(**OTHER)
    each = 5_000 + OWN
    server.enqueue(*(Reply(text="It.", input_tokens=each, output_tokens=MAXIMUM) for _ in range(8)))
    limit = 3 * (each + MAXIMUM) + 1_000

    def follow(_: int) -> bool:
        try:
            _ask(client, previous_response_id=first.id)
        except BudgetExceeded:
            return False
        return True

    with manager.run(RunBudget(max_tokens=limit), reraise=False) as run, ThreadPoolExecutor(8) as pool:
        admitted = sum(pool.map(follow, range(8)))
    assert admitted == 3
    assert run.usage.tokens == 3 * (each + MAXIMUM) <= limit


def test_what_earlier_turns_add_does_not_count_as_an_error_of_the_estimate(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    server.enqueue(Reply(text="It.", input_tokens=OWN, output_tokens=50))
    first = client.responses.create(**RESPONSE)
    server.enqueue(Reply(text="It.", input_tokens=20_000, output_tokens=50))
    client.responses.create(**RESPONSE, previous_response_id=first.id)
    assert manager.engine.learned.input_tokens("openai", "demo-small", 1_000) == 1_000


def test_answers_that_are_not_kept_are_not_remembered(server: Provider, manager: BudgetManager, client: OpenAI) -> None:
    answer = client.chat.completions.create(**CHAT)
    assert manager.engine.learned.kept_tokens("openai", answer.id) == 0


def test_a_nonsensical_usage_of_the_answer_before_denies_rather_than_raises(
    server: Provider, manager: BudgetManager, client: OpenAI
) -> None:
    manager.engine.learned.keep("openai", "resp_huge", CEILING - 1)
    with manager.run(RunBudget(max_tokens=1_000_000), reraise=False), pytest.raises(BudgetExceeded):
        _ask(client, previous_response_id="resp_huge")
    with manager.run():
        _ask(client, previous_response_id="resp_huge")


def test_the_newest_are_remembered_and_only_so_many() -> None:
    learned = Learned()
    for number in range(KEPT + 10):
        learned.keep("p", f"resp_{number}", 7)
    assert [learned.kept_tokens("p", f"resp_{number}") for number in (0, 9, 10, KEPT + 9)] == [0, 0, 7, 7]
    assert learned.kept_tokens("other", "resp_10") == learned.kept_tokens("p", None) == 0
