"""What the parts of one call come to."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import pytest

from otelbudget import Usage
from otelbudget.calls.sizing import ModelRequest
from otelbudget.guards.charge import Charge
from otelbudget.guards.exchange import Exchange


class Call:
    """A call that hears what it is charged."""

    input_tokens = 10
    settled = False

    def again(self) -> None: ...

    def commit(self, usage: Usage | None) -> None:
        self.charged = usage

    def late(self, usage: Usage) -> None:
        self.charged_late = usage


def _charge(call: Any, own: Any = None) -> Charge:
    request = ModelRequest(provider="openai", operation="chat", model="m", input_tokens=10)
    return Charge(call, request, Exchange(call, lambda: call), own)


def _charged(*parts: Usage) -> Any:
    call: Any = Call()
    charge = _charge(call)
    for part in parts:
        charge.note(object(), part)
    charge.answered(None)
    return call.charged


def test_what_parts_used_is_added_whatever_it_is() -> None:
    counted = [one.name for one in fields(Usage) if one.type == "int" and one.name not in ("steps", "tool_calls")]
    part: Any = dict.fromkeys(counted, 7)
    both = _charged(*[Usage(100, 50, reported_cost_usd=0.25, **part) for _ in range(2)])
    assert (both.input_tokens, both.output_tokens, both.steps) == (200, 100, 1)
    assert {getattr(both, name) for name in counted} == {14}
    assert str(both.reported_cost_usd) == "0.5"


@pytest.mark.parametrize("parts", [(True, False), (False, True)])
def test_what_is_an_estimate_of_one_part_is_one_of_the_whole(parts: tuple[bool, ...]) -> None:
    assert _charged(*(Usage(10, 5, estimated=one) for one in parts)).estimated


def test_a_cost_that_one_part_does_not_say_is_not_that_of_both() -> None:
    assert _charged(Usage(1, 1), Usage(1, 1, reported_cost_usd=1)).reported_cost_usd is None


def test_what_is_told_late_of_a_part_adds_nothing_to_its_whole() -> None:
    call: Any = Call()
    charge = _charge(call)
    charge.answered(Usage(100, 1, cache_write_tokens=50))
    charge.answered(Usage(100, 6, cache_write_tokens=50, cache_write_1h_tokens=50))
    assert (call.charged_late.input_tokens, call.charged_late.output_tokens) == (0, 5)


def test_of_parts_in_several_threads_one_is_paid_by_the_whole() -> None:
    together = threading.Barrier(4)
    charge = _charge(Call(), lambda: together.wait(10) >= 0)
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(lambda _: charge.lend(), range(4))) == [False, False, False, True]
