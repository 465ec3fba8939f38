"""The keywords of calls, as type checkers see them; and what a misspelt one is told at run time."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from otelbudget.model.amounts import Money

#: What becomes of a hold whose call has an unknown end: charged in ``full``, its ``input`` part, or left ``open``.
OnUnknown = Literal["input", "full", "open"]


class OtherKeywords(TypedDict, total=False):
    """How much of each additive resource but tokens in all, which some calls take by position."""

    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: Money
    tool_calls: int
    nested_tool_calls: int


class ResourceKeywords(OtherKeywords, total=False):
    """How much of each additive resource."""

    tokens: int


class LimitKeywords(ResourceKeywords, total=False):
    """How much of each resource that a run can be limited in."""

    seconds: Money


class AmountKeywords(LimitKeywords, total=False):
    """What ``check`` and ``can_proceed`` take: how much of each resource, of which model."""

    model: str


class ReserveKeywords(ResourceKeywords, total=False):
    """What ``reserve`` takes."""

    model: str
    wait_s: Money
    on_unknown: OnUnknown
    idempotency_key: str


def unknown(what: str, name: str, known: Collection[str]) -> TypeError:
    """The error that *name* is none of the *known* ones: which one was meant, if one is close, else all."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return TypeError(
        f"{what} {name!r}: " + (f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}")
    )
