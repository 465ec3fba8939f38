"""Amounts are read as people write them; what could mean two things is refused with a hint."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from otelbudget.config.forms import parse_flag
from otelbudget.model.text import parse_count, parse_ratio, parse_seconds, parse_usd


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_count, "0", 0),
        (parse_count, "5", 5),
        (parse_count, "+5", 5),
        (parse_count, " 5 ", 5),
        (parse_count, "10_000", 10_000),
        (parse_count, "50k", 50_000),
        (parse_count, "50K", 50_000),
        (parse_count, "1.5M", 1_500_000),
        (parse_count, ".5M", 500_000),
        (parse_count, "2 B", 2_000_000_000),
        (parse_count, "1e3", 1_000),
        (parse_count, "1.5E3", 1_500),
        (parse_count, "5.0", 5),
        (parse_count, "9007199254740991", 2**53 - 1),
        (parse_usd, "$2.50", Decimal("2.50")),
        (parse_usd, "2.50", Decimal("2.50")),
        (parse_usd, "$ 2.50", Decimal("2.50")),
        (parse_usd, "2.50 USD", Decimal("2.50")),
        (parse_usd, "$1.5k", Decimal(1500)),
        (parse_usd, "$0.000000001", Decimal("1e-9")),
        (parse_usd, "0", Decimal(0)),
        (parse_seconds, "10", 10),
        (parse_seconds, "2.5", Decimal("2.5")),
        (parse_seconds, "30s", 30),
        (parse_seconds, "5m", 300),
        (parse_seconds, "1h30m", 5_400),
        (parse_seconds, "1 h 30 m", 5_400),
        (parse_seconds, "1.5h", 5_400),
        (parse_seconds, "500ms", Decimal("0.5")),
        (parse_seconds, "2d", 172_800),
        (parse_ratio, "80%", 0.8),
        (parse_ratio, "80 %", 0.8),
        (parse_ratio, "0.8", 0.8),
        (parse_ratio, "1", 1.0),
        (parse_ratio, "100%", 1.0),
        (parse_ratio, "0", 0.0),
        (parse_flag, "true", True),
        (parse_flag, "True", True),
        (parse_flag, "FALSE", False),
    ],
)
def test_amounts_mean_what_people_write(parse: Callable[[str], Any], text: str, value: object) -> None:
    read = parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (parse_count, "5m", "capital M: 5M"),
        (parse_count, "1.5", "not a whole number"),
        (parse_count, "0.0001k", "not a whole number"),
        (parse_count, "-5", "can't be negative"),
        (parse_count, "5:00", "base 60"),
        (parse_count, "010", "base 8; write 10"),
        (parse_count, "007", "base 8; write 7"),
        (parse_count, "00", "base 8; write 0"),
        (parse_count, "0_1", "base 8; write 1"),
        (parse_count, "0o17", "in decimal"),
        (parse_count, "0x1F", "in decimal"),
        (parse_count, "0b11", "in decimal"),
        (parse_count, "1,000", "without commas"),
        (parse_count, ".inf", "not a finite number"),
        (parse_count, "NaN", "not a finite number"),
        (parse_count, "1" * 31, "longer than 30 characters"),
        (parse_usd, "€2", "US dollars"),
        (parse_usd, "2 EUR", ""),
        (parse_usd, "$-2", "can't be negative"),
        (parse_seconds, "5:00", "with units: 5m"),
        (parse_seconds, "5min", "units are ms, s, m, h and d"),
        (parse_seconds, "h", "units are ms, s, m, h and d"),
        (parse_seconds, "-5s", "can't be negative"),
        (parse_seconds, "5s 5", ""),
        (parse_seconds, "1.2.3s", "units are ms, s, m, h and d"),
        (parse_ratio, "80", "with a %"),
        (parse_ratio, "120%", "more than all"),
        (parse_ratio, "-5%", "can't be negative"),
        (parse_ratio, "%", ""),
        (parse_flag, "yes", "write true"),
        (parse_flag, "On", "write true"),
        (parse_flag, "no", "write false"),
        (parse_flag, "off", "write false"),
        (parse_flag, "1", ""),
    ],
)
def test_what_could_mean_two_things_is_refused_with_a_hint(parse: Callable[[str], Any], text: str, hint: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the hint alone is the message
        parse(text)
    assert hint in str(refused.value)
    assert bool(hint) == bool(str(refused.value))


@pytest.mark.parametrize("parse", [parse_count, parse_usd, parse_seconds, parse_ratio, parse_flag])
@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "e", "e5", "_", "1_", "_1", "1__0", "1e", "1e1000", "1.", "--1", "+-1", "k", "$", "$$1", "1 2", "١",
     "²", "1\x00", "null", "~", "a", "1/2", "5 %%", "0..1"],
)  # fmt: skip
def test_what_is_no_amount_is_refused_and_nothing_else_is_raised(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the hint may be empty
        parse(text)


def test_amounts_are_exact_whatever_the_decimal_context_of_the_application() -> None:
    with decimal.localcontext(decimal.Context(prec=3, traps=[decimal.Inexact, decimal.Rounded])):
        assert parse_count("12345.678k") == 12_345_678
        assert parse_usd("$1234.56789k") == Decimal("1234567.89")
        assert parse_seconds("100h59m59.25s") == Decimal("363599.25")
        assert parse_ratio("12.345%") == 0.12345
