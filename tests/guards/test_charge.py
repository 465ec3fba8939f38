"""What the parts of one call come to."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from otelbudget import Usage
from otelbudget.calls.sizing import ModelRequest
from otelbudget.guards.charge import Charge
from otelbudget.guards.exchange import Exchange


class Call:
    """A call that hears what it is charged."""

    input_tokens = 10

    def commit(self, usage: Usage | None) -> None:
        self.charged = usage


def _charged(*parts: Usage) -> Any:
    call: Any = Call()
    request = ModelRequest(provider="openai", operation="chat", model="m", input_tokens=10)
    charge = Charge(call, request, Exchange(lambda _: None))
    for part in parts:
        charge.note(part)
    charge.answered(None)
    return call.charged


def test_what_parts_used_is_added_whatever_it_is() -> None:
    counted = [one.name for one in fields(Usage) if one.type == "int" and one.name not in ("steps", "tool_calls")]
    part: Any = dict.fromkeys(counted, 7)
    both = _charged(*[Usage(100, 50, reported_cost_usd=0.25, **part) for _ in range(2)])
    assert (both.input_tokens, both.output_tokens, both.steps) == (200, 100, 1)
    assert {getattr(both, name) for name in counted} == {14}
    assert str(both.reported_cost_usd) == "0.5"


def test_a_cost_that_one_part_does_not_say_is_not_that_of_both() -> None:
    assert _charged(Usage(1, 1), Usage(1, 1, reported_cost_usd=1)).reported_cost_usd is None
