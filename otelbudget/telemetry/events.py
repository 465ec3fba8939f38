"""Events: what is written where, and how much of it.

The SDK keeps a bounded number of events per span and drops the oldest silently, so ordinary events stop at three
quarters of the bound and are counted instead. Log records have no such bound; `add` is where that is decided. Refusals
and thresholds are log records (`log`) whatever the sampler decided, all else only where the span has them too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import Span

from otelbudget import forking, semconv
from otelbudget.ledger.account import Crossing
from otelbudget.model.amounts import COST, NANOS, RESOURCES
from otelbudget.model.decision import Denial

if TYPE_CHECKING:
    from otelbudget.telemetry.event_log import EventLog


#: How many events a span of the SDK keeps unless it says otherwise.
_DEFAULT_BOUND: Final = 128

#: Attribute value of an amount: money in USD and time in seconds are doubles, the generic ones are always doubles.
Value = str | int | float | bool


@dataclass(slots=True, eq=False)
class Site:
    """Where the events of a call go.

    Attributes:
        span: Its span if that is recording and sampled, else None.
        left: How many ordinary events that takes until they are counted.
        unsampled: Its span if that is not, where log records want its trace.
    """

    span: Span | None
    left: int = 0
    unsampled: Span | None = None


NOWHERE: Final = Site(None)


class _Writing(threading.local):
    """Whether this thread is writing on a span, whose lock no thread can take twice: a finalizer then must not."""

    now = False


writing: Final = _Writing()

#: Where events of this process are log records; None: they are on spans only.
_event_log: EventLog | None = None


def write_to(log: EventLog | None) -> None:
    """Write events as log records from now on, or, with None, on spans only."""
    global _event_log
    _event_log = log


def site_of(span: Span) -> Site:
    """The site of *span*; one without a span if it is not recorded or not sampled."""
    if not span.is_recording() or not span.get_span_context().trace_flags.sampled:
        return NOWHERE if _event_log is None else Site(None, unsampled=span)
    if forking.forked_ns and (getattr(span, "start_time", None) or forking.forked_ns) <= forking.forked_ns:
        return NOWHERE  # the parent's: a lock of it may be held there for ever
    bound = getattr(getattr(span, "_limits", None), "max_events", None)
    bound = bound if isinstance(bound, int) else _DEFAULT_BOUND
    share = min(bound * 3 // 4, bound - 12)  # a dozen rare ones have room
    return Site(span, share - len(getattr(span, "events", ())))


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


def logs() -> bool:
    """Whether log records are asked for."""
    return _event_log is not None


def log(site: Site, name: str, attributes: Mapping[str, Value]) -> None:
    """Write a refusal or a threshold as a log record, where those are asked for, in the trace of the call's span."""
    if _event_log is not None:
        _event_log.write(site.span or site.unsampled or trace.INVALID_SPAN, name, attributes, loud=True)


def add(site: Site, name: str, attributes: Mapping[str, Value], *, always: bool = False, logged: bool = False) -> bool:
    """Add an event; False if the site has taken its share and the event is not one that must appear.

    *logged* if its log record has been written.
    """
    span = site.span
    if span is None:
        return True
    if _event_log is not None:
        if not logged:
            _event_log.write(span, name, attributes)
        if not _event_log.on_span:
            return True
    if site.left <= 0 and not always:
        return False
    site.left -= 1
    span.add_event(name, attributes)
    return True


def check_event(site: Site, decision: str, tightest: tuple[int, int] | None, tool: str | None = None) -> bool:
    """`otelbudget.check` of an admitted request, perhaps of a *tool*; *tightest* is (resource, what remains of it)."""
    attributes: dict[str, Value] = {semconv.DECISION: decision}
    if tool is not None:
        attributes[semconv.GEN_AI_TOOL_NAME] = tool
    if tightest is not None:
        resource, left = tightest
        attributes[semconv.RESOURCE] = RESOURCES[resource]
        attributes[semconv.REMAINING] = left / NANOS if resource == COST else float(left)
    return add(site, semconv.EVENT_CHECK, attributes)


def check_warned(site: Site, denial: Denial, tool: str | None = None) -> bool:
    """`otelbudget.check` of a request that a budget or manager which refuses nothing let pass."""
    attributes = {
        semconv.DECISION: "warn",
        semconv.REASON: denial.reason,
        semconv.STORE_MODE: denial.store_mode,
        semconv.RESOURCE: denial.resource,
        semconv.REMAINING: _amounts(denial).get(semconv.REMAINING),
        semconv.GEN_AI_TOOL_NAME: tool,
    }
    return add(site, semconv.EVENT_CHECK, _given(attributes))


def refusal(denial: Denial, tool: str | None = None) -> dict[str, Value]:
    """What `otelbudget.check` of a refused request says."""
    attributes = {
        semconv.DECISION: "deny",
        semconv.REASON: denial.reason,
        semconv.RESOURCE: denial.resource,
        semconv.SCOPE: denial.scope,
        semconv.BUDGET: denial.budget,
        semconv.GEN_AI_TOOL_NAME: tool,
    }
    return _given(attributes) | _amounts(denial)


def _amounts(denial: Denial) -> dict[str, Value]:
    if denial.limit is None or denial.used is None:
        return {}
    # All three are of one kind (int, Decimal or float): exact until the end where they are.
    left = denial.limit - denial.used - (denial.reserved or 0)  # type: ignore[operator]
    return {
        semconv.USED: float(denial.used),
        semconv.LIMIT: float(denial.limit),
        semconv.REMAINING: max(0.0, float(left)),
    }


def mark(site: Site, attributes: Mapping[str, Value]) -> bool:
    """Attributes of the call's own span, which trace queries sum and group by; never refused."""
    if site.span is not None:
        site.span.set_attributes(attributes)
    return True


def record_event(site: Site, charged: tuple[int, int, int], flags: Sequence[str] = (), source: str = "") -> bool:
    """`otelbudget.record`; *charged* is (input tokens, output tokens, nano-USD), *flags* attributes that are true,
    *source* whose price it is."""
    given, made, cost = charged
    attributes: dict[str, Value] = {semconv.TOKENS_INPUT: given, semconv.TOKENS_OUTPUT: made}
    attributes[semconv.COST_USD] = cost / NANOS
    for flag in flags:
        attributes[flag] = True
    if source:
        attributes[semconv.COST_SOURCE] = source
    return add(site, semconv.EVENT_RECORD, attributes)


def threshold(crossing: Crossing) -> dict[str, Value]:
    """What `otelbudget.threshold` says."""
    resource, budget = RESOURCES[crossing.resource], crossing.rule.name or None
    return _given({semconv.RESOURCE: resource, semconv.RATIO: crossing.ratio, semconv.BUDGET: budget})


def crossed(site: Site, crossing: Crossing) -> bool:
    """`otelbudget.threshold`: always an event, and an attribute of the span; that of a quota says whose it is."""
    add(site, semconv.EVENT_THRESHOLD, threshold(crossing), always=True, logged=True)
    if site.span is not None:
        whose = "" if crossing.account.scope == "run" else f"{crossing.account.scope}."
        name = f"{semconv.THRESHOLD_PREFIX}{whose}{RESOURCES[crossing.resource]}"
        site.span.set_attribute(name, crossing.ratio)
    return True


def change_event(site: Site, name: str, attributes: Mapping[str, Value | None]) -> None:
    """An event about a change of a run (extend, freeze, reset, ...); attributes that are None are left out."""
    span = site.span
    if span is not None and span.is_recording():
        add(site, name, _given(attributes), always=True)


def store_error(site: Site, store: str, reason: str) -> bool:
    """`otelbudget.store_error`: what a request has found of the store: ``unreachable``, ``wiped``, ``saturated``."""
    return add(site, semconv.EVENT_STORE_ERROR, {semconv.STORE: store, semconv.REASON: reason}, always=True)


def release_event(site: Site, attributes: Mapping[str, Value | None]) -> bool:
    """`otelbudget.release`; as frequent as checks, so it is as bounded."""
    return add(site, semconv.EVENT_RELEASE, _given(attributes))


def _given(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {key: value for key, value in attributes.items() if value is not None}
