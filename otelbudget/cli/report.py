"""What ``otelbudget demo`` shows: a table of its runs, and at the end why each ended, and that nothing leaked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from otelbudget.cli.screen import NEAR, Cell, Screen, amount, bar
from otelbudget.demo import evidence
from otelbudget.demo.load import stopped_by

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otelbudget.demo.load import Row
    from otelbudget.runs.view import Receipt

#: A title that ends in a space has its column aligned right.
HEAD: Final = ("Tenant", "Budget", "Steps ", "Tokens ", "Cost ", "Seconds ", "Refused ", "")

#: What stopped a run, as people say it.
_WORDS: Final = {
    "cost_usd": "money",
    "seconds": "time",
    "tool_calls": "tool calls",
    "nested_tool_calls": "nested tools",
    "frozen": "demo's end",
}

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
    """What a demo run came to."""

    rows: Sequence[Row]
    #: Requests that the server counted.
    received: int
    #: What ``/metrics`` says after the runs.
    after: evidence.Samples
    #: Of one refused call, if spans are recorded.
    span: ReadableSpan | None

    @property
    def leaked(self) -> bool:
        """Whether the server got anything else than what was admitted."""
        return self.received != evidence.admitted(self.after)

    @property
    def holds(self) -> bool:
        """Whether nothing leaked and no agent broke."""
        return not self.leaked and not any(row.error for row in self.rows)


def report(screen: Screen, result: Result) -> None:
    """Write all of it to *screen*; where the runs are shown live, their table is there already."""
    if not screen.live:
        screen.heading("Runs and their limits (used/limit)")
        screen.table(HEAD, [cells(row) for row in result.rows])
    screen.heading("Receipts")
    for row in result.rows[:_RECEIPTS]:
        _receipt(screen, row)
    if len(result.rows) > _RECEIPTS:
        screen.line((f"and {len(result.rows) - _RECEIPTS} more", "dim"))
    if result.span is not None:
        _span(screen, result.span)
    _metrics(screen, result)
    _verdict(screen, result)


def _receipt(screen: Screen, row: Row) -> None:
    receipt = row.receipt()
    if receipt is None:
        return
    whose = f"{receipt.tenant:<{_NAME}}"
    if row.error is not None:
        screen.line((whose, "bad"), (f"failed: {row.error!r}", "bad"), hang=_NAME)
    elif receipt.message:
        # Without whose run it was, which the line begins with, and without the advice after it.
        why = receipt.message.partition("): ")[2].partition(". ")[0].rstrip(".")
        screen.line((whose, "bad"), (why, "plain"), (_answered(row), "dim"), hang=_NAME)
    else:
        screen.line((whose, "good"), ("ended within its budget", "plain"), (_answered(row), "dim"), hang=_NAME)


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
            said: Cell = (str(value), "bad" if name in _TELLING else "plain")
            screen.line((f"{name:<{_ATTRIBUTE}}", "dim"), said, indent=indent)


def _metrics(screen: Screen, result: Result) -> None:
    """The counters of one tenant, and all refusals, with the name of each metric said once."""
    example = result.rows[0].job.tenant
    changed = sorted(evidence.counted(result.after))
    told = [one for one in changed if 'operation="probe"' not in one[0]]
    shown = [one for one in told if _DENIED in one[0] or f'tenant="{example}"' in one[0]]
    screen.heading(f"Counters of /metrics that changed: all of {example}, and every refusal")
    for name, group in groupby(shown, lambda one: one[0].partition("{")[0]):
        screen.line((name, "plain"))
        for series, value in group:
            number: Cell = (f"{value:g}", "bad" if _DENIED in series else "plain")
            labels = series.removeprefix(name).replace(',resource=""', "").replace('",', '", ')  # a long one is wrapped
            screen.line((f"{labels} ", "dim"), number, indent=4)
    screen.line((f"and {len(told) - len(shown)} more, of the other tenants", "dim"))


def _verdict(screen: Screen, result: Result) -> None:
    outcomes = sum((row.outcomes for row in result.rows), Counter[str]())
    answered = outcomes.pop("completed", 0)
    stopped = ", ".join(f"{_WORDS.get(what, what)} {number}" for what, number in outcomes.most_common())
    admitted = evidence.admitted(result.after)
    screen.heading("Did anything leak?")
    screen.line((f"runs answered {answered}; stopped by {stopped or 'nothing'}", "plain"))
    screen.line((f"calls refused before they were sent: {evidence.refused(result.after)}", "plain"))
    screen.line(
        (f"requests received by the server: {result.received}, calls admitted: {admitted}  ", "plain"),
        ("NOT EQUAL: budgets leaked", "bad") if result.leaked else ("equal: nothing leaked", "good"),
    )


# --- the table: what every run has used of what it may use, and what became of it


def cells(row: Row) -> list[Cell]:
    """One line of the table."""
    receipt = row.receipt()
    if receipt is None:
        nothing: list[Cell] = [("", "plain")] * (len(HEAD) - 2)
        return [(row.job.tenant, "plain"), *nothing, ("waiting", "dim")]
    refused: Cell = (str(receipt.denials) if receipt.denials else "", "bad")
    amounts = [_amount(receipt, resource) for resource in ("steps", "tokens", "cost_usd", "seconds")]
    return [(row.job.tenant, "plain"), (receipt.budget or "default", "dim"), *amounts, refused, _state(row, receipt)]


def _amount(receipt: Receipt, resource: str) -> Cell:
    used, limit = receipt.used[resource], receipt.limits[resource]
    text = amount(resource, used) + ("" if limit is None else f"/{_limit(resource, limit)}")
    if receipt.resource == resource:
        return text, "bad"
    return text, "warn" if limit and used >= NEAR * float(limit) else "plain"


def _limit(resource: str, value: Any) -> str:
    whole = resource == "tokens" and value >= 1000 and value % 1000 == 0
    return f"{value // 1000:,}k" if whole else amount(resource, value)


def _state(row: Row, receipt: Receipt) -> Cell:
    if row.error is not None:
        return "failed", "bad"
    if receipt.reason is not None or not row.working:
        return _outcome(receipt), "bad" if receipt.reason else "good"
    # How much of the tightest limit is used.
    used = [float(receipt.used[resource]) / float(limit) for resource, limit in receipt.limits.items() if limit]
    ratio = min(1.0, max(used, default=0.0))
    return bar(ratio), "warn" if ratio >= NEAR else "good"


def _outcome(receipt: Receipt) -> str:
    cause = stopped_by(receipt)
    return "answered" if cause is None else f"stopped: {_WORDS.get(cause, cause)}"
