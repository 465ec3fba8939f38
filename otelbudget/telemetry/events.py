"""Events: what is written where, and how much of it.

A `Site` is a span that events go to, with the number of events it still takes: the SDK keeps a bounded number and
drops the oldest silently, so ordinary events stop at three quarters of the bound and are counted instead. The same
events can be log records, which have no such bound; `add` is where that is decided.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import Span

from otelbudget import semconv
from otelbudget.ledger.ledger import Crossing
from otelbudget.model.amounts import COST, NANOS, RESOURCES
from otelbudget.model.decision import Denial

if TYPE_CHECKING:
    from otelbudget.telemetry.event_log import EventLog

__all__ = ["NOWHERE", "Site", "check_denied", "check_event", "record_event", "site_of", "threshold_event", "write_to"]

_DEFAULT_BOUND: Final = 128

#: Attribute value of an amount: money in USD and time in seconds are doubles, the generic ones are always doubles.
Value = str | int | float | bool


class Site:
    """A span that is recording and sampled, and how many ordinary events it still takes.

    Attributes:
        span: None where there is nothing to write to.
        left: Ordinary events until they are only counted.
    """

    __slots__ = ("left", "span")

    def __init__(self, span: Span | None, left: int = 0) -> None:
        self.span = span
        self.left = left


NOWHERE: Final = Site(None)

#: Where events of this process are log records; None: they are on spans only.
_event_log: EventLog | None = None


def write_to(log: EventLog | None) -> None:
    """Write events as log records from now on, or, with None, on spans only."""
    global _event_log
    _event_log = log


def site_of(span: Span) -> Site:
    """The site of *span*; `NOWHERE` if it is not recorded or not sampled."""
    if not span.is_recording() or not span.get_span_context().trace_flags.sampled:
        return NOWHERE
    return Site(span, _share(_bound(span)) - len(getattr(span, "events", ())))


def type_name(error: BaseException) -> str:
    """What ``error.type`` says of an exception: its qualified class name."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def trace_of(site: Site) -> tuple[str, str] | None:
    """(trace id, span id) in hex of a sampled span, for exemplars; else None."""
    if site.span is None:
        return None
    context = site.span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def _share(bound: int) -> int:
    """How many ordinary events fit a span that keeps *bound*: three quarters, and a dozen rare ones have room."""
    return min(bound * 3 // 4, bound - 12)


def _bound(span: Span) -> int:
    """How many events *span* keeps: its own limits where the SDK shows them, else the environment's word."""
    own = getattr(getattr(span, "_limits", None), "max_events", None)
    if isinstance(own, int):
        return own
    try:
        return int(os.environ.get("OTEL_SPAN_EVENT_COUNT_LIMIT", _DEFAULT_BOUND))
    except ValueError:
        return _DEFAULT_BOUND


def add(site: Site, name: str, attributes: Mapping[str, Value], *, always: bool = False) -> bool:
    """Add an event; False if the site has taken its share and the event is not one that must appear."""
    span = site.span
    if span is None:
        return True
    if _event_log is not None:
        _event_log.write(span, name, attributes)
        if not _event_log.on_span:
            return True
    if site.left <= 0 and not always:
        return False
    site.left -= 1
    span.add_event(name, attributes)
    return True


def check_event(site: Site, decision: str, tightest: tuple[int, int] | None) -> bool:
    """`otelbudget.check` of an admitted request; *tightest* is (resource, what remains of it)."""
    if tightest is None:
        return add(site, semconv.EVENT_CHECK, {semconv.DECISION: decision})
    resource, left = tightest
    return add(
        site,
        semconv.EVENT_CHECK,
        {
            semconv.DECISION: decision,
            semconv.RESOURCE: RESOURCES[resource],
            semconv.REMAINING: left / NANOS if resource == COST else float(left),
        },
    )


def check_warned(site: Site, denial: Denial) -> bool:
    """`otelbudget.check` of a request that a budget or manager which refuses nothing let pass."""
    attributes: dict[str, Value] = {semconv.DECISION: "warn", semconv.REASON: denial.reason}
    if denial.resource is not None:
        attributes[semconv.RESOURCE] = denial.resource
    if denial.limit is not None and denial.used is not None:
        attributes[semconv.REMAINING] = _left(denial)
    return add(site, semconv.EVENT_CHECK, attributes)


def check_denied(site: Site, denial: Denial, *, always: bool) -> bool:
    """`otelbudget.check` of a refused request."""
    attributes: dict[str, Value] = {semconv.DECISION: "deny", semconv.REASON: denial.reason}
    optional = (
        (semconv.RESOURCE, denial.resource),
        (semconv.SCOPE, denial.scope),
        (semconv.BUDGET, denial.budget),
    )
    attributes.update({name: value for name, value in optional if value is not None})
    if denial.limit is not None and denial.used is not None:
        attributes[semconv.USED] = float(denial.used)
        attributes[semconv.LIMIT] = float(denial.limit)
        attributes[semconv.REMAINING] = _left(denial)
    return add(site, semconv.EVENT_CHECK, attributes, always=always)


def _left(denial: Denial) -> float:
    limit, used, reserved = (value or 0 for value in (denial.limit, denial.used, denial.reserved))
    # All three are of one kind (int, Decimal or float): exact until the end where they are.
    return max(0.0, float(limit - used - reserved))  # type: ignore[operator]


def record_event(site: Site, charged: tuple[int, int, int], flags: Sequence[str] = ()) -> bool:
    """`otelbudget.record`; *charged* is (input tokens, output tokens, nano-USD), *flags* attributes that are true."""
    attributes: dict[str, Value] = {
        semconv.TOKENS_INPUT: charged[0],
        semconv.TOKENS_OUTPUT: charged[1],
        semconv.COST_USD: charged[2] / NANOS,
    }
    for flag in flags:
        attributes[flag] = True
    return add(site, semconv.EVENT_RECORD, attributes)


def threshold_event(site: Site, crossing: Crossing) -> bool:
    """`otelbudget.threshold`: always an event, and an attribute of the span; that of a quota says whose it is."""
    resource = RESOURCES[crossing.resource]
    attributes: dict[str, Value] = {semconv.RESOURCE: resource, semconv.RATIO: crossing.ratio}
    if crossing.account.name:
        attributes[semconv.BUDGET] = crossing.account.name
    span, scope = site.span, crossing.account.scope
    if span is not None and span.is_recording():
        add(site, semconv.EVENT_THRESHOLD, attributes, always=True)
        whose = "" if scope == "run" else f"{scope}."
        span.set_attribute(f"{semconv.THRESHOLD_PREFIX}{whose}{resource}", crossing.ratio)
    return True


def change_event(site: Site, name: str, attributes: Mapping[str, Value | None]) -> None:
    """An event about a change of a run (extend, freeze, reset, ...); attributes that are None are left out."""
    span = site.span
    if span is not None and span.is_recording():
        add(site, name, _given(attributes), always=True)


def release_event(site: Site, attributes: Mapping[str, Value | None]) -> bool:
    """`otelbudget.release`; as frequent as checks, so it is as bounded."""
    return add(site, semconv.EVENT_RELEASE, _given(attributes))


def _given(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {key: value for key, value in attributes.items() if value is not None}
