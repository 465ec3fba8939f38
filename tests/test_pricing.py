"""Prices are exact, found by name, date and pattern, rounded up once, and agree with the list they fall back on."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st
from world import World

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import CEILING, usd
from otelbudget.model.usage import Usage
from otelbudget.pricing import Price, Prices
from otelbudget.pricing.rates import Parts

SMALL = Price(input=0.15, output=0.60)
#: 2026-06-01T12:00:00Z
NOON_S = 1_780_315_200.0
#: 2026-11-28T12:00:00Z, when the table of published prices was compared.
TABLE_S = 1_795_867_200.0


def cost_of(prices: Prices, model: str | None, provider: str | None, usage: Usage) -> int | None:
    known = prices.known(model, provider, tier=usage.tier)
    return None if known is None else known.cost(usage)


def cost(price: Price, **usage: int) -> int | None:
    return cost_of(Prices({"m": price}, listed=False), "m", None, Usage(**usage))


def test_input_and_output_have_their_prices_per_million_tokens() -> None:
    assert cost(SMALL, input_tokens=1_000, output_tokens=100) == 150_000 + 60_000
    assert cost(SMALL, input_tokens=0, output_tokens=0) == 0


def test_a_part_of_a_nano_dollar_is_rounded_up_once_per_call() -> None:
    cheap = Price(input=Decimal("0.0001"), output=Decimal("0.0001"))
    assert cost(cheap, input_tokens=1, output_tokens=0) == 1
    assert cost(cheap, input_tokens=5, output_tokens=5) == 1
    assert cost(cheap, input_tokens=10, output_tokens=1) == 2


def test_cached_and_reasoning_tokens_are_parts_that_are_charged_at_their_own_price() -> None:
    price = Price(input=2, output=10, cache_read=1, cache_write=3, reasoning=20)
    used = {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 60, "cache_write_tokens": 10}
    plain = 30 * 2_000 + 60 * 1_000 + 10 * 3_000
    assert cost(price, **used) == plain + 50 * 10_000
    assert cost(price, **used, reasoning_tokens=20) == plain + 30 * 10_000 + 20 * 20_000


def test_sound_that_was_cached_has_its_own_price_else_that_of_other_sound() -> None:
    used = {"input_tokens": 100, "output_tokens": 0, "cache_read_tokens": 70, "audio_input_tokens": 60}
    plain, read = 2 * 1_000, 1 * 1_000
    sound = Price(input=2, cache_read=1, audio_input=40, cache_audio_read=5)
    assert cost(sound, **used, cache_audio_read_tokens=50) == 20 * plain + 20 * read + 10 * 40_000 + 50 * 5_000
    assert cost(replace(sound, cache_audio_read=None), **used, cache_audio_read_tokens=50) == (
        20 * plain + 20 * read + 60 * 40_000
    )
    assert cost(replace(sound, audio_input=None), **used, cache_audio_read_tokens=50) == (
        30 * plain + 20 * read + 50 * 5_000
    )


def test_where_nobody_says_what_was_cached_it_was_text_first() -> None:
    sound = Price(input=2, cache_read=1, audio_input=40, cache_audio_read=5)
    used = {"input_tokens": 100, "output_tokens": 0, "cache_read_tokens": 70, "audio_input_tokens": 60}
    assert cost(sound, **used) == 40 * 1_000 + 30 * 40_000 + 30 * 5_000
    all_that_it_may_be = [cost(sound, **used, cache_audio_read_tokens=heard) or 0 for heard in range(30, 61)]
    assert cost(sound, **used) == max(all_that_it_may_be)


def test_parts_without_a_price_of_their_own_cost_what_the_whole_does() -> None:
    whole = cost(SMALL, input_tokens=100, output_tokens=50)
    assert (
        cost(
            SMALL,
            input_tokens=100,
            output_tokens=50,
            cache_read_tokens=40,
            cache_write_tokens=20,
            reasoning_tokens=30,
        )
        == whole
    )
    assert cost(Price(input=1), input_tokens=10, output_tokens=10) == 20_000


def test_parts_beyond_their_whole_prove_that_it_leaves_them_out() -> None:
    price = Price(input=2, output=10, cache_read=1, reasoning=10)
    assert cost(price, input_tokens=10, output_tokens=5, cache_read_tokens=50, reasoning_tokens=20) == 70_000 + 250_000


def test_tokens_without_a_split_are_as_dear_as_the_dearer_part_and_unknown_ones_cost_nothing() -> None:
    assert cost(SMALL, tokens=1_000) == cost(SMALL, input_tokens=0, output_tokens=1_000)
    assert cost(Price(input=3, output=1), tokens=1_000) == 3_000_000
    assert cost(SMALL, tokens=1_000, output_tokens=0) == 150_000
    assert cost(SMALL, input_tokens=1_000) == 150_000
    assert cost(SMALL) == 0


def test_prices_may_be_per_any_number_of_tokens_and_discounted() -> None:
    assert cost(Price(input=Decimal("0.0004"), per=1_000), input_tokens=1_000) == 400_000
    assert cost(Price(input=3, per=7), input_tokens=7) == 3_000_000_000
    assert cost(Price(input=10, discount=0.1), input_tokens=1_000_000) == 9_000_000_000
    assert cost(Price(input=10, discount=1), input_tokens=1_000_000) == 0


money = st.decimals(min_value=0, max_value=1_000, places=7)
tokens = st.integers(min_value=0, max_value=10**7)


@given(money, money, money, money, st.integers(1, 10**6), st.integers(0, 100), *[tokens] * 4)
def test_costs_are_exact(
    a: Decimal, b: Decimal, c: Decimal, d: Decimal, per: int, percent: int, i: int, o: int, read: int, thought: int
) -> None:
    price = Price(input=a, output=b, cache_read=c, reasoning=d, per=per, discount=Decimal(percent) / 100)
    read, thought = min(i, read), min(o, thought)
    exact = (i - read) * Fraction(a) + read * Fraction(c) + (o - thought) * Fraction(b) + thought * Fraction(d)
    expected = min(math.ceil(exact * 10**9 / per * (1 - Fraction(percent, 100))), CEILING - 1)
    assert cost(price, input_tokens=i, output_tokens=o, cache_read_tokens=read, reasoning_tokens=thought) == expected


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"input": -1}, "input must be a finite number of USD of at least 0"),
        ({"input": None}, "input must be a number of USD"),
        ({"input": "2.50"}, "input must be a number of USD"),
        ({"input": 1, "output": float("nan")}, "output must be a finite number"),
        ({"input": 1, "per": 0}, "per must be at least 1"),
        ({"input": 1, "per": 1.5}, "per must be a whole number"),
        ({"input": 1, "discount": 20}, "discount must be a ratio from 0 to 1"),
    ],
)
def test_prices_that_can_not_be_meant_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Price(**wrong)


def test_tables_that_are_no_prices_are_refused() -> None:
    for table in ({"": SMALL}, {1: SMALL}, {"m": 5}, {"m": {"input": 1}}):
        with pytest.raises(ConfigError, match="prices map the name of a model"):
            Prices(table)  # type: ignore[arg-type]


def one(name: str, table: dict[str, int]) -> int | None:
    prices = Prices({pattern: Price(input=usd) for pattern, usd in table.items()}, listed=False)
    found = cost_of(prices, name, "openai", Usage(input_tokens=1_000_000))
    return None if found is None else found // 10**9


def test_names_are_matched_exactly_then_without_date_then_by_pattern_in_order() -> None:
    table = {"gpt-*": 1, "gpt-4o": 2, "gpt-4o-2024-08-06": 3, "*-mini": 4, "o?": 5}
    assert one("gpt-4o", table) == 2
    assert one("gpt-4o-2024-08-06", table) == 3
    assert one("gpt-4o-2024-11-20", table) == 2
    assert one("gpt-4o-20241120", table) == 2
    assert one("gpt-4o@20241120", table) == 2
    assert one("gpt-4o-mini", table) == 1
    assert one("x-mini", table) == 4
    assert one("x-mini-2025-01-01", table) == 4
    assert one("o3", table) == 5
    assert one("O3", table) is None
    assert one("", table) is None


def test_a_price_with_a_provider_in_front_is_that_providers_alone_and_comes_first() -> None:
    table = {"m": 1, "azure.ai.openai/m": 2, "aws.bedrock/*": 3, "*": 4}
    prices = Prices({name: Price(input=price) for name, price in table.items()}, listed=False)

    def dollars(model: str | None, provider: str | None, **answered: str) -> int:
        known = prices.known(model, provider, **answered)
        assert known is not None
        return known.cost(Parts(10**6, 0)) // 10**9

    assert [dollars("m", provider) for provider in ("openai", None, "azure.ai.openai", "aws.bedrock")] == [1, 1, 2, 1]
    assert dollars("m-2026-01-02", "azure.ai.openai") == 2
    assert dollars("mine", "azure.ai.openai", answered="m") == 4, "the requested name comes first"
    assert [dollars("other", provider) for provider in ("aws.bedrock", "openai")] == [3, 4]
    assert dollars(None, "aws.bedrock") == 4


def test_a_pattern_for_all_prices_even_a_call_without_a_model() -> None:
    prices = Prices({"*": Price(input=1)}, listed=False)
    assert cost_of(prices, None, None, Usage(input_tokens=1)) == 1_000
    assert cost_of(Prices(listed=False), None, None, Usage(input_tokens=1)) is None


def test_models_are_the_names_given_without_patterns() -> None:
    assert Prices({"a": SMALL, "b-*": SMALL, "c": SMALL}).models == ("a", "c")


def test_the_dearest_given_price_counts_patterns_too() -> None:
    prices = Prices({"a": Price(input=1), "b-*": Price(input=3)}, listed=False)
    assert prices.dearest_nanousd(Usage(input_tokens=10)) == 30_000
    assert Prices().dearest_nanousd(Usage(input_tokens=10)) is None


def test_prices_are_compared_by_what_they_say_and_survive_pickling() -> None:
    table = {"a-*": Price(input=0.5), "*-b": Price(input=1)}
    prices = Prices(table)
    assert prices == Prices({"a-*": Price(input=Decimal("0.5")), "*-b": Price(input=1)})
    assert prices != Prices(dict(reversed(table.items()))), "the order of patterns decides"
    assert prices != Prices(table, listed=False)
    assert prices != table
    assert pickle.loads(pickle.dumps(prices)) == prices


def test_names_of_any_kind_and_number_never_raise() -> None:
    prices = Prices({"m": SMALL}, listed=False)
    for name in ([], {}, 5, ("m",), "x" * 100_000, "\0", "[", "\ud800"):
        assert cost_of(prices, name, name, Usage(input_tokens=1)) is None  # type: ignore[arg-type]
    for i in range(10_000):
        cost_of(prices, f"made-up-{i}", None, Usage(input_tokens=1))
    assert cost_of(prices, "m", None, Usage(input_tokens=1_000)) == 150_000
    assert len(prices._known) < 5_000


# --- the genai-prices package


def listed_cost(model: str, provider: str | None, usage: Usage, at_s: float = NOON_S) -> int | None:
    return cost_of(Prices(clock_s=lambda: at_s), model, provider, usage)


@pytest.mark.parametrize("size", [1_000, 150_000, 250_000, 2_000_000])
def test_every_listed_model_costs_what_its_list_says(size: int) -> None:
    prices, compared = Prices(), 0
    parts = {"cache_read_tokens": 400, "cache_write_tokens": 100, "output_tokens": 777}
    usage = Usage(input_tokens=size, reasoning_tokens=50, **parts)
    asked = ListUsage(input_tokens=size, output_reasoning_tokens=50, **parts)
    for provider in get_snapshot().providers:
        for model in provider.models:
            try:
                listed = calc_price(asked, model.id, provider_id=provider.id)
            except LookupError:
                continue
            known = cost_of(prices, model.id, provider.id, usage)
            if known is not None and listed.model_price.output_mtok is not None:
                compared += 1
                assert known == math.ceil(listed.total_price * 10**9), (provider.id, model.id)
    assert compared > 500


def test_sound_and_pictures_cost_what_the_list_itself_makes_of_them() -> None:
    prices, compared = Prices(), 0
    parts = {
        "output_tokens": 70,
        "cache_read_tokens": 400,
        "cache_audio_read_tokens": 150,
        "cache_image_read_tokens": 90,
    }
    usage = Usage(1_000, audio_input_tokens=210, image_input_tokens=130, audio_output_tokens=60, **parts)
    asked = ListUsage(
        input_tokens=1_000, input_audio_tokens=210, input_image_tokens=130, output_audio_tokens=60, **parts
    )
    for provider in get_snapshot().providers:
        for model in provider.models:
            known = prices.known(model.id, provider.id)
            if known is None or not any("audio" in part or "image" in part for part, _, _ in known.rates.apart):
                continue
            listed = calc_price(asked, model.id, provider_id=provider.id)
            if listed.model_price.output_mtok is not None:
                compared += 1
                assert known.cost(usage) == math.ceil(listed.total_price * 10**9), (provider.id, model.id)
    assert compared > 20


@pytest.mark.parametrize(
    ("model", "million"),
    [("openai/gpt-4o:nitro", 2.5), ("openai/gpt-4o:floor", 2.5), ("openai/gpt-4o:exacto", 2.5), ("any/model:free", 0)],
)
def test_a_route_of_openrouter_costs_what_its_model_does_and_a_free_one_nothing(model: str, million: float) -> None:
    usage = Usage(input_tokens=10**6, output_tokens=0)
    assert listed_cost(model, "openrouter", usage) == million * 10**9
    assert listed_cost(model, "openai", usage) is None


def test_searches_in_files_cost_what_the_list_says() -> None:
    assert listed_cost("gpt-4o", "openai", Usage(0, 0, file_searches=2)) == 5_000_000


def test_the_source_of_a_listed_price_says_since_when_it_is_that() -> None:
    def source(at: datetime) -> str:
        known = Prices(clock_s=at.timestamp).known("claude-opus-4-6", "anthropic")
        assert known is not None
        return known.source.partition(": ")[2]

    assert source(datetime(2026, 3, 12, tzinfo=UTC)) == "anthropic/claude-opus-4-6"
    assert source(datetime(2026, 3, 13, tzinfo=UTC)) == "anthropic/claude-opus-4-6, since 2026-03-13"


def test_of_listed_models_the_one_that_answered_says_the_price_if_it_is_listed() -> None:
    def input_rate(asked: str, answered: str) -> int:
        known = Prices().known(asked, "openai", answered=answered)
        assert known is not None
        return known.rates.input // known.rates.scale

    assert input_rate("gpt-4o", "gpt-4o-mini-2024-07-18") == 150
    assert input_rate("gpt-4o", "nobody-knows") == 2_500


def test_given_prices_win_over_listed_ones() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    assert cost_of(Prices({"gpt-4o": Price(input=1)}), "gpt-4o", "openai", usage) == 10**9
    assert (listed_cost("gpt-4o", "openai", usage) or 0) > 10**9


def test_a_price_book_is_asked_once_for_what_is_not_given_and_before_the_list() -> None:
    asked: list[tuple[str, str | None]] = []

    def book(model: str, provider: str | None) -> Price | None:
        asked.append((model, provider))
        return Price(input=7, output=7, tiers={"batch": 0.5}) if model == "gpt-4o" else None

    prices = Prices({"mine": SMALL}, book=book)
    million = Usage(1_000_000, 0)
    for _ in range(2):
        assert cost_of(prices, "mine", None, million) == 150_000_000
        assert cost_of(prices, "gpt-4o", "openai", million) == 7_000_000_000
        assert cost_of(prices, "gpt-4o", "openai", Usage(1_000_000, 0, tier="batch")) == 3_500_000_000
        assert cost_of(prices, "gpt-4o-mini", "openai", million) == 150_000_000, "the list's"
    assert asked == [("gpt-4o", "openai"), ("gpt-4o", "openai"), ("gpt-4o-mini", "openai")]
    found = prices.known("gpt-4o", "openai")
    assert found is not None
    assert found.source == "price book: gpt-4o"


@pytest.mark.parametrize("answer", [5, "1", ZeroDivisionError()])
def test_a_price_book_that_fails_is_warned_of_and_knows_no_price(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def book(_model: str, _provider: str | None) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert cost_of(Prices(book=book), "gpt-4o-mini", "openai", Usage(1_000_000, 0)) == 150_000_000
    assert "the price book" in caplog.text
    with pytest.raises(ConfigError, match="book must be callable"):
        Prices(book=answer)


def test_a_model_of_another_provider_behind_an_openai_client_is_found_by_its_name() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=10)
    direct = listed_cost("claude-sonnet-4-5", "anthropic", usage)
    assert direct is not None
    assert listed_cost("claude-sonnet-4-5", "openai", usage) == direct
    assert listed_cost("claude-sonnet-4-5", "my-gateway", usage) == direct
    assert listed_cost("claude-sonnet-4-5", None, usage) == direct
    assert listed_cost("gemini-2.5-flash", "gcp.vertex_ai", usage) == listed_cost("gemini-2.5-flash", "google", usage)


@pytest.mark.parametrize(
    "front", ["models/", "publishers/google/models/", "projects/p/locations/l/publishers/google/models/"]
)
def test_what_google_has_in_front_of_a_models_name_is_no_part_of_it(front: str) -> None:
    for provider in ("gcp.gemini", "gcp.vertex_ai", "openai"):
        assert listed_cost(f"{front}gemini-2.5-pro", provider, Usage(1_000, 0)) == 1_250_000


def test_models_that_nobody_lists_or_that_are_not_paid_by_the_token_have_no_price() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=10)
    assert listed_cost("demo-small", "openai", usage) is None
    assert listed_cost("whisper-1", "openai", usage) is None


def test_a_listed_price_that_depends_on_the_hour_is_asked_for_again() -> None:
    usage, now = Usage(input_tokens=10**6, output_tokens=10**6), [NOON_S]
    model = next(
        model
        for provider in get_snapshot().providers
        if provider.id == "deepseek"
        for model in provider.models
        if any(
            hasattr(price.constraint, "start_time")
            for price in (model.prices if isinstance(model.prices, list) else ())
        )
    )
    by_hour = [listed_cost(model.id, "deepseek", usage, NOON_S + 3600 * hour) for hour in range(24)]
    assert len(set(by_hour)) > 1
    prices, seen = Prices(clock_s=lambda: now[0]), []
    for hour in range(24):
        now[0] = NOON_S + 3600 * hour
        seen.append(cost_of(prices, model.id, "deepseek", usage))
    assert seen == by_hour


def test_without_the_package_or_when_told_so_only_given_prices_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(input_tokens=1_000)
    assert not Prices(listed=False).load()
    assert cost_of(Prices(listed=False), "gpt-4o", "openai", usage) is None
    assert Prices().load()
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert not Prices().load()
    assert cost_of(Prices(), "gpt-4o", "openai", usage) is None


def test_a_broken_price_list_is_said_and_counts_as_no_price(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such unit")

    monkeypatch.setattr("genai_prices.calc_price", broken)
    assert cost_of(Prices(), "gpt-4o", "openai", Usage(input_tokens=1)) is None
    assert "genai-prices failed on model 'gpt-4o'" in caplog.text


def test_a_list_that_is_half_imported_is_not_known_this_time_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prices = Prices()
    monkeypatch.setitem(sys.modules, "genai_prices", ModuleType("genai_prices"))
    assert (cost_of(prices, "gpt-4o", "openai", Usage(1000, 100)), prices.load()) == (None, False)
    monkeypatch.undo()
    assert cost_of(prices, "gpt-4o", "openai", Usage(1000, 100)) is not None


# --- published prices

TABLE = (Path(__file__).parent / "priced_calls.txt").read_text("utf-8").splitlines()
PRICED = [[cell.strip() for cell in line.split("|")] for line in TABLE if not line.startswith("#")]
#: Name of the table -> field of `Usage`, what it is a part of; with a minus, what two of these have taken both.
FIELDS = {
    "in": ("input_tokens", ""),
    "out": ("output_tokens", ""),
    "read": ("cache_read_tokens", "in"),
    "write": ("cache_write_tokens", "in"),
    "hour": ("cache_write_1h_tokens", "write"),
    "audio_in": ("audio_input_tokens", "in"),
    "image_in": ("image_input_tokens", "in"),
    "video_in": ("video_input_tokens", "in"),
    "video_out": ("video_output_tokens", "out"),
    "audio_read": ("cache_audio_read_tokens", "read audio_in -in"),
    "image_read": ("cache_image_read_tokens", "read image_in -in"),
    "reason": ("reasoning_tokens", "out"),
    "audio_out": ("audio_output_tokens", "out"),
    "image_out": ("image_output_tokens", "out"),
    "search": ("searches", ""),
    "call": ("steps", ""),
}


def pairs(cell: str) -> dict[str, Fraction]:
    words = cell.split()
    return dict(zip(words[::2], map(Fraction, words[1::2]), strict=True))


@pytest.mark.parametrize("row", PRICED, ids=lambda row: f"{row[1]} {row[2]} {row[3]}")
def test_calls_cost_what_their_providers_publish(row: list[str]) -> None:
    provider, model, tier, used, figures = row[:5]
    tokens, each = pairs(used), pairs(figures)
    usage = Usage(**{FIELDS[name][0]: int(n) for name, n in tokens.items()}, tier=None if tier == "-" else tier)
    tokens.setdefault("call", Fraction(1))
    published = Fraction(0)
    for name, price in each.items():
        wholes = {part: FIELDS[part][1].split() for part in tokens}
        parts = sum(n * ((name in wholes[part]) - (f"-{name}" in wholes[part])) for part, n in tokens.items())
        published += (tokens[name] - parts) * price / (1 if name in ("search", "call") else 10**6)
    charged = listed_cost(model, provider, usage, TABLE_S)
    assert (charged == math.ceil(published * 10**9)) is (len(row) == 7), row[7:] or (charged, float(published))


def test_the_table_of_published_prices_is_wide() -> None:
    assert len(PRICED) >= 60
    assert len({row[0] for row in PRICED}) >= 8
    assert all(row[5] and row[6] for row in PRICED)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_million_random_calls_sum_without_drift(world: World) -> None:
    known = Prices({"m": Price(input=0.15, output=0.60, cache_read=0.075)}, listed=False).known("m", None)
    assert known is not None
    random, plain, said, read = Random(1).random, 0, 0, 0
    with world.run() as run:
        for _ in range(1_000):
            charged = 0
            for _ in range(10_000):
                given, made = int(random() * 100_000), int(random() * 10_000)
                charged += known.cost(Parts(given, made, given // 2))
                plain += given - given // 2
                said += made
                read += given // 2
            run.record(Usage(cost_usd=usd(charged)))
    assert run.usage.cost_usd == usd(plain * 150 + said * 600 + read * 75)
