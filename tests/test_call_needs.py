"""What a call holds before it is sent, how it could do with less, and what a cost that its answer reports is worth."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from world import PRICES, World, held, said, used

from otelbudget import BudgetExceeded, Config, RunBudget, Usage, wrap
from otelbudget.calls.model_call import BLOCK, ModelCall, ModelRequest, begin
from otelbudget.config import Estimates
from otelbudget.estimate.learned import AFTER
from otelbudget.model.quota import Quota, Quotas
from otelbudget.pricing import Price, Prices

CHAT = ModelRequest(provider="openai", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)


@pytest.fixture(autouse=True)
def active(world: World) -> None:
    world.activate()


def begun(request: ModelRequest = CHAT) -> ModelCall:
    call = begin(request)
    assert call is not None
    return call


# --- what is held


def estimating(make_world: Callable[..., World], prices: Prices = PRICES, **how: Any) -> World:
    world = make_world(config=Config(prices=prices, estimates=Estimates(**how)))
    world.activate()
    return world


OPEN = replace(CHAT, max_output_tokens=None)
LOWERABLE = replace(CHAT, lowerable=True)


def taught(usage: Usage, request: ModelRequest = OPEN, times: int = AFTER) -> None:
    for _ in range(times):
        begun(request).commit(usage)


def held_by(world: World, request: ModelRequest) -> list[int]:
    with world.run() as run:
        call = begun(request)
        amounts = held(run)[1:4]
        call.release()
    return amounts


def test_the_fifth_answer_of_a_model_replaces_the_default_and_never_the_requests_own_maximum(world: World) -> None:
    with world.run():
        taught(Usage(40, 30), times=AFTER - 1)
        assert held_by(world, OPEN) == [296, 40, 256]
        taught(Usage(40, 30), times=1)
    assert held_by(world, OPEN) == [78, 40, 38]
    assert held_by(world, CHAT) == [100, 40, 60]
    assert held_by(world, replace(OPEN, model="demo-2025-01-01")) == [78, 40, 38]
    assert held_by(world, replace(OPEN, model="other")) == [296, 40, 256]
    assert held_by(world, replace(OPEN, provider="other")) == [296, 40, 256]


def test_what_is_expected_is_held_for_each_answer(world: World) -> None:
    three = replace(OPEN, answers=3)
    assert held_by(world, three) == [40 + 768, 40, 768]
    with world.run():
        taught(Usage(40, 90), three)
    assert held_by(world, three) == [154, 40, 114]
    assert held_by(world, OPEN) == [78, 40, 38]


def test_reasoning_that_has_a_price_of_its_own_is_held(make_world: Callable[..., World]) -> None:
    prices = Prices({"demo": Price(input=1, output=2, reasoning=10)}, listed=False)
    world = estimating(make_world, prices)
    with world.run() as run:
        call = begun(CHAT)
        assert held(run)[4] == (40 + 600) * 1_000
        call.commit(Usage(40, 60, reasoning_tokens=60))
        assert used(run)[4] == (40 + 600) * 1_000


def test_what_teaches_nothing(world: World) -> None:
    with world.run():
        for _ in range(2 * AFTER):
            begun(OPEN).commit(None)
            begun(OPEN).commit(Usage(400, 3, estimated=True))
            begun(OPEN).commit(Usage(tokens=400))
            begun(OPEN).unknown(3)
            begun(OPEN).failed(Usage(400, 3))
            begun(OPEN).release()
            begun(replace(OPEN, model=None)).commit(Usage(400, 3))
    assert held_by(world, OPEN) == [296, 40, 256]


def test_counted_input_is_corrected_and_the_estimate_of_an_unknown_end_too(world: World) -> None:
    with world.run() as run:
        taught(Usage(50, 60), CHAT, times=1)
        call = begun(replace(CHAT, input_tokens=41))
        assert (call.input_tokens, held(run)[1:4]) == (52, [112, 52, 60])  # 41 * 1.25 = 51.25
        call.unknown(3)
        assert used(run)[1:4] == [50 + 60 + 52 + 3, 50 + 52, 60 + 3]


@pytest.mark.parametrize(("hold", "held_input"), [("max", 40), ("expected", 20)])
def test_what_other_texts_were_counted_too_high_lowers_no_hold_that_is_to_be_enough(
    make_world: Callable[..., World], hold: str, held_input: int
) -> None:
    world = estimating(make_world, hold=hold)
    with world.run():
        taught(Usage(20, 60), CHAT, times=1)
    assert held_by(world, CHAT)[1] == held_input


DEAR = Prices({"demo": Price(input=1, output=2, cache_write=3, audio_input=5, audio_output=10, per=1)}, listed=False)


@pytest.mark.parametrize(
    ("apart", "usd"),
    [
        (set(), 40 + 120),
        ({"image_output_tokens"}, 40 + 120),
        ({"cache_write_tokens"}, 120 + 120),
        ({"cache_write_tokens", "cache_write_1h_tokens"}, 120 + 120),
        ({"audio_input_tokens"}, 30 + 50 + 120),
        ({"audio_output_tokens"}, 40 + 600),
        ({"audio_input_tokens", "cache_write_tokens", "audio_output_tokens"}, 90 + 50 + 600),
    ],
)
def test_what_may_be_priced_apart_is_held_at_the_dearest_that_its_model_has_a_price_for(
    make_world: Callable[..., World], apart: set[str], usd: int
) -> None:
    world = estimating(make_world, DEAR)
    request = replace(CHAT, apart=frozenset(apart), audio_input_tokens=10 if "audio_input_tokens" in apart else 0)
    with world.run() as run:
        call = begun(request)
        assert held(run)[4] == usd * 10**9
        call.release()


def test_a_picture_is_never_expected_to_be_less_than_was_asked_for(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, hold="expected")
    assert held_by(world, replace(CHAT, operation="image_generation", max_output_tokens=4_160))[2] == 4_160
    assert held_by(world, replace(CHAT, max_output_tokens=4_160))[2] == 256


def test_a_cache_that_is_dearer_to_read_than_the_input_is_held_for(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, Prices({"demo": Price(input=1, output=2, cache_read=3, per=1)}, listed=False))
    with world.run() as run:
        call = begun(CHAT)
        assert held(run)[4] == (3 * 40 + 120) * 10**9
        call.release()


def test_what_is_held_beyond_the_count_may_be_more_of_the_sound(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, DEAR)
    request = replace(CHAT, apart=frozenset({"audio_input_tokens"}), audio_input_tokens=10)
    with world.run() as run:
        taught(Usage(50, 60), CHAT, times=1)
        call = begun(request)
        assert held(run)[1:5] == [110, 50, 60, (30 + 5 * 20 + 120) * 10**9]
        call.release()


@pytest.mark.parametrize(("told", "sound"), [({}, 40), ({"audio_input_tokens": 0}, 0), ({"audio_input_tokens": 5}, 5)])
def test_the_sound_of_a_request_is_charged_as_sound_unless_its_answer_says_what_was(
    make_world: Callable[..., World], told: dict[str, int], sound: int
) -> None:
    world = estimating(make_world, DEAR)
    with world.run() as run:
        begun(replace(CHAT, apart=frozenset({"audio_input_tokens"}), audio_input_tokens=10)).commit(
            Usage.of({"input_tokens": 70, "output_tokens": 0, **told})
        )
        assert used(run)[4] == (70 - sound + 5 * sound) * 10**9


def test_a_stream_that_outgrows_its_hold_goes_on_at_the_dearest_price(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, DEAR)
    with world.run() as run:
        call = begun(replace(OPEN, apart=frozenset({"audio_output_tokens"})))
        before = held(run)
        call.grow(before[3] + 1)
        assert held(run)[4] - before[4] == BLOCK * 10 * 10**9
        call.release()


def test_the_whole_hold_of_a_lost_call_has_the_price_that_was_held(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, DEAR, on_unknown="full")
    with world.run() as run:
        begun(replace(CHAT, apart=frozenset({"cache_write_tokens"}))).unknown(3)
        assert used(run)[1:5] == [100, 40, 60, (120 + 120) * 10**9]


def test_an_embedding_never_holds_output_and_teaches_none(world: World) -> None:
    embedding = ModelRequest(provider="p", operation="embeddings", model="demo", input_tokens=40, max_output_tokens=0)
    with world.run():
        taught(Usage(80, 0), embedding)
    assert held_by(world, embedding) == [80, 80, 0]


def test_a_span_that_counts_no_input_does_not_teach_how_far_counts_are_off(world: World) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "p", "gen_ai.request.model": "demo"}
    with world.run():
        for _ in range(AFTER):
            with world.tracer.start_as_current_span("chat", attributes=chat) as span:
                span.set_attributes({"gen_ai.usage.input_tokens": 500, "gen_ai.usage.output_tokens": 30})
    assert held_by(world, replace(OPEN, provider="p")) == [78, 40, 38]


def test_the_input_of_a_span_that_nobody_counted_is_not_corrected(world: World) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "demo"}
    with world.run() as run:
        taught(Usage(80, 60), times=1)
        with world.tracer.start_as_current_span("chat", attributes=chat):
            assert held(run)[2] == 1


def test_expected_holds_the_smaller_of_the_maximum_and_what_answers_take(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, hold="expected")
    assert held_by(world, replace(CHAT, max_output_tokens=4_000)) == [296, 40, 256]
    assert held_by(world, CHAT) == [100, 40, 60]
    assert held_by(world, replace(CHAT, max_output_tokens=0)) == [40, 40, 0]
    with world.run():
        taught(Usage(40, 30))
    assert held_by(world, replace(CHAT, max_output_tokens=4_000)) == [78, 40, 38]


def test_a_stream_that_was_expected_to_be_shorter_grows_in_blocks(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=PRICES, estimates=Estimates(hold="expected", output_tokens=10)))
    world.activate()
    with world.run(RunBudget(max_tokens=50 + BLOCK), reraise=False) as run:
        call = begun(replace(CHAT, max_output_tokens=4_000))
        assert held(run)[1] == 50
        call.grow(11)
        assert held(run)[1] == 50 + BLOCK
        with pytest.raises(BudgetExceeded):
            call.grow(11 + BLOCK)
        call.unknown(11 + BLOCK)


def test_the_message_names_the_maximum_only_if_it_is_what_did_not_fit(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, hold="expected")
    with world.run(RunBudget(max_tokens=50), reraise=False):
        with pytest.raises(BudgetExceeded, match="maximum of 60"):
            begin(CHAT)
        with pytest.raises(BudgetExceeded) as denied:
            begin(replace(CHAT, max_output_tokens=4_000))
        assert "maximum of" not in str(denied.value)


# --- a lower maximum


@pytest.mark.parametrize(
    ("budget", "maximum"),
    [
        ({"max_tokens": 100}, 60),
        ({"max_tokens": 99}, 59),
        ({"max_output_tokens": 59}, 59),
        ({"max_tokens": 57}, 17),
        ({"max_tokens": 56}, 16),
        ({"max_tokens": 55}, None),
        ({"max_input_tokens": 39}, None),
        ({"max_output_tokens": 0}, None),
        ({"max_steps": 0}, None),
        ({"max_cost_usd": 0.00016}, 60),
        ({"max_cost_usd": 0.000159}, 59),  # 40 in at 1,000 and 59 out at 2,000 nano-USD are 158,000
        ({"max_cost_usd": 0.000072}, 16),
        ({"max_cost_usd": 0.000071999}, None),
        ({"max_cost_usd": 0.0001, "max_tokens": 80}, 30),
        ({"max_cost_usd": 0.0001, "max_tokens": 60}, 20),
    ],
)
def test_a_maximum_that_does_not_fit_is_lowered_to_what_is_left_but_not_below_the_least(
    make_world: Callable[..., World], budget: dict[str, Any], maximum: int | None
) -> None:
    world = estimating(make_world, clamp=True)
    with world.run(RunBudget(**budget), reraise=False) as run:
        if maximum is None:
            with pytest.raises(BudgetExceeded):
                begin(LOWERABLE)
            assert held(run) == [0] * 7
            return
        call = begun(LOWERABLE)
        assert call.max_output_tokens == maximum
        assert held(run)[:5] == [1, 40 + maximum, 40, maximum, 40_000 + 2_000 * maximum]
        call.commit(Usage(40, maximum))
    assert run._state.outcome == "completed"


def test_a_lowered_maximum_is_on_the_span_and_another_is_not(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    with world.run(RunBudget(max_tokens=180)):
        begun(LOWERABLE).commit(Usage(40, 60))
        begun(LOWERABLE).commit(Usage(40, 40))
    first, second = (dict(span.attributes or {}) for span in world.spans("chat"))
    assert "otelbudget.clamped_to" not in first
    assert (second["otelbudget.clamped_to"], second["otelbudget.decision"]) == (40, "allow")
    assert world.counted() == {("call", "allow", ""): 2}


def test_all_answers_are_lowered_alike(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    with world.run(RunBudget(max_tokens=100), reraise=False) as run:
        call = begun(replace(LOWERABLE, max_output_tokens=90, answers=3))
        assert (call.max_output_tokens, held(run)[3]) == (60, 60)
        call.release()
        call = begun(replace(LOWERABLE, max_output_tokens=None, answers=3))
        assert (call.max_output_tokens, held(run)[3]) == (60, 60)
        call.release()
        with pytest.raises(BudgetExceeded):
            begin(replace(LOWERABLE, max_output_tokens=400, answers=4))
    assert [(span.attributes or {}).get("otelbudget.clamped_to") for span in world.spans("chat")] == [20, 20, None]


def test_a_request_without_a_maximum_gets_one_if_its_estimate_does_not_fit(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    free = replace(LOWERABLE, max_output_tokens=None)
    with world.run(RunBudget(max_tokens=296)):
        call = begun(free)
        assert call.max_output_tokens is None
        call.release()
    with world.run(RunBudget(max_tokens=295)):
        assert begun(free).max_output_tokens == 255


@pytest.mark.parametrize("clamp", [True, False])
def test_what_can_not_be_lowered_or_should_not_is_refused(make_world: Callable[..., World], clamp: bool) -> None:
    world = estimating(make_world, clamp=clamp)
    with world.run(RunBudget(max_tokens=99), reraise=False), pytest.raises(BudgetExceeded):
        begin(replace(LOWERABLE, lowerable=not clamp))


def test_where_nothing_is_enforced_nothing_is_lowered(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=PRICES, estimates=Estimates(clamp=True)), enforce=False)
    world.activate()
    with world.run(RunBudget(max_tokens=99)):
        assert begun(LOWERABLE).max_output_tokens == 60
    watching = estimating(make_world, clamp=True)
    with watching.run(RunBudget(max_tokens=99, on_exhausted="warn")):
        assert begun(LOWERABLE).max_output_tokens == 60


def test_every_account_in_scope_is_left_room(make_world: Callable[..., World]) -> None:
    quotas = Quotas(tenants={"acme": [Quota(tokens=90)]}, models={"demo": [Quota(cost_usd=0.0001)]})
    world = make_world(config=Config(prices=PRICES, estimates=Estimates(clamp=True), quotas=quotas))
    world.activate()
    with world.run(RunBudget(max_tokens=80), tenant="other"), world.run(RunBudget(max_tokens=99)):
        call = begun(LOWERABLE)
        assert call.max_output_tokens == 30  # the model's money
        call.release()
    with world.run(RunBudget(max_tokens=99), tenant="acme", reraise=False):
        call = begun(replace(LOWERABLE, model="other"))
        assert call.max_output_tokens == 50  # the tenant's tokens
        call.commit(Usage(40, 20))
        with pytest.raises(BudgetExceeded) as denied:
            begin(replace(LOWERABLE, model="other"))
        assert denied.value.requested == 100


def test_a_call_in_a_reservation_is_lowered_to_what_a_quota_has_left_that_only_it_names(
    make_world: Callable[..., World],
) -> None:
    quotas = Quotas(models={"demo": [Quota(tokens=70)]})
    world = make_world(config=Config(prices=PRICES, estimates=Estimates(clamp=True), quotas=quotas))
    world.activate()
    with world.run() as run:
        with run.reserve(tokens=500):
            call = begun(LOWERABLE)
            assert (call.max_output_tokens, held(run)[1]) == (30, 70)
            call.commit(Usage(40, 20))
        with pytest.raises(BudgetExceeded), run.reserve(tokens=500):
            begin(LOWERABLE)
        run.acknowledge()


def test_a_callback_is_asked_only_if_the_least_does_not_fit(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    asked: list[Any] = []

    def more(denial: Any, run: Any) -> bool:
        asked.append(denial.requested)
        run.extend(tokens=30)
        return True

    with world.run(RunBudget(max_tokens=90, on_exhausted=more)):
        first = begun(LOWERABLE)
        assert (first.max_output_tokens, asked) == (50, [])
        first.commit(Usage(40, 20))
        assert begun(LOWERABLE).max_output_tokens == 20
        assert asked == [100]


def test_what_others_hold_is_not_left(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    with world.run(RunBudget(max_tokens=190), reraise=False):
        calls = [begun(LOWERABLE), begun(LOWERABLE)]
        assert [call.max_output_tokens for call in calls] == [60, 50]
        with pytest.raises(BudgetExceeded) as denied:
            begin(LOWERABLE)
        assert denied.value.reason == "busy"


def test_threads_that_are_lowered_together_never_pass_the_limit(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True, min_output_tokens=1)
    with (
        world.run(RunBudget(max_tokens=3_333, max_cost_usd=0.005), reraise=False) as run,
        ThreadPoolExecutor(16) as pool,
    ):

        def call(_: int) -> int:
            try:
                made = begun(LOWERABLE)
            except BudgetExceeded:
                return 0
            made.commit(Usage(40, made.max_output_tokens))
            return 1

        admitted = sum(pool.map(wrap(call), range(200)))
    assert used(run)[1] <= 3_333
    assert used(run)[4] <= 5_000_000
    assert (used(run)[0], held(run)) == (admitted, [0] * 7)
    assert admitted >= 31  # 5,000,000 nano-USD at 160,000 for a whole one


def test_a_guard_inside_a_span_may_lower_what_the_span_could_not(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo", "gen_ai.request.max_tokens": 20}
    with world.run(RunBudget(max_tokens=90), reraise=False) as run:
        with world.tracer.start_as_current_span("chat", attributes=chat):
            assert held(run)[1] == 21
            call = begun(LOWERABLE)
            assert (call.max_output_tokens, held(run)[1]) == (50, 90)
            call.commit(Usage(40, 10))
        with world.tracer.start_as_current_span("chat", attributes=chat), pytest.raises(BudgetExceeded):
            begin(LOWERABLE)
        assert (used(run)[1], held(run)) == (50, [0] * 7)
    assert (world.spans("chat")[0].attributes or {})["otelbudget.clamped_to"] == 50


def test_an_answer_that_was_cut_short_says_nothing_of_how_long_answers_are(make_world: Callable[..., World]) -> None:
    world = estimating(make_world, clamp=True)
    for _ in range(2 * AFTER):
        with world.run(RunBudget(max_tokens=60)):
            begun(LOWERABLE).commit(Usage(40, 20))
    assert held_by(world, OPEN) == [296, 40, 256]


# --- a cost that the response reports


def trusting(make_world: Callable[..., World], prices: Prices = PRICES, *, trust: bool = True, **how: Any) -> World:
    world = make_world(config=Config(prices=prices, trust_reported_cost=trust, **how))
    world.activate()
    return world


MYSTERY = replace(CHAT, model="mystery")
TOLD = Usage(40, 10, reported_cost_usd=0.25)


def test_a_reported_cost_is_believed_only_if_it_is_trusted(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.run() as run:
        begun(MYSTERY).commit(TOLD)
        assert run.usage.cost_usd == Decimal("0.25")
    assert dict(said(world.span("chat")))["otelbudget.record"]["otelbudget.cost.usd"] == 0.25
    world = trusting(make_world, trust=False)
    with world.run() as run:
        begun(MYSTERY).commit(TOLD)
        run.record(replace(TOLD, model="mystery"))
        assert run.usage.cost_usd == 0


def test_a_configured_price_goes_before_the_reported_cost_and_that_before_a_listed_price(
    make_world: Callable[..., World],
) -> None:
    pytest.importorskip("genai_prices")
    world = trusting(make_world, Prices({"demo": Price(input=1, output=2), "own-*": Price(input=1)}))
    listed = replace(CHAT, model="gpt-4o")
    with world.run() as run:
        for request, reported, cost in (
            (CHAT, 0.25, 60_000),
            (replace(CHAT, model="own-1"), 0.25, 50_000),
            (listed, 0.25, 250_000_000),
            (listed, 0, 200_000),  # $2.50 and $10 per million
            (listed, None, 200_000),
        ):
            before = used(run)[4]
            begun(request).commit(Usage(40, 10, reported_cost_usd=reported))
            assert used(run)[4] - before == cost


def test_the_price_of_the_model_asked_for_goes_before_the_cost_reported_for_another(
    make_world: Callable[..., World],
) -> None:
    world = trusting(make_world)
    with world.run() as run:
        begun(CHAT).commit(replace(TOLD, model="mystery"))
        assert used(run)[4] == 60_000


def test_a_cost_that_the_caller_states_goes_before_all(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.run() as run:
        run.record(replace(TOLD, model="demo", cost_usd=1))
        assert run.usage.cost_usd == 1


def test_a_model_that_may_report_its_cost_is_let_go_until_a_response_has_not(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:
        begun(MYSTERY).commit(TOLD)
        begun(MYSTERY).commit(Usage(40, 10))
        with pytest.raises(BudgetExceeded) as denied:
            begin(CHAT)
        assert (denied.value.reason, used(run)[0]) == ("unpriced", 2)
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:  # and no other run has to find out again
        with pytest.raises(BudgetExceeded) as denied:
            begin(MYSTERY)
        assert (denied.value.reason, used(run)[0]) == ("unpriced", 0)
        begun(CHAT).release()


def test_a_call_without_a_model_is_not_let_go_for_what_it_may_report(make_world: Callable[..., World]) -> None:
    world = trusting(make_world)
    with (
        world.run(RunBudget(max_cost_usd=1), reraise=False),
        pytest.raises(BudgetExceeded, match="without a cost or a model"),
    ):
        begin(replace(CHAT, model=None))


def test_a_model_that_reports_its_cost_holds_what_that_came_to_and_before_the_dearest_price(
    make_world: Callable[..., World],
) -> None:
    world = trusting(make_world)
    with world.run(RunBudget(max_cost_usd=1), reraise=False) as run:
        call = begun(MYSTERY)
        assert held(run)[4] == 160_000  # as `demo`, the only price there is
        call.commit(Usage(40, 10, reported_cost_usd=0.25))
        call = begun(MYSTERY)
        assert held(run)[4] == 500_000_000  # five million nano-USD a token, 100 tokens
        with pytest.raises(BudgetExceeded) as denied:
            begin(replace(MYSTERY, max_output_tokens=100))
        assert (denied.value.reason, denied.value.resource) == ("busy", "cost_usd")
        call.unknown(5)
        assert used(run)[4] == 250_000_000 + 45 * 5_000_000
        begun(MYSTERY).release()  # what was estimated so is not unpriced


def test_a_reported_cost_is_checked_as_any_amount_is() -> None:
    for wrong in (-1, float("nan"), float("inf"), True, "1", 2**53):
        with pytest.raises(ValueError, match="reported_cost_usd"):
            Usage(1, 1, reported_cost_usd=wrong)  # type: ignore[arg-type]
    assert Usage(1, 1, reported_cost_usd=0.05).reported_cost_usd == Decimal("0.05")


def test_a_reported_cost_survives_an_answer_that_says_only_half_of_its_tokens(
    make_world: Callable[..., World],
) -> None:
    world = trusting(make_world)
    with world.run() as run:
        begun(MYSTERY).commit(Usage(input_tokens=40, reported_cost_usd=0.25))
        assert run.usage.cost_usd == Decimal("0.25")
