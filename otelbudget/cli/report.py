"""What ``otelbudget demo`` says when all runs have ended: why they did, and that nothing leaked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otelbudget.cli import rows as table
from otelbudget.cli.screen import Mark, Screen

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otelbudget.demo.load import Row

__all__ = ["Result", "report"]

_RECEIPTS: Final = 16
#: Widths of columns.
_NAME: Final = 11
_ATTRIBUTE: Final = 28
#: Attributes that say nothing about budgets, and those that say most.
_HIDDEN: Final = ("server.", "openai.")
_TELLING: Final = ("otelbudget.decision", "otelbudget.reason", "otelbudget.resource")
_DENIED: Final = 'decision="deny"'


@dataclass(frozen=True, slots=True)
class Result:
    """What a demo run came to.

    Args:
        rows: One per tenant.
        received: Requests that the server counted.
        admitted, refused: Model calls, as ``/metrics`` counts them.
        series: Counters that changed, and their values.
        span: Of one refused call, if spans are recorded.
        example: The tenant whose counters are shown.
    """

    rows: Sequence[Row]
    received: int
    admitted: int
    refused: int
    series: Sequence[tuple[str, float]]
    span: ReadableSpan | None
    example: str

    @property
    def leaked(self) -> bool:
        """Whether the server got anything else than what was admitted."""
        return self.received != self.admitted

    @property
    def holds(self) -> bool:
        """Whether nothing leaked and no agent broke."""
        return not self.leaked and not any(row.error for row in self.rows)


def report(screen: Screen, result: Result, *, with_table: bool, with_metrics: bool = True) -> None:
    """Write all of it to *screen*, the runs as a table first if *with_table*."""
    if with_table:
        screen.heading("Runs and their limits (used/limit)")
        screen.table(table.HEAD, [table.cells(row) for row in result.rows])
    screen.heading("Receipts")
    for row in result.rows[:_RECEIPTS]:
        _receipt(screen, row)
    if len(result.rows) > _RECEIPTS:
        screen.line((f"and {len(result.rows) - _RECEIPTS} more", "dim"))
    if result.span is not None:
        _span(screen, result.span)
    if with_metrics:
        _metrics(screen, result)
    _verdict(screen, result)


def _receipt(screen: Screen, row: Row) -> None:
    receipt = row.receipt()
    if receipt is None:
        return
    if row.error is not None:
        screen.line((f"{receipt.tenant:<{_NAME}}", "bad"), (f"failed: {row.error!r}", "bad"), hang=_NAME)
        return
    # The message without whose run it was, which the line begins with, and without the advice after it.
    why = (
        receipt.message.partition("): ")[2].partition(". ")[0].rstrip(".")
        if receipt.message
        else "ended within its budget"
    )
    mark: Mark = "bad" if receipt.message else "good"
    screen.line((f"{receipt.tenant:<{_NAME}}", mark), (why, "plain"), (_answered(row), "dim"), hang=_NAME)


def _answered(row: Row) -> str:
    if row.answer is None or row.run is None:
        return ""
    kind = "partial answer" if row.answer["exhausted"] else "answer"
    by = ", in the step set aside" if row.run.wrapped_up else ""
    return f"; {kind} from {len(row.answer['documents'])} documents{by}"


def _span(screen: Screen, span: ReadableSpan) -> None:
    screen.heading("The span of a refused call, as a tracing backend gets it")
    status = f"status {span.status.status_code.name}"
    screen.line((f"{span.name}   ", "plain"), (f"{span.kind.name}   ", "dim"), (status, "bad"))
    _attributes(screen, span.attributes or {}, indent=4)
    for event in span.events:
        if event.name.startswith("otelbudget."):
            screen.line(("event ", "dim"), (event.name, "plain"), indent=4)
            _attributes(screen, event.attributes or {}, indent=6)


def _attributes(screen: Screen, attributes: Mapping[str, Any], indent: int) -> None:
    for name, value in attributes.items():
        if not name.startswith(_HIDDEN):
            screen.line(
                (f"{name:<{_ATTRIBUTE}}", "dim"), (str(value), "bad" if name in _TELLING else "plain"), indent=indent
            )


def _metrics(screen: Screen, result: Result) -> None:
    """The counters of one tenant, and all refusals, with the name of each metric said once."""
    told = [one for one in sorted(result.series) if 'operation="probe"' not in one[0]]
    shown = [one for one in told if _DENIED in one[0] or f'tenant="{result.example}"' in one[0]]
    screen.heading(f"Counters of /metrics that changed: all of {result.example}, and every refusal")
    last = None
    for series, value in shown:
        name, _, labels = series.partition("{")
        if name != last:
            screen.line((name, "plain"))
            last = name
        screen.line((f"{{{labels} ", "dim"), (f"{value:g}", "bad" if _DENIED in series else "plain"), indent=4)
    screen.line((f"and {len(told) - len(shown)} more, of the other tenants", "dim"))


def _verdict(screen: Screen, result: Result) -> None:
    outcomes: Counter[str] = Counter()
    for row in result.rows:
        outcomes += row.outcomes
    answered = outcomes.pop("completed", 0)
    stopped = ", ".join(f"{table.in_words(what)} {number}" for what, number in outcomes.most_common())
    screen.heading("Did anything leak?")
    screen.line((f"runs answered {answered}; stopped by {stopped or 'nothing'}", "plain"))
    screen.line((f"calls refused before they were sent: {result.refused}", "plain"))
    screen.line(
        (f"requests received by the server: {result.received}, calls admitted: {result.admitted}  ", "plain"),
        ("NOT EQUAL: budgets leaked", "bad") if result.leaked else ("equal: nothing leaked", "good"),
    )
