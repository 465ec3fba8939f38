from __future__ import annotations

from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otelbudget.model.amounts import Amounts, amounts_from, count, nanoseconds, nanousd, usd

ONE_CALL = Amounts(1, 1, 0, 0, 1, 0, 0)


class Whole:
    def __index__(self) -> int:
        return 7


class Printed(float):
    """What numpy's float64 does: a float that prints as something else."""

    def __repr__(self) -> str:
        return f"Printed({float(self)})"


class Array:
    """What numpy's array does: it has __index__, which refuses."""

    def __index__(self) -> int:
        raise TypeError("only scalar arrays")


def test_counts_accept_anything_with_index_except_bool() -> None:
    assert [count("n", value) for value in (0, 5, Whole(), 2**53 - 1)] == [0, 5, 7, 2**53 - 1]


@pytest.mark.parametrize("value", [True, False, -1, 2**53, 1.0, "5", None, float("nan"), Decimal(3), Array(), int, [1]])
def test_counts_refuse_what_cannot_be_meant(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n must be"):
        count("n", value)


def test_a_float_is_read_as_the_decimal_it_prints_as_so_twenty_five_cent_pieces_are_a_dollar() -> None:
    assert sum(nanousd("cost", 0.05) for _ in range(20)) == nanousd("cost", 1)
    assert nanousd("cost", Printed(0.1)) == 100_000_000


@pytest.mark.parametrize(
    ("value", "nano"),
    [
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("0.0000000025", 2),
        ("0.00000000050000000000000000000000000000000000000000000001", 1),
        ("9007199.0000000005000000000000000000000001", 9007199000000001),
        ("1e-30", 0),
        ("-0", 0),
    ],
)
def test_money_finer_than_a_nano_is_rounded_once_half_to_even(value: str, nano: int) -> None:
    assert nanousd("cost", Decimal(value)) == nano


@pytest.mark.parametrize(
    "value",
    [
        True,
        "0.05",
        -0.01,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
        None,
        Fraction(1, 2),
        Decimal("9007199.254740992"),
        1e300,
        10**30,
        1j,
    ],
)
@pytest.mark.parametrize("parse", [nanousd, nanoseconds])
def test_money_and_time_refuse_what_cannot_be_meant(parse: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^amount must be"):
        parse("amount", value)


def test_the_applications_decimal_context_changes_no_money() -> None:
    with localcontext(Context(prec=3)):
        nano = nanousd("cost", Decimal("1234.567890123"))
        back = usd(nano)
    assert (nano, back) == (1_234_567_890_123, Decimal("1234.567890123"))


@given(st.integers(0, 2**53 - 1))
def test_money_shown_is_exact_and_reads_back(nano: int) -> None:
    shown = usd(nano)
    assert shown * 10**9 == nano
    assert nanousd("cost", shown) == nano
    assert "E" not in f"{shown:f}"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"tokens": 9}, Amounts(1, 9, 9, 0)),
        ({"tokens": 0}, Amounts(1)),
        ({"tokens": 9, "steps": 0}, Amounts(0, 9, 9, 0)),
        ({"input_tokens": 9}, Amounts(1, 9, 9, 0)),
        ({"output_tokens": 9}, Amounts(1, 9, 0, 9)),
        ({"input_tokens": 4, "output_tokens": 5}, Amounts(1, 9, 4, 5)),
        ({"tokens": 9, "input_tokens": 4}, Amounts(1, 9, 4, 5)),
        ({"tokens": 9, "output_tokens": 4}, Amounts(1, 9, 5, 4)),
        ({"cost_usd": 0.5}, Amounts(1, cost_nanousd=500_000_000)),
        ({"tool_calls": 2}, Amounts(tool_calls=2)),
        ({"nested_tool_calls": 2}, Amounts(nested_tool_calls=2)),
        ({"steps": 3}, Amounts(3)),
    ],
)
def test_tokens_and_money_imply_a_step_and_tools_imply_nothing(asked: dict[str, Any], meant: Amounts) -> None:
    assert amounts_from(asked) == meant


@pytest.mark.parametrize(
    "asked",
    [
        {"tokens": 3, "input_tokens": 2, "output_tokens": 2},
        {"tokens": 9, "input_tokens": 2, "output_tokens": 2},
        {"tokens": 1, "input_tokens": 2},
        {"input_tokens": 2**53 - 1, "output_tokens": 2**53 - 1},
    ],
)
def test_a_sum_that_does_not_fit_its_parts_or_the_range_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="input_tokens"):
        amounts_from(asked)


def test_an_unknown_resource_is_named_beside_the_known_ones() -> None:
    with pytest.raises(TypeError, match="unknown resource 'token': did you mean 'tokens'"):
        amounts_from({"token": 3})
