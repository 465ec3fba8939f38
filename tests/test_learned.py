"""What calls teach about the next ones of their model: bounded, per model, never by an estimate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otelbudget.estimate.learned import AFTER, HIGHEST, LOWEST, MODELS, WEIGHT, WINDOW, Learned
from otelbudget.model.usage import Usage

P, M = "openai", "gpt-4o"


def taught(*outputs: int, answers: int = 1) -> Learned:
    learned = Learned()
    for output in outputs:
        learned.learn(P, M, Usage(10, output), answers=answers)
    return learned


def test_nothing_is_known_of_a_model_that_was_not_seen() -> None:
    learned = taught(*[5] * AFTER)
    for provider, model in ((P, "gpt-4o-mini"), ("azure.ai.openai", M), (P, None), (P, "")):
        assert learned.output_tokens(provider, model) is None
        assert learned.input_tokens(provider, model, 7) == 7
        assert learned.reports_cost(provider, model) is None
        assert learned.cost_nanousd(provider, model, 7) is None


# --- output


def test_answers_say_how_long_the_next_is_from_the_fifth_on() -> None:
    assert taught(1, 2, 3, 4).output_tokens(P, M) is None
    assert taught(1, 2, 8, 4, 5).output_tokens(P, M) == 10


def test_only_the_last_hundred_answers_count() -> None:
    learned = taught(*[9_999] * WINDOW, *[3] * WINDOW)
    assert learned.output_tokens(P, M) == 4
    learned.learn(P, M, Usage(10, 8))
    assert learned.output_tokens(P, M) == 10


def test_several_answers_share_an_output_and_it_is_rounded_up() -> None:
    assert taught(*[31] * AFTER, answers=3).output_tokens(P, M) == 14


def test_a_release_is_the_model_without_its_date() -> None:
    learned = Learned()
    for day in range(1, 1 + AFTER):
        learned.learn(P, f"gpt-4o-2024-08-0{day}", Usage(20, day), counted_input=10)
    assert (learned.output_tokens(P, M), learned.input_tokens(P, "gpt-4o-20240801", 10)) == (7, 20)


@given(st.lists(st.integers(1, 10_000), min_size=AFTER, max_size=2 * WINDOW))
def test_it_is_a_quarter_more_than_the_longest_rounded_up(outputs: list[int]) -> None:
    held = taught(*outputs).output_tokens(P, M)
    assert held is not None
    assert 0 <= held - max(outputs[-WINDOW:]) * 1.25 < 1


# --- input


def test_counted_input_is_corrected_from_the_first_call_on_and_rounded_up() -> None:
    learned = Learned()
    learned.learn(P, M, Usage(150, 1), counted_input=100)
    assert [learned.input_tokens(P, M, counted) for counted in (1, 2, 3, 100, 101)] == [2, 3, 5, 150, 152]


def test_the_correction_is_a_moving_average_and_the_mean_deviation_from_it() -> None:
    learned = Learned()
    learned.learn(P, M, Usage(100, 1), counted_input=100)
    learned.learn(P, M, Usage(200, 1), counted_input=100)
    assert learned.input_tokens(P, M, 1_000) == 1_000 + 2 * round(1_000 * WEIGHT)
    for _ in range(60):
        learned.learn(P, M, Usage(200, 1), counted_input=100)
    assert learned.input_tokens(P, M, 1_000) == 2_000


@pytest.mark.parametrize(("actual", "factor"), [(1, LOWEST), (10**9, HIGHEST)])
def test_the_correction_is_bounded_and_so_is_the_weight_of_one_odd_call(actual: int, factor: float) -> None:
    learned = Learned()
    learned.learn(P, M, Usage(actual, 1), counted_input=1_000)
    assert learned.input_tokens(P, M, 100) == 100 * factor
    for _ in range(100):
        learned.learn(P, M, Usage(1_000, 1), counted_input=1_000)
    assert learned.input_tokens(P, M, 100) == 100
    learned.learn(P, M, Usage(actual, 1), counted_input=1_000)
    assert 100 * (1 - WEIGHT * 0.5) - 1 <= learned.input_tokens(P, M, 100) <= 100 * (1 + 2 * WEIGHT * 2) + 1


# --- what teaches


@pytest.mark.parametrize(
    "usage",
    [
        Usage(500, 500, estimated=True),
        Usage(0, 0),
        Usage(tokens=500),
        Usage(500),
        Usage(cost_usd=1),
    ],
)
def test_estimates_and_answers_without_an_output_teach_nothing(usage: Usage) -> None:
    learned = taught(*[7] * AFTER)
    for _ in range(WINDOW):
        learned.learn(P, M, usage, counted_input=100, cost_nanousd=5)
    assert (learned.output_tokens(P, M), learned.input_tokens(P, M, 100)) == (9, 100)
    assert learned.reports_cost(P, M) is None


def test_what_has_no_answers_teaches_only_of_its_input() -> None:
    learned = Learned()
    for _ in range(AFTER):
        learned.learn(P, "embed", Usage(20, 0), counted_input=10, answers=None)
    assert (learned.output_tokens(P, "embed"), learned.input_tokens(P, "embed", 10)) == (None, 20)


def test_a_call_without_a_model_or_a_count_teaches_nothing_of_them() -> None:
    learned = Learned()
    learned.learn(P, None, Usage(20, 5), counted_input=10)
    learned.learn(P, M, Usage(20, 5), counted_input=None)
    learned.learn(P, M, Usage(0, 5), counted_input=10)
    assert (learned.input_tokens(P, None, 10), learned.input_tokens(P, M, 10)) == (10, 10)


# --- reported costs


def test_the_dearest_reported_cost_for_a_token_is_what_tokens_cost_rounded_up() -> None:
    learned = Learned()
    assert learned.reports_cost(P, M) is None
    learned.learn(P, M, Usage(10, 20), cost_nanousd=100)
    learned.learn(P, M, Usage(10, 20), cost_nanousd=50)
    assert learned.reports_cost(P, M) is True
    assert (learned.cost_nanousd(P, M, 30), learned.cost_nanousd(P, M, 1), learned.cost_nanousd(P, M, 0)) == (101, 4, 0)


def test_the_last_response_says_whether_costs_are_reported() -> None:
    learned = Learned()
    for cost, reports in ((0, False), (5, True), (None, True), (0, False)):
        learned.learn(P, M, Usage(10, 20), cost_nanousd=cost)
        assert learned.reports_cost(P, M) is reports
        assert (learned.cost_nanousd(P, M, 30) is None) is not reports


# --- bounds


def test_the_model_not_asked_about_for_longest_is_forgotten() -> None:
    learned = taught(*[7] * AFTER)
    for number in range(2 * MODELS):
        learned.learn(P, f"model-{number}", Usage(20, 5), counted_input=10)
        assert learned.output_tokens(P, M) == 9
    known = [n for n in range(2 * MODELS) if learned.input_tokens(P, f"model-{n}", 10) == 20]
    assert known == list(range(MODELS + 1, 2 * MODELS))


def test_threads_may_teach_and_ask_at_once() -> None:
    learned = Learned()

    def work(number: int) -> None:
        for i in range(300):
            learned.learn(P, f"model-{(number + i) % (MODELS + 20)}", Usage(20, 5), counted_input=10)
            learned.learn(P, M, Usage(20, 5), counted_input=10)
            assert learned.output_tokens(P, M) in (None, 7)
            assert learned.input_tokens(P, M, 10) == 20

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert learned.output_tokens(P, M) == 7
